"""Asks the clients of an asyncio server's HTTP/2 connections to go elsewhere: by a GOAWAY that
refuses nothing (RFC 9113, section 6.8), in one piece with the end of an answer where no other is
open, since some clients can't read an answer that comes after it.

hypercorn, as of 0.18, closes a connection before it has written the end of the last answer, once it
has been told to leave. So it is told when the answers have their ends.

For servers on asyncio's streams, as hypercorn is: it looks at what they write, which is whole
frames, and leaves the protocol to them. Plain standard library from Python 3.9 on.
"""

import asyncio
import contextvars
import time
import weakref
from typing import Any, Callable, Optional, Set

from .accepting import LAST_STREAM, ends_of_streams, goaway

# So long, in seconds, it waits for an answer to go with.
PATIENCE = 0.5
# What a client has sent before it has read the GOAWAY has come after so many seconds.
ROUND_TRIP = 1.0
# So often, in seconds, it looks whether the answers have their ends.
LOOK = 0.1
_ours: "contextvars.ContextVar[Optional[Connection]]" = contextvars.ContextVar(
    "einhornpy_connection", default=None)


class Connection:
    """The transport of one connection, as its server sees it. `open`: requests without an end of
    their answer; None until one has come by HTTP/2. `parallel`: there were several. `told_at`: when
    the client was asked to go."""

    def __init__(self, transport: Any, goodbyes: "Goodbyes") -> None:
        self._transport = transport
        self._goodbyes = goodbyes
        self.open: Optional[int] = None
        self.parallel = False
        self.told_at: Optional[float] = None
        self.running: Set[Request] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: Any) -> None:
        if self.open is not None:
            ended = ends_of_streams(data)
            self.open = max(0, self.open - (ended or 0))
            if ended and not self.open and self._goodbyes.retiring and self.told_at is None:
                self.told_at = time.monotonic()
                data = bytes(data) + goaway(LAST_STREAM)
        self._transport.write(data)

    def tell(self) -> None:
        if self.open == 1 and not self.parallel:
            return  # the end of that answer will say it
        if self.open is not None and self.told_at is None and not self._transport.is_closing():
            self.told_at = time.monotonic()
            self._transport.write(goaway(LAST_STREAM))

    def unfinished(self) -> bool:
        """Whether an answer may still lack its end: an app runs, or its client, who is slow to
        read, has yet to take what comes before that."""
        return not self._transport.is_closing() and bool(
            self.running or (self.open and self._transport.get_write_buffer_size()))


class Request:
    """One that is answered by an app."""

    def __init__(self, connection: Connection) -> None:
        self._running = connection.running
        connection.open = (connection.open or 0) + 1
        connection.parallel = connection.parallel or connection.open > 1
        told_at = connection.told_at
        # Nobody waits for a client that doesn't go.
        if told_at is None or time.monotonic() < told_at + ROUND_TRIP:
            self._running.add(self)

    def over(self) -> None:
        """The app has returned."""
        self._running.discard(self)


class Goodbyes:
    """Those of one worker."""

    def __init__(self) -> None:
        self.retiring = False
        self._connections: "weakref.WeakSet[Connection]" = weakref.WeakSet()

    def around(self, factory: Callable[[], Any]) -> Callable[[], Any]:
        """A protocol factory that makes what `factory` makes, and gets to know its transports."""

        def make() -> Any:
            protocol = factory()
            if isinstance(protocol, asyncio.StreamReaderProtocol):
                made = protocol.connection_made

                def meet(transport: Any) -> None:
                    connection = Connection(transport, self)
                    self._connections.add(connection)
                    # The tasks that serve it inherit the context.
                    context = contextvars.copy_context()
                    context.run(_ours.set, connection)
                    context.run(made, connection)  # type: ignore[arg-type]

                protocol.connection_made = meet  # type: ignore[method-assign]
            return protocol

        return make

    def begin(self, loop: Any) -> None:
        """The worker retires."""
        self.retiring = True
        loop.call_later(PATIENCE, self._tell_all)

    def _tell_all(self) -> None:
        for connection in list(self._connections):
            connection.tell()

    def when_finished(self, loop: Any, config: Any, leave: Callable[[], None]) -> None:
        """Call `leave` when all answers have their ends. `config`: the server's, whose
        `graceful_timeout` (seconds, as hypercorn has it) bounds the wait; it becomes what is left
        of it."""
        most = getattr(config, "graceful_timeout", 0.0)
        began = loop.time()

        def look() -> None:
            waited = loop.time() - began
            if waited < most - min(1.0, most / 10) and any(
                    connection.unfinished() for connection in list(self._connections)):
                self._tell_all()
                loop.call_later(LOOK, look)
                return
            if waited and most:
                config.graceful_timeout = max(0.0, most - waited)
            leave()

        look()


def request_begun() -> Optional[Request]:
    """Called in the task of an HTTP/2 request; None where its client won't be asked to go."""
    connection = _ours.get()
    return None if connection is None else Request(connection)
