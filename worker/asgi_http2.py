"""Asks the clients of an asyncio server's HTTP/2 connections to go elsewhere: by a GOAWAY that
refuses nothing (RFC 9113, section 6.8), in one piece with the end of an answer where no other is
open, since some clients can't read an answer that comes after it.

For servers on asyncio's streams, as hypercorn is: it looks at what they write, which is whole
frames, and leaves the protocol to them. Plain standard library from Python 3.9 on.
"""

import asyncio
import contextvars
import weakref
from typing import Any, Callable, Optional

from .accepting import LAST_STREAM, goaway

# So long, in seconds, it waits for an answer to go with.
PATIENCE = 0.5
# RFC 9113, section 6: types of frames, and the flag by which one ends its stream.
DATA, HEADERS, RST_STREAM, END_STREAM = 0x0, 0x1, 0x3, 0x1
_ours: "contextvars.ContextVar[Optional[Connection]]" = contextvars.ContextVar(
    "einhornpy_connection", default=None)


class Connection:
    """The transport of one connection, as its server sees it. `open`: requests without an end of
    their answer; None until one has come by HTTP/2. `told`: the client is asked to go."""

    def __init__(self, transport: Any, goodbyes: "Goodbyes") -> None:
        self._transport = transport
        self._goodbyes = goodbyes
        self.open: Optional[int] = None
        self.told = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: Any) -> None:
        if self.open is not None:
            ended = ends_of_streams(data)
            self.open = max(0, self.open - (ended or 0))
            if ended and not self.open and self._goodbyes.retiring and not self.told:
                self.told = True
                data = bytes(data) + goaway(LAST_STREAM)
        self._transport.write(data)

    def tell(self) -> None:
        if self.open is not None and not self.told and not self._transport.is_closing():
            self.told = True
            self._transport.write(goaway(LAST_STREAM))


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


def request_begun() -> bool:
    """Called in the task of an HTTP/2 request; return whether its client will be asked to go."""
    connection = _ours.get()
    if connection is None:
        return False
    connection.open = (connection.open or 0) + 1
    return True


def ends_of_streams(data: Any) -> Optional[int]:
    """How many streams these frames end; None where they are not whole frames."""
    at = ended = 0
    while at + 9 <= len(data):
        kind, flags = data[at + 3], data[at + 4]
        ended += kind == RST_STREAM or (kind in (DATA, HEADERS) and bool(flags & END_STREAM))
        at += 9 + int.from_bytes(data[at:at + 3], "big")
    return ended if at == len(data) else None
