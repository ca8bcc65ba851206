"""The plan, carried out: each action is done, and that it was done is observed before the next
plan.

It decides nothing: what is done is something that `plan` asked for.
"""

from __future__ import annotations

import signal
import time
from typing import assert_never

from .core import actions, facts, planner
from .core.pool import State
from .exits import Exits
from .launch.guesses import Guesses
from .launch.measures import Measures
from .launch.prepared import Generations
from .launch.spawning import Spawner, Started
from .launch.workers import Workers
from .logs.output import Output
from .reporting.events import Entry, Event
from .sockets.control_server import Server
from .sockets.listener_repair import Listening
from .steering.hooks import Hooks
from .steering.upgrades import Upgrades
from .system.guard import Guard
from .system.ledger import Ledger
from .system.loop import Loop
from .system.part import Part
from .system.processes import CannotStart, Processes

# Starting a process takes a few milliseconds; after this long in one go the rest of the loop has
# its turn.
LONGEST_TURN = 0.05
# Listening so many seconds after a deadline is late, and by no later clock is anybody judged than
# so long after we have listened.
LATE = 0.2


class Plan(Part):
    """`deadline`: when to plan again. `exit_code`: that of the master, None as long as it goes
    on."""

    name = "plan"
    deadline: float | None = None

    def __init__(self, guard: Guard, loop: Loop, ledger: Ledger, processes: Processes,
                 workers: Workers, generations: Generations, spawner: Spawner, server: Server,
                 listening: Listening, output: Output, guesses: Guesses, measures: Measures,
                 hooks: Hooks, upgrades: Upgrades, exits: Exits) -> None:
        self._guard = guard
        self._loop = loop
        self._ledger = ledger
        self._processes = processes
        self._workers = workers
        self._generations = generations
        self._spawner = spawner
        self._server = server
        self._listening = listening
        self._output = output
        self._guesses = guesses
        self._measures = measures
        self._hooks = hooks
        self._upgrades = upgrades
        self._exits = exits
        self.deadline = time.monotonic()  # the first plan is due at once
        self.exit_code: int | None = None

    def on_time(self, now: float) -> None:
        """Plan and act until nothing is due, or for `LONGEST_TURN`; then the loop comes first and
        the rest follows."""
        until = now + LONGEST_TURN
        while self.exit_code is None:
            # Deaths first: a worker must not be asked to go because of another one that is dead
            # already.
            self._exits.reap()
            # We may have been stopped since we have listened: what was said meanwhile is heard
            # first, in the next turn.
            plan = planner.plan(self._ledger.pool,
                                min(time.monotonic(), self._loop.listened_at + LATE))
            self.deadline = plan.wake_at
            if not plan.actions:
                return
            for action in plan.actions:
                if not self._carry_out(action):
                    break
                if time.monotonic() >= until:
                    self.deadline = until
                    return

    def _carry_out(self, action: actions.Action) -> bool:
        """Do it and observe that it was done; return whether the rest of the plan still holds."""
        match action:
            case actions.Spawn():
                return self._spawn(action)
            case actions.AssumeReady():
                self._guesses.assume(action.worker)
            case actions.Trust():
                self._guesses.trust(action.worker)
            case actions.CheckAccepting():
                self._guesses.check_accepting()
            case (actions.Recycle() | actions.Abort() | actions.Retire() | actions.Kill()
                  | actions.KillOrphan()):
                return self._let_go(action)
            case (actions.BeginHold() | actions.EndHold() | actions.RollBack() | actions.Finish()
                  | actions.CalmDown()):
                return self._upgrade(action)
            case actions.GiveUp():
                self._ledger.log(
                    Entry(Event.GIVING_UP, {"reason": action.reason, "error": action.error}))
                self.exit_code = 3
            case actions.Leave():
                self._guard.run("hooks", lambda: self._hooks.of_gunicorn(
                    self._generations.current, "on_exit", []))
                self.exit_code = 0
            case _:
                assert_never(action)
        return True

    def _let_go(self, action: actions.Recycle | actions.Abort | actions.Retire | actions.Kill
                | actions.KillOrphan) -> bool:
        """What ends a worker, or what one has left behind."""
        if isinstance(action, actions.KillOrphan):
            self._processes.signal(action.pid, signal.SIGKILL, group=True)
            self._ledger.observe(facts.OrphanKilled(action.pid))
            return True
        worker, pool = action.worker, self._ledger.pool
        pid = pool.workers[worker].pid
        match action:
            case actions.Recycle():
                self._ledger.observe(facts.Due(worker, action.reason, action.cause))
                self._guard.run("measures", self._measures.look_at_host,
                                [self._ledger.pool.workers[worker]], time.monotonic())
            case actions.Abort():
                self._processes.signal(pid, signal.SIGABRT)
                self._ledger.observe(facts.Aborted(worker, action.reason, action.cause,
                                                   self._output.lines_of(worker)))
            case actions.Retire():
                # Before somebody is asked to go for new code: once old code leaves, nobody can tell
                # who shuts a socket down.
                if self._listening.mend():
                    return False
                self._processes.signal(pid, signal.Signals[pool.farewell])
                self._ledger.observe(facts.Retired(worker, action.reason, action.cause))
            case actions.Kill():
                self._processes.signal(pid, signal.SIGKILL, group=True)
                self._ledger.observe(facts.Killed(worker, action.reason, action.cause,
                                                  self._output.lines_of(worker)))
            case _:
                assert_never(action)
        return True

    def _upgrade(self, action: actions.BeginHold | actions.EndHold | actions.RollBack
                 | actions.Finish | actions.CalmDown) -> bool:
        """What takes an upgrade on its way, and a generation to rest."""
        match action:
            case actions.BeginHold():
                self._ledger.observe(facts.HoldBegun())
                self._guard.run("check", self._upgrades.begin_check)
            case actions.EndHold():
                self._ledger.observe(facts.HoldEnded())
            case actions.RollBack():
                self._ledger.observe(facts.RolledBack(action.reason, action.error, action.cause))
            case actions.Finish():
                if self._hides_an_arbiter():
                    return False
                self._ledger.observe(facts.Finished(time.time()))
            case actions.CalmDown():
                self._ledger.observe(facts.Calmed(action.generation))
            case _:
                assert_never(action)
        return True

    def _hides_an_arbiter(self) -> bool:
        """Whether a worker that has said ready runs gunicorn's own arbiter all the same: the last
        look before an upgrade is done."""
        pool = self._ledger.pool
        upgrade = pool.running_upgrade
        if (upgrade is None or upgrade.rolling_back
                or self._generations.current.gunicorn is not None):
            return False
        return any(self._guesses.is_unfit(worker.id) for worker in list(pool.workers.values())
                   if worker.generation == pool.current and worker.state is State.READY)

    def _spawn(self, action: actions.Spawn) -> bool:
        worker = self._workers.new_id()
        # The new process may get the pid of one that has connected and gone: who connects after
        # this is another one.
        self._guard.run("accept", self._server.accept_all)
        started: Started | None = None
        try:
            started = self._spawner.spawn(action, worker)
            self._ledger.observe(
                facts.Spawned(worker, action.index, action.generation, started.pid, started.jitter))
        # a start that fails is held back and counted, whatever it failed of
        except Exception as error:
            if started is not None:  # it must not live on unknown
                self._processes.signal(started.pid, signal.SIGKILL, group=True)
                self._guard.run("spawn", self._output.worker_is_gone, worker)
            if not isinstance(error, CannotStart | OSError):
                self._guard.failed("spawn", error)
            self._ledger.observe(
                facts.SpawnFailed(action.index, action.generation,
                                  str(error) or type(error).__name__))
            return False
        self._workers.by_pid[started.pid] = worker
        if started.connection is not None:
            self._guard.run("worker's connection", self._server.admit_worker, started.connection,
                            started.pid, worker)
        self._guard.run("measures", self._measures.expect, self._ledger.pool.workers[worker],
                        time.monotonic())
        return True
