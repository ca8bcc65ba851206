"""What a process has that its forks would share with it or lack: threads, connections, files,
event loops, child processes; and during whose import each appeared. It only looks.

Plain standard library from Python 3.9 on; Linux's proc(5). asyncio, multiprocessing and gevent are
looked at where somebody has imported them, and not imported here.
"""

import _socket
import fcntl
import logging
import os
import select
import socket
import stat
import struct
import sys
import threading
from typing import (
    Any,
    Callable,
    Collection,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from .template_gevent import hub
from .template_imports import Follower

# A thread that is about to end is no finding: it has so many looks, so many seconds apart.
LOOKS, BETWEEN_LOOKS = 4, 0.05
MOST_FINDINGS = 20
# Their native threads are stopped before a fork and made again after it, by pthread_atfork(3)
# (OpenBLAS: blas_thread_shutdown).
SAFE_NATIVE_THREADS = ("numpy", "scipy")
# By what they run: they begin again in a fork, by os.register_at_fork or at the next use (both were
# tried: python -m bench.fork_safety). What they connect in the template is a finding all the same.
SAFE_THREADS = ("opentelemetry.sdk", "sentry_sdk")
# Memory that is there to be shared: nobody moves in it.
SHARED_MEMORY = ("/dev/shm/", "/memfd:")
# The worst first.
ADVICE = {
    "connection": "workers would get one another's answers: close it when the app is imported (a "
                  "pool: empty it), and connect in each worker",
    "listening socket": "each worker would hold it, and nobody accepts there: open it in "
                        "gunicorn's when_ready, or in each worker",
    "thread": "it doesn't run in workers: start it in each (gunicorn's post_fork or "
              "post_worker_init), or when it is first needed",
    "native thread": "it doesn't run in workers, and what it holds locked stays so: import what "
                     "starts it in each worker, or see its documentation on fork",
    "temporary directory": "the first worker that ends removes it for all: make it in each worker",
    "child process": "it is no child of the workers, and need not outlive the template: start it "
                     "in each worker",
    "event loop": "workers would share its descriptors: make it in each worker",
    "file": "workers would share its position and its locks: close it when the app is imported (a "
            "database: its connection), or open it in each worker; a log: open it to append",
}
# What SQLite has open beside a database (sqlite.org, "Temporary Files Used By SQLite").
BESIDE_DATABASES = ("-wal", "-shm", "-journal")


class Finding(NamedTuple):
    """`kind`: a key of ADVICE. `what`: which one. `module`: during whose import it appeared, where
    that is known."""

    kind: str
    what: str
    module: Optional[str]

    def told(self) -> Dict[str, Optional[str]]:
        """As the master is told of it."""
        return {"kind": self.kind, "what": self.what[:300], "module": self.module,
                "advice": ADVICE[self.kind]}


class Watch(Follower):
    """Between `begin` and `end`, notes at each import of a module what there is that was not there
    before. What there was at the beginning is nobody's finding."""

    def __init__(self) -> None:
        super().__init__()
        self._first_tasks: Set[str] = set()
        self._first_descriptors: Set[Tuple[str, str]] = set()
        self._first_children: Set[int] = set()
        # Of what has appeared since: where it came from.
        self._tasks: Dict[str, Optional[str]] = {}
        self._descriptors: Dict[Tuple[str, str], Optional[str]] = {}
        self._children: Dict[int, Optional[str]] = {}
        self._known_tasks: Set[str] = set()
        self._known_descriptors: Set[str] = set()
        self._importing: List[str] = []
        self._told: Set[str] = set()

    def begin(self) -> None:
        self._first_tasks = self._known_tasks = set(_tasks())
        self._first_descriptors = {(name, _link(name)) for name in _descriptors()}
        self._known_descriptors = {name for name, link in self._first_descriptors if link}
        self._told = {link for _, link in self._first_descriptors}
        self._first_children = set(_children(*_tasks()))
        super().begin()

    def around(self, name: str, module: Any, execute: Callable[[Any], None]) -> None:
        self._look()
        self._importing.append(name)
        try:
            execute(module)
        finally:
            self._look()
            self._importing.remove(name)

    def _look(self) -> None:
        """Whatever is new appeared in the code of the module that is being imported."""
        module = self._importing[-1] if self._importing else None
        tasks = set(_tasks())
        for task in tasks - self._known_tasks:
            self._tasks[task] = module
        self._known_tasks = tasks
        descriptors = set(_descriptors())
        for name in descriptors - self._known_descriptors:
            link = _link(name)
            if link:
                self._descriptors[name, link] = module
            else:
                descriptors.discard(name)
        self._known_descriptors = descriptors
        for pid in _children(str(os.getpid())):
            self._children.setdefault(pid, module)

    def findings(self) -> List[Finding]:
        """What there is now, the first ones."""
        self._look()
        found = [*self._of_threads(), *self._of_descriptors(), *self._of_children(), *_of_gevent(),
                 *_of_temporary_directories()]
        return in_order(found)[:MOST_FINDINGS]

    def connections_since(self, besides: Collection[int]) -> List[Finding]:
        """Those that a thread, say, has made after `findings` had looked; each is told once.
        `besides`: descriptors that are not looked at."""
        found = []
        for name in _descriptors():
            link = _link(name)
            if not link.startswith("socket:") or link in self._told or int(name) in besides:
                continue
            told = _of_socket(int(name))
            if told is not None and told[0] == "connection":
                self._told.add(link)
                found.append(Finding(*told, None))
        return found

    def _of_threads(self) -> Iterator[Finding]:
        tasks = set(_tasks()) - self._first_tasks
        for _ in range(LOOKS):
            if tasks:
                select.select([], [], [], BETWEEN_LOOKS)
                tasks &= set(_tasks())
        known = {str(each.native_id): each for each in threading.enumerate()}
        for task in sorted(tasks, key=int):
            module, thread = self._tasks.get(task), known.get(task)
            if thread is not None and _is_of(_home(thread), SAFE_THREADS):
                pass
            elif thread is not None:
                yield Finding("thread", _described(thread), module or _home(thread))
            elif not _is_of(module, SAFE_NATIVE_THREADS):
                yield Finding("native thread", "%r" % _text("/proc/self/task/%s/comm" % task),
                              module)

    def _of_descriptors(self) -> Iterator[Finding]:
        logs = _logs()
        for name in sorted(_descriptors(), key=int):
            there = name, _link(name)
            told = None if there in self._first_descriptors else _of_descriptor(*there, logs)
            if told is not None:
                self._told.add(there[1])
                yield Finding(*told, self._descriptors.get(there))

    def _of_children(self) -> Iterator[Finding]:
        module: Any = sys.modules.get("multiprocessing.resource_tracker")
        tracker = getattr(getattr(module, "_resource_tracker", None), "_pid", None)
        for pid in sorted(set(_children(*_tasks())) - self._first_children):
            name = ("multiprocessing's resource tracker" if pid == tracker
                    else "%r" % _text("/proc/%d/comm" % pid))
            yield Finding("child process", "%s (pid %d)" % (name, pid), self._children.get(pid))


def _is_of(module: Optional[str], packages: Sequence[str]) -> bool:
    return any(("%s." % module).startswith(package + ".") for package in packages)


def in_order(found: Sequence[Finding]) -> List[Finding]:
    """The worst first, and what is the same told once."""
    files = {each.what for each in found if each.kind == "file"}
    counts: Dict[Finding, int] = {}
    for each in sorted(found, key=lambda each: [*ADVICE].index(each.kind)):
        beside = next((end for end in BESIDE_DATABASES if each.what.endswith(end)), None)
        if each.kind != "file" or beside is None or each.what[:-len(beside)] not in files:
            counts[each] = counts.get(each, 0) + 1
    return [each if count == 1 else each._replace(what="%s (%d times)" % (each.what, count))
            for each, count in counts.items()]


def _described(thread: threading.Thread) -> str:
    target = _target(thread)
    function = getattr(target, "__func__", target)
    return "%r (%s.%s)" % (thread.name, getattr(function, "__module__", "?"),
                           getattr(function, "__qualname__", type(target).__name__))


def _home(thread: threading.Thread) -> Optional[str]:
    """The module of what a thread runs."""
    return getattr(_target(thread), "__module__", None)


def _target(thread: threading.Thread) -> Any:
    """What a thread runs: a function, or its class."""
    return getattr(thread, "_target", None) or type(thread)


def _of_descriptor(name: str, link: str, logs: Collection[int]) -> Optional[Tuple[str, str]]:
    """Kind and description of a descriptor that isn't safe to fork; None for one that is."""
    fd = int(name)
    if fd < 3 or fd in logs:
        return None
    if link.startswith("socket:"):
        return _of_socket(fd)
    if link == "anon_inode:[eventpoll]":
        return "event loop", "that waits by epoll"
    if not link.startswith("/") or link.startswith(SHARED_MEMORY):
        return None
    flags, mode = _opened(fd)
    writes = flags & os.O_ACCMODE != os.O_RDONLY and not flags & os.O_APPEND
    return ("file", link) if stat.S_ISREG(mode) and writes else None


def _opened(fd: int) -> Tuple[int, int]:
    """How a descriptor was opened, and the mode of what it is; of one that is closed that of
    nothing."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GETFL), os.fstat(fd).st_mode
    except OSError:
        return os.O_RDONLY, 0


def writes_files() -> bool:
    """Whether a file, or a pipe with a name, is open for writing, besides standard output and
    error."""
    for name in _descriptors():
        flags, mode = _opened(int(name))
        link = _link(name)  # of a file in memory alone nobody reads what is written late
        named = link.startswith("/") and not link.startswith("/memfd:")
        if (int(name) > 2 and named and (stat.S_ISREG(mode) or stat.S_ISFIFO(mode))
                and flags & os.O_ACCMODE != os.O_RDONLY):
            return True
    return False


def _of_socket(fd: int) -> Optional[Tuple[str, str]]:
    """A stream that is connected or listens. Datagrams are whole whoever sends them; a pair of
    sockets within one process is how an event loop wakes itself."""
    probe = _socket.socket(fileno=os.dup(fd))  # not `socket`, which an app may have patched
    try:
        if probe.type == _socket.SOCK_DGRAM:
            return None
        if probe.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN):
            return "listening socket", _address(probe.getsockname())
        peer = probe.getpeername()
        if not peer and probe.family == _socket.AF_UNIX:
            pid = struct.unpack("3i", probe.getsockopt(
                _socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))[0]
            return None if pid == os.getpid() else ("connection", "to pid %d" % pid)
        return "connection", "to " + _address(peer)
    except OSError:
        return None  # not connected
    finally:
        probe.close()


def _address(address: Any) -> str:
    if isinstance(address, tuple) and len(address) > 1:
        return ("[%s]:%s" if ":" in str(address[0]) else "%s:%s") % address[:2]
    return os.fsdecode(address) if isinstance(address, (bytes, str)) else repr(address)


def _of_gevent() -> Iterator[Finding]:
    """gevent makes its hub anew in a fork, but greenlets of before go on in each of them."""
    if hub() is not None:
        yield Finding("event loop", "gevent's hub", None)


def _of_temporary_directories() -> Iterator[Finding]:
    """Whoever has one removes it at its end, and so does each fork."""
    module: Any = sys.modules.get("weakref")
    for each in list(getattr(getattr(module, "finalize", None), "_registry", {}).values()):
        if getattr(getattr(each, "func", None), "__qualname__", "") == (
                "TemporaryDirectory._cleanup"):
            yield Finding("temporary directory", str((each.args or ("?",))[0]), None)


def _logs() -> Set[int]:
    """The descriptors to which `logging` writes."""
    found = set()
    for reference in list(getattr(logging, "_handlerList", ())):
        stream: Any = getattr(reference(), "stream", None)
        try:
            found.add(stream.fileno())
        except Exception:
            pass  # no file
    return found


def _tasks() -> List[str]:
    return os.listdir("/proc/self/task")


def _descriptors() -> List[str]:
    return os.listdir("/proc/self/fd")


def _link(name: str) -> str:
    try:
        return os.readlink("/proc/self/fd/" + name)
    except OSError:
        return ""  # the one by which they were listed


def _children(*tasks: str) -> List[int]:
    """Those that these threads of ours have started."""
    return [int(word) for task in tasks
            for word in _text("/proc/self/task/%s/children" % task).split()]


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return os.fsdecode(file.read()).strip()
    except OSError:
        return ""
