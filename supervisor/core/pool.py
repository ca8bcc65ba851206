"""What is, and what can happen: workers, generations, upgrades and facts, as frozen data without
any behaviour.

A `Pool` is only ever made by `observe.py`; whoever holds one may read it for as long as it likes.
Times are seconds of one monotonic clock, handed in; wall-clock times are only carried along for
people to read.

    worker state   fact                     next state
    -              Spawned                  starting
    starting       SaidReady                ready
    starting|ready Retired, Aborted, Killed retiring
    starting       Assumed                  starting    (old enough to be guessed ready; one look is
    still due)
    retiring       Retired, SaidReady       retiring    (said twice, or too late: nothing changes)
    any            Exited                   gone
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

# A worker that says ready, and within this time dies or leaves for new code, holds the next start
# back, as one does that never became ready; one that is due within this time is exchanged when it
# is over. Otherwise one that always does so would be replaced in a hot loop.
SETTLE_SECONDS = 1.0
# A worker that dies within this time of its ready is a fault of its release, and a release is calm
# again after a longer time without one: long enough for a slow start in between.
FAULT_SECONDS, CALM_SECONDS = 60.0, 120.0


class State(enum.Enum):
    STARTING = "starting"
    READY = "ready"
    RETIRING = "retiring"


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's rules. Times in seconds; `max_surge` in workers; `max_failures` in failed
    starts.

    `progress_timeout`: an upgrade that makes no progress for so long goes back (0: never).
    `reload_exit_code`: a ready worker that exits with it asks for an upgrade (None: no code does).
    `max_unacked`: so many may be starting at once (None: no limit). `first_delay`: seconds after a
    failed start; the next ones are longer. `guessed_min_ready_seconds`: `min_ready_seconds` of a
    worker whose readiness is a guess. `stop_signal`: asks a worker to leave; `terminate_signal`:
    does so where the master was told to terminate.
    """

    max_surge: int = 1
    ready_timeout: float = 60.0
    min_ready_seconds: float = 0.0
    max_failures: int = 3
    progress_timeout: float = 600.0
    reload_exit_code: int | None = None
    max_unacked: int | None = None
    first_delay: float = 1.0
    guessed_min_ready_seconds: float = 0.0
    stop_signal: str = "SIGUSR2"
    terminate_signal: str = "SIGTERM"

    def min_ready(self, worker: Worker) -> float:
        """For how many seconds this worker must have been ready before it counts for letting
        another one go."""
        return self.guessed_min_ready_seconds if worker.guessed else self.min_ready_seconds


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a generation's workers are launched, frozen when it was made.

    `ack_seconds`: count a worker as ready once it has lived that long (None: it says so itself).
    `graceful_timeout`: seconds between being asked to go and SIGKILL. `timeout`: the oldest
    heartbeat, in seconds, of a worker that has ever sent one (0: not watched).

    When a worker is due for recycling: `max_requests` served, `max_lifetime` seconds since its
    start, each plus a share of its jitter; `max_memory` bytes of its process group. Beyond
    `max_memory_hard` it is killed. 0: never.
    """

    command: tuple[str, ...]
    directory: str
    environment: Mapping[str, str] = field(default_factory=dict)
    release: str | None = None
    ack_seconds: float | None = None
    graceful_timeout: float = 30.0
    timeout: float = 0.0
    max_requests: int = 0
    max_requests_jitter: int = 0
    max_lifetime: float = 0.0
    max_lifetime_jitter: float = 0.0
    max_memory: int = 0
    max_memory_hard: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """`error`: why its last start failed, `lines`: the last lines of standard error of that start.
    `unfit`: why none of its workers can ever be trusted, if so. `faults`: how often, since it was
    last calm, a worker of it died soon after it was ready or did what no worker may do; `fault`:
    what was the last one, at `fault_at`."""

    number: int
    recipe: Recipe
    proven: bool = False
    failures_in_a_row: int = 0
    failed_at: float = 0.0
    not_before: float = 0.0
    error: str | None = None
    lines: tuple[str, ...] = ()
    unfit: str | None = None
    faults: int = 0
    fault: str | None = None
    fault_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Worker:
    """One process. `expires_at`: when it is due for recycling by age. `recycled_for`: why it is
    due, if it is; `over_memory`: because it uses too much. `assumed_at`: when it had lived for long
    enough to be guessed ready; `guessed`: its readiness is such a guess; `stood`: it has been ready
    for the min ready seconds of a guess. `unfit`: why it must go at once. `sockets`: which of the
    listening sockets it was born with, as `Pool.sockets` counts them."""

    id: int
    index: int
    generation: int
    pid: int
    spawned_at: float
    state: State = State.STARTING
    expires_at: float | None = None
    ready_at: float | None = None
    retired_at: float | None = None
    aborted_at: float | None = None
    killed_at: float | None = None
    heartbeat_at: float | None = None
    pinged_request_id: str | None = None
    memory: int | None = None
    recycled_for: str | None = None
    over_memory: bool = False
    error: str | None = None
    restarts: int = 0
    assumed_at: float | None = None
    guessed: bool = False
    stood: bool = False
    unfit: str | None = None
    sockets: int = 0

    def available(self, now: float, policy: Policy) -> bool:
        """Whether it has been ready for long enough to let another one go."""
        return self.state is State.READY and self.ready_at is not None and now >= self.ready_at + policy.min_ready(
            self)

    @property
    def convincing(self) -> bool:
        """Whether its readiness proves something: it said so, or the guess has stood."""
        return self.state is State.READY and (not self.guessed or self.stood)


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """A process that a worker which is gone has left behind. It was asked to go, and is killed at
    `kill_at`. `index` and `generation`: the worker's; None where it isn't known which one that
    was."""

    pid: int
    index: int | None
    generation: int | None
    found_at: float
    kill_at: float
    killed: bool = False


@dataclass(frozen=True, slots=True)
class Terms:
    """How an upgrade is to go. `kind`: rolling or fleet. `canary`: so many new workers serve first,
    for `hold` seconds (None: until somebody says resume) and until `check`, a shell command, has
    passed. `max_failures`: instead of the policy's. `recipe_of`: the remembered generation whose
    recipe it takes, where it is a rollback."""

    kind: str = "rolling"
    release: str | None = None
    canary: int = 0
    hold: float | None = 0.0
    check: str | None = None
    max_failures: int | None = None
    recipe_of: int | None = None


@dataclass(frozen=True, slots=True)
class Upgrade:
    """One change of generation. `outcome`: None while it runs, then done, rolled-back, aborted or
    superseded.

    `on_canary`: the exchange waits for the canary's hold to end; `held_since`: since when all
    canaries are there. `lines`: the last lines of standard error of the start that failed last.
    `check`: None, waiting, running or passed. `refusal`: why it has to go back now. `vacant`: seats
    whose workers left in order to be replaced by the new code. `replaced`: how many ready workers
    its generation had in the end. `accepting`: whether somebody accepts connections once only
    workers whose readiness is a guess are left: None (not asked), asked or yes. `suspicious`: a
    listening socket was shut down while old and new code were about: from now on they are kept
    apart, so that the next time shows whose doing it is.
    """

    from_generation: int
    to_generation: int
    terms: Terms
    requested_by: str
    started_at: float
    started_wall: float
    progress_at: float
    preparing: bool = True
    target_before: int | None = None
    on_canary: bool = False
    held_since: float | None = None
    hold_over: bool = False
    check: str | None = None
    paused_by: str | None = None
    accepting: str | None = None
    suspicious: bool = False
    vacant: frozenset[int] = frozenset()
    refusal: str | None = None
    aborted: bool = False
    rolling_back: bool = False
    failures: int = 0
    reason: str | None = None
    error: str | None = None
    lines: tuple[str, ...] = ()
    outcome: str | None = None
    replaced: int = 0
    ended_at: float | None = None
    ended_wall: float | None = None

    @property
    def running(self) -> bool:
        return self.outcome is None


@dataclass(frozen=True, slots=True)
class Pool:
    """Everything. `history`: upgrades that have ended, the newest last. `remembered`: generations
    that nothing runs any more. `sockets`: how often a listening socket had to be made anew; a
    worker that has an older one is *deaf*: no new connection reaches it. `lost`: addresses to which
    nobody can connect, and why. `short_of_memory`: the host has no room for a surge. `hasty`: how
    many workers in a row have left for new code before they had settled. `left_behind`: by pid,
    processes that outlive their workers."""

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
    history: tuple[Upgrade, ...] = ()
    remembered: Mapping[int, Generation] = field(default_factory=dict)
    short_of_memory: bool = False
    hasty: int = 0
    sockets: int = 0
    lost: Mapping[str, str] = field(default_factory=dict)
    left_behind: Mapping[int, LeftBehind] = field(default_factory=dict)

    @property
    def running_upgrade(self) -> Upgrade | None:
        return self.upgrade if self.upgrade is not None and self.upgrade.running else None

    @property
    def failures_allowed(self) -> int:
        """With how many failed starts an upgrade, or a first start, is given up."""
        own = self.running_upgrade.terms.max_failures if self.running_upgrade is not None else None
        return max(1, self.policy.max_failures if own is None else own)

    @property
    def ready(self) -> int:
        """How many workers are ready, not retiring and not deaf."""
        return sum(worker.state is State.READY and not self.deaf(worker)
                   for worker in self.workers.values())

    def deaf(self, worker: Worker) -> bool:
        """Whether a listening socket of this worker is no more what clients connect to."""
        return worker.sockets != self.sockets

    @property
    def live(self) -> int:
        """How many workers there are that are not retiring."""
        return sum(worker.state is not State.RETIRING for worker in self.workers.values())


# --- facts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spawned:
    """`jitter`: 0 to 1, drawn for this worker."""

    worker: int
    index: int
    generation: int
    pid: int
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    index: int
    generation: int
    error: str


@dataclass(frozen=True, slots=True)
class Assumed:
    """It says nothing by itself and has lived for long enough: it is ready as soon as somebody
    accepts connections."""

    worker: int


@dataclass(frozen=True, slots=True)
class SaidReady:
    """`guessed`: it said nothing; it was assumed."""

    worker: int
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class Stood:
    """The guess that it is ready has stood for the min ready seconds of guesses."""

    worker: int


@dataclass(frozen=True, slots=True)
class FoundUnfit:
    """Whatever this worker says, it can't be trusted, nor any other of its generation."""

    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class SaidFailed:
    """The worker's own word on why it will not become ready; its exit follows."""

    worker: int
    error: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """`request_id`: what the worker says it is busy with, where it says so."""

    worker: int
    at: float
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes of each worker's process group."""

    memory: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class HostMeasured:
    """Whether the host has no room for one worker more; `available` bytes were found."""

    short: bool
    available: int


