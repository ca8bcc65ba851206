"""Templates: the machine and the search of test_planner.py with workers that are forked from
templates, planted bugs of their own, and what is to be said of one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from einhornpy.supervisor.core import actions, facts, template_facts, template_rules
from einhornpy.supervisor.core.generation import Preload
from einhornpy.supervisor.core.observe import observe
from einhornpy.supervisor.core.planner import plan
from einhornpy.supervisor.core.pool import CALM_SECONDS, Policy, Pool, State, Stopping
from einhornpy.supervisor.core.template import (
    FORK_SECONDS,
    LEAVE_SECONDS,
    START_SECONDS,
    TemplateState,
)
from einhornpy.supervisor.core.upgrade import Terms
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from . import test_planner
from .world import FOUND, World, recipe


class TemplateMachine(test_planner.PlannerMachine):
    """Templates that begin, fork and leave at once or slowly, die, hang and can't fork."""

    templated = True

    @precondition(lambda self: self.alive())
    @rule()
    def templates_are_slow_or_fast_from_now_on(self) -> None:
        self.world.slowly = not self.world.slowly

    def has(self, *states: TemplateState) -> bool:
        return self.alive() and bool(self.world.templates(*states))

    @precondition(lambda self: self.has(TemplateState.STARTING))
    @rule(finds=st.booleans())
    def a_template_is_ready(self, finds: bool) -> None:
        self.world.fact(template_facts.TemplateReady(self.world.templates(TemplateState.STARTING)[0],
                                            findings=FOUND if finds else ()))

    @precondition(lambda self: self.has(TemplateState.LEAVING))
    @rule()
    def a_template_leaves(self) -> None:
        leaving = self.world.templates(TemplateState.LEAVING)[0]
        self.world.fact(template_facts.TemplateGone(leaving, "exited with code 0"))

    @precondition(lambda self: self.has(TemplateState.STARTING, TemplateState.READY))
    @rule(data=st.data())
    def a_template_dies(self, data: st.DataObject) -> None:
        self.world.template_dies(data.draw(st.sampled_from(
            self.world.templates(TemplateState.STARTING, TemplateState.READY))))

    @precondition(lambda self: self.alive() and self.world.being_forked())
    @rule(twice=st.booleans())
    def a_worker_is_forked(self, twice: bool) -> None:
        worker = self.world.being_forked()[0]
        self.world.fact(facts.Forked(worker.id, 1000 + worker.id))
        if twice:
            before = self.world.pool
            self.world.fact(facts.Forked(worker.id, 1000 + worker.id))
            assert self.world.pool == before

    @precondition(lambda self: self.alive() and self.world.being_forked())
    @rule()
    def a_worker_cannot_be_forked(self) -> None:
        self.world.fact(facts.NotForked(self.world.being_forked()[0].id, "no more processes"))


