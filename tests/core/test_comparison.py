"""Who is held against whom: like against like, by age and by what they have answered."""

from __future__ import annotations

from dataclasses import replace

import pytest
from einhornpy.supervisor.core import judge_rules
from einhornpy.supervisor.core.comparison import Work, sliced
from einhornpy.supervisor.core.slices import Group, Pair, Slice
from einhornpy.supervisor.core.traffic import BOUNDS, NO_LATENCIES, Traffic

from .test_judge_rules import held

LONG, SHORT = BOUNDS.index(18.0), BOUNDS.index(0.01)
# Seconds for which each has been ready.
CANARY, BASELINE, OTHERS = 40.0, 10.0, 500.0


def compared(answered: tuple[int, int, int], ages: tuple[float, float, float] = (
        CANARY, BASELINE, OTHERS)) -> Slice:
    """A slice in which each worker gives a long answer and a short one, the second of which failed.
    `answered`: by the canary, its baseline and each of the four other old workers before."""
    pool = held(surge=2).pool
    upgrade = pool.upgrade
    assert upgrade is not None
    baseline, now = judge_rules.baseline(pool, upgrade), 1000.0
    latencies = list(NO_LATENCIES)
    latencies[LONG] = latencies[SHORT] = 1
    did = Group(Traffic(2, failed=1, latencies=tuple(latencies)), workers=1)
    done = []
    for worker in pool.workers.values():
        which = (0 if worker.generation == upgrade.to_generation else
                 1 if worker.id == baseline else 2)
        done.append(Work(replace(worker, ready_at=now - ages[which]), did, answered[which]))
    return sliced(pool, upgrade, done, now, 1.0)


def counted(pair: Pair) -> tuple[int, int | None]:
    """How many latencies of new and of old workers count; None: no old one is there."""
    old = None if pair.old is None else sum(pair.old.traffic.latencies)
    return sum(pair.new.traffic.latencies), old


def test_what_only_the_older_of_two_can_have_answered_counts_for_neither() -> None:
    """A canary that was ready 30 s before its baseline; the other old workers are warm."""
    seen = compared((500, 500, 500))
    assert counted(seen.young) == (1, 1)
    assert seen.young.new.traffic.latencies[SHORT] == 1
    assert seen.warm.old is not None
    assert (seen.warm.old.workers, seen.warm.old.traffic.latencies[LONG]) == (4, 4)


@pytest.mark.parametrize(("canary", "baseline", "counts"), [
    (100, 100, (1, 1)), (100, 5000, (1, 1)),  # neither is fresh
    (30, 31, (1, 1)), (30, 60, (1, 1)), (60, 30, (1, 1)),  # both are, about as much
    (30, 61, (0, 0)), (99, 30, (0, 0)),
    (99, 100, (0, 1)), (100, 99, (1, 0)), (20, 9000, (0, 1))])
def test_a_fresh_worker_is_held_against_one_as_fresh(
        canary: int, baseline: int, counts: tuple[int, int]) -> None:
    """The first 20 requests are left out: fresh is who has answered fewer than 100."""
    seen = compared((canary, baseline, 5000))
    assert counted(seen.young) == counts
    assert counted(seen.warm) == (0, 8)
    assert seen.young.old is not None
    # Failures count all the same: nobody is excused for being fresh.
    assert (seen.young.new.traffic.failed, seen.young.old.traffic.failed) == (1, 1)


def test_beside_a_baseline_other_young_old_workers_do_not_count() -> None:
    """They may have kept connections from before, and with these other requests."""
    seen = compared((500, 500, 500), (CANARY, CANARY, CANARY))
    assert counted(seen.young) == (2, 2)
    seen = compared((500, 500, 500), (CANARY, CANARY, CANARY - 1))
    assert counted(seen.young) == (2, 2)
    assert seen.young.old is not None
    assert seen.young.old.traffic.failed == 5, "failures count all the same"


def test_to_be_warm_takes_requests_too() -> None:
    ages = (OTHERS, BASELINE, OTHERS)
    assert counted(compared((99, 5000, 5000), ages).warm) == (0, 8)
    assert counted(compared((100, 5000, 5000), ages).warm) == (2, 8)
