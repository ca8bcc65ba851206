"""Processes: fork, signal, reap: the only place that knows pids as things to act on. What a child
does from there to its program stands in becoming.py.

Everybody else names a worker by its id. No pidfd is needed for that to be safe: a child's pid stays
taken until this module has reaped it, and it forgets the pid in the same step. It decides nothing;
it reports exits.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any

from ...shared.frozen import dataclass
from .becoming import Launch as Launch
from .becoming import become
from .part import Keep, Kept, Part, State

# Seconds. A process that was killed is gone in milliseconds, unless the kernel can't end it.
PATIENCE = 2.0


class CannotStart(RuntimeError):
    """The process could not be forked, or what it should run can't be found."""


@dataclass(frozen=True, slots=True)
class Exit:
    """`status`: exit code, or minus a signal number. `error`: why the program never ran, where that
    is known."""

    pid: int
    status: int
    error: str | None


def own_program(module: str, *words: str) -> list[str]:
    """The command line of one of our own modules. -P: a file of the app's in the current directory
    must not shadow ours. -X utf8: whatever the locale, a text is one and the same for us all."""
    return [sys.executable, "-X", "utf8", "-P", "-m", f"einhornpy.{module}", *words]


@dataclass(frozen=True, slots=True)
class KeptProcesses(Kept):
    """`errors`: the pipe by which children say why exec failed. `pids`: those that are ours.
    `limits`: of open descriptors, for children."""

    errors: tuple[int, int]
    pids: tuple[int, ...]
    limits: tuple[int, int]

    def descriptors(self) -> Iterable[int]:
        return self.errors

    def doubts(self) -> Iterator[str]:
        soft, hard = self.limits
        if min(soft, hard) < -1 or (hard != -1 and not 0 <= soft <= hard) or max(
                soft, hard) >= 1 << 63:
            yield f"limits {self.limits}"


