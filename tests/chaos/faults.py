"""What a fault is, and those that befall processes: killed, or stopped for a while."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from .host import Host

# Exit codes of clients that a fault may make true, beside the usual ones: a good release is
# refused; nobody answers in time, or the session is cut off; there is no master. A master that has
# just been started hears little until its first generation is made: 3.
REFUSES, SILENT, GONE = frozenset({5}), frozenset({124, 6}), frozenset({3, 6, 69})

# Seconds: a worker that gives none for so long is killed by the master.
HEARTBEAT = 20
# How those children of the master's are known that are neither workers nor on an errand.
KEEPER, SIDECAR = ("keeper_process",), ("einhornpy.control.web", "einhornpy: web")
# A template, or a worker that it has just forked; and one that is about to read its settings.
TEMPLATE = ("gunicorn: template", "gunicorn.conf.py")


@dataclass
class Fault:
    """One thing that goes wrong for `seconds`. `lawful`: what clients may hear because of it.
    `forbids`: operations that nobody could survive meanwhile. Requests may fail only where it put
    them into `Host.hands`."""

    kind: ClassVar[str]
    lawful: ClassVar[frozenset[int]] = frozenset()
    forbids: ClassVar[frozenset[str]] = frozenset()
    seconds: float

    @classmethod
    def drawn(cls, dice: random.Random) -> Self:
        """One of its kind, by chance."""
        return cls(dice.uniform(0.2, 2.0))

    @classmethod
    def possible(cls, host: Host) -> str | None:
        """Why it can't be had here; None if it can."""
        return None

    @property
    def means(self) -> str:
        """By what it is done: two by the same means can't be at once."""
        return self.kind

    def inject(self, host: Host) -> None:
        raise NotImplementedError

    def heal(self, host: Host) -> None:
        """Undo it, whatever has happened meanwhile."""

    def __str__(self) -> str:
        return self.kind


def kill(host: Host, pid: int) -> None:
    """`kill -9` somebody who may have gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@dataclass
class KillWorkers(Fault):
    """Some workers are killed, in whatever state; what they have in their hands is lost."""

    kind: ClassVar[str] = "kill-worker"
    lawful: ClassVar[frozenset[int]] = REFUSES
    many: int = 1
    lot: float = 0.0

    @classmethod
    def drawn(cls, dice: random.Random) -> KillWorkers:
        return cls(dice.uniform(0.0, 0.5), dice.choice((1, 1, 2, 5)), dice.random())

    def inject(self, host: Host) -> None:
        workers = host.workers()
        random.Random(self.lot).shuffle(workers)
        for pid in workers[: self.many]:
            host.hold_still(pid)
            kill(host, pid)

    def __str__(self) -> str:
        return f"{self.kind} {self.many}"


@dataclass
class StopWorker(Fault):
    """A worker stands still, shorter or longer than its heartbeat may; in the end it goes on, if it
    hasn't been killed for that."""

    kind: ClassVar[str] = "stop-worker"
    lawful: ClassVar[frozenset[int]] = REFUSES
    lot: float = 0.0
    pid: int = 0
    since: float = 0.0
    hands: frozenset[int] = frozenset()

    @classmethod
    def drawn(cls, dice: random.Random) -> StopWorker:
        return cls(dice.choice((0.5, 2.0, 4.0, 25.0)), dice.random())

    def inject(self, host: Host) -> None:
        workers = host.workers()
        if workers:
            self.pid, self.since = random.Random(self.lot).choice(workers), time.monotonic()
            self.hands = host.hold_still(self.pid)

    def heal(self, host: Host) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGCONT)
            # nobody has killed it: nothing of it may be lost
            if time.monotonic() - self.since < HEARTBEAT / 2:
                for port in self.hands:
                    host.hands.pop(port, None)

    def __str__(self) -> str:
        return f"{self.kind} for {self.seconds:g} s"


@dataclass
class KillTemplates(Fault):
    """Every template that there is, starting or ready, is killed; who has just become a worker
    meanwhile may have something in its hands."""

    kind: ClassVar[str] = "kill-template"
    lawful: ClassVar[frozenset[int]] = REFUSES

    def inject(self, host: Host) -> None:
        for pid in host.others(*TEMPLATE):
            host.hold_still(pid)
            kill(host, pid)
            host.story.count("killed templates")


@dataclass
class StopTemplates(Fault):
    """Every template stands still, shorter or longer than a fork may take; in the end it goes on,
    if it hasn't been killed for that."""

    kind: ClassVar[str] = "stop-template"
    lawful: ClassVar[frozenset[int]] = REFUSES
    pids: tuple[int, ...] = ()

    @classmethod
    def drawn(cls, dice: random.Random) -> StopTemplates:
        return cls(dice.choice((0.5, 2.0, 4.0, 13.0)))

    def inject(self, host: Host) -> None:
        self.pids = tuple(host.others(*TEMPLATE))
        for pid in self.pids:
            host.hold_still(pid)

    def heal(self, host: Host) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def __str__(self) -> str:
        return f"{self.kind} for {self.seconds:g} s"


@dataclass
class KillMaster(Fault):
    """The master is killed, and a new one is started. Nobody's request is in its hands."""

    kind: ClassVar[str] = "kill-master"
    lawful: ClassVar[frozenset[int]] = GONE | REFUSES

    def inject(self, host: Host) -> None:
        kill(host, host.master.pid)
        host.master.process.wait()

    def heal(self, host: Host) -> None:
        with host.deploying:  # a deploy tool that was cut off has put the link back by now
            host.restart()


@dataclass
class StopMaster(Fault):
    """The master stands still."""

    kind: ClassVar[str] = "stop-master"
    lawful: ClassVar[frozenset[int]] = SILENT | REFUSES

    @classmethod
    def drawn(cls, dice: random.Random) -> StopMaster:
        return cls(dice.choice((0.5, 2.0, 5.0, 13.0)))

    def inject(self, host: Host) -> None:
        host.master.signal(signal.SIGSTOP)

    def heal(self, host: Host) -> None:
        host.master.signal(signal.SIGCONT)

    def __str__(self) -> str:
        return f"{self.kind} for {self.seconds:g} s"


@dataclass
class KillKeeper(Fault):
    """The process that holds the workers' pipes is killed."""

    kind: ClassVar[str] = "kill-keeper"
    words: ClassVar[tuple[str, ...]] = KEEPER

    def inject(self, host: Host) -> None:
        for pid in host.others(*self.words):
            kill(host, pid)


@dataclass
class KillSidecar(KillKeeper):
    """The process that serves the page is killed."""

    kind: ClassVar[str] = "kill-sidecar"
    words: ClassVar[tuple[str, ...]] = SIDECAR


@dataclass
class KillHook(Fault):
    """The hooks that run, and whatever else is on an errand, are killed, over and over."""

    kind: ClassVar[str] = "kill-hook"
    lawful: ClassVar[frozenset[int]] = REFUSES
    forbids: ClassVar[frozenset[str]] = frozenset()

    def inject(self, host: Host) -> None:
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            for pid in host.others("/bin/sh -c sleep", "--check-state"):
                kill(host, pid)
                host.story.count("killed hooks")
            time.sleep(0.02)  # noqa: TID251  there is no event for a process that begins
