"""The counts of what was answered: sums, differences, quantiles."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from einhornpy.supervisor.core.traffic import BOUNDS, NO_LATENCIES, Traffic, total


def of_latencies(seconds: list[float]) -> Traffic:
    counts = list(NO_LATENCIES)
    for each in seconds:
        counts[next((i for i, bound in enumerate(BOUNDS) if each <= bound), len(BOUNDS))] += 1
    return Traffic(len(seconds), seconds=sum(seconds), latencies=tuple(counts))


def test_traffic_of_other_buckets_is_not_added() -> None:
    for other in (Traffic(1, latencies=(1,)), Traffic(1, responses=(1,))):
        with pytest.raises(ValueError, match="other classes or buckets"):
            Traffic() + other


def test_bounds_rise_from_1_ms_to_60_s_in_even_steps() -> None:
    assert (BOUNDS[0], BOUNDS[-1], len(BOUNDS)) == (0.001, 60.0, 59)
    steps = [later / earlier for earlier, later in pairwise(BOUNDS[:-1])]
    assert min(steps) > 1.17
    assert max(steps) < 1.26
    assert {0.01, 0.1, 1.0, 10.0} < set(BOUNDS)


def test_what_came_since_is_what_was_added() -> None:
    first = Traffic(3, (0, 2, 0, 0, 1), 1, 1, 0, 500, 0.25, (1, 2, *NO_LATENCIES[2:]))
    more = Traffic(2, (0, 1, 0, 1, 0), 0, 0, 1, 70, 0.5, (0, 1, 1, *NO_LATENCIES[3:]))
    assert (first + more).since(first) == more
    assert total([first, more, Traffic()]) == first + more
    assert first.since(first + more) == Traffic(), "a worker that began anew has lost nothing"


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_a_quantile_is_right_within_its_bucket(share: float) -> None:
    drawn = random.Random(3)
    seconds = sorted(drawn.lognormvariate(-3.0, 1.0) for _ in range(5000))
    found = of_latencies(seconds).quantile(share)
    assert found == pytest.approx(seconds[int(share * 5000)], rel=0.08)


def test_quantiles_at_the_ends() -> None:
    assert Traffic().quantile(0.99) is None
    assert of_latencies([100.0]).quantile(0.5) == 60.0
    assert of_latencies([0.0005] * 10).quantile(0.5) == pytest.approx(0.0005)
    assert Traffic().failed_share is None
    assert Traffic(200, failed=3).failed_share == 0.015


def test_slower_than_a_bound() -> None:
    found = of_latencies([0.001, 0.0011, 0.5, 99.0])
    assert [found.slower_than(index) for index in (0, 1, BOUNDS.index(0.47), 58)] == [3, 2, 2, 1]


def test_within_some_seconds() -> None:
    found = of_latencies([0.001, 0.0011, 0.5, 99.0])
    assert [sum(found.within(each).latencies) for each in (0.0, 0.001, 0.55, 0.56, 60.0)] == [
        0, 1, 2, 3, 3]
    assert (found.within(0.0).requests, found.within(1.0).seconds) == (4, found.seconds)
