"""The control socket inside the master: accepts, checks credentials, frames, and sends without ever waiting.

It knows no command; each request goes to the one handler that it was given. A client that is slow, silent, rude or
gone costs the others nothing: what it doesn't read is dropped or replaced by something newer, then it is cut off.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from . import protocol

MOST_UNREAD = 4 << 20
READ, WRITE = 1, 2


class Loop(Protocol):
    """What the server needs of the master's loop."""

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None: ...
    def unwatch(self, fd: int) -> None: ...


class Session:
    """One client. `pid`, `uid`: what the kernel says it was when it connected. `close_handlers` run once at its end."""

    def __init__(self, server: Server, connection: socket.socket) -> None:
        self._server = server
        self._socket = connection
        self._framer = protocol.Framer()
        self._unsent = bytearray()
        self._newest: Callable[[], Mapping[str, Any]] | None = None
        self._last_words = False
        self.closed = False
        self.close_handlers: list[Callable[[], None]] = []
        self.long_running = False
        # struct ucred, see unix(7).
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("=iII"))
        self.pid, self.uid, _ = struct.unpack("=iII", credentials)

    def send(self, message: Mapping[str, Any]) -> None:
        """Queue a message; a client that leaves too many unread is cut off."""
        if self.closed or self._last_words:
            return
        self._unsent += protocol.encode(message)
        if len(self._unsent) > MOST_UNREAD:
            self.close()
        else:
            self._flush()

    def send_newest(self, make: Callable[[], Mapping[str, Any]]) -> None:
        """Send `make()`, or, while earlier messages are unread, remember only the newest such call."""
        self._newest = make
        self._flush()

    def finish(self, message: Mapping[str, Any] | None = None) -> None:
        """Send a last message, then close."""
        if message is not None:
            self.send(message)
        self._last_words = True
        self._flush()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._server.forget(self)
        self._socket.close()
        for handler in self.close_handlers:
            handler()

    def fileno(self) -> int:
        return self._socket.fileno()

    def on_event(self, events: int) -> None:
        if events & READ:
            self._read()
        if events & WRITE and not self.closed:
            self._flush()

    def _read(self) -> None:
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            # It may have shut down only its writing side and still want its answers; but one that has closed for
            # good looks the same until a write fails.
            if not self.long_running and not self._unsent:
                self.close()
            else:
                self._last_words = not self.long_running
                self._server.watch(self, WRITE if self._unsent else 0)
            return
        try:
            for line in self._framer.feed(data):
                if line.strip() and not self.closed and not self._last_words:
                    self._server.dispatch(self, line)
        except protocol.BadRequest as error:
            self.finish(protocol.failure(None, error.code, str(error)))

    def _flush(self) -> None:
        if self.closed:
            return
        try:
            while True:
                if not self._unsent and self._newest is not None and not self._last_words:
                    make, self._newest = self._newest, None
                    self._unsent += protocol.encode(make())
                if not self._unsent:
                    break
                sent = self._socket.send(self._unsent)
                del self._unsent[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._last_words and not self._unsent:
            self.close()
        else:
            self._server.watch(self, READ | (WRITE if self._unsent else 0))


class Server:
    """The listening half. `most_sessions`: beyond it the session that has been idle longest makes room."""

    def __init__(
        self, loop: Loop, listener: socket.socket, handler: Callable[[Session, protocol.Request], None],
        owner: int, most_sessions: int,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._handler = handler
        self._owner = owner
        self._most = most_sessions
        self._sessions: dict[Session, None] = {}
        self._full = False
        listener.setblocking(False)
        loop.watch(listener.fileno(), READ, self._accept)

    def _accept(self, events: int) -> None:
        for _ in range(64):  # then let the rest of the loop have its turn
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE) and self._evict():
                    continue
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    # Nobody to send away: stop listening until a session ends, or we would spin.
                    self._full = True
                    self._loop.unwatch(self._listener.fileno())
                return
            connection.setblocking(False)
            if len(self._sessions) >= self._most:
                self._evict()
            session = Session(self, connection)
            self._sessions[session] = None
            self.watch(session, READ)

    def _evict(self) -> bool:
        for session in self._sessions:
            if not session.long_running:
                session.close()
                return True
        return False

    def watch(self, session: Session, events: int) -> None:
        if events:
            self._loop.watch(session.fileno(), events, session.on_event)
        else:
            self._loop.unwatch(session.fileno())

    def forget(self, session: Session) -> None:
        self._loop.unwatch(session.fileno())
        self._sessions.pop(session, None)
        if self._full:
            self._full = False
            self._loop.watch(self._listener.fileno(), READ, self._accept)

    def dispatch(self, session: Session, line: bytes) -> None:
        self._sessions.pop(session, None)
        self._sessions[session] = None  # the one that spoke last is evicted last
        try:
            request = protocol.parse_request(line)
            if session.uid not in (0, self._owner) and request.command not in protocol.WORKER_COMMANDS:
                raise protocol.BadRequest(
                    "not-allowed", f"user {session.uid} may not: expected user {self._owner} or root", request.id
                )
            self._handler(session, request)
        except protocol.BadRequest as error:
            session.send(protocol.failure(error.request_id, error.code, str(error)))

    def close(self) -> None:
        """Close the listener and every session; what was queued for them is sent as far as it can be at once."""
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()
        for session in list(self._sessions):
            session.close()
