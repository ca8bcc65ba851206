"""What is: workers, generations and the running upgrade, as frozen data; `observe` makes the next pool from one fact.

Nothing here acts, reads a clock or does I/O. A `Pool` is only ever made by `new_pool` and `observe`; whoever holds
one may read it for as long as it likes. A fact that can't be true of this pool is refused with `Impossible`.
Times are seconds of one monotonic clock, handed in; wall-clock times are only carried along for people to read.

    worker state   fact                     next state
    -              Spawned                  starting
    starting       SaidReady                ready
    starting|ready Retired, Killed          retiring
    retiring       Retired, SaidReady       retiring    (said twice, or too late: nothing changes)
    any            Exited                   gone
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

FIRST_DELAY = 1.0
DELAY_GROWTH = 1.5
LONGEST_DELAY = 30.0
# A worker that says ready and dies within this time is held back like one that never became ready: otherwise a
# worker that always dies just after its ready would be replaced in a hot loop.
SETTLE_SECONDS = 1.0


class Impossible(ValueError):
    """A fact that can't be true of this pool: a mistake of the caller, never of a worker or a client."""


class State(enum.Enum):
    STARTING = "starting"
    READY = "ready"
    RETIRING = "retiring"


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's rules. Times in seconds; `max_surge` in workers; `max_failures` in failed starts."""

    max_surge: int = 1
    ready_timeout: float = 60.0
    min_ready_seconds: float = 0.0
    max_failures: int = 3


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a generation's workers are launched, frozen when it was made.

    `ack_seconds`: count a worker as ready once it has lived that long (None: it says so itself).
    `graceful_timeout`: seconds between being asked to go and SIGKILL. `timeout`: the oldest heartbeat, in seconds,
    of a worker that has ever sent one (0: not watched).
    """

    command: tuple[str, ...]
    directory: str
    environment: Mapping[str, str] = field(default_factory=dict)
    release: str | None = None
    ack_seconds: float | None = None
    graceful_timeout: float = 30.0
    timeout: float = 0.0


@dataclass(frozen=True, slots=True)
class Generation:
    number: int
    recipe: Recipe
    proven: bool = False
    failures_in_a_row: int = 0
    failed_at: float = 0.0
    not_before: float = 0.0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Worker:
    id: int
    index: int
    generation: int
    pid: int
    spawned_at: float
    state: State = State.STARTING
    ready_at: float | None = None
    retired_at: float | None = None
    killed_at: float | None = None
    heartbeat_at: float | None = None
    error: str | None = None
    restarts: int = 0

    def available(self, now: float, min_ready_seconds: float) -> bool:
        """Whether it has been ready for long enough to let another one go."""
        return self.state is State.READY and self.ready_at is not None and now >= self.ready_at + min_ready_seconds


@dataclass(frozen=True, slots=True)
class Upgrade:
    """One change of generation. `outcome`: None while it runs, then done, rolled-back, aborted or superseded."""

    from_generation: int
    to_generation: int
    kind: str
    release: str | None
    requested_by: str
    started_at: float
    started_wall: float
    preparing: bool = True
    target_before: int | None = None
    rolling_back: bool = False
    failures: int = 0
    reason: str | None = None
    error: str | None = None
    outcome: str | None = None
    ended_at: float | None = None
    ended_wall: float | None = None

    @property
    def running(self) -> bool:
        return self.outcome is None


@dataclass(frozen=True, slots=True)
class Pool:
    policy: Policy
    target: int
    current: int
    generations: Mapping[int, Generation]
    workers: Mapping[int, Worker] = field(default_factory=dict)
    upgrade: Upgrade | None = None
    newest: int = 1
    ever_ready: bool = False
    settled: bool = False
    stopping: str | None = None
    restarts: Mapping[int, int] = field(default_factory=dict)

    @property
    def running_upgrade(self) -> Upgrade | None:
        return self.upgrade if self.upgrade is not None and self.upgrade.running else None

    @property
    def ready(self) -> int:
        """How many workers are ready and not retiring."""
        return sum(worker.state is State.READY for worker in self.workers.values())

    @property
    def live(self) -> int:
        """How many workers there are that are not retiring."""
        return sum(worker.state is not State.RETIRING for worker in self.workers.values())


# --- facts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spawned:
    worker: int
    index: int
    generation: int
    pid: int


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    index: int
    generation: int
    error: str


@dataclass(frozen=True, slots=True)
class SaidReady:
    worker: int


@dataclass(frozen=True, slots=True)
class SaidFailed:
    """The worker's own word on why it will not become ready; its exit follows."""

    worker: int
    error: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    worker: int
    at: float