def test_state_machine() -> None:
    before = test_planner.steps_taken
    test_planner.run_machine(test_planner.EXAMPLES // 2, TemplateMachine)
    assert test_planner.steps_taken - before >= min(5_000, test_planner.EXAMPLES * 10)


@pytest.mark.parametrize(("target", "kind", "deaths", "least"),
                         [(1, "rolling", 2, 1000), (1, "fleet", 2, 1000), (2, "rolling", 1, 2000)])
def test_every_order_of_events(target: int, kind: str, deaths: int, least: int) -> None:
    states = test_planner.search(target, kind, deaths, templated=True)
    print(f"\n{states} states: N = {target}, one {kind} upgrade, templates, {deaths} deaths")
    assert states >= least


@pytest.mark.parametrize("preload", [Preload.WARN, Preload.STRICT, Preload.AUTO])
def test_every_order_of_events_where_templates_import_the_app(preload: Preload) -> None:
    states = test_planner.search(1, "rolling", 1, templated=True, preload=preload)
    print(f"\n{states} states: N = 1, one rolling upgrade, --preload={preload}, 1 death")
    assert states >= 200


# --- planted bugs ---


def from_any_template(pool: Pool, number: int) -> bool:
    return any(each.state is TemplateState.READY for each in pool.templates.values())


def no_template_leaves(*arguments: Any) -> list[actions.Action]:
    return [each for each in original_due(*arguments)
            if not isinstance(each, actions.RetireTemplate)]


def hot_templates(pool: Pool, *others: Any) -> list[actions.Action]:
    return original_due(replace(pool, templates={
        number: replace(each, not_before=0.0) for number, each in pool.templates.items()}), *others)


def telling_at_once(pool: Pool) -> list[actions.Action]:
    current = pool.templates.get(pool.current)
    if current is not None and current.state is TemplateState.READY and not current.told:
        return [actions.TellTemplate(pool.current)]
    return []


def leaving_early(pool: Pool, *others: Any) -> list[actions.Action]:
    old = [actions.RetireTemplate(number) for number, each in pool.templates.items()
           if number != pool.current and each.state is TemplateState.READY]
    return [*old] or original_due(pool, *others)


def never_replaced(*arguments: Any) -> list[actions.Action]:
    return [each for each in original_due(*arguments)
            if not isinstance(each, actions.ReplaceTemplate)]


def hasty(pool: Pool, *others: Any) -> list[actions.Action]:
    return original_overdue(replace(pool, generations={
        number: replace(each, separate=True) for number, each in pool.generations.items()}),
        *others)


original_due, original_overdue = template_rules.due, template_rules.overdue
BUGS: dict[str, tuple[str, Any]] = {
    "forks from the template of another generation, or a dead one": ("can_fork", from_any_template),
    "leaves two templates behind": ("due", no_template_leaves),
    "makes templates in a hot loop": ("due", hot_templates),
    "never makes another one": ("due", lambda *arguments: []),
    "never looks whether one hangs": ("overdue", lambda *arguments: []),
    "tells one while another is there": ("tell", telling_at_once),
    "lets one go whose workers are there": ("due", leaving_early),
    "leaves while templates are there": ("stop", lambda pool: []),
    "forks what is not safe to fork": ("_unsafe", lambda pool, template: False),
    "never exchanges a template that must not fork": ("due", never_replaced),
    "lets nobody import for longer than settings take to read": ("overdue", hasty),}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_rules, *BUGS[bug])
    with pytest.raises((AssertionError, LookupError)):
        look_for_bugs()


def look_for_bugs() -> None:
    """What is quick first."""
    test_a_template_that_hangs_is_killed_and_another_one_made()
    test_planner.run_machine(100, TemplateMachine)
    test_planner.search(1, "rolling", 1, templated=True, preload=Preload.AUTO)
    test_planner.search(1, "rolling", 2, templated=True)


# --- stories ---


def ready_pool(target: int, policy: Policy | None = None) -> World:
    world = World.new(target, policy or Policy(), templated=True)
    for worker in list(world.pool.workers.values()):
        world.fact(facts.SaidReady(worker.id))
    world.pass_time(10.0)
    return world


def upgrade(world: World) -> None:
    world.fact(facts.UpgradeRequested(Terms(), "test", 0.0))
    world.fact(facts.UpgradePrepared(world.pool.newest, recipe()))


def test_a_template_that_dies_once_costs_nothing_and_later_ones_grow_rare() -> None:
    world = ready_pool(1)
    world.slowly = True
    world.template_dies(1)
    assert world.templates(TemplateState.STARTING) == [1], "another one is made at once"
    assert world.pool.generations[1].failures_in_a_row == 0
    waits = []
    for _ in range(4):
        world.template_dies(1)
        assert world.pool.ready == 1
        assert world.wake_at is not None
        waits.append(world.wake_at - world.now)
        world.pass_time(waits[-1])
    assert waits == sorted(waits)
    assert waits[0] > 0
    world.fact(template_facts.TemplateReady(1))
    world.pass_time(CALM_SECONDS)
    world.template_dies(1)
    assert world.templates(TemplateState.STARTING) == [1], "long ago doesn't count"


