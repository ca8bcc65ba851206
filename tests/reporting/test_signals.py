"""The golden signals: what is said of a worker's traffic, and of a generation's."""

from __future__ import annotations

import pytest
from einhornpy.supervisor.core.pool import State
from einhornpy.supervisor.core.traffic import BOUNDS, Traffic
from einhornpy.supervisor.reporting.report import status_document
from einhornpy.supervisor.reporting.sharing import Memory
from einhornpy.supervisor.reporting.signals import Seen, of_generations, signals

from .pools import NOW, pool, worker

NOTHING = {
    "seconds": 10.0, "requests": 0, "requests_per_second": 0.0, "failed": 0, "failed_share": None,
    "exceptions": 0, "aborted": 0, "bytes_out": 0,
    "responses": {"1xx": 0, "2xx": 0, "3xx": 0, "4xx": 0, "5xx": 0}, "p50_seconds": None,
    "p95_seconds": None, "p99_seconds": None}


def answered(well: int, badly: int = 0, slowly: int = 0) -> Traffic:
    """Those answered well took 10 ms, and those answered slowly 1 s."""
    latencies = [0] * (len(BOUNDS) + 1)
    latencies[BOUNDS.index(0.01)], latencies[BOUNDS.index(1.0)] = well + badly, slowly
    number = well + badly + slowly
    return Traffic(number, (0, well + slowly, 0, 0, badly), badly, badly, 0, 100 * number,
                   0.01 * (well + badly) + slowly, tuple(latencies))


def test_what_is_said() -> None:
    assert signals(Traffic(), 10.0) == NOTHING
    found = signals(answered(97, 1, 2), 10.25)
    assert 0.0082 < found.pop("p50_seconds") < 0.01
    assert 0.0082 < found.pop("p95_seconds") <= 0.01
    assert 0.82 < found.pop("p99_seconds") < 1.0
    assert found == {
        "seconds": 10.25, "requests": 100, "requests_per_second": 9.756, "failed": 1,
        "failed_share": 0.01, "exceptions": 1, "aborted": 0, "bytes_out": 10000,
        "responses": {"1xx": 0, "2xx": 99, "3xx": 0, "4xx": 0, "5xx": 1}}


def test_of_a_worker_that_has_just_been_started() -> None:
    assert signals(Traffic(), 0.0)["requests_per_second"] == 0.0
    assert signals(answered(1), 0.0)["requests_per_second"] == 0.0


def test_a_generation_is_the_sum_of_its_living_workers() -> None:
    seen = {1: Seen(answered(50), 10.5, answered(500), 100.0),
            2: Seen(answered(40, 10), 5.0, answered(40, 10), 5.0),
            3: Seen(Traffic(), 10.5, answered(7), 60.0)}
    workers = [worker(1), worker(2), worker(3, generation=2), worker(4), worker(5, generation=3)]
    one, two = of_generations(workers, seen)
    assert (one["generation"], two["generation"]) == (1, 2), "of the third nobody counts"
    assert one["recent"] == signals(answered(90, 10), 10.5)
    assert one["since_start"] == signals(answered(540, 10), 100.0)
    assert two["recent"]["requests_per_second"] == 0.0
    assert two["since_start"]["requests"] == 7
    assert of_generations(workers, {}) == []


def test_the_status_has_them() -> None:
    of = pool(2, [worker(1), worker(2, State.STARTING)])
    seen = Seen(Traffic(), 10.0, answered(3), NOW)
    found = status_document(of, NOW, name="shop", started_at=0.0, master={}, listeners=[],
                            memory=Memory(), usage={}, traffic={1: seen}, labels={}, last_lines={})
    assert [each["traffic"] for each in found["workers"]] == [
        {"recent": NOTHING, "since_start": signals(answered(3), NOW)}, None]
    assert found["traffic"] == [{"generation": 1} | found["workers"][0]["traffic"]]


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_quantiles_at_once_are_those_one_by_one(share: float) -> None:
    found = answered(30, 3, 6)
    assert found.quantiles((0.1, share)) == [found.quantile(0.1), found.quantile(share)]
