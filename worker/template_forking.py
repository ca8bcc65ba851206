"""How a template makes a worker that is the master's own child: it forks twice, and the one in
between ends at once, so that the kernel gives the worker to the next subreaper, the master
(PR_SET_CHILD_SUBREAPER of prctl(2)). Knows nothing of gunicorn.

Whichever of the three is killed at whichever moment: either the worker never begins, or the master
is told of it. Plain standard library from Python 3.9 on.
"""

import _socket
import contextlib
import errno
import os
import select
import signal
import stat
from typing import Callable, Collection, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from . import template_gevent, template_marks, template_messages

FIRST_FD = 3
PR_SET_PDEATHSIG = 1
ARBITERS_SIGNALS = ("HUP", "QUIT", "INT", "TERM", "USR1", "USR2", "WINCH")
try:  # imported before any worker is another user, who may not read it
    import ctypes
except ImportError:  # a Python that was built without
    ctypes = None  # type: ignore[assignment]


class CannotFork(Exception):
    """One line."""


def heed_no_signals() -> Callable[[], None]:
    """Let those that mean something to gunicorn's arbiter, or to every process of a service, mean
    nothing to us; return what makes them mean again what they do now.

    By a handler, not by SIG_IGN, which programs that we start would inherit.
    """
    before = {}
    for name in ARBITERS_SIGNALS:
        number = getattr(signal, "SIG" + name)
        handler = signal.getsignal(number)
        if handler != signal.SIG_IGN:
            before[number] = signal.SIG_DFL if handler is None else handler
            signal.signal(number, lambda *_: None)

    def heed() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    return heed


def fork(worker: int, master: int, say: Callable[[bytes], None],
         heed_signals: Callable[[], None]) -> int:
    """Fork a worker; return its pid, and 0 in itself, as soon as it is to begin.

    Args:
        worker: the master's id of it.
        master: the pid of the master.
        say: tells the master something; used by us and, where we are killed, by the worker.
        heed_signals: called in the worker before anybody can know of it.

    Raises:
        CannotFork: there is none.
    """
    pipes: List[int] = []
    try:
        pipes += os.pipe()
        pipes += os.pipe()
        middle: int = template_gevent.own(os, "fork")()
    except OSError as error:
        _close(pipes)
        raise CannotFork("cannot fork: %s" % error.strerror) from None
    told, tell, go, let_go = pipes
    if middle == 0:
        try:
            _close([told, let_go])
            middle = os.getpid()
            _fork_again(tell, heed_signals)  # returns in the worker alone
            _wait_for_word(worker, middle, master, go, say)
        except BaseException:
            os._exit(1)
        return 0
    _close([tell, go])
    try:
        answer = b""
        while not answer.endswith(b"\n"):
            data = os.read(told, 64)
            if not data:
                break
            answer += data
        status = _wait_for_end(middle)
        if not answer.endswith(b"\n"):
            raise CannotFork("cannot fork: the process in between ended with status %d" % status)
        pid = int(answer)
        if pid < 0:
            raise CannotFork("cannot fork: %s" % os.strerror(-pid))
        parent = _parent(pid)
        if parent not in (None, master):
            os.kill(pid, signal.SIGKILL)
            raise CannotFork(_not_the_masters(parent))
        say(template_messages.forked(worker, pid))
        try:
            os.write(let_go, b"!")
        except BrokenPipeError:
            pass  # it is dead already, which the master sees for itself
        return pid
    finally:
        _close([told, let_go])


def _fork_again(tell: int, heed_signals: Callable[[], None]) -> None:
    """Fork the worker, end in its parent. The worker itself says its pid: so nothing is said of one
    that has not a process group of its own yet, and no silence hides one that has. As soon as the
    parent has ended, who kills the template's group doesn't kill the worker."""
    in_worker = False
    try:
        pid = template_gevent.own(os, "fork")()
        if pid == 0:
            os.setpgid(0, 0)
            heed_signals()
            _tell(tell, os.getpid())
            in_worker = True
        else:
            with contextlib.suppress(ProcessLookupError):
                os.setpgid(pid, pid)  # whoever comes first
    except BaseException as error:
        _tell(tell, -(getattr(error, "errno", None) or errno.EAGAIN))
    if not in_worker:
        os._exit(0)


def _tell(tell: int, number: int) -> None:
    try:
        os.write(tell, b"%d\n" % number)
    except BrokenPipeError:
        pass  # the template has been killed meanwhile
    os.close(tell)


