"""The pool as the planner looks at it: its workers sorted once, since a plan over a thousand
workers must stay far below the time of one fork; and who has overstayed. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from .actions import Abort, Action, AssumeReady, Kill, KillOrphan, Recycle, Retire, Trust
from .causes import Force, Leaving, Recycling
from .pool import SETTLE_SECONDS, Pool, State, Stopping, Worker
from .upgrade import Phase

# How long a hung worker has to say where it hangs, between SIGABRT and SIGKILL.
ABORT_SECONDS = 2.0
_DEAF = "a listening socket of it is no more what clients connect to"


@dataclass(slots=True)
class View:
    """wanted: of the current generation and not due. outdated: the others, of which `due` are of
    the current generation."""

    wanted_ready: list[Worker] = field(default_factory=list)
    wanted_starting: list[Worker] = field(default_factory=list)
    outdated_ready: list[Worker] = field(default_factory=list)
    outdated_starting: list[Worker] = field(default_factory=list)
    due: int = 0
    retiring: int = 0
    # Of another generation: processes that are leaving, or that such workers have left behind.
    old_retiring: int = 0
    # Ready for long enough to let another one go: all, of those wanted, of the current generation.
    available: int = 0
    wanted_available: int = 0
    current_available: int = 0
    # Rule 1: what is due whatever else is to be done.
    overdue: list[Action] = field(default_factory=list)
    # When something may be due without anything happening before.
    deadlines: set[float] = field(default_factory=set)

    @property
    def wanted(self) -> int:
        return len(self.wanted_ready) + len(self.wanted_starting)

    @property
    def outdated(self) -> int:
        return len(self.outdated_ready) + len(self.outdated_starting)

    @property
    def ready(self) -> int:
        return len(self.wanted_ready) + len(self.outdated_ready)

    @property
    def live(self) -> int:
        return self.wanted + self.outdated

    def past(self, deadline: float, now: float) -> bool:
        """Whether a deadline is over; one that isn't is remembered, since whatever waits must leave
        behind when to look again."""
        if now < deadline:
            self.deadlines.add(deadline)
        return now >= deadline


def look(pool: Pool, now: float) -> View:
    """Sort the workers, and collect rule 1: whoever has overstayed is killed, whoever hangs is
    aborted, whoever is too old or too big is due, whoever has lived long enough is ready.

    While the master stops, nobody is expected to become ready any more.
    """
    view = View()
    current = pool.current
    upgrade, stopping, sockets = pool.running_upgrade, pool.stopping is not None, pool.sockets
    # A canary is watched until its hold is over, whatever its age; but too much memory is what it
    # is watched for.
    watched = upgrade is not None and upgrade.phase in (Phase.CANARY, Phase.HELD)
    for worker in pool.workers.values():
        old = worker.generation != current
        if worker.state is State.RETIRING:
            view.retiring += 1
            view.old_retiring += old
            _look_at_retiring(view, pool, worker, now)
        elif worker.unfit is not None:
            view.overdue.append(Kill(worker.id, worker.unfit, Force.UNFIT))
        elif worker.sockets != sockets:
            view.overdue.append(Retire(worker.id, _DEAF, Leaving.DEAF))
        elif worker.state is State.STARTING:
            (view.outdated_starting if old else view.wanted_starting).append(worker)
            if not stopping and worker.pid:  # until it is forked its template is judged
                _look_at_starting(view, pool, worker, now)
        else:
            due = worker.recycled_for is not None and _due(view, worker, watched, now)
            _sort_ready(view, pool, worker, due, now)
            if worker.heartbeat_at or worker.memory or worker.expires_at:
                _look_at_ready(view, pool, worker, now)
    _look_at_left_behind(view, pool, now)
    return view


def _look_at_left_behind(view: View, pool: Pool, now: float) -> None:
    for process in pool.left_behind.values():
        view.old_retiring += process.generation != pool.current
        # All of its time again, if nobody ran meanwhile.
        kill_at = process.kill_at - process.found_at + pool.since(process.found_at)
        if not process.killed and (view.past(kill_at, now)
                                   or pool.stopping is Stopping.NOW):
            view.overdue.append(KillOrphan(process.pid))


def _look_at_retiring(view: View, pool: Pool, worker: Worker, now: float) -> None:
    if worker.killed_at is not None or worker.retired_at is None:
        return
    if worker.aborted_at is not None:
        if view.past(pool.since(worker.aborted_at) + ABORT_SECONDS, now):
            view.overdue.append(Kill(worker.id, "did not leave after SIGABRT", Force.HUNG))
        return
    patience = pool.patience(worker)
    if view.past(pool.since(worker.retired_at) + patience, now):
        never = "" if worker.ready_at is not None else ", and was never ready"
        reason = f"did not leave within {patience:g} s{never}"
        view.overdue.append(Kill(worker.id, reason, Force.OVERSTAYED))


def _look_at_starting(view: View, pool: Pool, worker: Worker, now: float) -> None:
    ack_seconds = pool.generations[worker.generation].recipe.ack_seconds
    begun, timeout = pool.since(worker.spawned_at), pool.policy.ready_timeout
    if (ack_seconds is not None and worker.assumed_at is None
            and view.past(begun + ack_seconds, now)):
        view.overdue.append(AssumeReady(worker.id))
    elif view.past(begun + timeout, now):
        reason = f"was not ready within {timeout:g} s"
        view.overdue.append(Kill(worker.id, reason, Force.NOT_READY))


def _due(view: View, worker: Worker, watched: bool, now: float) -> bool:
    """Whether a ready worker that is to be recycled is exchanged by now."""
    if watched and not worker.over_memory:
        return False
    # One that is due as soon as it is ready, like its successor, must not be exchanged in a hot
    # loop.
    return worker.ready_at is None or view.past(worker.ready_at + SETTLE_SECONDS, now)


def _sort_ready(view: View, pool: Pool, worker: Worker, due: bool, now: float) -> None:
    old = worker.generation != pool.current
    # Recycling has no rules of its own: a due worker is exchanged like one of an old generation.
    outdated = old or due
    (view.outdated_ready if outdated else view.wanted_ready).append(worker)
    view.due += outdated and not old
    if pool.available(worker, now):
        view.available += 1
        view.wanted_available += not outdated
        view.current_available += not old
        if worker.guessed and not worker.stood:
            view.overdue.append(Trust(worker.id))
    elif worker.ready_at is not None:
        view.deadlines.add(pool.since(worker.ready_at) + pool.policy.min_ready(worker))


def _look_at_ready(view: View, pool: Pool, worker: Worker, now: float) -> None:
    recipe = pool.generations[worker.generation].recipe
    if worker.heartbeat_at is not None and recipe.timeout > 0 and view.past(
            pool.since(worker.heartbeat_at) + recipe.timeout, now):
        reason = f"gave no heartbeat for {recipe.timeout:g} s"
        view.overdue.append(Abort(worker.id, reason, Force.HUNG))
        return
    if worker.memory is not None and 0 < recipe.max_memory_hard <= worker.memory:
        most = _mebibytes(recipe.max_memory_hard)
        view.overdue.append(Kill(worker.id, f"used {_mebibytes(worker.memory)}, the most is {most}",
                                 Force.MEMORY))
    elif worker.recycled_for is not None:
        return
    elif worker.memory is not None and 0 < recipe.max_memory <= worker.memory:
        used, most = _mebibytes(worker.memory), _mebibytes(recipe.max_memory)
        view.overdue.append(Recycle(worker.id, f"used {used}, and is due from {most} on",
                                    Recycling.MEMORY))
    elif worker.expires_at is not None and view.past(worker.expires_at, now):
        age = f"has lived for {worker.expires_at - worker.spawned_at:.0f} s"
        view.overdue.append(Recycle(worker.id, age, Recycling.LIFETIME))


def _mebibytes(count: int) -> str:
    return f"{count / (1 << 20):.0f} MiB"


def is_exchanged(pool: Pool) -> bool:
    """Whether nothing is left of the running upgrade but to wait for those who leave: as many new
    workers as wanted are ready, and every old one has been asked to go."""
    upgrade = pool.running_upgrade
    if upgrade is None or upgrade.phase is not Phase.EXCHANGING:
        return False
    staying = [worker for worker in pool.workers.values() if worker.state is not State.RETIRING]
    return pool.ready >= pool.target and all(worker.generation == pool.current
                                             for worker in staying)
