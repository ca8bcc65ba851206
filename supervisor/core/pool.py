"""What is: the policy, the workers, and the pool of everything, as frozen data without any
behaviour.

A `Pool` is only ever made by `observe.py`; whoever holds one may read it for as long as it likes.
Times are seconds of one monotonic clock, handed in; wall-clock times are only carried along for
people to read.

    worker state   fact                     next state
    -              Spawned                  starting    (pid 0: its template is asked for it)
    starting       Forked                   starting
    starting       NotForked                -
    starting       SaidReady                ready
    starting|ready Retired, Aborted, Killed retiring
    starting       Assumed                  starting    (old enough to be guessed ready)
    retiring       Retired, SaidReady       retiring    (said twice, or too late: it doesn't count)
    any            Exited                   gone
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import field

from ...shared.frozen import dataclass
from .causes import Recycling
from .generation import Generation
from .template import Template
from .upgrade import Upgrade

# A worker that says ready, and within this time dies or leaves for new code, holds the next start
# back, as one does that never became ready; one that is due within this time is exchanged when it
# is over. Otherwise one that always does so would be replaced in a hot loop.
SETTLE_SECONDS = 1.0
# How long a worker that has never been ready has to leave: it serves nobody, and may not be able to
# hear us while it imports.
UNREADY_SECONDS = 1.0
# A worker that dies within this time of its ready is a fault of its release, and a release is calm
# again after a longer time without one: long enough for a slow start in between.
FAULT_SECONDS, CALM_SECONDS = 60.0, 120.0


class State(enum.StrEnum):
    STARTING = "starting"
    READY = "ready"
    RETIRING = "retiring"


class Stopping(enum.StrEnum):
    """How the master stops: workers are asked by their stop signal, by SIGTERM, or killed."""

    GRACEFUL = "graceful"
    TERMINATE = "terminate"
    NOW = "now"


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
class Worker:
    """One process. Times in seconds, of the monotonic clock."""

    id: int
    index: int  # its seat
    generation: int
    pid: int  # 0 while it is being forked
    spawned_at: float
    state: State = State.STARTING
    # When it is due for recycling by age.
    expires_at: float | None = None
    ready_at: float | None = None
    retired_at: float | None = None
    # SIGABRT, SIGKILL.
    aborted_at: float | None = None
    killed_at: float | None = None
    # When it last said that it lives, and with what it is busy, where it says so.
    heartbeat_at: float | None = None
    pinged_request_id: str | None = None
    # Bytes of its process group.
    memory: int | None = None
    # It is due: why, in words, and as one of a few.
    recycled_for: str | None = None
    recycling: Recycling | None = None
    # Its own word on why it will not become ready.
    error: str | None = None
    # `Pool.restarts` of its seat, as it was when this worker came.
    restarts: int = 0
    # When it had lived for long enough to be guessed ready; its readiness is such a guess; it has
    # been ready for the min ready seconds of a guess.
    assumed_at: float | None = None
    guessed: bool = False
    stood: bool = False
    # Why it must go at once.
    unfit: str | None = None
    # Which of the listening sockets it was born with, as `Pool.sockets` counts them.
    sockets: int = 0

    @property
    def over_memory(self) -> bool:
        """Whether it is due because it uses too much."""
        return self.recycling is Recycling.MEMORY

    @property
    def convincing(self) -> bool:
        """Whether its readiness proves something: it said so, or the guess has stood. Before that a
        guess neither proves a generation nor ends the first start."""
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
class Pool:
    """Everything. Mappings: by the number of a generation, the id of a worker, a seat, a pid."""

    policy: Policy
    target: int  # N: how many workers are wanted
    current: int  # the generation that is wanted
    generations: Mapping[int, Generation]
    workers: Mapping[int, Worker] = field(default_factory=dict)
    # The one that runs, or the last one.
    upgrade: Upgrade | None = None
    newest: int = 1
    # A worker has been ready; as many as wanted have been, since that number last changed.
    ever_ready: bool = False
    complete: bool = False
    stopping: Stopping | None = None
    # How often each seat has lost a worker unasked. A start that fails on trial isn't counted here:
    # it is the upgrade's failure, and the seat has its old worker still.
    restarts: Mapping[int, int] = field(default_factory=dict)
    # Upgrades that have ended, the newest last.
    history: tuple[Upgrade, ...] = ()
    # Generations that nothing runs any more.
    remembered: Mapping[int, Generation] = field(default_factory=dict)
    # The host has no room for a surge.
    short_of_memory: bool = False
    # How many workers in a row have left for new code before they had settled.
    left_early: int = 0
    # How often a listening socket had to be made anew; a worker that has an older one is *deaf*: no
    # new connection reaches it.
    sockets: int = 0
    # Addresses to which nobody can connect, and why.
    lost: Mapping[str, str] = field(default_factory=dict)
    # Addresses where a new socket waits for a worker that has it.
    unserved: frozenset[str] = frozenset()
    # Processes that outlive their workers.
    left_behind: Mapping[int, LeftBehind] = field(default_factory=dict)
    # Of the generations whose workers are forked from one, by their numbers.
    templates: Mapping[int, Template] = field(default_factory=dict)
    # When the master last came back from a time in which it did not run (monotonic seconds).
    suspended_until: float = 0.0

    def since(self, at: float) -> float:
        """From when a time that began at `at` counts. What nobody could do while everything stood
        still is held against nobody: after it, each has its whole share again."""
        return max(at, self.suspended_until)

    def available(self, worker: Worker, now: float) -> bool:
        """Whether a worker has been ready for long enough to let another one go. To be ready is not
        enough: a release whose workers die a moment later would cost an old one each time."""
        if worker.state is not State.READY or worker.ready_at is None:
            return False
        return now >= self.since(worker.ready_at) + self.policy.min_ready(worker)

    def patience(self, worker: Worker) -> float:
        """For how many seconds a worker that is asked to go is waited for."""
        recipe = self.generations[worker.generation].recipe
        # Where readiness is only a guess it may serve before.
        if worker.ready_at is None and recipe.ack_seconds is None:
            return min(recipe.graceful_timeout, UNREADY_SECONDS)
        return recipe.graceful_timeout

    @property
    def unreachable(self) -> Mapping[str, str]:
        """Addresses where nobody is served, and why."""
        return {**self.lost} | dict.fromkeys(
            self.unserved, "its file was removed, and no worker has the new socket yet")

    @property
    def farewell(self) -> str:
        """The signal that asks a worker to leave. SIGTERM to the master is SIGTERM to its workers,
        as in Einhorn, unless somebody named another one for them."""
        by_rule = self.stopping is Stopping.TERMINATE
        return self.policy.terminate_signal if by_rule else self.policy.stop_signal

    @property
    def running_upgrade(self) -> Upgrade | None:
        return self.upgrade if self.upgrade is not None and self.upgrade.running else None

    @property
    def failures_allowed(self) -> int:
        """With how many failed starts an upgrade, or a first start, is given up."""
        return self.failures_allowed_by(self.running_upgrade)

    def failures_allowed_by(self, upgrade: Upgrade | None) -> int:
        """The same by the terms of an upgrade; None: by the policy alone."""
        own = None if upgrade is None else upgrade.terms.max_failures
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
