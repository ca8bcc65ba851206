"""Counts the requests of gunicorn's tornado worker, which calls its `handle_request` only when a
connection is closed: by what passes between tornado's connection and whom it delegates to.

Nothing of tornado's is imported before its worker class has. Plain standard library from Python 3.9
on.
"""

import sys
from typing import Any

from .busy_slot import Slot
from .traffic_slot import TrafficSlot


def count(worker: Any, slot: Slot, traffic: TrafficSlot) -> None:
    """Let the worker count its requests."""
    server_class = sys.modules["tornado.httpserver"].HTTPServer
    start_request = server_class.start_request

    def start_and_count(server: Any, server_connection: Any, connection: Any) -> Any:
        delegate = start_request(server, server_connection, connection)
        if server is worker.server:  # and not one of the app's own
            Request(delegate, connection).count(slot, traffic)
        return delegate

    server_class.start_request = start_and_count


class Request:
    """One request, from its head until it is read and answered; a websocket is none from when it is
    one."""

    def __init__(self, delegate: Any, connection: Any) -> None:
        self.delegate, self.connection = delegate, connection
        self.begun = 0.0
        self.status = self.bytes_out = 0
        self.complete = self.failed = False

    def count(self, slot: Slot, traffic: TrafficSlot) -> None:
        delegate, connection = self.delegate, self.connection
        headers_received, call_app = delegate.headers_received, delegate.finish
        read_response, write_headers = connection.read_response, connection.write_headers
        write, finish = connection.write, connection.finish

        def begin(*arguments: Any) -> Any:
            self.begun = slot.begin()
            return headers_received(*arguments)

        def called() -> Any:
            try:
                return call_app()
            except Exception:
                self.failed = True
                raise

        def head(start_line: Any, headers: Any, chunk: Any = None) -> Any:
            done = write_headers(start_line, headers, chunk)
            self.status = start_line.code
            self.bytes_out += len(chunk or b"")
            return done

        def body(chunk: Any) -> Any:
            done = write(chunk)
            self.bytes_out += len(chunk)
            return done

        def end() -> Any:
            self.complete = not connection.stream.closed()
            return finish()

        async def read_and_end(*arguments: Any) -> Any:
            try:
                return await read_response(*arguments)
            finally:
                if self.begun:
                    self.note(traffic, slot.end())

        delegate.headers_received, delegate.finish = begin, called
        connection.read_response, connection.write_headers = read_and_end, head
        connection.write, connection.finish = body, end

    def note(self, traffic: TrafficSlot, now: float) -> None:
        aborted = not self.complete and not self.failed and self.status != 101
        traffic.note(now, self.status, now - self.begun, self.bytes_out, self.failed, aborted)
