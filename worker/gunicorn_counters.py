"""How a worker of gunicorn's says that it lives, and by what its requests are counted, for each
kind of worker class. Where the counts go: busy_slot.py, traffic_slot.py.

Plain standard library from Python 3.9 on; loaded by the adapter.
"""

import os
from inspect import signature
from typing import Any, Callable, Optional

from . import gunicorn_responses, gunicorn_tornado
from .busy_slot import Slot
from .traffic_slot import TrafficSlot


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


def count_requests(worker: Any, slot: Slot, traffic: TrafficSlot) -> None:
    """Let a worker count its requests, where it can, or say that it doesn't. Those of ASGI apps
    `asgi_counting` counts."""
    way = way_of_counting(type(worker))
    if way in ("", "unsure"):
        slot.does_not_count()
    else:
        traffic.counts()
    if way in ("request", "unsure"):
        gunicorn_responses.remember()
        worker.handle_request = counted(worker.handle_request, slot, traffic)
        if hasattr(worker, "handle_http2_request"):
            worker.handle_http2_request = counted(worker.handle_http2_request, slot, traffic)
    elif way == "handler":
        # gevent_pywsgi and what derives from it, such as GeventWebSocketWorker: the server calls
        # the app, not the worker.
        worker.wsgi_handler = counting_handler(handler_class(worker), slot, traffic)
    elif way == "tornado":
        gunicorn_tornado.count(worker, slot, traffic)


def handler_class(worker: Any) -> Any:
    """The class of gevent's that handles the connections of a worker, or of a worker class."""
    return worker.wsgi_handler or getattr(worker.server_class, "handler_class", None)


def counted(handle: Callable[..., Any], slot: Slot, traffic: TrafficSlot) -> Callable[..., Any]:
    """What handles one request of gunicorn's, counted."""
    names = [*signature(handle).parameters]
    at = names.index("req") if "req" in names else 0
    begin, end, note = slot.begin, slot.end, traffic.note

    def handle_and_count(*arguments: Any) -> Any:
        begun, req = begin(), arguments[at]
        try:
            result = handle(*arguments)
        except BaseException as error:
            ended = end()
            outcome = gunicorn_responses.of_exception(gunicorn_responses.forget(req), error)
            note(ended, outcome.status, ended - begun, *outcome[1:])
            raise
        ended = end()
        response = gunicorn_responses.forget(req)
        if response is not None and response.sent and not response.upgrade:  # most of them
            note(ended, response.status_code or 0, ended - begun, response.sent)
        else:
            outcome = gunicorn_responses.of_response(response)
            note(ended, outcome.status, ended - begun, *outcome[1:])
        return result

    return handle_and_count


def counting_handler(handler: Any, slot: Slot, traffic: TrafficSlot) -> Any:
    """The class of gevent's handler, counting."""

    class Counting(handler):  # type: ignore[misc]
        bytes_out = 0

        def _write(self, data: Any, *arguments: Any) -> None:
            super()._write(data, *arguments)
            self.bytes_out += len(data)

        def run_application(self) -> None:
            begun, self.bytes_out = slot.begin(), 0
            error: Optional[BaseException] = None
            try:
                super().run_application()
            except BaseException as raised:
                error = raised
                raise
            finally:
                ended = slot.end()
                outcome = gunicorn_responses.of_handler(self, self.bytes_out, error)
                error = None  # it knows this frame
                traffic.note(ended, outcome.status, ended - begun, *outcome[1:])

    Counting.__name__ = handler.__name__
    return Counting
