"""One client of the control socket: what it has said and was not carried out yet, what it has not
read yet. It never waits, and knows no command: each line goes to the server (server.py).
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ...shared import peer, protocol
from ...shared.frozen import dataclass
from ..system.part import Kept
from ..system.plain_data import Unreadable, from_plain

if TYPE_CHECKING:
    from .server import Server

MOST_UNREAD = 4 << 20
# Whoever has left more of his answers unread is not read himself.
MOST_BEFORE_READING = 1 << 16
# What somebody who may ask for nothing may leave half said.
MOST_OF_A_STRANGER = 8192
READ, WRITE = 1, 2


@dataclass(frozen=True, slots=True)
class KeptSession(Kept):
    """`role`: what it waits for."""

    fd: int
    peer: tuple[int, int, int]
    unsent: str
    begun: str
    last_words: bool
    long: bool
    worker_only: bool
    role: Mapping[str, Any]
    looking_only: bool = False

    def descriptors(self) -> Iterable[int]:
        return [self.fd]

    def texts(self) -> Iterable[str]:
        return self.unsent, self.begun

    def doubts(self) -> Iterator[str]:
        try:
            from_plain(tuple[tuple[Any, int], ...], self.role.get("upgrade", ()))
            from_plain(tuple[tuple[Any, int], ...], self.role.get("until_exchanged", ()))
            from_plain(tuple[Any, ...], self.role.get("reload", ()))
        except Unreadable as error:
            yield f"a session waits for {dict(self.role)}: {error}"


class Session:
    """One client. `pid`, `uid`, `gid`: what the kernel says it was when it connected; `worker`: the
    id of the worker that it is, 0 if it is none, found when it was accepted: whoever has its pid
    later is somebody else. `close_handlers` run once at its end. `worker_only`: a connection that a
    worker was born with; it is not closed after a word. `looking_only`: one that our own sidecar
    was born with; whoever it is, it may look and nothing else."""

    def __init__(self, server: Server, connection: socket.socket) -> None:
        self._server = server
        self._socket = connection
        self._framer = protocol.Framer()
        self._lines: deque[bytes] = deque()
        self._unsent = bytearray()
        self._longest = 0  # of the messages in there
        self._newest: Callable[[], Mapping[str, Any]] | None = None
        self._last_words = False
        self._said_all = False  # it has shut down its writing side
        self.closed = False
        self.close_handlers: list[Callable[[], None]] = []
        self.long_running = False
        self.worker_only = False
        self.looking_only = False
        self.pid, self.uid, self.gid = peer.credentials(connection)
        self.worker = 0

    @classmethod
    def taken_over(cls, server: Server, kept: KeptSession) -> Session:
        """Go on with a session of the master before us."""
        session = cls(server, socket.socket(fileno=kept.fd))
        session.pid, session.uid, session.gid = kept.peer
        session.worker = server.worker_of(session.pid)
        session._unsent += kept.unsent.encode("latin-1")
        session._longest = len(session._unsent)
        session._lines.extend(session._framer.feed(kept.begun.encode("latin-1")))
        session._last_words, session.long_running = kept.last_words, kept.long
        session.worker_only, session.looking_only = kept.worker_only, kept.looking_only
        return session

    def hand_over(self) -> dict[str, Any]:
        """What the next master needs to know. `fd` must stay open."""
        said = b"".join([*(line + b"\n" for line in self._lines), self._framer.begun])
        return {
            "fd": self.fileno(), "peer": [self.pid, self.uid, self.gid],
            "unsent": self._unsent.decode("latin-1"), "begun": said.decode("latin-1"),
            "last_words": self._last_words, "long": self.long_running,
            "worker_only": self.worker_only, "looking_only": self.looking_only}

    @property
    def may_steer(self) -> bool:
        """Whether it is one of those who may do everything; the others see less too."""
        return self._server.may_steer(self)

    def groups(self) -> set[int]:
        """The groups of the client."""
        return {self.gid, *peer.other_groups(self._socket)}

    def send(self, message: Mapping[str, Any]) -> None:
        """Queue a message; a client that leaves too many unread is cut off."""
        if self.closed or self._last_words:
            return
        # What it leaves unread is judged, not how long one answer is: the longest one is not
        # counted.
        if len(self._unsent) > MOST_UNREAD + self._longest:
            self.close()
            return
        self._queue(message)
        self._flush()

    def _queue(self, message: Mapping[str, Any]) -> None:
        encoded = protocol.encode(message)
        self._longest = max(self._longest, len(encoded))
        self._unsent += encoded

    def send_newest(self, make: Callable[[], Mapping[str, Any]]) -> None:
        """Send `make()`, or, while earlier messages are unread, remember only the newest such
        call."""
        self._newest = make
        self._flush()

    def finish(self, message: Mapping[str, Any] | None = None) -> None:
        """Send a last message, then close."""
        if message is not None:
            self.send(message)
        if self.worker_only:
            return
        self._last_words = True
        self._flush()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        try:
            self._server.forget(self)
        finally:  # else a client that is gone would wake us for ever
            self._socket.close()
            for handler in self.close_handlers:
                handler()

    def fileno(self) -> int:
        return self._socket.fileno()

    def on_event(self, events: int) -> None:
        try:
            if events & READ:
                self._read()
            if events & WRITE and not self.closed:
                self._flush()
        except Exception:
            self.close()  # whatever it was, it would be the same again
            raise

    def _read(self) -> None:
        if self._lines or self._said_all or self._last_words:
            return  # first what it has said already
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            # It may have shut down only its writing side and still want its answers.
            if self._hung_up() or (not self.long_running and not self._unsent):
                self.close()
            else:
                self._said_all, self._last_words = True, not self.long_running
                self.settle()
            return
        if len(self._framer.begun) + len(data) > MOST_OF_A_STRANGER and self._server.is_stranger(
                self):
            self.close()
            return
        try:
            self._lines.extend(line for line in self._framer.feed(data) if line.strip())
            self._server.has_lines(self, bool(self._lines))
        except protocol.BadRequest as error:
            # Nothing that comes after it can be trusted, whoever it is.
            self.worker_only = False
            self.finish(protocol.failure(None, error.code, str(error)))

    def dispatch_one(self) -> None:
        """Carry out one line; the loop has its turn before the next one, so that many on one
        connection delay nobody."""
        if self._lines and not self.closed and not self._last_words:
            self._server.dispatch(self, self._lines.popleft())
        self.settle()

    def settle(self) -> None:
        """Watch for what is of use now: a client that has said its last word, or doesn't read its
        answers, isn't read either."""
        if self.closed:
            return
        listens = not self._last_words and len(self._unsent) <= MOST_BEFORE_READING
        self._server.has_lines(self, bool(self._lines) and listens)
        reads = listens and not self._lines and not self._said_all
        self._server.watch(self, (READ if reads else 0) | (WRITE if self._unsent else 0))

    def _hung_up(self) -> bool:
        """Whether the other end is closed for good: poll(2) then says POLLHUP."""
        return polled(self._socket, 0)

    def _flush(self) -> None:
        if self.closed:
            return
        try:
            while True:
                if not self._unsent and self._newest is not None and not self._last_words:
                    make, self._newest = self._newest, None
                    self._queue(make())
                if not self._unsent:
                    self._longest = 0
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
            self.settle()


def polled(asked: socket.socket, events: int) -> bool:
    """Whether poll(2) says any of these events now, or that the other end is gone."""
    poller = select.poll()
    poller.register(asked.fileno(), events)
    return bool(poller.poll(0))
