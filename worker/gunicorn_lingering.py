"""How gthread's connections end: those that were answered aside, by a thread of their own, and none
that has just spoken.

gunicorn waits in its one main thread until each client has closed its end too, for up to two
seconds each. Some slow clients, or a busy host, are then enough for no heartbeat: the worker is
taken for hung and killed with everybody's requests.

And after a worker has stood still (SIGSTOP, a busy host), gunicorn looks at the clock before it
looks at its connections: one that was kept alive and has asked meanwhile was closed as idle.
"""

import selectors
import socket
import sys
import threading
import time
from typing import Any, Callable, Dict, List

# What gunicorn's own close_graceful allows: seconds, and bytes that nobody will read.
LONGEST, MOST = 2.0, 64 * 1024
# For so long, in seconds, one more waits until the thread knows of it: its answer has gone out
# before.
NOTICED_WITHIN = 0.05


def mend(worker: Any) -> None:
    """Let the connections of a gthread worker end so; called before it serves."""
    connections = sys.modules[worker.finish_request.__func__.__module__].TConn
    close, lingering = connections.close, Lingering()

    def close_aside(connection: Any, graceful: bool = False) -> None:
        if graceful:
            lingering.close(connection.sock)
        else:
            close(connection)

    connections.close = close_aside
    worker.murder_keepalived = _after_hearing(worker, worker.murder_keepalived,
                                              worker.keepalived_conns)
    worker.murder_pending = _after_hearing(worker, worker.murder_pending, worker.pending_conns)


def _after_hearing(worker: Any, murder: Callable[..., None],
                   connections: Any) -> Callable[..., None]:
    """`murder`, but first hear what was said in time; `connections`: those that it judges, the next
    one first."""

    def murder_later(*words: Any, **named: Any) -> None:
        if connections and connections[0].timeout <= time.monotonic():
            worker.wait_for_and_dispatch_events(0)
        murder(*words, **named)

    return murder_later


class Lingering:
    """Sockets that are half closed: each one is closed when its client has, or in the end. The
    thread lives as long as there are any, and the process as long as the thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._new: List[socket.socket] = []
        self._runs = False

    def close(self, closing: socket.socket) -> None:
        """Send the end of the answer now, and close when the client has; never waits."""
        try:
            closing.shutdown(socket.SHUT_WR)
            closing.setblocking(False)
        except OSError:
            closing.close()
            return
        with self._lock:
            self._new.append(closing)
            if self._runs:
                return
            self._runs = True
        try:
            threading.Thread(target=self._linger).start()
        except RuntimeError:  # no thread is to be had: as without us
            self._linger()

    def _linger(self) -> None:
        with selectors.DefaultSelector() as selector:
            # when it is over, and how much it may still send
            left: Dict[socket.socket, List[float]] = {}
            while self._take(selector, left):
                for key, _ in selector.select(NOTICED_WITHIN):
                    if not _drained(key.fileobj, left[key.fileobj]):  # type: ignore[index]
                        left[key.fileobj][0] = 0.0  # type: ignore[index]
                now = time.monotonic()
                for each in [each for each, (until, _) in left.items() if until <= now]:
                    selector.unregister(each)
                    each.close()
                    del left[each]

    def _take(self, selector: selectors.BaseSelector, left: Dict[socket.socket,
                                                                 List[float]]) -> bool:
        """Take what has come; return whether there is anything left to do."""
        with self._lock:
            new, self._new = self._new, []
            for each in new:
                selector.register(each, selectors.EVENT_READ)
                left[each] = [time.monotonic() + LONGEST, MOST]
            self._runs = bool(left)
            return self._runs


def _drained(closing: Any, left: List[float]) -> bool:
    """Read what is there; return whether more may come."""
    try:
        data = closing.recv(4096)
    except (BlockingIOError, InterruptedError):
        return True
    except OSError:
        return False
    left[1] -= len(data)
    return bool(data) and left[1] > 0