def test_an_upgrade_whose_template_keeps_dying_goes_back_and_touches_nobody() -> None:
    world = ready_pool(2)
    old = set(world.pool.workers)
    upgrade(world)
    for _ in range(20):
        if world.pool.running_upgrade is None:
            break
        if 2 in world.templates(TemplateState.READY):
            world.template_dies(2)
        elif (starting := [each for each in world.pool.workers.values()
                           if each.state is not State.READY]):
            world.fact(facts.Exited(starting[0].id, -9))
        elif world.wake_at is not None:
            world.pass_time(world.wake_at - world.now)
    assert world.pool.upgrade is not None
    assert world.pool.upgrade.outcome == "rolled-back"
    assert set(world.pool.workers) == old
    assert world.templates(*TemplateState) == [1]


def test_those_that_die_of_what_they_are_told_fork_what_is_missing_all_the_same() -> None:
    """A hook that ends or hangs each template must not leave a seat empty."""
    world = ready_pool(2)
    world.slowly = True
    world.exit(1, -9)
    for _ in range(12):
        template = world.pool.templates[1]
        if template.state is TemplateState.STARTING:
            world.fact(template_facts.TemplateReady(1))
        elif template.state is TemplateState.READY and template.told:
            world.template_dies(1)
        elif world.being_forked():
            world.fact(facts.Forked(world.being_forked()[0].id, 77))
        elif starting := [each for each in world.pool.workers.values()
                          if each.state is State.STARTING]:
            world.fact(facts.SaidReady(starting[0].id))
        elif world.wake_at is not None:
            world.pass_time(world.wake_at - world.now)
    assert world.pool.ready == 2
    assert not world.pool.templates[1].told
    assert world.resting()


def test_a_template_that_hangs_is_killed_and_another_one_made() -> None:
    world = ready_pool(1)
    world.slowly = True
    world.exit(1, 1)
    world.pass_time(1.0)
    assert [worker.pid for worker in world.pool.workers.values()] == [0]
    for _ in range(2):
        world.pass_time(FORK_SECONDS)
    assert not world.pool.workers
    assert world.templates(TemplateState.STARTING) == [1]
    world.pass_time(START_SECONDS)
    assert world.templates(TemplateState.GONE) == [1]
    world.come_to_rest(lambda generation: True)


def test_everything_leaves_in_order_when_the_master_stops() -> None:
    world = ready_pool(1)
    world.slowly = True
    upgrade(world)
    world.fact(facts.StopRequested(Stopping.GRACEFUL))
    for worker in list(world.pool.workers.values()):
        if not worker.pid:
            world.fact(facts.Forked(worker.id, 5))
        world.fact(facts.Exited(worker.id, 0))
    assert sorted(world.templates(TemplateState.LEAVING)) == [1, 2]
    world.fact(template_facts.TemplateGone(1, "exited with code 0"))
    assert world.ended is None
    world.pass_time(LEAVE_SECONDS)
    assert world.ended == "left", "one that hangs is killed"


# --- that import the app ---


def preloading(preload: Preload, target: int = 2) -> World:
    """A world whose first generation is ready, and whose next one imports the app just now."""
    world = World.new(target, Policy(), recipe(preload=preload), templated=True)
    for worker in list(world.pool.workers.values()):
        world.fact(facts.SaidReady(worker.id))
    world.pass_time(10.0)
    world.slowly = True
    world.fact(facts.UpgradeRequested(Terms(), "test", 0.0))
    world.fact(facts.UpgradePrepared(2, recipe(preload=preload)))
    assert world.templates(TemplateState.STARTING) == [2]
    assert [worker.generation for worker in world.pool.workers.values()] == [1] * target
    return world


def test_nobody_is_touched_before_the_app_is_imported() -> None:
    world = preloading(Preload.WARN)
    world.pass_time(START_SECONDS + 1.0)
    assert world.templates(TemplateState.STARTING) == [2], "it has the ready timeout"
    world.fact(template_facts.TemplateReady(2, 31.0, FOUND))
    assert [worker.generation for worker in world.being_forked()] == [2]
    assert world.pool.generations[2].findings == FOUND
    assert world.pool.templates[2].import_seconds == 31.0