@dataclass(frozen=True, slots=True)
class Retired:
    """It was asked to finish and leave."""

    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class Killed:
    """SIGKILL went to its process group."""

    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class Exited:
    """`status`: the exit code, or minus the number of the signal that ended it. `error`: why it never ran, if so."""

    worker: int
    status: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class UpgradeRequested:
    kind: str
    release: str | None
    requested_by: str
    wall: float


@dataclass(frozen=True, slots=True)
class UpgradePrepared:
    number: int
    recipe: Recipe
    target: int | None = None


@dataclass(frozen=True, slots=True)
class UpgradeRefused:
    """The new generation could not even be made: its settings can't be read, its directory is gone …"""

    number: int
    reason: str
    error: str | None
    wall: float


@dataclass(frozen=True, slots=True)
class RolledBack:
    reason: str
    error: str | None


@dataclass(frozen=True, slots=True)
class Finished:
    wall: float


@dataclass(frozen=True, slots=True)
class Scaled:
    target: int


@dataclass(frozen=True, slots=True)
class StopRequested:
    """`how`: `graceful` (the stop signal), `terminate` (SIGTERM), `now` (SIGKILL)."""

    how: str


Event = (
    Spawned
    | SpawnFailed
    | SaidReady
    | SaidFailed
    | Heartbeat
    | Retired
    | Killed
    | Exited
    | UpgradeRequested
    | UpgradePrepared
    | UpgradeRefused
    | RolledBack
    | Finished
    | Scaled
    | StopRequested
)


# --- from fact to pool -----------------------------------------------------------------------------------------------


def new_pool(recipe: Recipe, target: int, policy: Policy) -> Pool:
    """The pool of a fresh master: generation 1, no worker yet, `target` workers wanted."""
    return Pool(policy=policy, target=target, current=1, generations={1: Generation(1, recipe)})


def delay_after(failures: int) -> float:
    """Seconds to wait before the next start, after so many failed ones in a row."""
    return 0.0 if failures < 1 else min(LONGEST_DELAY, FIRST_DELAY * DELAY_GROWTH ** min(failures - 1, 32))


