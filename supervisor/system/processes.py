"""Processes: fork, exec, signal, reap: the only place that knows pids as things to act on.

Everybody else names a worker by its id. No pidfd is needed for that to be safe: a child's pid stays
taken until this module has reaped it, and it forgets the pid in the same step. It decides nothing;
it reports exits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from ...shared import kernel
from ..core.worker_environment import FIRST_FD
from . import attributes
from .attributes import Attributes
from .part import Keep, Kept, Part, State

# Each child has a process group of its own, so to a terminal it is always in the background: it
# would be stopped when it reads from it, and, after `stty tostop`, when it prints (termios(3)).
_OF_TERMINALS = {signal.SIGTTIN, signal.SIGTTOU}
# Seconds. A process that was killed is gone in milliseconds, unless the kernel can't end it.
PATIENCE = 2.0


class CannotStart(RuntimeError):
    """The process could not be forked, or what it should run can't be found."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What a child is made of.

    `descriptors` become 3, 4, … in the child; everything else above 2 is closed.
    `parent_death_signal`: sent to the child when this process dies (None: nothing is). `stdin`,
    `stdout`, `stderr`: descriptors for its standard input, output and error, or None to share ours.
    `attributes`: what it is made to be (None: what we are); `seat`: for those that differ from
    worker to worker.
    """

    command: Sequence[str]
    directory: str
    environment: Mapping[str, str]
    descriptors: Sequence[int] = ()
    parent_death_signal: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    stdin: int | None = None
    attributes: Attributes | None = None
    seat: int = 0


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
                self._become(launch)
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

    def _become(self, launch: Launch) -> None:
        try:
            parent = os.getppid()
            os.setpgid(0, 0)
            # First of all, while our own high limit still says how many there may be.
            _arrange_descriptors([*launch.descriptors, self._errors_end], launch.stdin,
                                 launch.stdout, launch.stderr)
            self._errors_end = FIRST_FD + len(launch.descriptors)
            resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)
            environment = dict(launch.environment)
            if launch.attributes is not None:
                attributes.apply(launch.attributes, launch.seat)
                environment |= launch.attributes.environment
            # After the user has changed, since the kernel then forgets it (prctl(2)).
            if launch.parent_death_signal is not None:
                _die_with_parent(launch.parent_death_signal, parent)
            os.chdir(launch.directory)
            if "LISTEN_FDS" in environment:
                environment["LISTEN_PID"] = str(os.getpid())
            if "WATCHDOG_USEC" in environment:
                environment["WATCHDOG_PID"] = str(os.getpid())
            program = find_program(launch.command[0], environment.get("PATH", os.defpath),
                                   launch.directory)
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_IGN if number in _OF_TERMINALS else signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.execve(program, list(launch.command), environment)
        except BaseException as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            message = f"{os.getpid()}\t{launch.command[0]}: {reason}\n"
            os.write(self._errors_end, message.encode(errors="replace")[:512])
        finally:
            os._exit(127)

    def adopt(self, pid: int) -> None:
        """Take a child that somebody below us has started for one of ours."""
        self._ours.add(pid)

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
        return _sent(os.killpg, pid, number) or taken if group else taken

    def somebody_exited(self) -> bool:
        """Whether there is somebody for `reap` to collect."""
        return bool(self._unseen or self._exits) or _exited() is not None

    def reap(self) -> list[Exit]:
        """Collect every child that has exited, strangers too (orphans come to us); never waits.

        What an exited child leaves behind in its process group is asked to go with SIGTERM: `sh -c
        'server'` must not leave a server with old code behind.
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
        for line in data.decode(errors="replace").splitlines():
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


def find_program(name: str, search_path: str, directory: str) -> str:
    """Return the absolute path of the program that `name` means in `directory`.

    Raises:
        OSError: there is none (ENOENT), or it may not be run (EACCES).
    """
    places = [""] if "/" in name else search_path.split(os.pathsep)
    found = [os.path.join(directory, place, name) for place in places]
    files = [each for each in found if os.path.isfile(each)]
    for each in files:
        if os.access(each, os.X_OK):
            return each
    if files:
        raise PermissionError(errno.EACCES, "permission denied (it is not executable)")
    raise FileNotFoundError(errno.ENOENT, "command not found")


def _die_with_parent(number: int, parent: int) -> None:
    """Ask the kernel to send us `number` when our parent dies (prctl(2)); leave at once if it has
    died already."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(0)


def _arrange_descriptors(
    descriptors: Sequence[int], stdin: int | None, stdout: int | None, stderr: int | None
) -> None:
    """Move `descriptors` to 3, 4, … (inheritable, but for the last one) and close all others above
    2."""
    import fcntl

    last = FIRST_FD + len(descriptors)
    # First out of the way, since a target may be the source of another.
    parked = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, last) for fd in descriptors]
    for target, fd in enumerate((stdin, stdout, stderr)):
        if fd is not None:
            os.dup2(fd, target)
    for target, fd in enumerate(parked, FIRST_FD):
        os.dup2(fd, target, inheritable=target < last - 1)
    os.closerange(last, os.sysconf("SC_OPEN_MAX"))
    for fd in (0, 1, 2):
        if _has_hung_up(fd):
            os.dup2(os.open(os.devnull, os.O_RDWR), fd)


def _has_hung_up(fd: int) -> bool:
    """Whether it is a terminal that is no more: whoever prints there would fail of it."""
    poller = select.poll()
    poller.register(fd, 0)
    return stat.S_ISCHR(os.fstat(fd).st_mode) and any(
        events & select.POLLHUP for _, events in poller.poll(0))
