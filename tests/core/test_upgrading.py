"""The table of an upgrade's phases: what may come in which phase, and what follows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
from einhornpy.supervisor.core import facts
from einhornpy.supervisor.core.causes import Refusal
from einhornpy.supervisor.core.observe import observe
from einhornpy.supervisor.core.pool import State
from einhornpy.supervisor.core.upgrade import Impossible, Outcome, Phase, Terms
from einhornpy.supervisor.core.upgrading import TRANSITIONS
from einhornpy.supervisor.core.verdict import Verdict, Word

from ..reporting.pools import NOW, RECIPE, pool, upgrade, worker

EXAMPLES: list[Any] = [
    facts.UpgradePrepared(2, RECIPE), facts.UpgradeRefused(2, "no such directory", None, 0.0),
    facts.Paused("ann"), facts.Resumed("ann"), facts.AbortRequested("ann"), facts.HoldBegun(),
    facts.Checked(None), facts.HoldEnded(), facts.AcceptingAsked(), facts.AcceptingChecked(None),
    facts.RolledBack("it died", None, Refusal.FAILED_STARTS), facts.Finished(0.0),
    facts.Judged(Verdict(Word.WELL, "well")), facts.WatchEnded()]
CANARY = Terms(canary=1)


def of(phase: Phase) -> Any:
    """A pool whose upgrade is in this phase, with a canary that serves."""
    over = phase in (Phase.WATCHED, Phase.ENDED)
    there = upgrade(phase, Outcome.DONE if over else None, CANARY,
                    held_since=NOW if phase is Phase.HELD else None,
                    watched_since=NOW if phase is Phase.WATCHED else None)
    return pool(2, [worker(1), worker(2), worker(3, generation=2)], there)


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("phase", Phase)
def test_what_may_come(phase: Phase, event: Any) -> None:
    before = of(phase)
    if type(event) not in TRANSITIONS[phase]:
        with pytest.raises(Impossible, match="upgrade"):
            observe(before, event, NOW)
        return
    after = observe(before, event, NOW).upgrade
    expected = TRANSITIONS[phase][type(event)] or phase
    if isinstance(event, facts.UpgradeRefused):
        expected = Phase.ENDED  # nothing had begun
    assert after is not None
    assert after.phase is expected


def test_every_fact_of_an_upgrade_has_an_example() -> None:
    of_upgrades = {*get_args(facts.OfBeginning), *get_args(facts.OfCourse)}
    assert {type(each) for each in EXAMPLES} == of_upgrades - {facts.UpgradeRequested}


def test_without_canaries_the_exchange_begins_at_once() -> None:
    before = pool(1, [worker(1)], upgrade(Phase.PREPARING))
    after = observe(before, facts.UpgradePrepared(2, RECIPE), NOW)
    assert after.upgrade is not None
    assert after.upgrade.phase is Phase.EXCHANGING
    with pytest.raises(Impossible, match="3 is prepared"):
        observe(before, facts.UpgradePrepared(3, RECIPE), NOW)


def test_a_hold_begins_anew_when_a_canary_is_lost() -> None:
    after = observe(of(Phase.HELD), facts.Exited(3, 1), NOW).upgrade
    assert after is not None
    assert (after.phase, after.held_since) == (Phase.CANARY, None)


def test_an_upgrade_that_was_half_way_goes_back_rather_than_ends() -> None:
    """Its generation can't be made, and of the one before it a worker serves."""
    first = replace(of(Phase.EXCHANGING), generations={
        number: replace(each, proven=number == 1)
        for number, each in of(Phase.EXCHANGING).generations.items()})
    second = observe(first, facts.UpgradeRequested(Terms(), "ann", 0.0), NOW)
    assert [each.outcome for each in second.history] == [Outcome.SUPERSEDED]
    refused = observe(second, facts.UpgradeRefused(3, "no such directory", None, 0.0), NOW)
    assert refused.upgrade is not None
    assert (refused.upgrade.phase, refused.current) == (Phase.GOING_BACK, 1)
    assert refused.upgrade.cause is Refusal.NOT_PREPARED


@pytest.mark.parametrize(("cause", "outcome"), [(Refusal.ABORTED, Outcome.ABORTED),
                                                (Refusal.NO_PROGRESS, Outcome.ROLLED_BACK)])
def test_how_going_back_ends(cause: Refusal, outcome: Outcome) -> None:
    before = pool(1, [worker(1)], upgrade(Phase.GOING_BACK, cause=cause))
    ended = observe(before, facts.Finished(0.0), NOW).upgrade
    assert ended is not None
    assert (ended.outcome, ended.replaced) == (outcome, 0)
    # Whatever comes instead of its end, it was refused.
    newer = observe(before, facts.UpgradeRequested(Terms(), "ann", 0.0), NOW)
    assert newer.history[-1].outcome is outcome


def test_what_was_aborted_stays_aborted() -> None:
    after = observe(of(Phase.CANARY), facts.AbortRequested("ann"), NOW)
    after = observe(after, facts.Checked("the check failed"), NOW)
    assert after.upgrade is not None
    assert (after.upgrade.refusal, after.upgrade.cause) == ("aborted by ann", Refusal.ABORTED)


def test_a_retiring_worker_counts_for_no_canary() -> None:
    before = of(Phase.HELD)
    leaving = replace(before.workers[3], state=State.RETIRING)
    after = observe(replace(before, workers={**before.workers, 3: leaving}), facts.Scaled(2), NOW)
    assert after.upgrade is not None
    assert after.upgrade.phase is Phase.CANARY