def observe(pool: Pool, event: Event, now: float) -> Pool:
    """Return the pool after `event`.

    Raises:
        Impossible: the event can't be true of this pool (an unknown worker, a second spawn under one id …).
    """
    match event:
        case Spawned():
            if event.worker in pool.workers or event.generation not in pool.generations:
                raise Impossible(f"{event} in a pool of {len(pool.workers)} workers, generations {[*pool.generations]}")
            worker = Worker(event.worker, event.index, event.generation, event.pid, spawned_at=now,
                            restarts=pool.restarts.get(event.index, 0))
            return replace(pool, workers={**pool.workers, event.worker: worker})
        case SpawnFailed():
            if event.generation not in pool.generations:
                raise Impossible(f"{event} with generations {[*pool.generations]}")
            return _count_failure(pool, event.generation, f"cannot be started: {event.error}", event.error, now)
        case SaidReady():
            return _said_ready(pool, _worker(pool, event), now)
        case SaidFailed():
            return _with_worker(pool, replace(_worker(pool, event), error=event.error))
        case Heartbeat():
            return _with_worker(pool, replace(_worker(pool, event), heartbeat_at=event.at))
        case Retired():
            worker = _worker(pool, event)
            if worker.state is State.RETIRING:
                return pool
            return _with_worker(pool, replace(worker, state=State.RETIRING, retired_at=now))
        case Killed():
            return _killed(pool, _worker(pool, event), event.reason, now)
        case Exited():
            return _tidy(_exited(pool, _worker(pool, event), event, now))
        case UpgradeRequested():
            return replace(
                pool,
                newest=pool.newest + 1,
                upgrade=Upgrade(
                    _way_back(pool), pool.newest + 1, event.kind, event.release, event.requested_by, started_at=now,
                    started_wall=event.wall,
                    target_before=pool.running_upgrade.target_before if pool.running_upgrade is not None else None),
            )
        case UpgradePrepared():
            upgrade = _running(pool, event)
            if event.number != upgrade.to_generation or not upgrade.preparing:
                raise Impossible(f"{event.number} is prepared, but the upgrade to {upgrade.to_generation} is under way")
            generations = {**pool.generations, event.number: Generation(event.number, event.recipe)}
            prepared = replace(pool, upgrade=replace(upgrade, preparing=False), current=event.number,
                               generations=generations)
            if event.target is None:
                return prepared
            before = pool.target if upgrade.target_before is None else upgrade.target_before
            noted = replace(upgrade, preparing=False, target_before=before)
            return _scaled(replace(prepared, upgrade=noted), event.target)
        case UpgradeRefused():
            upgrade = replace(_running(pool, event), preparing=False, rolling_back=True, reason=event.reason,
                              error=event.error)
            if pool.current == upgrade.from_generation:
                upgrade = replace(upgrade, outcome="rolled-back", ended_at=now, ended_wall=event.wall)
            return _tidy(_go_back(pool, upgrade))
        case RolledBack():
            upgrade = replace(_running(pool, event), rolling_back=True, reason=event.reason, error=event.error)
            return _go_back(pool, upgrade)
        case Finished():
            upgrade = _running(pool, event)
            outcome = "rolled-back" if upgrade.rolling_back else "done"
            return _tidy(replace(pool, upgrade=replace(upgrade, outcome=outcome, ended_at=now, ended_wall=event.wall)))
        case Scaled():
            if event.target < 1:
                raise Impossible(f"{event}: a pool has at least one worker")
            if pool.running_upgrade is not None:
                pool = replace(pool, upgrade=replace(pool.running_upgrade, target_before=None))
            return _scaled(pool, event.target)
        case StopRequested():
            return replace(pool, stopping=event.how)


def _worker(
    pool: Pool, event: SaidReady | SaidFailed | Heartbeat | Retired | Killed | Exited
) -> Worker:
    try:
        return pool.workers[event.worker]
    except KeyError:
        raise Impossible(f"{event}, but there is no such worker") from None


def _running(pool: Pool, event: Event) -> Upgrade:
    if pool.running_upgrade is None:
        raise Impossible(f"{event}, but no upgrade is under way")
    return pool.running_upgrade


def _way_back(pool: Pool) -> int:
    """The generation that a refused upgrade goes back to: the last proven one, if there is one."""
    if not pool.generations[pool.current].proven and pool.running_upgrade is not None:
        return pool.running_upgrade.from_generation
    return pool.current


def _go_back(pool: Pool, upgrade: Upgrade) -> Pool:
    """Want the old generation again; what failed of it long ago doesn't count against the way back."""
    fresh = replace(pool.generations[upgrade.from_generation], failures_in_a_row=0)
    back = replace(upgrade, target_before=None)
    pool = _with_generation(replace(pool, upgrade=back, current=upgrade.from_generation), fresh)
    # The number of workers that the refused release asked for goes with it, unless somebody has scaled since.
    return pool if upgrade.target_before is None else _scaled(pool, upgrade.target_before)


def _with_worker(pool: Pool, worker: Worker) -> Pool:
    return replace(pool, workers={**pool.workers, worker.id: worker})


def _with_generation(pool: Pool, generation: Generation) -> Pool:
    return replace(pool, generations={**pool.generations, generation.number: generation})


def _scaled(pool: Pool, target: int) -> Pool:
    return _prove(replace(pool, target=target, settled=False), pool.current)


