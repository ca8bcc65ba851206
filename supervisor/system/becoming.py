"""From fork to exec: what a child does to become the program that it is to be, and what it says if
a step of that fails. It runs in the child alone, and starts nobody.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import signal
import stat
from collections.abc import Mapping, Sequence
from typing import NoReturn

from ...shared import kernel, reach
from ...shared.frozen import dataclass
from ..core.worker_environment import FIRST_FD
from . import attributes, descriptors
from .attributes import Attributes

# Each child has a process group of its own, so to a terminal it is always in the background: it
# would be stopped when it reads from it, and, after `stty tostop`, when it prints (termios(3)).
_OF_TERMINALS = {signal.SIGTTIN, signal.SIGTTOU}


@dataclass(frozen=True, slots=True)
class Launch:
    """What a child is made of.

    `directory`: None to stay where we are. `descriptors` become 3, 4, … in the
    child; everything else above 2 is closed.
    `parent_death_signal`: sent to the child when this process dies (None: nothing is). `stdin`,
    `stdout`, `stderr`: descriptors for its standard input, output and error, or None to share ours.
    `attributes`: what it is made to be (None: what we are); `seat`: for those that differ from
    worker to worker. `program`: the path of what is run with `command` as its arguments (empty: it
    is found by the first of them); `interpreter`: of what is to interpret it (empty: the kernel
    finds that).
    """

    command: Sequence[str]
    directory: str | None
    environment: Mapping[str, str]
    descriptors: Sequence[int] = ()
    parent_death_signal: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    stdin: int | None = None
    attributes: Attributes | None = None
    seat: int = 0
    program: str = ""
    interpreter: str = ""


class _Step:
    """What a child is about to do, for the message if that fails."""

    def __init__(self, what: str) -> None:
        self.what = what

    def why(self, error: BaseException) -> str:
        if isinstance(error, attributes.Refused):
            return str(error)  # names its flag
        reason = (reach.why(error) if isinstance(error, OSError)
                  else str(error) or type(error).__name__)
        return f"cannot {self.what}: {reason}"


def become(launch: Launch, limits: tuple[int, int], errors: int) -> NoReturn:
    """Become the program; where that fails, say why and leave with 127.

    `limits`: of open descriptors, (soft, hard). `errors`: a pipe that takes lines `PID\\tWHY`,
    which the program doesn't get.
    """
    step = _Step("have a process group of its own")
    try:
        parent = os.getppid()
        os.setpgid(0, 0)
        step.what = "take its descriptors"
        # First of all, while our own high limit still has room for them.
        _arrange_descriptors([*launch.descriptors, errors], launch.stdin, launch.stdout,
                             launch.stderr)
        errors = FIRST_FD + len(launch.descriptors)
        step.what = "limit open descriptors to {}:{}".format(*limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        environment = dict(launch.environment)
        if launch.attributes is not None:
            attributes.apply(launch.attributes, launch.seat)
            environment |= launch.attributes.environment
        # After the user has changed, since the kernel then forgets it (prctl(2)).
        if launch.parent_death_signal is not None:
            step.what = "be told of the master's end"
            _die_with_parent(launch.parent_death_signal, parent)
        _run(launch, environment, step)
    except BaseException as error:
        message = f"{os.getpid()}\t{step.why(error)}".replace("\n", " ")
        # As much as is written as a whole, among what others write (pipe(7)).
        os.write(errors, message.encode(errors="replace")[:select.PIPE_BUF - 1] + b"\n")
    finally:
        os._exit(127)


def _run(launch: Launch, environment: dict[str, str], step: _Step) -> None:
    """Exec the program where it is to run; does not return."""
    if launch.directory is not None:
        step.what = f"change to the directory {launch.directory}"
        os.chdir(launch.directory)
    if "LISTEN_FDS" in environment:
        environment["LISTEN_PID"] = str(os.getpid())
    if "WATCHDOG_USEC" in environment:
        environment["WATCHDOG_PID"] = str(os.getpid())
    named = launch.program or launch.command[0]
    step.what = f"run {named}"
    program = find_program(named, environment.get("PATH", os.defpath), launch.directory or ".")
    step.what = f"run {program}"
    if launch.interpreter:
        step.what += f", which {launch.interpreter} is to interpret"
        program = find_program(launch.interpreter, "", "/")
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN if number in _OF_TERMINALS else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.execve(program, list(launch.command), environment)
    except (FileNotFoundError, PermissionError) as error:
        # The program is there, and may be run: what is to interpret it is not, or may not
        # (execve(2)).
        interpreter = _interpreter(program)
        if interpreter is not None:
            step.what += f", which {interpreter} is to interpret"
            error.filename = interpreter
        raise


def _interpreter(program: str) -> str | None:
    """What a script's first line wants it to be run by; None where it says nothing."""
    try:
        with open(program, "rb") as file:
            line = file.readline(256)
    except OSError:
        return None
    words = line[2:].split(maxsplit=1) if line.startswith(b"#!") else []
    return os.fsdecode(words[0]) if words else None


def _die_with_parent(number: int, parent: int) -> None:
    """Ask the kernel to send us `number` when our parent dies (prctl(2)); leave at once if it has
    died already."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(0)


def _arrange_descriptors(
    wanted: Sequence[int], stdin: int | None, stdout: int | None, stderr: int | None
) -> None:
    """Move those that are wanted to 3, 4, … (inheritable, but for the last one) and close all
    others above 2."""
    last = FIRST_FD + len(wanted)
    # First out of the way, since a target may be the source of another.
    parked = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, last) for fd in wanted]
    for target, fd in enumerate((stdin, stdout, stderr)):
        if fd is not None:
            os.dup2(fd, target)
    for target, fd in enumerate(parked, FIRST_FD):
        os.dup2(fd, target, inheritable=target < last - 1)
    descriptors.close_from(last)
    for fd in (0, 1, 2):
        if _has_hung_up(fd):
            os.dup2(os.open(os.devnull, os.O_RDWR), fd)


def _has_hung_up(fd: int) -> bool:
    """Whether it is a terminal that is no more: whoever prints there would fail of it."""
    poller = select.poll()
    poller.register(fd, 0)
    return stat.S_ISCHR(os.fstat(fd).st_mode) and any(
        events & select.POLLHUP for _, events in poller.poll(0))


def find_program(name: str, search_path: str, directory: str) -> str:
    """Return the absolute path of the program that `name` means in `directory`.

    Raises:
        OSError: there is none (ENOENT), or we may not run it or get there (EACCES).
    """
    places = [""] if "/" in name else search_path.split(os.pathsep)
    found = [os.path.join(directory, place, name) for place in places]
    files = [each for each in found if os.path.isfile(each)]
    for each in files:
        if os.access(each, os.X_OK):
            return each
    if files:
        by_nobody = not os.stat(files[0]).st_mode & 0o111
        raise PermissionError(errno.EACCES, "permission denied ({})".format(
            "it is not executable" if by_nobody else f"{reach.we()} may not run it"))
    # A file that can't be reached seems not to be there (EACCES of stat(2)).
    barred = next(filter(None, map(reach.barred, found)), "")
    if barred and "/" in name:
        raise PermissionError(errno.EACCES, f"permission denied ({barred})")
    raise FileNotFoundError(errno.ENOENT, "command not found" + (barred and f", and {barred}"))
