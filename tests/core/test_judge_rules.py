"""What the comparison of new workers with old ones decides: stories, an exhaustive search, and bugs
planted on purpose. The state machine of test_planner.py draws verdicts too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from einhornpy.supervisor.core import actions, facts, judge_rules
from einhornpy.supervisor.core.causes import Recycling, Refusal
from einhornpy.supervisor.core.pool import Policy, Pool, State
from einhornpy.supervisor.core.upgrade import Judging, Phase, Terms, Upgrade
from einhornpy.supervisor.core.verdict import Verdict, Word

from .test_planner import ready_pool, search
from .world import World, recipe

FIGURES = "5xx 4.1 % against 0.2 % of 1,310 requests, p < 0.001"


def begun(world: World, judging: Judging | None = None, canary: int = 1,
          hold: float | None = 60.0, directory: str | None = None) -> World:
    """An upgrade is asked for and prepared."""
    terms = Terms(canary=canary, hold=hold if canary else 0.0, judging=judging or Judging())
    world.fact(facts.UpgradeRequested(terms, "test", 0.0))
    release = recipe(directory=directory or f"/releases/{world.pool.newest}")
    world.fact(facts.UpgradePrepared(world.pool.newest, release))
    return world


def held(target: int = 4, surge: int = 1, judging: Judging | None = None,
         hold: float | None = 60.0) -> World:
    """The canary serves, and is held."""
    world = begun(ready_pool(target, Policy(max_surge=surge)), judging, hold=hold)
    everybody_does(world)
    assert the(world).phase is Phase.HELD
    return world


def everybody_does(world: World) -> None:
    """Who starts is ready, who is asked to go leaves."""
    while moved := [worker for worker in world.pool.workers.values()
                    if worker.state in (State.STARTING, State.RETIRING)]:
        for worker in moved:
            starting = worker.state is State.STARTING
            world.fact(facts.SaidReady(worker.id) if starting else facts.Exited(worker.id, 0))


def the(world: World) -> Upgrade:
    assert world.pool.upgrade is not None
    return world.pool.upgrade


def judged(world: World, word: Word) -> None:
    world.fact(facts.Judged(Verdict(word, FIGURES, 1310, 5000)))


def seats(world: World, generation: int) -> list[int]:
    return sorted(worker.index for worker in world.pool.workers.values()
                  if worker.generation == generation)


def test_a_baseline_comes_with_the_canary_where_there_is_room() -> None:
    world = held(surge=2)
    assert (seats(world, 1), seats(world, 2)) == ([0, 1, 2, 3, 4], [0])


def test_without_room_an_old_worker_goes_for_it() -> None:
    world = held(surge=1)
    assert (seats(world, 1), seats(world, 2)) == ([1, 2, 3, 4], [0])


def test_code_that_was_overwritten_in_place_has_no_baseline() -> None:
    world = begun(ready_pool(4, Policy(max_surge=2)), directory="/")
    everybody_does(world)
    assert the(world).phase is Phase.HELD
    assert (seats(world, 1), seats(world, 2)) == ([0, 1, 2, 3], [0])


def test_one_worker_has_a_baseline_too() -> None:
    world = held(target=1)
    assert (seats(world, 1), seats(world, 2)) == ([1], [0])


@pytest.mark.parametrize("surge", [1, 2])
def test_a_worse_release_goes_back_with_its_figures_and_each_seat_is_taken(surge: int) -> None:
    world = held(surge=surge)
    judged(world, Word.WORSE)
    assert the(world).phase is Phase.GOING_BACK
    everybody_does(world)
    world.pass_time(5.0)
    everybody_does(world)
    assert (the(world).outcome, the(world).cause) == ("rolled-back", Refusal.WORSE)
    assert the(world).reason == FIGURES
    assert seats(world, 1) == [0, 1, 2, 3], "the baseline has left"


def test_a_lost_baseline_leaves_no_seat_empty() -> None:
    world = held(surge=1)
    baseline = judge_rules.baseline(world.pool, the(world))
    assert baseline is not None
    world.fact(facts.Exited(baseline, 1))
    everybody_does(world)
    judged(world, Word.WORSE)
    everybody_does(world)
    world.pass_time(5.0)
    everybody_does(world)
    assert seats(world, 1) == [0, 1, 2, 3]


def test_a_baseline_that_stays_is_due_when_the_release_goes_back() -> None:
    world = held(surge=1)
    judged(world, Word.WORSE)
    beside = [worker for worker in world.pool.workers.values() if worker.index == 4]
    assert [worker.recycling for worker in beside] == [Recycling.BASELINE]


@pytest.mark.parametrize("word", [Word.UNSURE, Word.NO_WORSE, Word.WELL])
def test_a_hold_lasts_its_time_unless_it_may_end_early(word: Word) -> None:
    world = held()
    judged(world, word)
    world.pass_time(59.0)
    assert the(world).phase is Phase.HELD
    world.pass_time(1.0)
    assert the(world).phase is Phase.EXCHANGING


@pytest.mark.parametrize("hold", [60.0, None])
def test_a_hold_may_end_early(hold: float | None) -> None:
    world = held(judging=Judging(least_hold=20.0), hold=hold)
    judged(world, Word.NO_WORSE)
    world.pass_time(20.0)
    assert the(world).phase is Phase.HELD, "not beyond doubt"
    judged(world, Word.WELL)
    assert the(world).phase is Phase.EXCHANGING


def test_it_may_not_end_before_its_least_time() -> None:
    world = held(judging=Judging(least_hold=20.0))
    judged(world, Word.WELL)
    world.pass_time(19.0)
    assert the(world).phase is Phase.HELD
    world.pass_time(1.0)
    assert the(world).phase is Phase.EXCHANGING


def test_a_release_of_which_nobody_can_tell_may_be_refused() -> None:
    world = held(judging=Judging(refuses_unsure=True))
    judged(world, Word.UNSURE)
    assert the(world).phase is Phase.HELD
    world.pass_time(60.0)
    assert (the(world).phase, the(world).cause) == (Phase.GOING_BACK, Refusal.UNSURE)
    assert FIGURES in (the(world).reason or "")


def test_a_pause_beats_the_judge_until_it_is_over() -> None:
    world = held()
    world.fact(facts.Paused("ann"))
    judged(world, Word.WORSE)
    assert the(world).phase is Phase.HELD
    world.fact(facts.Resumed("ann"))
    assert the(world).phase is Phase.GOING_BACK


@pytest.mark.parametrize(("word", "phase"), [
    (Word.WORSE, Phase.GOING_BACK), (Word.UNSURE, Phase.GOING_BACK),
    (Word.NO_WORSE, Phase.EXCHANGING)])
def test_a_judged_hold_does_not_end_in_a_pause(word: Word, phase: Phase) -> None:
    world = held(judging=Judging(refuses_unsure=True))
    world.fact(facts.Paused("ann"))
    judged(world, word)
    world.pass_time(61.0)
    assert the(world).phase is Phase.HELD
    world.fact(facts.Resumed("ann"))
    assert the(world).phase is phase


def test_who_says_resume_in_a_hold_beats_the_judge() -> None:
    world = held(judging=Judging(refuses_unsure=True))
    world.fact(facts.Resumed("ann"))
    assert the(world).overruled_by == "ann"
    judged_anyway = world.copy()
    judged(judged_anyway, Word.WORSE)
    assert the(judged_anyway).phase is Phase.EXCHANGING
    everybody_does(world)
    assert (the(world).outcome, the(world).phase) == ("done", Phase.ENDED), "and isn't watched"


def test_the_judge_goes_on_while_the_others_follow() -> None:
    world = begun(ready_pool(4), canary=0)
    world.fact(facts.SaidReady(max(world.pool.workers)))
    assert the(world).phase is Phase.EXCHANGING
    judged(world, Word.WORSE)
    everybody_does(world)
    assert the(world).outcome == "rolled-back"
    assert seats(world, 1) == [0, 1, 2, 3]


def watched(judging: Judging | None = None) -> World:
    world = begun(ready_pool(2), judging, canary=0)
    everybody_does(world)
    assert (the(world).outcome, the(world).phase) == ("done", Phase.WATCHED)
    return world


def test_a_release_that_goes_bad_later_goes_back_by_itself() -> None:
    world = watched()
    world.pass_time(300.0)
    judged(world, Word.WORSE)
    assert (the(world).phase, the(world).outcome) == (Phase.GOING_BACK, None)
    everybody_does(world)
    assert (the(world).outcome, the(world).cause) == ("rolled-back", Refusal.WORSE)
    assert [each.outcome for each in world.pool.history] == ["rolled-back"], "it ended twice"
    assert seats(world, 1) == [0, 1]


def test_a_release_whose_workers_die_again_and_again_goes_back_while_it_is_watched() -> None:
    world = watched()
    for death in range(world.pool.policy.max_failures):
        assert the(world).phase is Phase.WATCHED
        world.pass_time(20.0)
        dying = next(worker.id for worker in world.pool.workers.values()
                     if worker.state is State.READY)
        world.fact(facts.Exited(dying, -11))
        if death < world.pool.policy.max_failures - 1:
            world.pass_time(5.0)
            everybody_does(world)
    assert (the(world).phase, the(world).cause) == (Phase.GOING_BACK, Refusal.FAILED_STARTS)
    assert "signal 11" in (the(world).reason or "")
    everybody_does(world)
    assert (the(world).outcome, seats(world, 1)) == ("rolled-back", [0, 1])


def test_a_canary_does_not_wait_for_a_baseline_that_can_not_start() -> None:
    """The directory of the old code is gone."""
    world, tried = begun(ready_pool(2)), 0
    for _ in range(5):
        for worker in [*world.pool.workers.values()]:
            if worker.state is State.STARTING and worker.generation == 1:
                world.fact(facts.Exited(worker.id, 1))
                tried += 1
            elif worker.state is State.STARTING:
                world.fact(facts.SaidReady(worker.id))
        world.pass_time(10.0)
    assert tried == 1, "the baseline comes first"
    assert the(world).phase is Phase.HELD
    assert seats(world, 2) == [0]


@pytest.mark.parametrize("target", [1, 2])
def test_canaries_in_every_seat_are_no_way_back_before_their_hold_is_over(target: int) -> None:
    world = begun(ready_pool(target), canary=target)
    everybody_does(world)
    assert the(world).phase is Phase.HELD
    assert len(seats(world, 2)) == target
    superseded = world.copy()
    begun(superseded)
    assert the(superseded).from_generation == 1
    world.pass_time(60.0)
    assert world.pool.generations[2].proven
    begun(world)
    assert the(world).from_generation == 2


def test_a_watch_ends_by_itself_and_what_it_went_back_to_is_let_go() -> None:
    world = watched(Judging(watch=100.0))
    assert 1 in world.pool.generations
    judged(world, Word.NO_WORSE)
    world.pass_time(99.0)
    assert the(world).phase is Phase.WATCHED
    world.pass_time(1.0)
    assert the(world).phase is Phase.ENDED
    assert 1 not in world.pool.generations
    assert [each.verdict and each.verdict.reason for each in world.pool.history] == [FIGURES]


def test_a_watch_can_be_ended_or_taken_back() -> None:
    world = watched()
    aborted = world.copy()
    world.fact(facts.Resumed("ann"))
    assert (the(world).phase, the(world).overruled_by) == (Phase.ENDED, "ann")
    aborted.fact(facts.AbortRequested("ann"))
    everybody_does(aborted)
    assert the(aborted).outcome == "aborted"
    assert seats(aborted, 1) == [0, 1]


def test_a_newer_upgrade_ends_a_watch() -> None:
    world = watched()
    begun(world, canary=0)
    assert [each.phase for each in world.pool.history] == [Phase.ENDED]
    everybody_does(world)
    assert seats(world, 3) == [0, 1]


@pytest.mark.parametrize(("target", "deaths", "least"), [(1, 1, 500), (2, 0, 500)])
def test_every_order_of_events_with_a_judge(target: int, deaths: int, least: int) -> None:
    judging = Judging(watch=20.0, least_hold=5.0, refuses_unsure=True)
    states = search(target, "rolling", deaths, canary=1, judging=judging)
    print(f"\n{states} states: N = {target}, one judged upgrade with a canary, {deaths} deaths")
    assert states >= least


# --- planted bugs ---


def rash_judge(upgrade: Any) -> Any:
    return original_refusal(replace(upgrade, paused_by=None))


def stubborn_judge(upgrade: Any) -> Any:
    terms = replace(upgrade.terms, judging=upgrade.terms.judging or Judging())
    return original_refusal(replace(upgrade, overruled_by=None, terms=terms))


def impatient_judge(pool: Pool, view: Any, upgrade: Any, now: float) -> bool:
    return upgrade.judged and upgrade.doing is Word.WELL


def forgetful_watch(pool: Pool, view: Any, now: float) -> Any:
    watched = pool.upgrade
    return [actions.EndWatch()] if watched is not None and watched.watched else []


original_refusal = judge_rules.refusal
BUGS_OF_JUDGE: dict[str, tuple[str, Any]] = {
    "refuses what is paused": ("refusal", rash_judge),
    "refuses what was overruled": ("refusal", stubborn_judge),
    "refuses nothing": ("refusal", lambda upgrade: []),
    "passes what it was to refuse": ("refusal_of_unsure", lambda upgrade: []),
    "ends a hold before its least time": ("ends_hold_early", impatient_judge),
    "watches for no time": ("watch", forgetful_watch),
    "watches for ever": ("watch", lambda pool, view, now: []),
    "wants one baseline after the other": (
        "misses_baseline", lambda pool: pool.running_upgrade is not None
        and pool.running_upgrade.wants_baseline),
}


@pytest.mark.parametrize("bug", BUGS_OF_JUDGE)
def test_a_planted_bug_of_the_judge_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_rules, *BUGS_OF_JUDGE[bug])
    with pytest.raises(AssertionError):
        look_for_bugs()


STORIES = [
    test_a_pause_beats_the_judge_until_it_is_over, test_who_says_resume_in_a_hold_beats_the_judge,
    test_one_worker_has_a_baseline_too, test_it_may_not_end_before_its_least_time,
    test_a_watch_ends_by_itself_and_what_it_went_back_to_is_let_go]


def look_for_bugs() -> None:
    judging = Judging(watch=20.0, least_hold=5.0, refuses_unsure=True)
    search(1, "rolling", 0, canary=1, judging=judging)
    for story in STORIES:
        story()