@dataclass(frozen=True, slots=True)
class Due:
    """It is to be recycled. `memory`: because it uses too much."""

    worker: int
    reason: str
    memory: bool = False


@dataclass(frozen=True, slots=True)
class Aborted:
    """SIGABRT went to it: it hangs, and is to say where. `lines` as in `Killed`."""

    worker: int
    reason: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Retired:
    """It was asked to finish and leave."""

    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class Killed:
    """SIGKILL went to its process group. `lines`: the last ones of its standard error."""

    worker: int
    reason: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Exited:
    """`status`: the exit code, or minus the number of the signal that ended it. `error`: why it
    never ran, if so. `lines` as in `Killed`; `complaint`: what they say of the reason."""

    worker: int
    status: int
    error: str | None = None
    lines: tuple[str, ...] = ()
    complaint: str | None = None


@dataclass(frozen=True, slots=True)
class OrphanFound:
    """A worker that is gone, known or not, has left a process behind, which was asked to go."""

    pid: int
    index: int | None
    generation: int | None


@dataclass(frozen=True, slots=True)
class OrphanKilled:
    pid: int


@dataclass(frozen=True, slots=True)
class OrphanGone:
    pid: int


@dataclass(frozen=True, slots=True)
class UpgradeRequested:
    """`vacant`: seats whose workers have left for its sake."""

    terms: Terms
    requested_by: str
    wall: float
    vacant: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class UpgradePrepared:
    number: int
    recipe: Recipe
    target: int | None = None


