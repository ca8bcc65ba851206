"""A world for the planner without processes: it carries plans out as facts, with a fake clock, and
checks the promises at every step. The state machine and the exhaustive search both drive it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from einhornpy.supervisor.core import (
    actions,
    facts,
    judge_rules,
    planner,
    template_facts,
    template_rules,
    upgrade,
)
from einhornpy.supervisor.core import observe as observing
from einhornpy.supervisor.core.causes import Refusal
from einhornpy.supervisor.core.generation import Finding, Preload, Recipe
from einhornpy.supervisor.core.pool import (
    CALM_SECONDS,
    UNREADY_SECONDS,
    Policy,
    Pool,
    State,
    Worker,
)
from einhornpy.supervisor.core.template import (
    FORK_SECONDS,
    LEAVE_SECONDS,
    START_SECONDS,
    Template,
    TemplateState,
)
from einhornpy.supervisor.core.verdict import Word
from einhornpy.supervisor.core.view import ABORT_SECONDS

FIRST_TEMPLATE = 900_000
FOUND = (Finding("thread", "'beat'", "app.clock", "start it in each worker"),)
Now = float
PlanFunction = Callable[[Pool, Now], actions.Plan]


def recipe(ack_seconds: float | None = None, timeout: float = 0.0, max_lifetime: float = 0.0,
           max_memory: int = 0, preload: Preload = Preload.OFF, directory: str = "/") -> Recipe:
    return Recipe(("app",), directory, ack_seconds=ack_seconds, timeout=timeout, graceful_timeout=30.0,
                  max_lifetime=max_lifetime, max_lifetime_jitter=max_lifetime / 10,
                  max_memory=max_memory, max_memory_hard=2 * max_memory, preload=preload)


@dataclass
class World:
    """One pool and its clock. `ended`: why the master has left, if it has. `spawned`: (time,
    generation) of each. `templated`: workers are forked from templates; `slowly`: which then need
    somebody to let them begin, fork and leave."""

    pool: Pool
    now: float = 0.0
    next_id: int = 1
    ended: str | None = None
    spawn_fails: bool = False
    steps: int = 0
    spawned: list[tuple[float, int]] = field(default_factory=list)
    awake_since: float = 0.0
    templated: bool = False
    slowly: bool = False
    # What was planned last, and of what: most of the search is planning.
    _planned: tuple[Pool, Now, actions.Plan] | None = None

    @classmethod
    def new(cls, target: int, policy: Policy, first: Recipe | None = None,
            templated: bool = False, slowly: bool = False) -> World:
        world = cls(observing.new_pool(first or recipe(), target, policy,
                                       template=FIRST_TEMPLATE if templated else 0),
                    templated=templated, slowly=slowly)
        world.import_at_once()
        world.settle()
        return world

    def copy(self) -> World:
        after = copy.copy(self)
        after.spawned = list(self.spawned)
        return after

    def fact(self, event: facts.Event) -> None:
        """Something happens; everything that is due because of it is done."""
        if self.templated and isinstance(event, facts.UpgradePrepared):
            event = replace(event, template=FIRST_TEMPLATE + event.number)
        self.steps += 1
        self.pool = observing.observe(self.pool, event, self.now)
        if isinstance(event, facts.UpgradePrepared):
            self.import_at_once()
        self.settle()

    def import_at_once(self) -> None:
        """Whoever was just prepared, and only has to import the app, does so, where nothing goes
        slowly."""
        for number in () if self.slowly else self.templates(TemplateState.STARTING):
            self.observe(template_facts.TemplateReady(number))

    def exit(self, worker: int, status: int) -> None:
        """A worker exits; one that asks for new code by it gets its upgrade, as the master does
        it."""
        before = self.pool.workers[worker]
        asked = observing.asks_for_upgrade(self.pool, before, status)
        running = self.pool.running_upgrade is not None
        self.observe(facts.Exited(worker, status))
        if asked and not running:
            self.observe(
                facts.UpgradeRequested(upgrade.Terms(), "a worker", 0.0, frozenset({before.index})))
        self.steps += 1
        self.settle()

    def template_dies(self, generation: int) -> None:
        """Whoever it was to fork will not be there."""
        for worker in self.being_forked():
            if worker.generation == generation:
                self.observe(facts.NotForked(worker.id, None))
        self.observe(template_facts.TemplateGone(generation, "was ended by signal 9"))
        self.settle()

    def being_forked(self) -> list[Worker]:
        return [worker for worker in self.pool.workers.values() if not worker.pid]

    def templates(self, *states: TemplateState) -> list[int]:
        return [number for number, template in self.pool.templates.items()
                if template.state in states]

    def pass_time(self, seconds: float) -> None:
        self.steps += 1
        self.now += seconds
        self.settle()

    def suspend(self, seconds: float) -> None:
        """Nobody runs for a while, the master included."""
        self.now += seconds
        self.awake_since = self.now
        self.fact(facts.Suspended(seconds))

    def ran(self, since: float | None) -> float:
        """For how many seconds everybody has been running, as far as they may be held against
        anybody who began at `since`."""
        assert since is not None
        return round(self.now - max(since, self.awake_since), 6)

    def settle(self) -> None:
        """Plan and act until nothing is due. That it comes to an end is promise and bound at
        once."""
        bound = 20 + 6 * (len(self.pool.workers) + 3 * self.pool.target +
                          self.pool.policy.max_surge)
        for _ in range(bound):
            plan = self.plan()
            if not plan.actions:
                assert plan.wake_at is None or plan.wake_at > self.now, (
                    f"it would spin: {plan} at {self.now}")
                self.check_rest()
                return
            for action in plan.actions:
                before = self.pool.generations
                self.carry_out(action)
                if self.ended is not None:
                    return
                if isinstance(action, actions.Spawn) and self.spawn_fails:
                    assert self.pool.generations != before
                    break
                if isinstance(action, actions.KillTemplate):
                    break
        raise AssertionError(f"it never comes to rest: {plan}")

    def plan(self) -> actions.Plan:
        """What is due now: planned anew only if something is different."""
        if self._planned is None or self._planned[0] is not self.pool or (
                self._planned[1] != self.now):
            self._planned = self.pool, self.now, planner.plan(self.pool, self.now)
        return self._planned[2]

    @property
    def wake_at(self) -> float | None:
        return self.plan().wake_at

    # --- acting, as the master does ---

    def carry_out(self, action: actions.Action) -> None:
        match action:
            case actions.Spawn():
                self.check_spawn(action)
                self.spawned.append((self.now, action.generation))
                if self.spawn_fails:
                    self.observe(
                        facts.SpawnFailed(action.index, action.generation, "no more processes"))
                else:
                    forks = template_rules.forks(self.pool, action.generation)
                    pid = 0 if forks else 1000 + self.next_id
                    self.observe(
                        facts.Spawned(self.next_id, action.index, action.generation, pid,
                                      jitter=self.next_id % 5 / 4))
                    if forks and not self.slowly:
                        self.observe(facts.Forked(self.next_id, 1000 + self.next_id))
                    self.next_id += 1
            case (actions.StartTemplate() | actions.TellTemplate() | actions.RetireTemplate()
                  | actions.KillTemplate() | actions.ReplaceTemplate()):
                self.carry_out_for_template(action)
            case actions.AssumeReady():
                self.observe(facts.Assumed(action.worker))
                self.observe(facts.SaidReady(action.worker, guessed=True))
            case actions.Trust():
                self.check_trust(self.pool.workers[action.worker])
                self.observe(facts.Stood(action.worker))
            case actions.CheckAccepting():
                self.check_finish(asked=False)
                self.observe(facts.AcceptingAsked())
                self.observe(facts.AcceptingChecked(None))
            case actions.CalmDown():
                assert self.now >= self.pool.generations[
                    action.generation].fault_at + CALM_SECONDS
                self.observe(facts.Calmed(action.generation))
            case actions.Recycle():
                worker = self.pool.workers[action.worker]
                assert worker.state is State.READY
                assert worker.recycled_for is None, "marked twice"
                self.observe(facts.Due(action.worker, action.reason, action.cause))
            case actions.Abort():
                self.check_kill(self.pool.workers[action.worker])
                self.observe(facts.Aborted(action.worker, action.reason, action.cause))
            case actions.BeginHold():
                self.check_hold(0.0)
                self.observe(facts.HoldBegun())
            case actions.EndHold():
                self.check_hold(None)
                self.observe(facts.HoldEnded())
            case actions.Retire():
                self.check_retire(self.pool.workers[action.worker])
                self.observe(facts.Retired(action.worker, action.reason, action.cause))
            case actions.Kill():
                self.check_kill(self.pool.workers[action.worker])
                self.observe(facts.Killed(action.worker, action.reason, action.cause))
            case actions.KillOrphan():
                orphan = self.pool.left_behind[action.pid]
                assert self.pool.stopping == "now" or self.ran(orphan.found_at) >= 30, (
                    f"{orphan} had more time")
                self.observe(facts.OrphanKilled(action.pid))
                self.observe(facts.OrphanGone(action.pid))
            case actions.EndWatch():
                watched = self.pool.upgrade
                assert watched is not None
                assert watched.terms.judging is not None
                assert self.ran(watched.watched_since) >= watched.terms.judging.watch
                assert watched.doing is not Word.WORSE
                self.observe(facts.WatchEnded())
            case actions.RollBack():
                running = self.pool.upgrade
                assert running is not None
                self.check_judgement(running, action.cause)
                if action.cause is Refusal.NO_PROGRESS:
                    assert self.ran(running.progress_at) >= self.pool.policy.progress_timeout, (
                        "it is refused for time in which nobody ran")
                self.observe(facts.RolledBack(action.reason, action.error, action.cause))
            case actions.Finish():
                self.check_finish()
                self.observe(facts.Finished(0.0))
            case actions.GiveUp():
                assert not self.pool.ever_ready, "it gives up an app that has served"
                self.ended = "gave up"
            case actions.Leave():
                assert self.pool.stopping is not None
                assert not self.pool.workers
                assert not self.pool.left_behind
                assert not self.templates(TemplateState.READY, TemplateState.LEAVING)
                self.ended = "left"

    def carry_out_for_template(self, action: actions.OfTemplate) -> None:
        number = action.generation
        template = self.pool.templates[number]
        match action:
            case actions.StartTemplate():
                assert self.now >= template.not_before, f"{action} before its delay is over"
                assert number in self.pool.generations
                self.observe(template_facts.TemplateStarted(number, FIRST_TEMPLATE + self.next_id))
                if not self.slowly:
                    self.observe(template_facts.TemplateReady(number))
            case actions.TellTemplate():
                assert [*self.pool.templates] == [number], "another one may hold what it wants"
                self.observe(template_facts.TemplateTold(number))
            case actions.RetireTemplate():
                of_it = [each for each in self.pool.workers.values() if each.generation == number]
                assert not of_it, f"{action}, and {of_it} still need it"
                assert (number != self.pool.current or self.pool.stopping is not None
                        or not template_rules.forks(self.pool, number))
                self.observe(template_facts.TemplateRetired(number, LEAVE_SECONDS))
                if not self.slowly:
                    self.observe(template_facts.TemplateGone(number, "exited with code 0"))
            case actions.KillTemplate():
                waited = [template.since] if template.state is not TemplateState.READY else [
                    worker.spawned_at for worker in self.being_forked()]
                assert self.pool.stopping == "now" or max(
                    map(self.ran, waited)) >= self.patience(template), f"{action} too early"
                self.observe(template_facts.TemplateKilled(number, action.reason))
                for worker in self.being_forked():
                    if worker.generation == number:
                        self.observe(facts.NotForked(worker.id, None))
                self.observe(template_facts.TemplateGone(number, "was ended by signal 9"))
            case actions.ReplaceTemplate():
                asked = [each for each in self.being_forked() if each.generation == number]
                assert not asked, f"{action}, and it was asked for {asked}"
                self.observe(template_facts.TemplateMissing(number))

    def patience(self, template: Template) -> float:
        """For how many seconds one is waited for at least."""
        ready_timeout = self.pool.policy.ready_timeout
        if template.state is TemplateState.STARTING:
            generation = self.pool.generations.get(template.generation)
            preloads = generation is not None and generation.preloads
            return ready_timeout if preloads else START_SECONDS
        return min(FORK_SECONDS, ready_timeout)

    def observe(self, event: facts.Event) -> None:
        self.pool = observing.observe(self.pool, event, self.now)

    # --- the promises ---

    def available(self) -> int:
        return sum(
            self.pool.available(worker, self.now) for worker in self.pool.workers.values())

    def check_retire(self, worker: Worker) -> None:
        """The airbag: nobody ready goes unless enough ready ones, long enough ready, remain."""
        if self.pool.stopping is not None or worker.state is not State.READY or self.pool.deaf(
                worker):
            return
        alone = all(each.state is State.READY for each in self.pool.workers.values())
        if (self.pool.short_of_memory and self.pool.running_upgrade is None
                and worker.recycled_for is not None and alone
                and self.pool.ready == self.pool.target):
            # break before make, where the host leaves no choice: one at a time, and from full
            # strength only
            return
        upgrade = self.pool.running_upgrade
        wanted = sum(each.generation == self.pool.current and each.state is not State.RETIRING
                     for each in self.pool.workers.values())
        watched = (upgrade is not None and upgrade.on_canary
                   and worker.generation == upgrade.to_generation)
        # else it may go because there are too many
        if watched and worker.recycled_for and wanted <= self.pool.target:
            assert worker.over_memory, (
                f"a canary goes for its age or its requests while it is watched: {worker}")
        self.check_standstill(worker)
        counted = self.pool.available(worker, self.now)
        assert self.pool.ready - 1 >= self.pool.target, (
            f"the airbag: {self.pool.ready} ready, {worker} is asked to go")
        assert self.available(
        ) - counted >= self.pool.target, f"the airbag, with min ready seconds: {worker}"

    def check_standstill(self, worker: Worker) -> None:
        """While an upgrade is paused or held, nobody goes for its sake unless there are too
        many."""
        upgrade = self.pool.running_upgrade
        if upgrade is None or upgrade.rolling_back or upgrade.preparing:
            return
        surge = self.surge()
        if upgrade.paused_by is not None:
            assert self.pool.live > self.pool.target + surge or worker.generation == self.pool.current, (
                "it was paused")
        elif upgrade.on_canary and worker.generation != self.pool.current:
            fresh = sum(each.generation == self.pool.current and each.state is not State.RETIRING
                        and each.recycled_for is None for each in self.pool.workers.values())
            missing = max(0, min(upgrade.terms.canary, self.pool.target) - fresh)
            missing += judge_rules.misses_baseline(self.pool)
            assert self.pool.live + missing > self.pool.target + surge, (
                f"{worker} goes though there is room for it")

    def baselines(self) -> list[Worker]:
        """The old workers that are as young as the canaries."""
        upgrade = self.pool.running_upgrade
        return [worker for worker in self.pool.workers.values() if upgrade is not None
                and worker.generation == upgrade.from_generation
                and worker.state is not State.RETIRING
                and worker.spawned_at >= upgrade.started_at]

    def check_judgement(self, running: upgrade.Upgrade, cause: Refusal) -> None:
        """Whoever pauses an upgrade, or says resume in its hold, beats the judge."""
        if cause in (Refusal.WORSE, Refusal.UNSURE):
            assert running.terms.judging is not None
            assert running.overruled_by is None, "it was overruled"
            assert running.verdict is None or running.verdict.word is (
                Word.WORSE if cause is Refusal.WORSE else Word.UNSURE)
            assert running.paused_by is None, "it was paused"
        if cause is Refusal.WORSE:
            assert running.doing is Word.WORSE
        if cause is Refusal.UNSURE:
            assert running.terms.judging is not None
            assert running.terms.judging.refuses_unsure
            assert running.phase is upgrade.Phase.HELD

    def surge(self) -> int:
        upgrade = self.pool.running_upgrade
        fleet = upgrade is not None and upgrade.terms.kind == "fleet" and not upgrade.rolling_back
        return max(self.pool.target,
                   self.pool.policy.max_surge) if fleet else self.pool.policy.max_surge

    def check_hold(self, least: float | None) -> None:
        """A hold begins when all canaries serve; it ends when its time is over and its check has
        passed, not before."""
        upgrade = self.pool.running_upgrade
        assert upgrade is not None
        assert upgrade.on_canary
        serving = sum(worker.generation == upgrade.to_generation and worker.state is State.READY
                      for worker in self.pool.workers.values())
        assert serving >= min(upgrade.terms.canary,
                              self.pool.target), "the hold without its canaries"
        if least is None:
            assert upgrade.check in (None, "passed"), "the check has not passed"
            assert upgrade.held_since is not None
            held, judging = self.ran(upgrade.held_since), upgrade.terms.judging
            early = (upgrade.judged and judging is not None and upgrade.doing is Word.WELL
                     and judging.least_hold is not None and held >= judging.least_hold)
            assert upgrade.hold_over or early or (upgrade.terms.hold is not None
                                                  and held >= upgrade.terms.hold)
            assert not upgrade.judged or (upgrade.doing is not Word.WORSE and not (
                judging is not None and judging.refuses_unsure
                and upgrade.doing is Word.UNSURE)), "it passes what it was to refuse"

    def check_kill(self, worker: Worker) -> None:
        if worker.unfit is not None:
            assert not worker.convincing, f"{worker} serves, and is killed"
            return
        recipe = self.pool.generations[worker.generation].recipe
        if self.pool.stopping == "now":
            return
        if worker.state is State.STARTING:
            assert self.ran(worker.spawned_at) >= self.pool.policy.ready_timeout, (
                f"{worker} had more time to become ready")
        elif worker.aborted_at is not None:
            assert self.ran(worker.aborted_at) >= ABORT_SECONDS
        elif worker.state is State.RETIRING:
            serves = worker.ready_at is not None or recipe.ack_seconds is not None
            assert self.ran(worker.retired_at) >= (
                recipe.graceful_timeout if serves else UNREADY_SECONDS), (
                f"{worker} had more time to leave")
        elif self.pool.stopping is None:
            if worker.memory is not None and 0 < recipe.max_memory_hard <= worker.memory:
                return
            timeout = recipe.timeout
            assert worker.heartbeat_at is not None
            assert timeout > 0
            assert self.ran(worker.heartbeat_at) >= timeout, (
                f"{worker} is killed though it is well")

    def check_spawn(self, action: actions.Spawn) -> None:
        pool, upgrade = self.pool, self.pool.running_upgrade
        assert pool.stopping is None, "a start while the master stops"
        assert pool.live + 1 <= pool.target + self.surge(), f"more than N + surge: {action}"
        starting = sum(worker.state is State.STARTING for worker in pool.workers.values())
        assert pool.policy.max_unacked is None or starting < pool.policy.max_unacked, (
            "more at once than may be starting")
        generation = pool.generations[action.generation]
        if template_rules.forks(pool, action.generation):
            template = pool.templates[action.generation]
            assert template.state is TemplateState.READY, f"{action} from {template}"
            preload = generation.recipe.preload
            on_trial = (upgrade is not None and not upgrade.rolling_back
                        and upgrade.to_generation == action.generation)
            assert not (template.preloaded and generation.findings) or preload is Preload.WARN or (
                # There is nothing else: somebody needs workers, or the way back its end.
                preload is Preload.STRICT and (pool.ever_ready or upgrade is not None)
                and not on_trial), (
                f"{action}: it isn't safe to fork")
        assert self.now >= generation.not_before, f"{action} before its delay is over"
        if upgrade is None and not pool.ever_ready:
            assert generation.failures_in_a_row < max(
                1, pool.policy.max_failures), "a first start that never ends"
        for worker in pool.workers.values():
            if (worker.generation == action.generation and worker.state is not State.RETIRING
                    and worker.recycled_for is None):
                assert worker.index != action.index, f"two workers on one seat: {action}, {worker}"
        if action.index >= pool.target and upgrade is not None and upgrade.wants_baseline and (
                action.generation == upgrade.from_generation):
            # A gap may be filled beside all seats too, where those have canaries that start.
            serve = [worker for worker in pool.workers.values()
                     if worker.state is not State.RETIRING and (
                         worker.state is State.READY
                         or worker.generation != upgrade.to_generation)]
            assert not self.baselines() or len(serve) < pool.target, "more than one baseline"
        # A gap is filled from what is known to work, while there is such a generation.
        if (upgrade is not None and action.generation == upgrade.to_generation
                and not generation.proven):
            back = pool.generations[upgrade.from_generation]
            trusted = [
                worker for worker in pool.workers.values()
                if worker.state is not State.RETIRING and (
                    worker.state is State.READY or worker.generation == back.number)]
            # Who left to be replaced by new code is, as long as it has not failed.
            vacant = 0 if upgrade.failures else len(upgrade.vacant)
            allowed = not back.proven or upgrade.suspicious or len(trusted) + vacant >= pool.target
            assert allowed, f"a gap is filled with unproven code: {action}"

    def check_trust(self, worker: Worker) -> None:
        assert worker.guessed
        assert worker.ready_at is not None
        assert self.now >= worker.ready_at + self.pool.policy.guessed_min_ready_seconds, (
            f"{worker} is trusted too early")

    def check_finish(self, asked: bool = True) -> None:
        upgrade = self.pool.running_upgrade
        assert upgrade is not None
        # A guess that is leaving serves nobody any more.
        if asked and not upgrade.rolling_back and any(
                worker.guessed and worker.state is State.READY
                for worker in self.pool.workers.values()):
            assert upgrade.accepting == "yes", (
                "it says done, and nobody has looked whether the workers serve")
        stalled = 0 < self.pool.policy.progress_timeout <= self.ran(upgrade.progress_at)
        if upgrade.rolling_back and (stalled
                                     or self.pool.generations[self.pool.current].failures_in_a_row):
            return
        assert upgrade.rolling_back or not self.pool.unreachable, "it says done, and is not reached"
        assert not upgrade.on_canary
        assert upgrade.paused_by is None
        assert all(worker.generation == self.pool.current
                   for worker in self.pool.workers.values()), "old code is left"
        assert all(each.generation == self.pool.current
                   for each in self.pool.left_behind.values()), "old code is left behind"
        assert self.available() >= self.pool.target, "it says done with too few ready workers"

    def check_rest(self) -> None:
        pool, upgrade = self.pool, self.pool.running_upgrade
        if pool.upgrade is not None and pool.upgrade.watched:
            assert pool.upgrade.from_generation in pool.generations, "nothing to go back to"
        elif upgrade is None and pool.stopping is None and all(  # else all leave at the end
                worker.generation == pool.current for worker in pool.workers.values()):
            left = set(self.templates(TemplateState.STARTING, TemplateState.READY))
            assert left <= {pool.current}, f"templates of {left} are left behind"
        wanted = [
            worker.index for worker in pool.workers.values() if worker.generation == pool.current
            and worker.state is not State.RETIRING and worker.recycled_for is None]
        assert len(wanted) == len(set(wanted)), f"a seat is taken twice: {wanted}"
        if (upgrade is not None and not upgrade.preparing and not upgrade.rolling_back
                and pool.stopping is None):
            assert upgrade.failures < pool.failures_allowed, (
                "too many failures, and it still goes on")
            assert upgrade.refusal is None, "it was refused, and still goes on"
            assert not (upgrade.judged and upgrade.doing is Word.WORSE
                        and upgrade.paused_by is None), "it does worse, and still goes on"

    # --- a kind ending ---

    def come_to_rest(self, good: Callable[[int], bool]) -> None:
        """From now on good generations become ready, others fail, who is asked to go leaves, and
        time passes.

        Asserts that then everything ends where it should.
        """
        self.spawn_fails = self.slowly = False
        self.observe(facts.HostMeasured(False, 0))
        self.observe(facts.Measured(dict.fromkeys(self.pool.workers, 0)))
        self.settle()
        for _ in range(600):
            if self.ended is not None:
                return
            upgrade = self.pool.running_upgrade
            if upgrade is not None and upgrade.preparing:
                self.fact(facts.UpgradePrepared(upgrade.to_generation, recipe()))
                continue
            if upgrade is not None and upgrade.check == "running":
                self.fact(facts.Checked(None))
                continue
            if upgrade is not None and not upgrade.rolling_back and (
                    upgrade.paused_by is not None or
                (upgrade.held_since is not None and upgrade.terms.hold is None
                 and not upgrade.hold_over)):
                self.fact(facts.Resumed("test"))
                continue
            starting = [
                worker for worker in self.pool.workers.values() if worker.state is State.STARTING]
            if forking := self.being_forked():
                self.fact(facts.Forked(forking[0].id, 1000 + forking[0].id))
                continue
            if young := self.templates(TemplateState.STARTING):
                self.fact(template_facts.TemplateReady(young[0]))
                continue
            if leaving := self.templates(TemplateState.LEAVING):
                self.fact(template_facts.TemplateGone(leaving[0], "exited with code 0"))
                continue
            retiring = [
                worker for worker in self.pool.workers.values() if worker.state is State.RETIRING]
            beating = [
                worker for worker in self.pool.workers.values()
                if worker.heartbeat_at not in (None, self.now)]
            if beating:
                for worker in beating:
                    self.observe(facts.Heartbeat(worker.id, self.now))
                self.settle()
            elif starting:
                worker = starting[0]
                self.fact(
                    facts.SaidReady(worker.id) if good(worker.generation) else facts.
                    Exited(worker.id, 1))
            elif retiring:
                self.fact(facts.Exited(retiring[0].id, 0))
            elif (wake_at := self.wake_at) is not None and not self.resting():
                self.pass_time(wake_at - self.now)
            else:
                break
        pool = self.pool
        if pool.stopping is not None:
            raise AssertionError("it was to stop, and didn't")
        assert self.resting(
        ), (f"at rest, but {pool.ready} of {pool.target} ready, {len(pool.workers)} there, "
            f"upgrade {pool.running_upgrade}")
        if pool.upgrade is not None and pool.upgrade.outcome == "done":
            assert pool.current == pool.upgrade.to_generation

    def resting(self) -> bool:
        pool = self.pool
        if self.templated and ([*pool.templates] != [pool.current]
                               or pool.templates[pool.current].may_be_told):
            return False
        if pool.upgrade is not None and pool.upgrade.watched:
            return False
        return (pool.running_upgrade is None and pool.ready == pool.target == len(pool.workers)
                and all(worker.generation == pool.current and worker.recycled_for is None
                        for worker in pool.workers.values()))
