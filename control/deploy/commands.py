"""The operator's own commands (fetch, prepare, resolve): each run by a shell, with a time limit;
what it prints is told line by line, and its last lines are kept for the error.

Whatever a command has started is known by a mark in its environment, the directory that it works
on, so that nothing writes there any more once it is over, or whoever ran it was killed.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping

from ...shared import kernel
from ...shared.frozen import dataclass

MARK = "EINHORNPY_WORKS_ON"
LAST_LINES = 20
LONGEST_LINE = 2000
# So often it is looked for processes that one of those killed has started meanwhile.
ATTEMPTS = 3
# In seconds: for so long what a command has printed is read when it is over.
LAST_WORDS = 1.0


class CommandFailed(RuntimeError):
    """A command didn't do what it is for. `lines`: its last ones."""

    def __init__(self, message: str, lines: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.lines = lines

    @property
    def line(self) -> str:
        """The message, and the last thing that the command has printed."""
        return f"{self}: {self.lines[-1]}" if self.lines else str(self)


@dataclass(frozen=True, slots=True)
class User:
    """Who a command is run as, where that is somebody else than us."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def run(what: str, command: str, words: tuple[str, ...], directory: str,
        environment: Mapping[str, str], limit: float, user: User | None,
        heard: Callable[[str], None], *, answers: bool = False) -> str | None:
    """Run a command to its end; return the last line that it printed.

    Args:
        what: what it is for, in errors.
        words: become $1, $2 …
        directory: where it runs, and what it works on.
        environment: beside ours.
        limit: seconds.
        heard: told each line that it prints, of both its outputs.
        answers: what it prints on standard output is an answer, and told by us alone.

    Raises:
        CommandFailed: it has failed, or took too long.
    """
    kernel.load()
    # Its orphans become our children, whatever they have made of their environment.
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    try:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command, "sh", *words], cwd=directory, stdin=subprocess.DEVNULL,
            # one pipe, where the order of what comes by both matters more
            stdout=subprocess.PIPE, stderr=subprocess.PIPE if answers else subprocess.STDOUT,
            env={**os.environ, **_of(user), **environment, MARK: directory},
            user=None if user is None else user.uid, group=None if user is None else user.gid,
            extra_groups=None if user is None else user.groups, preexec_fn=_die_with_us)
    except (OSError, subprocess.SubprocessError) as error:
        raise CommandFailed(f"{what} cannot be started: {error}") from None
    last: deque[str] = deque(maxlen=LAST_LINES)
    printed: deque[str] = deque(maxlen=1)
    try:
        in_time = _hear(process, time.monotonic() + limit, last, printed, heard,
                        lambda: end_all(directory))
    finally:
        # It is over: what it has left behind in the background would write on in the release.
        process.kill()
        process.wait()
        end_all(directory)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    lines = tuple(last)
    if not in_time:
        raise CommandFailed(f"{what} took longer than {limit:g} s", lines)
    if process.returncode < 0:
        raise CommandFailed(f"{what} was killed by {_name(-process.returncode)}", lines)
    if process.returncode:
        raise CommandFailed(f"{what} exited with code {process.returncode}", lines)
    return printed[0] if printed else None


def _of(user: User | None) -> dict[str, str]:
    """What programs expect of whoever they are run by."""
    if user is None:
        return {}
    try:
        known = pwd.getpwuid(user.uid)
    except KeyError:
        return {"HOME": "/"}
    return {"HOME": known.pw_dir, "USER": known.pw_name, "LOGNAME": known.pw_name}


def _hear(process: subprocess.Popen[bytes], deadline: float, last: deque[str],
          printed: deque[str], heard: Callable[[str], None], end: Callable[[], None]) -> bool:
    """Tell what it prints until it has exited; return whether that was in time. Others that hold
    its outputs open are ended then."""
    kept = {stream.fileno(): b"" for stream in (process.stdout, process.stderr)
            if stream is not None}
    ended = os.pidfd_open(process.pid)
    poller = select.poll()
    for fd in (*kept, ended):
        poller.register(fd, select.POLLIN)

    def tell(fd: int, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()[:LONGEST_LINE]
        if text:
            last.append(text)
            of_answer = process.stdout is not None and fd == process.stdout.fileno()
            if of_answer:
                printed.append(text)
            if not of_answer or process.stderr is None:
                heard(text)

    def read(fd: int) -> bool:
        data = os.read(fd, 65536)
        *lines, rest = (kept[fd] + data).replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            tell(fd, line)
        kept[fd] = rest if len(rest) < 65536 else b""
        return bool(data)

    try:
        exited = False
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return exited
            found = {fd for fd, _ in poller.poll(0 if exited else left * 1000)}
            for fd in found & kept.keys():
                if not read(fd):
                    poller.unregister(fd)
            if exited and not found & kept.keys():
                break
            if ended in found and not exited:
                exited = True
                poller.unregister(ended)
                process.wait()
                # What it has left behind may print on and on.
                end()
                deadline = min(deadline, time.monotonic() + LAST_WORDS)
        for fd, rest in kept.items():
            tell(fd, rest)
        return True
    finally:
        os.close(ended)


def _die_with_us() -> None:
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def end_all(place: str) -> None:
    """Kill every process that a command for this directory has started, and see it gone: what has
    its mark, or is an orphan of ours. For whoever has the turn."""
    for _ in range(ATTEMPTS):
        found = list(_started_for(place))
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                fd = os.pidfd_open(pid)
                try:
                    if _is_for(pid, place):
                        signal.pidfd_send_signal(fd, signal.SIGKILL)
                        select.select([fd], [], [], 5.0)
                        _reap(pid)
                finally:
                    os.close(fd)


def _started_for(place: str) -> Iterator[int]:
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid() and _is_for(int(entry), place):
            yield int(entry)


def _is_for(pid: int, place: str) -> bool:
    """Whether a living process works on this, and we may end it."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            marked = f"{MARK}={place}".encode() in file.read().split(b"\0")
        return marked or _is_ours(pid)
    except OSError:
        return False


def _is_ours(pid: int) -> bool:
    """Whether it is a child of ours: nobody but a command's orphans is, once that is over."""
    with open(f"/proc/{pid}/stat") as file:
        state, parent, *_ = file.read().rpartition(")")[2].split()
    return int(parent) == os.getpid() and state != "Z"


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