def test_an_import_that_fails_or_hangs_is_tried_again_and_then_goes_back() -> None:
    world = preloading(Preload.WARN)
    old = set(world.pool.workers)
    for _ in range(20):
        if world.pool.running_upgrade is None:
            break
        if 2 in world.templates(TemplateState.STARTING):
            world.observe(template_facts.TemplateGone(2, "exited with code 3", "ImportError: no"))
            world.settle()
        elif 2 in world.templates(TemplateState.LEAVING):
            world.fact(template_facts.TemplateGone(2, "exited with code 0"))
        elif world.wake_at is not None:
            world.pass_time(world.wake_at - world.now)
    upgrade = world.pool.upgrade
    assert upgrade is not None
    assert (upgrade.outcome, upgrade.error, upgrade.failures) == (
        "rolled-back", "ImportError: no", 3)
    assert set(world.pool.workers) == old


def test_strict_refuses_what_is_not_safe_to_fork() -> None:
    world = preloading(Preload.STRICT)
    world.fact(template_facts.TemplateReady(2, findings=FOUND))
    assert world.pool.current == 1
    upgrade = world.pool.upgrade
    assert upgrade is not None
    assert (upgrade.outcome, upgrade.cause) == ("rolled-back", "unfit")
    assert upgrade.reason == ("the release is not safe to fork: thread 'beat', since the import of "
                              "app.clock")
    assert {worker.generation for worker in world.pool.workers.values()} == {1}


def test_strict_gives_a_first_start_up() -> None:
    world = World.new(1, Policy(), recipe(preload=Preload.STRICT), templated=True, slowly=True)
    world.fact(template_facts.TemplateReady(1, findings=FOUND))
    assert world.ended is not None
    assert not world.spawned


def test_auto_makes_another_template_that_does_not_import_the_app() -> None:
    world = preloading(Preload.AUTO)
    world.fact(template_facts.TemplateReady(2, findings=FOUND))
    assert world.templates(TemplateState.STARTING) == [2]
    assert not world.pool.generations[2].preloads
    assert world.pool.generations[2].failures_in_a_row == 0
    world.fact(template_facts.TemplateReady(2))
    assert [worker.generation for worker in world.being_forked()] == [2]
    assert world.pool.generations[2].findings == FOUND, "they stay to be told"


def test_auto_starts_a_program_by_itself_that_would_have_been_a_template() -> None:
    own = replace(recipe(preload=Preload.AUTO), program_forks=True)
    world = World.new(1, Policy(), own, templated=True, slowly=True)
    world.fact(template_facts.TemplateReady(1, findings=FOUND))
    assert world.templates(TemplateState.LEAVING) == [1]
    assert not template_rules.forks(world.pool, 1)
    assert [generation for _, generation in world.spawned] == [1]


def test_a_refused_release_goes_back_to_the_template_that_is_still_there() -> None:
    world = preloading(Preload.WARN)
    world.fact(template_facts.TemplateReady(2))
    world.fact(facts.Forked(world.being_forked()[0].id, 77))
    new = next(worker for worker in world.pool.workers.values() if worker.generation == 2)
    world.fact(facts.SaidReady(new.id))
    assert 1 in world.templates(TemplateState.READY)
    before = world.pool.templates[1].pid
    world.fact(facts.AbortRequested("test"))
    assert world.pool.templates[1].pid == before


def test_what_a_template_took_is_not_held_against_the_worker() -> None:
    """It is there at last, and serves at once: whoever killed it would cost a request."""
    world = ready_pool(1)
    world.slowly = True
    world.exit(1, 1)
    world.pass_time(1.0)
    (worker,) = world.being_forked()
    late = world.now + world.pool.policy.ready_timeout
    pool = observe(world.pool, facts.Forked(worker.id, 77), late)
    assert not [each for each in plan(pool, late).actions if isinstance(each, actions.Kill)]
    assert pool.workers[worker.id].spawned_at == late
