"""The planner against every order of events that we can think of: a state machine, an exhaustive
search, and bugs planted on purpose, each of which one of the two, or a story, must find."""

from __future__ import annotations

import os
import timeit
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from einhornpy.supervisor.core import (
    actions,
    facts,
    generation,
    planner,
    seats,
    template_facts,
    view,
)
from einhornpy.supervisor.core.bookkeeping import delay_after
from einhornpy.supervisor.core.causes import Leaving, Recycling, Refusal
from einhornpy.supervisor.core.generation import Preload, Recipe
from einhornpy.supervisor.core.observe import observe
from einhornpy.supervisor.core.pool import (
    CALM_SECONDS,
    SETTLE_SECONDS,
    Policy,
    Pool,
    State,
    Stopping,
    Worker,
)
from einhornpy.supervisor.core.template import TemplateState
from einhornpy.supervisor.core.upgrade import Accepting, Impossible, Judging, Kind, Outcome, Terms
from einhornpy.supervisor.core.upgrade import Phase as UpgradePhase
from einhornpy.supervisor.core.verdict import Verdict, Word
from einhornpy.supervisor.reporting.generations import rollback_target
from einhornpy.supervisor.reporting.report import gate
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ..reporting import pools
from .world import FOUND, World, recipe

# `make fuzz` draws others each time.
RANDOM = "EINHORN_PLANNER_RANDOM" in os.environ
EXAMPLES = int(os.environ.get("EINHORN_PLANNER_EXAMPLES", "500"))
steps_taken = 0
JUDGING = [None, Judging(watch=0.0), Judging(watch=100.0, least_hold=3.0),
           Judging(watch=100.0, refuses_unsure=True)]