def _said_ready(pool: Pool, worker: Worker, now: float) -> Pool:
    if worker.state is not State.STARTING:
        return pool
    pool = _with_worker(pool, replace(worker, state=State.READY, ready_at=now))
    return _prove(replace(pool, ever_ready=True), worker.generation)


def _prove(pool: Pool, number: int) -> Pool:
    """Note what has now been reached: enough ready workers, and enough of this generation to have proven it."""
    ready = [worker for worker in pool.workers.values() if worker.state is State.READY]
    generation = pool.generations[number]
    if not generation.proven and sum(worker.generation == number for worker in ready) >= pool.target:
        pool = _with_generation(pool, replace(generation, proven=True))
    return replace(pool, settled=pool.settled or len(ready) >= pool.target)


def _killed(pool: Pool, worker: Worker, reason: str, now: float) -> Pool:
    retired_at = now if worker.retired_at is None else worker.retired_at
    pool = _with_worker(pool, replace(worker, state=State.RETIRING, retired_at=retired_at, killed_at=now))
    if worker.state is State.RETIRING or pool.stopping:
        return pool
    # Counted now, not when it is gone: a process that can't be killed must not hide a failure.
    return _count_failure(_count_restart(pool, worker), worker.generation, reason, worker.error, now)


def _exited(pool: Pool, worker: Worker, event: Exited, now: float) -> Pool:
    pool = replace(pool, workers={key: each for key, each in pool.workers.items() if key != worker.id})
    if worker.state is State.RETIRING or pool.stopping:
        return pool
    pool = _count_restart(pool, worker)
    how = f"was ended by signal {-event.status}" if event.status < 0 else f"exited with code {event.status}"
    if worker.ready_at is None:
        reason = f"{how} before it was ready"
    else:
        reason = f"{how} {now - worker.ready_at:.1f} s after it was ready"
        upgrade = pool.running_upgrade
        if now - worker.ready_at >= max(SETTLE_SECONDS, pool.policy.min_ready_seconds) and not (
            upgrade is not None and upgrade.to_generation == worker.generation
        ):
            return pool
    return _count_failure(pool, worker.generation, reason, worker.error or event.error, now)


def _count_restart(pool: Pool, worker: Worker) -> Pool:
    upgrade = pool.running_upgrade
    if upgrade is not None and upgrade.to_generation == worker.generation and worker.ready_at is None:
        return pool  # a start that fails on trial is the upgrade's failure; the seat has its old worker still
    return replace(pool, restarts={**pool.restarts, worker.index: pool.restarts.get(worker.index, 0) + 1})


def _count_failure(pool: Pool, number: int, reason: str, error: str | None, now: float) -> Pool:
    """A start of this generation failed: hold its next one back, and charge the upgrade that wants it."""
    generation = pool.generations[number]
    settle = max(SETTLE_SECONDS, pool.policy.min_ready_seconds)
    recovered = any(
        worker.generation == number and worker.ready_at is not None and worker.ready_at >= generation.failed_at
        and worker.state is State.READY and now - worker.ready_at >= settle
        for worker in pool.workers.values()
    )
    failures = 1 if recovered else generation.failures_in_a_row + 1
    pool = _with_generation(
        pool,
        replace(generation, failures_in_a_row=failures, failed_at=now, not_before=now + delay_after(failures),
                error=error or reason),
    )
    upgrade = pool.running_upgrade
    if upgrade is not None and upgrade.to_generation == number and not upgrade.rolling_back:
        pool = replace(pool, upgrade=replace(upgrade, failures=upgrade.failures + 1, reason=f"a worker {reason}",
                                             error=error))
    return pool


def _tidy(pool: Pool) -> Pool:
    """Forget generations that nothing refers to any more."""
    needed = {pool.current, *(worker.generation for worker in pool.workers.values())}
    if pool.running_upgrade is not None:
        needed |= {pool.running_upgrade.from_generation, pool.running_upgrade.to_generation}
    if needed.issuperset(pool.generations):
        return pool
    return replace(pool, generations={number: each for number, each in pool.generations.items() if number in needed})
