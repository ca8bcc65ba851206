"""What an app's own worker process may say to einhornpy and ask of it: standard library only,
Python 3.9 or newer.

Everything here is a no-op with an empty answer where the process is not a worker of einhornpy's:
only a direct child of the master is one, so a process that a worker forks, and that inherits its
environment, says nothing in its name.
"""

import json
import os
import signal
import socket
import time
from array import array
from dataclasses import dataclass
from types import FrameType
from typing import Any, Callable, List, Optional, Sequence

from .master_socket import connect

__all__ = [
    "Info", "UpgradeRefused", "answered", "heartbeat", "info", "listeners", "on_retire", "ready",
    "request_upgrade", "template"]

REQUEST_TIMEOUT = 10
_listeners: Optional[List[socket.socket]] = None
# Where this worker counts what it has answered; False where it can't.
_traffic: Any = None
_callbacks: List[Callable[[], None]] = []
# Where we are to be a template: what is imported from now on is told apart by its module.
_begun: Any = None
if "EINHORNPY_ADAPTER" in os.environ:
    from . import template_program

    _begun = template_program.begin()


class UpgradeRefused(RuntimeError):
    """The master said no; the message says why."""


@dataclass(frozen=True)
class Info:
    """Who we are. `index`: our seat, from 0. `generation`: the number of our code; `release`: its
    label, if it has one. `timeout`: seconds; a worker whose last heartbeat is older is taken for
    hung (None: nobody waits for heartbeats)."""

    index: int
    generation: int
    release: Optional[str]
    timeout: Optional[float]


def _is_worker() -> bool:
    # A template has no seat.
    return ("EINHORN_CHILD_INDEX" in os.environ
            and os.environ.get("EINHORN_MASTER_PID") == str(os.getppid()))


def info() -> Optional[Info]:
    """Return who we are; None where this is not a worker."""
    if not _is_worker():
        return None
    limit = os.environ.get("WATCHDOG_USEC")
    return Info(int(os.environ["EINHORN_CHILD_INDEX"]), int(os.environ["EINHORNPY_GENERATION"]),
                os.environ.get("EINHORNPY_RELEASE"), None if limit is None else int(limit) / 1e6)


def template() -> bool:
    """Say that everything is imported, and that this process can be forked; returns in each worker
    that is. Return whether this process was forked.

    Under `einhornpy --preload` the program is started once for each generation, and its workers
    begin at this call: in milliseconds, and sharing the memory of what is imported. Open before it
    nothing that workers must not share: no connection, thread or event loop; what there is of these
    is told to the master. Without `--preload`, or where nobody of einhornpy's has started this
    process, it returns at once.
    """
    global _begun
    begun, _begun = _begun, None
    if begun is None:
        return False
    from . import template_program

    template_program.fork_here(begun)
    return True


def listeners() -> List[socket.socket]:
    """Return the listening sockets that the master holds, in the order of its addresses; the same
    objects each time.

    Accept from them, but don't call `listen` or `shutdown` on them: they are shared with every
    other worker.
    """
    global _listeners
    if not _is_worker():
        return []
    if _listeners is None:
        _listeners = [
            socket.socket(fileno=int(word)) for word in os.environ.get("EINHORN_FDS", "").split()]
        for listener in _listeners:
            listener.set_inheritable(False)
    return list(_listeners)


def ready() -> bool:
    """Say that we serve (`READY=1`, sd_notify(3)); return whether it was said."""
    return _notify(b"READY=1")


def heartbeat() -> bool:
    """Say that we are alive (`WATCHDOG=1`, sd_notify(3)); return whether it was said. From the
    first one on the master waits for the next: half of `info().timeout` is a good rhythm."""
    return _notify(b"WATCHDOG=1")