def _wait_for_word(worker: int, middle: int, master: int, go: int,
                   say: Callable[[bytes], None]) -> None:
    """Wait, in the worker, until the master knows of us. If the template has been killed before it
    could say so, we say it."""
    told = bool(os.read(go, 1))
    os.close(go)
    if told:
        return
    # The one in between is about to end.
    while os.getppid() == middle:
        template_gevent.own(select, "select")([], [], [], 0.01)
    if os.getppid() != master:
        say(template_messages.cannot(worker, _not_the_masters(os.getppid())))
        os._exit(1)
    say(template_messages.forked(worker, os.getpid()))


def _not_the_masters(parent: Optional[int]) -> str:
    return ("a worker became a child of pid %s, not of the master: something in between adopts "
            "orphans (tini -s)" % parent)


def _wait_for_end(pid: int) -> int:
    try:
        return int(template_gevent.own(os, "waitpid")(pid, 0)[1])
    except ChildProcessError:
        return 0  # a hook reaps whatever ends


def _parent(pid: int) -> Optional[int]:
    """The parent of a process (proc(5)); None if it is no more."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return None


def _close(descriptors: Sequence[int]) -> None:
    for fd in descriptors:
        os.close(fd)


def arrange(given: Sequence[int], standard: Mapping[int, bool], reserved: int,
            kept: Collection[int]) -> None:
    """Give a worker its descriptors.

    Args:
        given: the ones that become 3, 4, …, then those for standard output and error.
        standard: which of these there are.
        reserved: how many there is room for from 3 on.
        kept: those of standard output and error that stay what they are.
    """
    wanted = [number for number in sorted(standard) if standard[number]]
    count = len(given) - len(wanted)
    for position, number in enumerate(wanted, count):
        if number not in kept:
            os.dup2(given[position], number)
    for target in range(FIRST_FD, FIRST_FD + reserved):
        if target < FIRST_FD + count:
            os.dup2(given[target - FIRST_FD], target)
        else:
            os.close(target)
    _close(given)


def listening() -> Set[Tuple[int, int]]:
    """The listening sockets of this process: descriptor and inode of each."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one by which we look is gone
            status = os.fstat(int(name))
            # Only of a socket: where there can be none around it, nobody closes the copy.
            if not stat.S_ISSOCK(status.st_mode):
                continue
            with contextlib.closing(_socket.socket(fileno=os.dup(int(name)))) as sock:
                if sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN):
                    found.add((int(name), status.st_ino))
    return found


def let_go(sockets: Collection[Tuple[int, int]]) -> None:
    """Put nothing in the place of these: whoever has opened them may close the numbers again."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd, inode in sockets:
        try:
            if os.fstat(fd).st_ino == inode:
                os.dup2(nothing, fd, inheritable=False)
        except OSError:
            pass  # closed meanwhile
    os.close(nothing)


def take_environment(variables: Mapping[str, str]) -> None:
    """Set a worker's variables, and those that name its own pid (sd_listen_fds(3),
    sd_watchdog_enabled(3))."""
    os.environ.update(variables)
    template_marks.write(variables)
    own: Dict[str, str] = {"LISTEN_FDS": "LISTEN_PID", "WATCHDOG_USEC": "WATCHDOG_PID"}
    for name, pid in own.items():
        if name in variables:
            os.environ[pid] = str(os.getpid())


def die_with_parent() -> None:
    """Let the kernel end us with whoever has started us, whom it ends with the master: in a hook
    that hangs we would not see it. A parent with threads is left out, since the end of the one that
    has started us would count (prctl(2))."""
    try:
        threads = len(os.listdir("/proc/%d/task" % os.getppid()))
    except OSError:
        return
    if threads == 1:
        _ask_for_signal_at_parents_death(signal.SIGKILL)


def _ask_for_signal_at_parents_death(number: int) -> None:
    if ctypes is not None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def belong(master: int, farewell: Optional[int], core: Optional[int]) -> None:
    """Be tied to the master and to a core. `farewell`: the signal that the kernel sends us when the
    master dies; if it has died already, we leave at once.

    Raises:
        OSError: that core can't be had.
    """
    if farewell is not None:
        _ask_for_signal_at_parents_death(farewell)
        if os.getppid() != master:
            os._exit(0)
    if core is not None:
        try:
            os.sched_setaffinity(0, [core])
        except OSError as error:
            raise OSError(error.errno, "core %d: %s" % (core, error.strerror)) from None