class PlannerMachine(RuleBasedStateMachine):
    """Everything that can happen to a master, in any order: starts, deaths, upgrades, pauses,
    canaries, aborts, recycling, hangs, workers that leave for new code. What fails is drawn."""

    world: World
    templated = False

    @initialize(number=st.integers(1, 4), surge=st.integers(1, 3),
                min_ready=st.sampled_from([0.0, 5.0]), failures=st.integers(0, 3),
                ack=st.sampled_from([None, 1.0]), timeout=st.sampled_from([0.0, 20.0]),
                lifetime=st.sampled_from([0.0, 0.0,
                                          100.0]), unacked=st.sampled_from([None, None, 1, 2]),
                progress=st.sampled_from([0.0, 150.0]), guess=st.sampled_from([0.0, 5.0]),
                preload=st.sampled_from(Preload))
    def begin(self, number: int, surge: int, min_ready: float, failures: int, ack: float | None,
              timeout: float, lifetime: float, unacked: int | None, progress: float,
              guess: float, preload: Preload) -> None:
        self.recipe = recipe(ack, timeout, lifetime, max_memory=100,
                             preload=preload if self.templated else Preload.OFF)
        policy = Policy(max_surge=surge, min_ready_seconds=min_ready, max_failures=failures,
                        progress_timeout=progress, reload_exit_code=75, max_unacked=unacked,
                        guessed_min_ready_seconds=max(min_ready, guess))
        self.world = World.new(number, policy, self.recipe, self.templated)

    @precondition(lambda self: self.world.ended is not None)
    @rule()
    def starts_again(self) -> None:
        steps, pool = self.world.steps, self.world.pool
        self.world = World.new(pool.target, pool.policy, self.recipe, self.templated)
        self.world.steps = steps

    def workers(self, *states: State) -> list[Worker]:
        return [worker for worker in self.world.pool.workers.values()
                if worker.state in states and worker.pid]

    def alive(self) -> bool:
        return self.world.ended is None

    @precondition(lambda self: self.alive() and self.workers(State.STARTING))
    @rule(data=st.data())
    def becomes_ready(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.workers(State.STARTING)))
        self.world.fact(facts.SaidReady(worker.id))
        if worker.id in self.world.pool.workers and self.recipe.timeout:
            self.world.fact(facts.Heartbeat(worker.id, self.world.now))

    @precondition(lambda self: self.alive() and self.world.pool.workers)
    @rule()
    def the_master_cannot_be_reached(self) -> None:
        for worker in self.workers(*State):
            self.world.fact(facts.Unheard(worker.id))

    @precondition(lambda self: self.alive() and self.workers(State.READY, State.RETIRING))
    @rule(data=st.data())
    def says_ready_again_or_too_late(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.workers(State.READY, State.RETIRING)))
        before = self.world.pool
        self.world.fact(facts.SaidReady(worker.id))
        after = self.world.pool
        if worker.ready_at is None:  # it may serve by now, and leaves like one that does
            assert after.workers[worker.id].ready_at == self.world.now
            after = replace(after, workers={**after.workers, worker.id: worker})
        assert after == before

    @precondition(lambda self: self.alive() and self.workers(*State))
    @rule(data=st.data(), status=st.sampled_from([0, 1, -9, 75, 75]))
    def dies(self, data: st.DataObject, status: int) -> None:
        worker = data.draw(st.sampled_from(self.workers(*State)))
        self.world.exit(worker.id, status)

    @precondition(lambda self: self.alive() and self.workers(*State))
    @rule(data=st.data())
    def dies_and_leaves_something_behind(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.workers(*State)))
        self.world.exit(worker.id, 0)
        if self.alive():
            self.world.fact(facts.OrphanFound(worker.pid + 10000, worker.index, worker.generation))

    @precondition(lambda self: self.alive() and self.world.pool.left_behind)
    @rule()
    def what_was_left_behind_leaves(self) -> None:
        self.world.fact(facts.OrphanGone(next(iter(self.world.pool.left_behind))))

    @precondition(lambda self: self.alive() and self.workers(State.RETIRING))
    @rule()
    def all_retiring_leave(self) -> None:
        for worker in self.workers(State.RETIRING):
            self.world.fact(facts.Exited(worker.id, 0))

    @precondition(lambda self: self.alive() and self.workers(State.STARTING))
    @rule(data=st.data())
    def says_failed(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.workers(State.STARTING)))
        self.world.fact(facts.SaidFailed(worker.id, "ImportError: no"))

    @precondition(lambda self: self.alive() and self.world.steps % 8 == 7)
    @rule(data=st.data())
    def a_release_does_what_none_may_do(self, data: st.DataObject) -> None:
        unproven = [worker for worker in self.workers(State.STARTING, State.READY)
                    if not self.world.pool.generations[worker.generation].proven]
        if unproven and data.draw(st.sampled_from([True, False])):
            worker = data.draw(st.sampled_from(unproven))
            self.world.fact(facts.FoundUnfit(worker.id, "gunicorn's own arbiter runs below it"))
        else:
            self.world.fact(
                facts.ListenerShut("unix:/run/shop.sock",
                                   anew=data.draw(st.sampled_from([False, True]))))

    @precondition(lambda self: self.alive() and self.world.steps % 8 == 3)
    @rule()
    def the_file_of_a_socket_is_swept(self) -> None:
        before = self.world.pool.ready
        self.world.fact(facts.ListenerSwept("unix:/run/shop.sock"))
        assert self.world.pool.ready >= min(before, self.world.pool.target) or (
            self.world.pool.short_of_memory)

    @precondition(lambda self: self.alive())
    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 31.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @precondition(lambda self: self.alive())
    @rule(seconds=st.sampled_from([3.0, 25.0, 400.0]))
    def everybody_is_suspended(self, seconds: float) -> None:
        self.world.suspend(seconds)

    @precondition(lambda self: self.alive() and self.world.wake_at is not None)
    @rule()
    def the_deadline_comes(self) -> None:
        wake_at = self.world.wake_at
        assert wake_at is not None
        self.world.pass_time(wake_at - self.world.now)

    @precondition(lambda self: self.alive() and self.world.pool.stopping is None)
    @rule(kind=st.sampled_from(["rolling", "fleet"]), at_once=st.booleans(),
          canary=st.sampled_from([0, 0, 1, 2, 4]), hold=st.sampled_from([0.0, 10.0, 300.0, None]),
          check=st.sampled_from([None, "check"]), failures=st.sampled_from([None, 0]),
          judging=st.sampled_from(JUDGING))
    def upgrade_is_asked_for(self, kind: str, at_once: bool, canary: int, hold: float | None,
                             check: str | None, failures: int | None,
                             judging: Judging | None) -> None:
        terms = Terms(Kind(kind), None, canary, hold if canary else 0.0, check if canary else None,
                      failures, judging=judging)
        self.world.fact(facts.UpgradeRequested(terms, "test", 0.0))
        if at_once:
            self.world.fact(facts.UpgradePrepared(self.world.pool.newest, self.release()))

    @precondition(lambda self: self.alive() and self.preparing())
    @rule(scale=st.sampled_from([None, 1, 3]))
    def upgrade_is_prepared(self, scale: int | None) -> None:
        self.world.fact(facts.UpgradePrepared(self.world.pool.newest, self.release(), scale))

    @precondition(lambda self: self.alive() and self.preparing())
    @rule()
    def upgrade_cannot_be_prepared(self) -> None:
        self.world.fact(
            facts.UpgradeRefused(self.world.pool.newest, "its settings cannot be read", None, 0.0))

    def release(self) -> Recipe:
        """Code in a directory of its own, every other time."""
        return replace(self.recipe, directory=f"/{self.world.pool.newest // 2}")

    def preparing(self) -> bool:
        upgrade = self.world.pool.running_upgrade
        return upgrade is not None and upgrade.preparing

    def running(self) -> bool:
        upgrade = self.world.pool.running_upgrade
        return self.alive(
        ) and upgrade is not None and not upgrade.rolling_back and self.world.pool.stopping is None

    @precondition(lambda self: self.running() and self.world.pool.running_upgrade.paused_by is None)
    @rule()
    def is_paused(self) -> None:
        self.world.fact(facts.Paused("test"))

    def stands_still(self) -> bool:
        upgrade = self.world.pool.running_upgrade
        return self.running() and upgrade is not None and (upgrade.paused_by is not None
                                                           or upgrade.on_canary)

    def judged(self) -> bool:
        upgrade = self.world.pool.upgrade
        return self.alive() and upgrade is not None and upgrade.judged

    def watched(self) -> bool:
        upgrade = self.world.pool.upgrade
        return self.alive() and upgrade is not None and upgrade.watched

    @precondition(lambda self: self.judged())
    @rule(word=st.sampled_from([*Word, Word.WELL, Word.NO_WORSE]))
    def is_judged(self, word: Word) -> None:
        self.world.fact(facts.Judged(Verdict(word, f"{word}, by its figures")))

    @precondition(lambda self: self.watched() and self.world.pool.stopping is None)
    @rule(resumed=st.booleans())
    def its_watch_is_ended_or_aborted(self, resumed: bool) -> None:
        self.world.fact(facts.Resumed("test") if resumed else facts.AbortRequested("test"))
        upgrade = self.world.pool.upgrade
        assert upgrade is not None
        assert resumed or upgrade.rolling_back or upgrade.outcome == "aborted"

    @precondition(lambda self: self.stands_still())
    @rule()
    def is_resumed(self) -> None:
        self.world.fact(facts.Resumed("test"))

    @precondition(lambda self: self.running() and not self.preparing())
    @rule()
    def is_aborted(self) -> None:
        self.world.fact(facts.AbortRequested("test"))
        upgrade = self.world.pool.upgrade
        assert upgrade is not None
        assert upgrade.rolling_back or not upgrade.running

    @precondition(
        lambda self: self.running() and self.world.pool.running_upgrade.check == "running")
    @rule(reason=st.sampled_from([None, None, "the check said no"]))
    def check_ends(self, reason: str | None) -> None:
        self.world.fact(facts.Checked(reason))

    @precondition(lambda self: self.alive() and self.workers(State.READY))
    @rule(data=st.data(), memory=st.sampled_from([50, 150, 250]))
    def uses_memory(self, data: st.DataObject, memory: int) -> None:
        worker = data.draw(st.sampled_from(self.workers(State.READY)))
        self.world.fact(facts.Measured({worker.id: memory}))

    @precondition(lambda self: self.alive() and self.workers(State.READY))
    @rule(data=st.data())
    def has_served_enough(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.workers(State.READY)))
        self.world.fact(facts.Due(worker.id, "served 500 requests", Recycling.REQUESTS))

    @precondition(lambda self: self.alive())
    @rule()
    def the_host_runs_short_of_memory_or_recovers(self) -> None:
        self.world.fact(facts.HostMeasured(not self.world.pool.short_of_memory, 0))

    @precondition(lambda self: self.alive() and self.world.pool.stopping is None)
    @rule(number=st.integers(1, 5))
    def scales(self, number: int) -> None:
        self.world.fact(facts.Scaled(number))

    @precondition(lambda self: self.alive())
    @rule()
    def the_host_runs_out_of_processes_or_recovers(self) -> None:
        self.world.spawn_fails = not self.world.spawn_fails

    @precondition(lambda self: self.alive() and self.world.steps > 25)
    @rule(how=st.sampled_from(["graceful", "terminate", "now"]))
    def stops(self, how: str) -> None:
        self.world.fact(facts.StopRequested(Stopping(how)))

    def teardown(self) -> None:
        global steps_taken
        if not hasattr(self, "world"):
            return
        steps_taken += self.world.steps
        bad_newest, all_good = self.world.copy(), self.world.copy()
        all_good.come_to_rest(lambda generation: True)
        upgrade = bad_newest.pool.running_upgrade
        trusted = upgrade is not None and bad_newest.pool.generations[
            upgrade.from_generation].proven
        if trusted and upgrade is not None and not bad_newest.pool.generations.get(
                upgrade.to_generation, generation.Generation(0, self.recipe)).proven:
            bad = upgrade.to_generation
            fresh = all(worker.generation != bad for worker in bad_newest.pool.workers.values())

            def good(number: int) -> bool:
                """A release that has proven itself by now isn't bad any more: its due worker would
                wait for another one for ever."""
                known = bad_newest.pool.generations.get(number)
                return number != bad or (known is not None and known.proven)

            bad_newest.come_to_rest(good)
            if (bad_newest.ended is None and fresh and bad_newest.pool.upgrade is not None
                    and not upgrade.rolling_back):
                assert bad_newest.pool.upgrade.outcome in ("rolled-back", "aborted")
                assert bad_newest.pool.current == upgrade.from_generation