def answered(status: int, seconds: float, bytes_out: int = 0, exception: bool = False,
             aborted: bool = False) -> bool:
    """Count a request that this worker has answered; return whether it is counted. It costs no
    system call but at the first time.

    Not for what counts by itself: gunicorn's workers, and ASGI apps in `einhornpy.worker.asgi`.

    Args:
        status: of the answer, 100 to 599; 0 where there was none.
        seconds: from the request's beginning to the answer's end.
        bytes_out: of the body.
        exception: one of the app's reached the server.
        aborted: the client left before it had its answer.

    Raises:
        ValueError: there is no such status, or a number below 0 or beyond all sense.
    """
    global _traffic
    if not (status == 0 or 100 <= status <= 599):
        raise ValueError("status: expected 100 to 599, or 0 for no answer, not %r" % (status,))
    status, seconds, bytes_out = int(status), float(seconds), int(bytes_out)
    if not (0 <= seconds < 1e6 and 0 <= bytes_out < 1e12):
        raise ValueError("seconds and bytes_out: expected 0 or more, below 1e6 and 1e12, not %r "
                         "and %r" % (seconds, bytes_out))
    if _traffic is None:
        if not _is_worker():
            return False
        from . import own_page

        page = own_page.open_page(_notify, busy=False)
        _traffic = False if page is None else page.traffic
        os.register_at_fork(after_in_child=_count_no_more)
    if _traffic is False:
        return False
    _traffic.note(time.monotonic(), status, seconds, bytes_out, exception, aborted)
    return True


def _count_no_more() -> None:
    global _traffic
    _traffic = False


def _notify(text: bytes, descriptors: Sequence[int] = ()) -> bool:
    if not _is_worker():
        return False
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect(os.environ["NOTIFY_SOCKET"])
            notify.sendmsg([text], rights if descriptors else [])
    except OSError:
        return False  # the master is gone, or we have become a user that can't reach it
    return True


def on_retire(callback: Callable[[], None]) -> bool:
    """Call `callback` once when we are asked to finish and leave; return whether it will be.

    It runs in the main thread, from the handler of SIGTERM, SIGUSR2 or the master's
    `--stop-signal`, between any two instructions: let it set a flag, write to a pipe or start a
    thread. It must take no lock that the main thread may hold at that moment: `threading.Event.set`
    hangs where the main thread waits for that event. Several are called in their order.

    Raises:
        ValueError: not called in the main thread.
    """
    if not _is_worker():
        return False
    if not _callbacks:
        for name in {"SIGTERM", "SIGUSR2", os.environ.get("EINHORNPY_RETIRE_SIGNAL", "SIGTERM")}:
            signal.signal(signal.Signals[name], _retire)
    _callbacks.append(callback)
    return True


def _retire(number: int, frame: Optional[FrameType]) -> None:
    callbacks = list(_callbacks)
    del _callbacks[:]
    for callback in callbacks:
        callback()


def request_upgrade(release: Optional[str] = None) -> Optional[int]:
    """Ask the master to replace every worker by one of the newest code; return the number of the
    new generation, None where this is not a worker. An upgrade that is under way already counts, if
    it will replace this worker.

    Raises:
        UpgradeRefused: the master said no, for instance because we are the new code of an upgrade
            that isn't over yet.
        OSError: the master could not be reached, or gave no answer in 10 s (TimeoutError).
    """
    if not _is_worker():
        return None
    request = {"id": 1, "command": "worker:upgrade"}
    if release is not None:
        request["release"] = release
    try:
        with connect(os.environ["EINHORN_SOCK_PATH"], REQUEST_TIMEOUT) as master:
            master.sendall(json.dumps(request).encode() + b"\n")
            with master.makefile("rb") as replies:
                line = replies.readline()
    except (TimeoutError, socket.timeout) as error:
        raise TimeoutError("the master gave no answer in %d s" % REQUEST_TIMEOUT) from error
    if not line:
        raise ConnectionError("the master hung up")
    reply = json.loads(line)
    if not reply["ok"]:
        raise UpgradeRefused(reply["message"])
    return int(reply["result"]["generation"])