class Processes(Part):
    """This process's children."""

    name = "processes"
    keeps = {"processes": Keep(KeptProcesses, needed=True)}

    def __init__(self) -> None:
        self._failed: dict[int, str] = {}
        self._unseen: list[int] = []
        self._exits: list[tuple[int, int]] = []
        # Children write here why exec failed; the pipe closes by itself where it succeeds.
        self._errors, self._errors_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._ours: set[int] = set()
        self._limits: tuple[int, int] = resource.getrlimit(resource.RLIMIT_NOFILE)

    def hand_over(self) -> dict[str, Any]:
        return {"processes": {
            "errors": [self._errors, self._errors_end], "pids": sorted(self._ours),
            "limits": list(self._limits)}}

    def take_over(self, state: State) -> None:
        kept: KeptProcesses | None = state["processes"]
        if kept is None:
            return
        self.close()
        self._errors, self._errors_end = kept.errors
        self._ours = set(kept.pids)
        # A master that took over and failed within its first moments may have seen the end of
        # some of them.
        self._unseen = [pid for pid in self._ours if not _is_child(pid)]
        # Never more than may be set: children would not start.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        soft, hard = (most if each < 0 or 0 <= most < each else each for each in kept.limits)
        self._limits = (soft, hard)

    @property
    def descriptor_limit(self) -> int:
        """How many descriptors a child may have open."""
        soft = self._limits[0]
        return 1 << 30 if soft == resource.RLIM_INFINITY else soft

    def raise_descriptor_limit(self) -> int:
        """Raise this process's own limit of open descriptors as far as it may; children keep the
        old one."""
        soft, hard = self._limits
        most = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
        return max(soft, most)

    def start(self, launch: Launch) -> int:
        """Fork and exec; return the pid. That exec failed is learnt from the child's exit.

        Raises:
            CannotStart: the kernel refused to fork.
        """
        # Blocked until the child has given up our handlers: a signal that reaches it before is
        # kept, not lost in them.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                become(launch, self._limits, self._errors_end)
        except OSError as error:
            raise CannotStart(f"cannot fork: {error.strerror}") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            os.setpgid(pid, pid)  # the child does so too; whoever comes first
        except OSError:
            pass
        self._ours.add(pid)
        return pid

    def adopt(self, pid: int) -> bool:
        """Take a child that somebody below us has started for one of ours; return False if it is
        one already. One that is gone by now has an exit like any other."""
        if pid in self._ours:
            return False
        self._ours.add(pid)
        if not _is_child(pid):
            self._unseen.append(pid)
        return True

    @property
    def ours(self) -> Set[int]:
        """The pids of those that we have started, or adopted."""
        return self._ours

    def signal(self, pid: int, number: int, group: bool = False) -> bool:
        """Send a signal to a child, or to its whole process group; return whether there was anybody
        to take it."""
        if pid not in self._ours or pid in self._unseen:
            return False
        taken = _sent(os.kill, pid, number)
        # It may have left its group, and others may be there.
        for each in self._groups(pid) if group else ():
            taken |= _sent(os.killpg, each, number)
        return taken

    def kill_tree(self, pid: int) -> None:
        """SIGKILL to a child, its process group, and all below it, in whichever groups they are."""
        below = [*tree(pid)][1:]
        self.signal(pid, signal.SIGKILL, group=True)
        for each in below:
            _sent(os.kill, each, signal.SIGKILL)

    def _groups(self, pid: int) -> set[int]:
        """The process group that a child was given, and the one in which an adopted one is: of
        somebody who is gone, never ours or that of another child."""
        with contextlib.suppress(ProcessLookupError):
            found = os.getpgid(pid)
            if found != os.getpgrp() and found not in self._ours:
                return {pid, found}
        return {pid}

    def somebody_exited(self) -> bool:
        """Whether there is somebody for `reap` to collect."""
        return bool(self._unseen or self._exits) or _exited() is not None

    def reap(self) -> list[Exit]:
        """Collect every child that has exited, strangers too (orphans come to us); never waits.

        What an exited child leaves behind in its process group is asked to go with SIGTERM: `sh -c
        'server'` must not leave a server with old code behind. Who stays all the same: orphans.py.
        """
        for pid in self._unseen:
            self._ours.discard(pid)
            self._failed[pid] = "nobody saw how it ended"
            self._exits.append((pid, 1))
        self._unseen = []
        while (exited := _exited()) is not None:
            self.signal(exited, signal.SIGTERM, group=True)  # before it is reaped, see `_exited`
            pid, status = os.waitpid(exited, 0)
            self._ours.discard(pid)
            # Kept by us: what is reaped must not be forgotten, should the rest of this fail.
            self._exits.append((pid, os.waitstatus_to_exitcode(status)))
        if self._exits:
            self._read_errors()
        exits = [Exit(pid, status, self._failed.pop(pid, None)) for pid, status in self._exits]
        self._exits = []
        return exits

    def end(self, pid: int) -> bool:
        """Kill one child with its process group and reap it; return whether it is gone within
        `PATIENCE`."""
        self.signal(pid, signal.SIGKILL, group=True)
        deadline = time.monotonic() + PATIENCE
        # Looked at again and again rather than waited for by a descriptor: this must work where
        # none is left.
        with contextlib.suppress(ChildProcessError):  # somebody before us has seen its end
            while os.waitpid(pid, os.WNOHANG)[0] == 0:
                if time.monotonic() >= deadline:
                    return False
                select.select([], [], [], 0.002)
        self._ours.discard(pid)
        return True

    def _read_errors(self) -> None:
        try:
            data = os.read(self._errors, 1 << 20)
        except BlockingIOError:
            return
        for line in data.decode(errors="replace").split("\n"):
            pid, _, reason = line.partition("\t")
            if pid.isdecimal():
                self._failed[int(pid)] = reason

    def close(self) -> None:
        os.close(self._errors)
        os.close(self._errors_end)


def _exited() -> int | None:
    """A child that has exited, if there is one. Until it is reaped nobody else can have its pid."""
    with contextlib.suppress(ChildProcessError):
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return None if found is None else found.si_pid
    return None


def children(pid: int) -> list[int]:
    """The pids of a process's children; none of one that is gone (proc(5))."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    except OSError:
        pass
    return found


def tree(pid: int) -> Iterator[int]:
    """The pids of a process and of all below it, as they are when each is looked at."""
    todo, seen = [pid], set[int]()
    while todo:
        each = todo.pop()
        if each not in seen:  # a pid may be given anew meanwhile
            seen.add(each)
            yield each
            todo += children(each)


def parent(pid: int) -> int | None:
    """The pid of a process's parent; None where it is gone or there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1]) or None
    except (OSError, IndexError, ValueError):
        return None


def started(pid: int) -> int | None:
    """When a process has started, in ticks of the kernel's clock; None where it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def command_line(pid: int) -> list[str]:
    """The words of a process's command line; none of one that is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    except OSError:
        return []


def _is_child(pid: int) -> bool:
    """Whether there is such a child, dead or alive."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _sent(how: Callable[[int, int], None], pid: int, number: int) -> bool:
    try:
        how(pid, number)
    except (ProcessLookupError, PermissionError):  # nobody is there, or it has become another user
        return False
    return True