def run_machine(examples: int, machine: type[PlannerMachine] = PlannerMachine) -> None:
    # Without shrinking, which can take minutes here: the trace of a failure is short enough to
    # read.
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=examples, stateful_step_count=50, deadline=None,
                          derandomize=not RANDOM, database=None,
                          suppress_health_check=list(HealthCheck),
                          phases=[Phase.generate], report_multiple_bugs=False),
    )


def test_state_machine() -> None:
    before = steps_taken
    run_machine(EXAMPLES)
    print(f"\n{steps_taken - before} steps")
    assert steps_taken - before >= min(10_000, EXAMPLES * 30)


# --- the exhaustive search ---


def canonical(world: World) -> Any:
    """The state without what makes no difference: absolute time, ids, words."""
    pool, now = world.pool, world.now

    settled = max(SETTLE_SECONDS, pool.policy.min_ready_seconds)

    def ago(at: float | None, most: float = 70.0) -> float | None:
        return None if at is None else round(min(now - at, most), 3)

    def since(worker: Worker) -> float | None:
        match worker.state:
            case State.STARTING:
                return ago(worker.spawned_at)
            case State.READY:
                return ago(worker.ready_at, settled)
            case State.RETIRING:
                return ago(worker.retired_at)

    workers = tuple(
        sorted((worker.index, worker.generation, worker.state.value, since(worker) or 0.0,
                worker.killed_at is not None, worker.pid > 0) for worker in pool.workers.values()))
    generations = tuple(sorted(
        (generation.number, generation.proven, generation.failures_in_a_row,
         generation.separate, generation.unfit is not None,
         round(max(0.0, generation.not_before - now), 3))
        for generation in pool.generations.values()))
    upgrade = None if pool.upgrade is None else (
        pool.upgrade.outcome, pool.upgrade.phase, pool.upgrade.failures, pool.upgrade.doing,
        ago(pool.upgrade.held_since), ago(pool.upgrade.watched_since))
    templates = tuple((number, each.state.value, each.told, each.deaths, each.preloaded,
                       round(max(0.0, each.not_before - now), 3))
                      for number, each in sorted(pool.templates.items()))
    return (pool.current, workers, generations, upgrade, pool.ever_ready, pool.complete, templates,
            world.ended)


