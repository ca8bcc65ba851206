"""The plan, carried out: each action is done, and that it was done is observed before the next
plan.

It decides nothing: what is done is something that `plan` asked for.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, assert_never

from .core import actions, facts, planner, template_facts
from .core.pool import State
from .launch.recognition import Refused
from .launch.spawning import Started
from .reporting.events import Entry, Event
from .system.part import Part
from .system.processes import CannotStart

if TYPE_CHECKING:
    from .parts import Parts

# Starting a process takes a few milliseconds; after this long in one go the rest of the loop has
# its turn.
LONGEST_TURN = 0.05
# Listening so many seconds after a deadline is late, and by no later clock is anybody judged than
# so long after we have listened.
LATE = 0.2
# While somebody is judged by the clock, we look so often whether we have been running at all.
LOOK_SECONDS = 1.0


class Plan(Part):
    """`deadline`: when to plan again. `exit_code`: that of the master, None as long as it goes
    on."""

    name = "plan"
    deadline: float | None = None

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.deadline = time.monotonic()  # the first plan is due at once
        self.exit_code: int | None = None

    def on_time(self, now: float) -> None:
        """Plan and act until nothing is due, or for `LONGEST_TURN`; then the loop comes first and
        the rest follows."""
        parts = self._parts
        until = now + LONGEST_TURN
        while self.exit_code is None:
            # Deaths first: a worker must not be asked to go because of another one that is dead
            # already.
            parts.exits.reap()
            # We may have been stopped since we have listened: what was said meanwhile is heard
            # first, in the next turn.
            plan = planner.plan(parts.ledger.pool,
                                min(time.monotonic(), parts.loop.listened_at + LATE))
            self.deadline = self._look_again(plan.wake_at)
            if not plan.actions:
                return
            for action in plan.actions:
                if not self._carry_out(action):
                    break
                if time.monotonic() >= until:
                    self.deadline = until
                    return

    def _look_again(self, wake_at: float | None) -> float | None:
        """When to plan again: at rest not before it is due, since nothing else is to wake us."""
        pool = self._parts.ledger.pool
        at_rest = pool.running_upgrade is None and all(
            worker.state is State.READY for worker in pool.workers.values())
        if wake_at is None or at_rest:
            return wake_at
        return min(wake_at, time.monotonic() + LOOK_SECONDS)

    def _carry_out(self, action: actions.Action) -> bool:
        """Do it and observe that it was done; return whether the rest of the plan still holds."""
        parts = self._parts
        match action:
            case actions.Spawn():
                return self._spawn(action)
            case actions.AssumeReady():
                parts.guesses.assume(action.worker)
            case actions.Trust():
                parts.guesses.trust(action.worker)
            case actions.CheckAccepting():
                parts.guesses.check_accepting()
            case (actions.Recycle() | actions.Abort() | actions.Retire() | actions.Kill()
                  | actions.KillOrphan()):
                return self._let_go(action)
            case (actions.BeginHold() | actions.EndHold() | actions.EndWatch()
                  | actions.RollBack() | actions.Finish() | actions.CalmDown()):
                return self._upgrade(action)
            case actions.GiveUp():
                parts.ledger.log(
                    Entry(Event.GIVING_UP, {"reason": action.reason, "error": action.error,
                                            "better": parts.releases.way_out()}))
                self.exit_code = 3
            case actions.Leave():
                self.exit_code = 0
            case (actions.StartTemplate() | actions.TellTemplate() | actions.RetireTemplate()
                  | actions.KillTemplate() | actions.ReplaceTemplate()):
                return self._of_template(action)
            case _:
                assert_never(action)
        return True

    def _of_template(self, action: actions.OfTemplate) -> bool:
        parts, number = self._parts, action.generation
        pool = parts.ledger.pool
        match action:
            case actions.StartTemplate():
                try:
                    pid = parts.templates.start(number)
                except Refused as error:
                    parts.ledger.observe(
                        template_facts.TemplateGone(number, "cannot be started", str(error)))
                    return False
                parts.ledger.observe(template_facts.TemplateStarted(number, pid))
            case actions.TellTemplate():
                parts.arbiter_hooks.call(number, "when_ready", listeners=[
                    each.socket for each in parts.listening.all])
                parts.ledger.observe(template_facts.TemplateTold(number))
            case actions.RetireTemplate():
                on_exit = pool.stopping is not None and number == pool.current
                patience = parts.templates.retire(number, on_exit)
                parts.ledger.observe(template_facts.TemplateRetired(number, patience))
            case actions.ReplaceTemplate():
                parts.templates.replace(number)
            case actions.KillTemplate():
                parts.ledger.observe(template_facts.TemplateKilled(number, action.reason))
                parts.templates.kill(number)
            case _:
                assert_never(action)
        return True

    def _let_go(self, action: actions.Recycle | actions.Abort | actions.Retire | actions.Kill
                | actions.KillOrphan) -> bool:
        """What ends a worker, or what one has left behind."""
        parts = self._parts
        if isinstance(action, actions.KillOrphan):
            parts.processes.signal(action.pid, signal.SIGKILL, group=True)
            parts.ledger.observe(facts.OrphanKilled(action.pid))
            return True
        worker, pool = action.worker, parts.ledger.pool
        pid = pool.workers[worker].pid
        match action:
            case actions.Recycle():
                parts.ledger.observe(facts.Due(worker, action.reason, action.cause))
                parts.guard.run("measures", parts.measures.look_at_host,
                                [parts.ledger.pool.workers[worker]], time.monotonic())
            case actions.Abort():
                if parts.measures.beats(pool.workers[worker]):
                    return False
                parts.processes.signal(pid, signal.SIGABRT)
                parts.ledger.observe(facts.Aborted(worker, action.reason, action.cause,
                                                   parts.output.lines_of(worker)))
            case actions.Retire():
                # Before somebody is asked to go for new code: once old code leaves, nobody can tell
                # who shuts a socket down.
                if parts.listening.mend():
                    return False
                parts.processes.signal(pid, signal.Signals[pool.farewell])
                parts.ledger.observe(facts.Retired(worker, action.reason, action.cause))
            case actions.Kill():
                parts.processes.signal(pid, signal.SIGKILL, group=True)
                parts.ledger.observe(facts.Killed(worker, action.reason, action.cause,
                                                  parts.output.lines_of(worker)))
            case _:
                assert_never(action)
        return True

    def _upgrade(self, action: actions.BeginHold | actions.EndHold | actions.EndWatch
                 | actions.RollBack | actions.Finish | actions.CalmDown) -> bool:
        """What takes an upgrade on its way, and a generation to rest."""
        parts = self._parts
        match action:
            case actions.BeginHold():
                parts.ledger.observe(facts.HoldBegun())
                parts.guard.run("check", parts.upgrades.check.begin)
            case actions.EndHold():
                parts.ledger.observe(facts.HoldEnded())
            case actions.EndWatch():
                parts.ledger.observe(facts.WatchEnded())
            case actions.RollBack():
                parts.ledger.observe(facts.RolledBack(action.reason, action.error, action.cause))
            case actions.Finish():
                if self._hides_an_arbiter():
                    return False
                parts.ledger.observe(facts.Finished(time.time()))
            case actions.CalmDown():
                parts.ledger.observe(facts.Calmed(action.generation))
            case _:
                assert_never(action)
        return True

    def _hides_an_arbiter(self) -> bool:
        """Whether a worker that has said ready runs gunicorn's own arbiter all the same: the last
        look before an upgrade is done."""
        parts = self._parts
        pool = parts.ledger.pool
        upgrade = pool.running_upgrade
        if (upgrade is None or upgrade.rolling_back
                or parts.generations.current.gunicorn is not None):
            return False
        return any(parts.guesses.is_unfit(worker.id) for worker in list(pool.workers.values())
                   if worker.generation == pool.current and worker.state is State.READY)

    def _spawn(self, action: actions.Spawn) -> bool:
        parts = self._parts
        worker = parts.workers.new_id()
        # The new process may get the pid of one that has connected and gone: who connects after
        # this is another one.
        parts.guard.run("accept", parts.server.accept_all)
        parts.guard.run("places", parts.places.look, time.monotonic(), True)  # it says so once
        started: Started | None = None
        try:
            started = parts.spawner.spawn(action, worker, self._is_there)
            parts.ledger.observe(
                facts.Spawned(worker, action.index, action.generation, started.pid, started.jitter))
        # a start that fails is held back and counted, whatever it failed of
        except Exception as error:
            if started is not None and started.pid:  # it must not live on unknown
                parts.processes.signal(started.pid, signal.SIGKILL, group=True)
                parts.guard.run("spawn", parts.output.worker_is_gone, worker)
            if not isinstance(error, CannotStart | OSError):
                parts.guard.failed("spawn", error)
            why = str(error) or type(error).__name__
            if isinstance(error, OSError):
                why = f"cannot make the pipes and sockets that it is given: {error.strerror}"
            parts.ledger.observe(facts.SpawnFailed(action.index, action.generation, why))
            return False
        if started.pid:
            self._is_there(started, worker)
        parts.guard.run("measures", parts.measures.expect, parts.ledger.pool.workers[worker],
                        time.monotonic())
        return True

    def _is_there(self, started: Started, worker: int) -> None:
        parts = self._parts
        parts.workers.by_pid[started.pid] = worker
        if started.connection is not None:
            parts.guard.run("worker's connection", parts.server.admit_worker, started.connection,
                            started.pid, worker)
        known = parts.ledger.pool.workers[worker]
        # Asked to go before it was there.
        if known.killed_at is not None:
            parts.processes.signal(started.pid, signal.SIGKILL, group=True)
        elif known.state is State.RETIRING:
            parts.processes.signal(started.pid, signal.Signals[parts.ledger.pool.farewell])