@dataclass(frozen=True, slots=True)
class UpgradeRefused:
    """The new generation could not even be made: its settings can't be read, its directory is gone
    …"""

    number: int
    reason: str
    error: str | None
    wall: float
    aborted: bool = False


@dataclass(frozen=True, slots=True)
class Paused:
    by: str


@dataclass(frozen=True, slots=True)
class Resumed:
    by: str


@dataclass(frozen=True, slots=True)
class AbortRequested:
    by: str


@dataclass(frozen=True, slots=True)
class HoldBegun:
    """All canaries serve."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The check of the hold has ended; `reason`: why it refuses the release, if it does."""

    reason: str | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class HoldEnded:
    """The canaries have done well: everybody follows."""


@dataclass(frozen=True, slots=True)
class AcceptingAsked:
    """Only guessed workers are left, and somebody looks whether they accept connections."""


@dataclass(frozen=True, slots=True)
class AcceptingChecked:
    """`reason`: why the release is refused (nobody accepts on …), None where somebody does."""

    reason: str | None


@dataclass(frozen=True, slots=True)
class ListenerShut:
    """Some worker has shut a listening socket down for everybody; it listens again. `anew`: on a
    new socket, which the workers that there are don't have. `blamed`: it was just now, so that it
    can be told who may have done it."""

    address: str
    anew: bool = False
    blamed: bool = True


@dataclass(frozen=True, slots=True)
class ListenerLost:
    """Nobody can connect to this address any more, and that can't be mended; None as a reason: it
    is there again."""

    address: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class Calmed:
    """A generation with faults has had none for long enough."""

    generation: int


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
    | Assumed
    | SaidReady
    | Stood
    | FoundUnfit
    | SaidFailed
    | Heartbeat
    | Measured
    | HostMeasured
    | Due
    | Aborted
    | Retired
    | Killed
    | Exited
    | OrphanFound
    | OrphanKilled
    | OrphanGone
    | UpgradeRequested
    | UpgradePrepared
    | UpgradeRefused
    | Paused
    | Resumed
    | AbortRequested
    | HoldBegun
    | Checked
    | HoldEnded
    | AcceptingAsked
    | AcceptingChecked
    | ListenerShut
    | ListenerLost
    | Calmed
    | RolledBack
    | Finished
    | Scaled
    | StopRequested
)