def next_worlds(world: World, deaths: int) -> list[tuple[World, int]]:
    """Every event that can come next."""
    found = []

    def then(event: facts.Event, deaths: int) -> None:
        after = world.copy()
        after.fact(event)
        found.append((after, deaths))

    upgrade = world.pool.upgrade
    if upgrade is None and world.pool.ever_ready:
        then(facts.UpgradeRequested(world_terms, "test", 0.0), deaths)
    if upgrade is not None and upgrade.judged:
        for word in set(Word) - {upgrade.doing}:
            then(facts.Judged(Verdict(word, word)), deaths)
    if upgrade is not None and upgrade.running and upgrade.preparing:
        release = recipe(preload=world_preload, directory="/new")
        then(facts.UpgradePrepared(upgrade.to_generation, release), deaths)
        then(facts.UpgradeRefused(upgrade.to_generation, "no", None, 0.0), deaths)
    for number in world.templates(TemplateState.STARTING):
        then(template_facts.TemplateReady(number), deaths)
        if world.pool.generations[number].preloads:
            then(template_facts.TemplateReady(number, findings=FOUND), deaths)
    for number in world.templates(TemplateState.LEAVING):
        then(template_facts.TemplateGone(number, "exited with code 0"), deaths)
    for number in world.templates(TemplateState.STARTING, TemplateState.READY) if deaths else ():
        after = world.copy()
        after.template_dies(number)
        found.append((after, deaths - 1))
    for worker in world.pool.workers.values():
        if not worker.pid:
            then(facts.Forked(worker.id, 1000 + worker.id), deaths)
            continue
        if worker.state is State.STARTING:
            then(facts.SaidReady(worker.id), deaths)
        if worker.state is State.RETIRING:
            then(facts.Exited(worker.id, 0), deaths)
        elif deaths:
            then(facts.Exited(worker.id, 1), deaths - 1)
    if world.wake_at is not None:
        after = world.copy()
        after.pass_time(world.wake_at - world.now)
        # A start that takes too long is a death too; without a bound on them there would be no end
        # of states.
        more = failures(after.pool) - failures(world.pool)
        if more <= deaths:
            found.append((after, deaths - max(0, more)))
    return found


def failures(pool: Pool) -> int:
    return sum(generation.failures_in_a_row for generation in pool.generations.values())


world_terms, world_preload = Terms(), Preload.OFF


def search(target: int, kind: str, deaths: int, min_ready: float = 0.0,
           templated: bool = False, preload: Preload = Preload.OFF, canary: int = 0,
           judging: Judging | None = None) -> int:
    """Visit every reachable state; return how many there are.

    Those with the most deaths left come first: whatever can follow with fewer can follow with them,
    so that a state is visited once.
    """
    global world_terms, world_preload
    world_terms = Terms(Kind(kind), canary=canary, hold=10.0 if canary else 0.0, judging=judging)
    world_preload = preload
    first = World.new(target, Policy(max_failures=2, min_ready_seconds=min_ready),
                      recipe(preload=preload), templated=templated, slowly=templated)
    seen = {canonical(first)}
    todo: list[list[World]] = [*([] for _ in range(deaths)), [first]]
    for left in reversed(range(deaths + 1)):
        while todo[left]:
            world = todo[left].pop()
            if world.ended is not None:
                continue
            for after, deaths_left in next_worlds(world, left):
                key = canonical(after)
                if key in seen:
                    continue
                seen.add(key)
                todo[deaths_left].append(after)
                if len(seen) % 7 == 0:  # the way to rest passes through states visited anyway
                    after.copy().come_to_rest(lambda generation: True)
                    if after.pool.upgrade is None or after.pool.upgrade.outcome != "done":
                        after.copy().come_to_rest(lambda generation: generation == 1)
    return len(seen)


@pytest.mark.parametrize(("target", "kind", "deaths", "min_ready", "least"),
                         [(1, "rolling", 4, 0.0, 500), (1, "fleet", 4, 0.0, 500),
                          (1, "rolling", 3, 5.0, 500), (2, "rolling", 2, 0.0, 2000),
                          (2, "fleet", 2, 0.0, 2000),
                          pytest.param(1, "rolling", 4, 5.0, 500, marks=pytest.mark.soak),])
def test_every_order_of_events(target: int, kind: str, deaths: int, min_ready: float,
                               least: int) -> None:
    states = search(target, kind, deaths, min_ready)
    print(
        f"\n{states} states: N = {target}, one {kind} upgrade, two failures allowed, {deaths} "
        "deaths, "
        f"min ready seconds {min_ready:g}")
    assert states >= least


# --- planted bugs ---

Rule = Callable[[Pool, Any, float], Any]


def no_airbag(pool: Pool, view: Any, now: float, candidates: list[Worker]) -> list[actions.Action]:
    return [
        actions.Retire(worker.id, "bug", Leaving.REPLACED)
        for worker in candidates[:max(0, view.live - pool.target)]]


def impatient_airbag(pool: Pool, view: Any, now: float,
                     candidates: list[Worker]) -> list[actions.Action]:
    return [
        actions.Retire(worker.id, "bug", Leaving.REPLACED)
        for worker in candidates[:max(0, view.ready - pool.target)]]


def greedy_spawn(pool: Pool, view: Any, now: float) -> list[actions.Action]:
    missing = pool.target - view.wanted
    free = seats.free_seats(pool, view, pool.generations[pool.current], max(0, missing))
    return [actions.Spawn(index, pool.current) for index in free]


def hot_spawn(pool: Pool, view: Any, now: float) -> Any:
    cold = {number: replace(each, not_before=0.0) for number, each in pool.generations.items()}
    return original_spawn(replace(pool, generations=cold), view, now)


def early_finish(pool: Pool, view: Any, now: float) -> list[actions.Action]:
    upgrade = pool.running_upgrade
    return [actions.Finish()
            ] if upgrade is not None and not upgrade.preparing and view.wanted_ready else []


def blind_finish(pool: Pool, view: Any, now: float) -> Any:
    upgrade = pool.upgrade
    return original_finish(
        replace(pool,
                upgrade=None if upgrade is None else replace(upgrade, accepting=Accepting.YES)),
        view, now)


def credulous_look(pool: Pool, now: float) -> Any:
    view = original_look(pool, now)
    view.overdue += [actions.Trust(worker.id) for worker in pool.workers.values()
                     if worker.guessed and not worker.stood]
    return view


