"""The tally, from pools and facts alone: what each end of a worker counts as."""

from __future__ import annotations

from typing import Any

import pytest
from einhornpy.supervisor.core import facts
from einhornpy.supervisor.core.causes import Force, Recycling, Refusal
from einhornpy.supervisor.core.observe import observe
from einhornpy.supervisor.core.pool import State, Stopping
from einhornpy.supervisor.core.upgrade import Judging, Outcome, Phase, Terms
from einhornpy.supervisor.reporting.tally import REASONS, Histogram, Tally

from .pools import NOW, pool, upgrade, worker

READY, RETIRING, STARTING = State.READY, State.RETIRING, State.STARTING
KILLED: dict[str, Any] = {"killed_at": NOW, "retired_at": NOW}
# Who leaves, of what pool, and what that counts as.
ENDS: list[tuple[Any, Any, str]] = [
    (worker(1), pool(1, []), "died"),
    (worker(1, STARTING), pool(1, []), "failed-start"),
    (worker(1, RETIRING, ready_at=None, **KILLED), pool(1, []), "failed-start"),
    (worker(1, RETIRING, aborted_at=NOW), pool(1, []), "hung"),
    (worker(1, RETIRING, **KILLED), pool(1, []), "killed"),
    (worker(1, RETIRING, killed_at=NOW, retired_at=NOW - 30), pool(1, []), "scaled"),
    (worker(1, RETIRING, recycling=Recycling.MEMORY), pool(1, []), "memory"),
    (worker(1, RETIRING, recycling=Recycling.REQUESTS), pool(1, []), "requests"),
    (worker(1, RETIRING, recycling=Recycling.LIFETIME), pool(1, []), "lifetime"),
    (worker(1, RETIRING, recycling=Recycling.ASKED), pool(1, []), "asked"),
    (worker(1, RETIRING, recycling=Recycling.LISTENER), pool(1, []), "listener"),
    (worker(1, RETIRING, recycling=Recycling.BASELINE), pool(1, []), "baseline"),
    (worker(1, RETIRING), pool(1, [], upgrade(Phase.EXCHANGING)), "upgrade"),
    (worker(1, RETIRING), pool(1, []), "scaled"),
    (worker(1, RETIRING), pool(1, [], stopping=Stopping.GRACEFUL), "stopped"),
]


@pytest.mark.parametrize(("leaves", "of", "reason"), ENDS, ids=[row[2] for row in ENDS])
def test_why_a_worker_left(leaves: Any, of: Any, reason: str) -> None:
    before = pool(of.target, [leaves], of.upgrade, stopping=of.stopping)
    tally, event = Tally(), facts.Exited(1, 0)
    tally.observe(before, event, observe(before, event, NOW), NOW)
    assert {each for each, count in tally.exits.items() if count} == {reason}


def test_every_reason_has_a_row() -> None:
    assert {row[2] for row in ENDS} == set(REASONS)


def test_a_ready_counts_once_and_an_upgrade_with_its_outcome() -> None:
    tally, said = Tally(), facts.SaidReady(2)
    before = pool(2, [worker(1), worker(2, STARTING)])
    after = observe(before, said, 0.3)
    tally.observe(before, said, after, 0.3)
    tally.observe(after, said, observe(after, said, 0.4), 0.4)
    assert (sum(tally.ready_seconds.counts), tally.ready_seconds.sum) == (1, 0.3)
    before = pool(1, [worker(1, generation=2)], upgrade(Phase.EXCHANGING))
    after = observe(before, facts.Finished(0.0), NOW)
    tally.observe(before, facts.Finished(0.0), after, NOW)
    assert {outcome for outcome, count in tally.upgrades.items() if count} == {Outcome.DONE}
    assert tally.upgrade_seconds.sum == 100.0


def ends(*happened: facts.Event) -> tuple[set[str], float]:
    """What an upgrade that is watched counts as after these facts, a minute after each other, and
    how long it took."""
    tally, at = Tally(), NOW
    known = pool(1, [worker(1, generation=2)],
                 upgrade(Phase.EXCHANGING, terms=Terms(judging=Judging(watch=600.0))))
    for each in (facts.Finished(0.0), *happened):
        after = observe(known, each, at)
        tally.observe(known, each, after, at)
        known, at = after, at + 60.0
    counted = {outcome for outcome, count in tally.upgrades.items() for _ in range(count)}
    assert sum(tally.upgrades.values()) == len(counted) == sum(tally.upgrade_seconds.counts)
    return counted, tally.upgrade_seconds.sum


def test_an_upgrade_that_is_watched_counts_once_when_that_is_over() -> None:
    assert ends() == (set(), 0.0)
    assert ends(facts.WatchEnded()) == ({Outcome.DONE}, 100.0)
    assert ends(facts.Resumed("ann")) == ({Outcome.DONE}, 100.0)
    asked = facts.UpgradeRequested(Terms(), "ann", 0.0)
    assert ends(asked) == ({Outcome.DONE}, 100.0)
    goes_back = facts.RolledBack("so bad", None, Refusal.WORSE)
    assert ends(goes_back) == (set(), 0.0)
    assert ends(goes_back, facts.Finished(0.0)) == ({Outcome.ROLLED_BACK}, 220.0)
    assert ends(goes_back, asked) == ({Outcome.ROLLED_BACK}, 220.0)


def test_a_kill_before_its_end_is_no_end() -> None:
    tally, killed = Tally(), facts.Killed(1, "was not ready within 60 s", Force.NOT_READY)
    before = pool(1, [worker(1, STARTING)])
    tally.observe(before, killed, observe(before, killed, NOW), NOW)
    assert not any(tally.exits.values())


def test_a_document_is_where_the_next_one_begins() -> None:
    tally = Tally()
    tally.failed()
    tally.worker_is_gone(7)
    tally.lag_seconds.add(0.003)
    again = Tally(tally.document())
    assert again.document() == tally.document()
    assert again.document(5)["requests"] == 12
    # Of other bounds nothing can be kept.
    other = {**tally.document(), "lag_seconds": Histogram((1.0, 2.0), [1, 2, 3], 9.0).document()}
    assert sum(Tally(other).lag_seconds.counts) == 0
