"""A worker's own slot of the master's page: heartbeat and counters, written without a system call.

The layout stands in supervisor/launch/shared_page.py. Plain standard library from Python 3.9 on;
loaded by the adapter.
"""

import _thread
import mmap
import os
import sys
import time
from typing import Any, Callable, Optional

LAYOUT_VERSION = 1.0
SLOT_SIZE = 256
RING = 16


class Slot:
    """One slot. `limit`: after so many requests `reached` is called with a sentence, until it
    returns True (0: never)."""

    def __init__(self, fd: int, offset: int, limit: int, reached: Callable[[str], bool]) -> None:
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        page = mmap.mmap(fd, offset - start + SLOT_SIZE, offset=start)
        # Assigning to a view of doubles stores eight aligned bytes at once; struct.pack_into writes
        # them one by one.
        self.words = memoryview(page)[offset - start : offset - start + SLOT_SIZE].cast("d")
        self.words[0] = LAYOUT_VERSION
        self.counts = True
        # A lock that gevent has not patched: nothing below ever waits for another greenlet.
        self.lock = _thread.allocate_lock()
        self.limit = limit
        self.reached = reached
        self.now = time.monotonic

    def does_not_count(self) -> None:
        """Nothing here counts requests, as far as anybody knows; the first one that is counted
        shows that something does."""
        self.counts = False
        self.words[24] = 1.0

    def beat(self) -> None:
        """A sign of life."""
        self.words[2] = self.now()

    def begin(self) -> None:
        """A request begins."""
        words = self.words
        with self.lock:
            words[1] += 1.0
            words[4] += 1.0
            if not self.counts:
                self.counts, words[24] = True, 0.0
            if words[4] == 1.0:
                now = self.now()
                self.fill_ring(now, 0.0)
                words[6] = now
            words[1] += 1.0

    def end(self) -> None:
        """A request is over, well or not."""
        words = self.words
        with self.lock:
            words[1] += 1.0
            words[3] += 1.0
            words[4] -= 1.0
            if words[4] == 0.0:
                now, since = self.now(), words[6]
                self.fill_ring(now, since)
                words[5] += now - since
                words[6] = 0.0
            words[1] += 1.0
            full = 0 < self.limit <= words[3]
        if full and self.reached("served %d requests" % self.limit):
            self.limit = 0

    def fill_ring(self, now: float, since: float) -> None:
        """Note the busy seconds at the beginning of every second up to `now`; `since`: when we
        became busy, 0.0 if idle."""
        words = self.words
        newest, second = int(words[7]), int(now)
        if newest == second:
            return
        for each in range(max(newest + 1, second - RING + 1), second + 1):
            words[8 + each % RING] = words[5] + (max(0.0, each - since) if since else 0.0)
        words[7] = float(second)


class Heartbeat:
    """Stands in for gunicorn's temporary file, whose `notify` its workers call: the time goes to
    our slot. The first one since `serving` comes when the worker really serves, in every worker
    class; `first` is called then, and by the next one again until it has returned True. What comes
    before is a sign of life alone: some beat while they import the app."""

    serving = False

    def __init__(self, fd: int, slot: Slot, first: Callable[[], bool]) -> None:
        self.first: Optional[Callable[[], bool]] = first
        self.fd = fd
        self.slot = slot
        os.set_inheritable(fd, False)

    def notify(self) -> None:
        if self.serving and self.first is not None:
            first, self.first = self.first, None  # the app may notify too, while it warms up
            if not first():
                self.first = first
        self.slot.beat()

    def last_update(self) -> float:
        return float(self.slot.words[2])

    def fileno(self) -> int:
        return self.fd

    def close(self) -> None:
        pass


def way_of_counting(worker_class: Any) -> str:
    """By what the requests of a worker class are counted: `request`, `unsure` (it has what would be
    called, but it isn't one of gunicorn's own), `handler` (gevent's WSGI server), `tornado`,
    `asgi`; empty where by nothing that we know."""
    names = {base.__name__ for base in worker_class.__mro__}
    if getattr(worker_class, "server_class", None) is not None:
        return "handler" if hasattr(handler_class(worker_class), "run_application") else ""
    if "TornadoWorker" in names:
        return "tornado"
    if hasattr(worker_class, "handle_request"):
        return "request" if names & {"SyncWorker", "ThreadWorker", "AsyncWorker"} else "unsure"
    return "asgi" if names & {"ASGIWorker", "UvicornWorker"} else ""


def count_requests(worker: Any, slot: Slot) -> None:
    """Let a worker count its requests, where it can, or say that it doesn't. Those of ASGI apps
    `counted_asgi` counts."""
    way = way_of_counting(type(worker))
    if way in ("", "unsure"):
        slot.does_not_count()
    if way in ("request", "unsure"):
        worker.handle_request = counted(worker.handle_request, slot)
        if hasattr(worker, "handle_http2_request"):
            worker.handle_http2_request = counted(worker.handle_http2_request, slot)
    elif way == "handler":
        # gevent_pywsgi and what derives from it, such as GeventWebSocketWorker: the server calls
        # the app, not the worker.
        handler = handler_class(worker)
        run_application = counted(handler.run_application, slot)
        worker.wsgi_handler = type(handler.__name__, (handler,),
                                   {"run_application": lambda self: run_application(self)})
    elif way == "tornado":
        count_tornado(worker, slot)


def handler_class(worker: Any) -> Any:
    """The class of gevent's that handles the connections of a worker, or of a worker class."""
    return worker.wsgi_handler or getattr(worker.server_class, "handler_class", None)


def counted(handle: Callable[..., Any], slot: Slot) -> Callable[..., Any]:
    """What handles one request, counted."""

    def handle_and_count(*arguments: Any) -> Any:
        slot.begin()
        try:
            return handle(*arguments)
        finally:
            slot.end()

    return handle_and_count


def count_tornado(worker: Any, slot: Slot) -> None:
    """tornado's worker calls its `handle_request` when a connection is closed. A request lasts from
    its head until it is read and answered; a websocket is none from when it is one."""
    server_class = sys.modules["tornado.httpserver"].HTTPServer
    start_request = server_class.start_request

    def start_and_count(server: Any, server_connection: Any, connection: Any) -> Any:
        delegate = start_request(server, server_connection, connection)
        if server is not worker.server:
            return delegate  # one of the app's own
        headers_received, read_response = delegate.headers_received, connection.read_response
        begun = []

        def begin(*arguments: Any) -> Any:
            begun.append(True)
            slot.begin()
            return headers_received(*arguments)

        async def read_and_end(*arguments: Any) -> Any:
            try:
                return await read_response(*arguments)
            finally:
                if begun:
                    slot.end()

        delegate.headers_received, connection.read_response = begin, read_and_end
        return delegate

    server_class.start_request = start_and_count


def counted_asgi(app: Any, slot: Slot) -> Any:
    """An ASGI app around `app` whose requests and websockets are counted."""

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        slot.begin()
        try:
            await app(scope, receive, send)
        finally:
            slot.end()

    return counted