def of_no_suspension(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A rule that takes time in which nobody ran for time that has passed."""

    def counted(pool: Pool, *others: Any) -> Any:
        return rule(replace(pool, suspended_until=0.0), *others)

    return counted


def same_seat(pool: Pool, view: Any, generation: Any, count: int) -> list[int]:
    return [0] * count


def impatient_hold(pool: Pool, view: Any, now: float) -> Any:
    upgrade = pool.running_upgrade
    held = upgrade is not None and upgrade.on_canary and upgrade.held_since is not None
    return [actions.EndHold()] if held else original_hold(pool, view, now)


def deaf_to_aborts(pool: Pool, view: Any, now: float) -> Any:
    upgrade = pool.upgrade
    return original_roll_back(
        replace(pool, upgrade=None if upgrade is None else replace(upgrade, refusal=None)), view,
        now)


def always_short(pool: Pool, view: Any, now: float) -> Any:
    return original_break(replace(pool, short_of_memory=True), view, now)


original_spawn, original_hold, original_roll_back = (planner._spawn, planner._hold,
                                                     planner._roll_back)
original_break, original_finish, original_look = (planner._break_before_make, planner._finish,
                                                  view.look)
BUGS: dict[str, tuple[str, Any]] = {
    "retires without looking at who is ready": ("_spare", no_airbag),
    "retires without min ready seconds": ("_spare", impatient_airbag),
    "starts without room": ("_spawn", greedy_spawn), "starts without delay": ("_spawn", hot_spawn),
    "never gives a release up": ("_roll_back", lambda pool, view, now: []),
    "never finishes": ("_finish",
                       lambda pool, view, now: []), "says done too early": ("_finish",
                                                                            early_finish),
    "says done though nobody has looked who answers": ("_finish", blind_finish),
    "holds a suspension against workers": ("look", of_no_suspension(original_look)),
    "lets a hold pass while nobody runs": ("_hold", of_no_suspension(original_hold)),
    "sees no progress while nobody runs": ("_roll_back", of_no_suspension(original_roll_back)),
    "trusts a guess at once": ("look", credulous_look),
    "fills gaps with unproven code": ("_on_trial", lambda pool: False),
    "puts everybody on seat 0": ("free_seats", same_seat),
    "exchanges while it is paused or held": ("_while_standing_still",
                                             lambda pool, view, upgrade, candidates: candidates),
    "ends a hold before its time and its check": ("_hold", impatient_hold),
    "never ends a hold": ("_hold",
                          lambda pool, view, now: []), "is deaf to aborts": ("_roll_back",
                                                                             deaf_to_aborts),
    "breaks before it makes without need": ("_break_before_make", always_short),
    "never gives up a first start": ("_hopeless", lambda pool: False),}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, *BUGS[bug])
    with pytest.raises(AssertionError):
        look_for_bugs()


def look_for_bugs() -> None:
    """What is quick first."""
    test_recycling_keeps_the_seats_and_one_at_a_time()
    test_a_due_worker_stays_while_its_replacement_cannot_be_started()
    test_a_hold_lasts_as_long_as_somebody_runs()
    test_progress_is_waited_for_as_long_as_somebody_runs()
    test_a_guess_must_stand_before_an_old_worker_goes_and_somebody_must_accept()
    test_a_canary_that_is_due_by_age_serves_until_its_hold_is_over()
    run_machine(100)
    search(1, "rolling", 3, 5.0)
    search(2, "rolling", 2)


# --- stories ---


def ready_pool(target: int, policy: Policy | None = None) -> World:
    world = World.new(target, policy or Policy())
    for worker in list(world.pool.workers.values()):
        world.fact(facts.SaidReady(worker.id))
    world.pass_time(10.0)
    return world


def upgrade(world: World, kind: str = "rolling") -> None:
    world.fact(facts.UpgradeRequested(Terms(Kind(kind)), "test", 0.0))
    world.fact(facts.UpgradePrepared(world.pool.newest, recipe()))


def only(world: World, state: State) -> Worker:
    (worker,) = [worker for worker in world.pool.workers.values() if worker.state is state]
    return worker


def test_a_rolling_upgrade_goes_one_at_a_time_and_keeps_the_seats() -> None:
    world = ready_pool(4)
    upgrade(world)
    for seat in range(4):
        new = only(world, State.STARTING)
        assert new.index == seat
        world.fact(facts.SaidReady(new.id))
        old = only(world, State.RETIRING)
        assert (old.index, old.generation) == (seat, 1)
        world.fact(facts.Exited(old.id, 0))
    assert world.pool.upgrade is not None
    assert world.pool.upgrade.outcome == "done"
    assert sorted(worker.index for worker in world.pool.workers.values()) == [0, 1, 2, 3]


def test_a_failing_upgrade_touches_no_old_worker() -> None:
    world = ready_pool(3)
    old = set(world.pool.workers)
    upgrade(world)
    for _ in range(3):
        if world.wake_at is not None and not [
                w for w in world.pool.workers.values() if w.state is State.STARTING]:
            world.pass_time(world.wake_at - world.now)
        world.fact(facts.Exited(only(world, State.STARTING).id, 1))
    assert world.pool.upgrade is not None
    assert (world.pool.upgrade.outcome, world.pool.upgrade.failures) == ("rolled-back", 3)
    assert set(world.pool.workers) == old
    assert all(worker.state is State.READY for worker in world.pool.workers.values())


def test_delays_grow_and_are_bounded() -> None:
    assert [round(delay_after(failures), 3)
            for failures in range(5)] == [0.0, 1.0, 1.5, 2.25, 3.375]
    assert delay_after(1000) == 30.0
    world = ready_pool(1)
    world.spawned.clear()
    world.fact(facts.Exited(only(world, State.READY).id, 1))
    start = world.now
    while world.now < start + 60:
        starting = [
            worker for worker in world.pool.workers.values() if worker.state is State.STARTING]
        if starting:
            world.fact(facts.Exited(starting[0].id, 1))
        else:
            assert world.wake_at is not None
            world.pass_time(world.wake_at - world.now)
    assert len(world.spawned) <= 10


def test_a_first_start_that_fails_is_given_up() -> None:
    world = World.new(2, Policy(max_failures=3))
    for _ in range(20):
        if world.ended is not None:
            break
        starting = [
            worker for worker in world.pool.workers.values() if worker.state is State.STARTING]
        if starting:
            world.fact(facts.Exited(starting[0].id, 1))
        elif world.wake_at is not None:
            world.pass_time(world.wake_at - world.now)
    assert world.ended == "gave up"
    assert len(world.spawned) <= 4


def test_impossible_facts_are_refused() -> None:
    pool = ready_pool(2).pool
    impossible: list[facts.Event] = [
        facts.SaidReady(99),
        facts.Exited(99, 0),
        facts.Spawned(1, 0, 1, 5),
        facts.Spawned(50, 0, 9, 5),
        facts.UpgradePrepared(2, Recipe(("x",), "/")),
        facts.Finished(0.0),
        facts.RolledBack("x", None, Refusal.NO_PROGRESS),
        facts.Scaled(0),
        facts.SpawnFailed(0, 9, "x"),]
    for event in impossible:
        with pytest.raises(Impossible):
            observe(pool, event, 1.0)


def test_a_plan_for_a_thousand_workers_is_quick() -> None:
    """It costs what a few looks at each worker cost, and ten times the workers cost ten times as
    much, not a hundred times."""

    def cost(number: int) -> tuple[float, float]:
        world = World.new(number, Policy(max_surge=number // 20))
        for worker in list(world.pool.workers.values()):
            world.pool = observe(world.pool, facts.SaidReady(worker.id), world.now)
        upgrade(world)
        plan = min(timeit.repeat(lambda: planner.plan(world.pool, world.now), number=1, repeat=30))
        look = min(
            timeit.repeat(
                lambda: [
                    worker for worker in world.pool.workers.values()
                    if worker.state is State.READY], number=1, repeat=30))
        return plan, look

    few, (many, look) = cost(100)[0], cost(1000)
    assert many < 20 * look, (many, look)
    assert many < 25 * few, (many, few)


@pytest.mark.parametrize("good", [True, False])
def test_a_seat_left_for_new_code_waits_for_it_unless_it_fails(good: bool) -> None:
    world = ready_pool(3, Policy(reload_exit_code=75, max_failures=2))
    world.exit(2, 75)
    assert [worker.state for worker in world.pool.workers.values()
            ] == [State.READY] * 2, "nothing until it is prepared"
    world.fact(facts.UpgradePrepared(2, recipe()))
    new = only(world, State.STARTING)
    assert (new.generation, new.index) == (2, 1)
    if good:
        world.fact(facts.SaidReady(new.id))
        assert only(world, State.STARTING).generation == 2
        world.exit(1, 75)
        assert world.pool.newest == 2, "one upgrade for all of them"
    else:
        world.fact(facts.Exited(new.id, 1))
        assert (only(world, State.STARTING).generation, only(world, State.STARTING).index) == (1, 1)
    world.come_to_rest(lambda generation: good or generation == 1)
    assert world.pool.upgrade is not None
    assert world.pool.upgrade.outcome == ("done" if good else "rolled-back")


def test_a_canary_that_is_due_by_age_serves_until_its_hold_is_over() -> None:
    world = World.new(2, Policy(), recipe(max_lifetime=3.0))
    for worker in list(world.pool.workers.values()):
        world.fact(facts.SaidReady(worker.id))
    world.fact(facts.UpgradeRequested(Terms(canary=1, hold=10.0), "test", 0.0))
    world.fact(facts.UpgradePrepared(2, recipe(max_lifetime=3.0)))
    canary = next(worker for worker in world.pool.workers.values()
                  if worker.state is State.STARTING)
    world.fact(facts.SaidReady(canary.id))
    for _ in range(8):
        world.pass_time(1.2)
    assert world.pool.workers[canary.id].recycled_for is not None
    assert world.pool.running_upgrade is not None
    assert world.pool.running_upgrade.on_canary
    world.pass_time(1.0)
    assert not world.pool.running_upgrade.on_canary


@pytest.mark.parametrize("end", ["code", "due"])
def test_workers_that_leave_for_new_code_or_are_due_as_soon_as_they_are_ready_are_no_hot_loop(
        end: str) -> None:
    world = World.new(1, Policy(reload_exit_code=75))
    world.pass_time(10.0)
    begun = len(world.spawned)
    for _ in range(100):
        upgrade = world.pool.running_upgrade
        if upgrade is not None and upgrade.preparing:
            world.fact(facts.UpgradePrepared(upgrade.to_generation, recipe()))
        for worker in list(world.pool.workers.values()):
            if worker.state is State.STARTING:
                world.fact(facts.SaidReady(worker.id))
                if end == "code" and (world.pool.running_upgrade is None):
                    world.exit(worker.id, 75)
                elif end == "due":
                    world.fact(facts.Due(worker.id, "asked for it", Recycling.ASKED))
            elif worker.state is State.RETIRING:
                world.fact(facts.Exited(worker.id, 0))
            elif end == "code" and world.pool.running_upgrade is None:
                world.exit(worker.id, 75)
        world.pass_time(0.1)
    assert 2 < len(world.spawned) - begun <= (7 if end == "code" else 11), world.spawned
    assert world.pool.newest <= 7


def guessing_world(target: int, **rules: Any) -> World:
    """Workers that say nothing, have been guessed ready after a second, and have stood for five."""
    world = World.new(target, Policy(guessed_min_ready_seconds=5.0, **rules), recipe(1.0))
    world.pass_time(1.0)
    assert (gate(world.pool)[0], world.pool.ready, world.pool.ever_ready) == ("starting", target,
                                                                              False)
    world.pass_time(5.0)
    assert gate(world.pool) == ("ready",
                                f"{target} of {target} workers ready on generation 1 (guessed)")
    return world


def guessing_upgrade(world: World) -> None:
    world.fact(facts.UpgradeRequested(Terms(), "test", 0.0))
    world.fact(facts.UpgradePrepared(world.pool.newest, recipe(1.0)))


def test_a_guess_that_is_due_again_is_a_guess_all_the_same() -> None:
    """Else the upgrade would be done before anybody has looked whether somebody accepts."""
    guesses = [
        pools.worker(1, generation=2, guessed=True, stood=True, recycled_for="served 5 requests",
                     recycling=Recycling.REQUESTS)]
    for paused_by, actions_due in (("ann", ()), (None, (actions.CheckAccepting(),))):
        exchanging = pools.upgrade(UpgradePhase.EXCHANGING, paused_by=paused_by)
        full = pools.pool(1, [*guesses, pools.worker(2, State.STARTING, generation=2)], exchanging)
        assert planner.plan(full, 10.0).actions == actions_due


def test_a_guess_must_stand_before_an_old_worker_goes_and_somebody_must_accept() -> None:
    world = guessing_world(1)
    guessing_upgrade(world)
    world.pass_time(1.0)
    assert [worker.state for worker in world.pool.workers.values()] == [State.READY, State.READY]
    world.pass_time(4.9)
    assert world.pool.ready == 2
    world.pass_time(0.1)
    world.fact(facts.Exited(only(world, State.RETIRING).id, 0))
    assert world.pool.upgrade is not None
    assert (world.pool.upgrade.outcome, world.pool.upgrade.accepting) == ("done", "yes")


def test_a_guessed_release_that_dies_while_it_must_stand_is_refused() -> None:
    world = guessing_world(2, max_failures=2)
    old = set(world.pool.workers)
    guessing_upgrade(world)
    for _ in range(2):
        while not (new := set(world.pool.workers) - old):
            assert world.wake_at is not None
            world.pass_time(world.wake_at - world.now)
        world.pass_time(4.0)
        world.fact(facts.Exited(new.pop(), 1))
    assert world.pool.upgrade is not None
    assert world.pool.upgrade.outcome == "rolled-back"
    assert set(world.pool.workers) == old


def test_a_release_where_nobody_accepts_goes_back() -> None:
    pool = guessing_world(1).pool
    for event in (facts.UpgradeRequested(Terms(), "test",
                                         0.0), facts.UpgradePrepared(2, recipe(1.0)),
                  facts.AcceptingAsked(),
                  facts.AcceptingChecked("nobody accepts connections on 127.0.0.1:80")):
        pool = observe(pool, event, 10.0)
    assert planner.plan(pool, 10.0).actions == (actions.RollBack(
        "nobody accepts connections on 127.0.0.1:80", None, Refusal.NOBODY_ACCEPTS),)


def test_an_unfit_release_is_refused_at_once_and_an_unfit_first_start_given_up() -> None:
    world = ready_pool(2)
    old = set(world.pool.workers)
    upgrade(world)
    world.fact(facts.FoundUnfit(only(world, State.STARTING).id, "it is an arbiter"))
    assert world.pool.upgrade is not None
    assert (world.pool.upgrade.rolling_back, world.pool.upgrade.reason) == (True,
                                                                            "it is an arbiter")
    world.fact(facts.Exited(only(world, State.RETIRING).id, -9))
    assert (world.pool.upgrade.outcome, set(world.pool.workers)) == ("rolled-back", old)
    first = World.new(2, Policy())
    first.fact(facts.FoundUnfit(1, "it is an arbiter"))
    for worker in list(first.pool.workers.values()):
        if first.ended is None:
            first.fact(facts.FoundUnfit(worker.id, "it is an arbiter"))
            first.fact(facts.Exited(worker.id, -9))
    assert first.ended == "gave up"


def test_who_shuts_a_listener_down_is_blamed_only_where_it_is_certain() -> None:
    world = ready_pool(2)
    upgrade(world)
    world.fact(facts.ListenerShut("127.0.0.1:80"))
    assert world.pool.upgrade is not None
    assert (world.pool.upgrade.rolling_back, world.pool.upgrade.reason) == (
        True, "a worker of it shut down the listening socket 127.0.0.1:80")
    world = ready_pool(2)
    upgrade(world)
    world.fact(facts.SaidReady(only(world, State.STARTING).id))
    # old code, which is just leaving, may have done it as well
    world.fact(facts.ListenerShut("127.0.0.1:80"))
    assert world.pool.running_upgrade is not None
    assert not world.pool.running_upgrade.rolling_back
    # From now on they are kept apart: the second old one waits until the first has left, and its
    # successor has served for a while.
    world.fact(facts.SaidReady(only(world, State.STARTING).id))
    world.fact(facts.Exited(only(world, State.RETIRING).id, 0))
    assert all(worker.state is State.READY for worker in world.pool.workers.values())
    world.copy().pass_time(SETTLE_SECONDS)
    world.fact(facts.ListenerShut("127.0.0.1:80"))
    assert world.pool.running_upgrade is not None
    assert world.pool.running_upgrade.rolling_back


def test_workers_without_the_socket_that_clients_connect_to_are_all_replaced_at_once_even_while_they_start(
) -> None:
    world = ready_pool(2)
    world.exit(2, 1)
    starting = only(world, State.STARTING)
    world.fact(facts.ListenerShut("unix:/run/shop.sock", anew=True))
    deaf = {worker.id for worker in world.pool.workers.values() if world.pool.deaf(worker)}
    assert deaf == {1, starting.id}
    assert all(world.pool.workers[number].state is State.RETIRING for number in deaf)
    assert world.pool.ready == 0
    world.come_to_rest(lambda generation: True)
    assert not any(world.pool.deaf(worker) for worker in world.pool.workers.values())


def test_the_silence_of_who_could_not_reach_us_counts_for_nothing() -> None:
    world = World.new(2, Policy(), recipe(None, 20.0, 0.0))
    for worker in (1, 2):
        world.fact(facts.SaidReady(worker))
    for worker in (1, 2):
        world.fact(facts.Heartbeat(worker, world.now))
        world.fact(facts.Unheard(worker))
    world.pass_time(100)
    world.fact(facts.Heartbeat(1, world.now))  # from the next one on it is waited for again
    world.pass_time(31)
    assert [worker.id for worker in world.pool.workers.values() if worker.aborted_at] == [1]


def test_an_upgrade_is_not_done_while_nobody_can_connect() -> None:
    world = ready_pool(1)
    upgrade(world)
    world.fact(facts.ListenerLost("unix:/run/shop.sock", "its file is gone"))
    world.fact(facts.SaidReady(only(world, State.STARTING).id))
    world.fact(facts.Exited(only(world, State.RETIRING).id, 0))
    assert world.pool.upgrade is not None
    assert (world.pool.upgrade.rolling_back, world.pool.upgrade.reason) == (
        True, "nobody can connect to unix:/run/shop.sock: its file is gone")
    world.come_to_rest(lambda generation: True)
    assert gate(world.pool)[0] == "rolled-back"
    world.fact(facts.ListenerLost("unix:/run/shop.sock", None))
    assert not world.pool.lost


def test_a_rollback_does_not_go_back_to_what_was_refused() -> None:
    world = ready_pool(1)
    for _ in range(2):
        upgrade(world)
        world.fact(facts.SaidReady(only(world, State.STARTING).id))
        if world.pool.current == 2:
            world.fact(facts.AbortRequested("test"))
        world.come_to_rest(lambda generation: True)
    assert world.pool.current == 3
    assert dict(world.pool.remembered)[2].proven
    assert rollback_target(world.pool, None) == 1
    with pytest.raises(ValueError, match="it was refused or aborted"):
        rollback_target(world.pool, 2)


def test_workers_that_die_soon_after_ready_over_and_over_degrade_the_gate_until_there_is_calm(
) -> None:
    world = ready_pool(1, Policy(max_failures=2))
    for deaths in range(1, 4):
        while not [
                worker for worker in world.pool.workers.values() if worker.state is State.STARTING]:
            world.exit(only(world, State.READY).id, 1)
            assert world.pool.generations[1].faults == deaths
        world.fact(facts.SaidReady(only(world, State.STARTING).id))
        assert gate(world.pool)[0] == ("degraded" if deaths > 2 else "ready")
        world.pass_time(50.0)
    assert "keeps failing: 3 times, the last: worker 0 exited with code 1 50.0 s after it was ready" in gate(
        world.pool)[1]
    world.pass_time(CALM_SECONDS)
    assert gate(world.pool)[0] == "ready"


def test_the_gate_says_what_is_missing_and_who_still_serves() -> None:
    world = ready_pool(2, Policy(max_failures=1))
    upgrade(world)
    world.fact(facts.SaidReady(only(world, State.STARTING).id))
    world.fact(facts.Exited(only(world, State.RETIRING).id, 0))
    old = next(worker for worker in world.pool.workers.values() if worker.generation == 1)
    pool = observe(world.pool, facts.Exited(old.id, 1), world.now)
    assert gate(pool) == ("upgrading", "1 of 2 workers on generation 2; 1 of 2 workers ready")
    assert pool.upgrade is not None
    back = replace(pool, current=1, upgrade=replace(
        pool.upgrade, phase=UpgradePhase.ENDED, outcome=Outcome.ROLLED_BACK, reason="it failed"))
    assert gate(back) == (
        "rolled-back",
        "generation 2 was refused: it failed; 1 worker of it still serves, until its "
        "replacement is ready; 1 of 2 workers ready")


def test_recycling_keeps_the_seats_and_one_at_a_time() -> None:
    world = World.new(3, Policy(), recipe(max_lifetime=100.0))
    for worker in list(world.pool.workers.values()):
        world.fact(facts.SaidReady(worker.id))
    world.pass_time(111.0)
    for _ in range(3):
        new = only(world, State.STARTING)
        world.fact(facts.SaidReady(new.id))
        old = only(world, State.RETIRING)
        assert old.index == new.index
        assert world.pool.ready == 3
        world.fact(facts.Exited(old.id, 0))
    assert world.resting()


def test_a_hold_lasts_as_long_as_somebody_runs() -> None:
    world = ready_pool(2)
    world.fact(facts.UpgradeRequested(Terms(canary=1, hold=300.0), "test", 0.0))
    world.fact(facts.UpgradePrepared(2, recipe()))
    world.fact(facts.SaidReady(only(world, State.STARTING).id))
    world.pass_time(200.0)
    world.suspend(400.0)
    for seconds, phase in ((200.0, UpgradePhase.HELD), (100.0, UpgradePhase.EXCHANGING)):
        world.pass_time(seconds)
        assert world.pool.upgrade is not None
        assert world.pool.upgrade.phase is phase


def test_progress_is_waited_for_as_long_as_somebody_runs() -> None:
    world = ready_pool(2, Policy(ready_timeout=1000.0, progress_timeout=150.0))
    upgrade(world)
    world.pass_time(100.0)
    world.suspend(400.0)
    for seconds, outcome in ((100.0, None), (50.0, Outcome.ROLLED_BACK)):
        world.pass_time(seconds)
        if outcome:
            world.come_to_rest(lambda generation: True)
        assert world.pool.upgrade is not None
        assert world.pool.upgrade.outcome is outcome


def test_a_due_worker_stays_while_its_replacement_cannot_be_started() -> None:
    world = ready_pool(1)
    world.spawn_fails = True
    world.fact(facts.Due(1, "served 500 requests", Recycling.REQUESTS))
    for _ in range(5):
        world.pass_time(1.0)
        assert world.pool.ready == 1


def test_going_back_takes_the_number_of_workers_along() -> None:
    for operator_scales in (False, True):
        world = ready_pool(2)
        world.fact(facts.UpgradeRequested(Terms(Kind.ROLLING), "test", 0.0))
        world.fact(facts.UpgradePrepared(2, recipe(), target=4))
        world.fact(facts.UpgradeRequested(Terms(Kind.ROLLING), "test", 0.0))
        if operator_scales:
            world.fact(facts.Scaled(3))
        world.fact(facts.UpgradeRefused(3, "its settings cannot be read", None, 0.0))
        assert world.pool.target == (3 if operator_scales else 2)
