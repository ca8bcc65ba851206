"""Does anybody accept? Where readiness is only a guess, a connection of our own to each listening
socket tells.

It connects, looks now and then whether the kernel has seen somebody accept, and closes; it sends
nothing and waits nowhere. What the answer means is its caller's business.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import queues
from .listener import Listener, reachable

FIRST_LOOK, LONGEST_LOOK, GROWTH = 0.01, 0.5, 1.5


@dataclass(slots=True)
class _Ask:
    """One question. `until`: when to answer no, `seconds` after it was asked. `answer`: is told the
    address where nobody accepts, None where somebody does."""

    until: float
    seconds: float
    answer: Callable[[str | None], None]


class Probes:
    """All questions; those that are asked at the same time share their connections."""

    def __init__(self, asked: Sequence[Listener]) -> None:
        self._listeners = asked
        self._asks: list[_Ask] = []
        self._connections: dict[str, socket.socket] = {}
        self._interval = FIRST_LOOK
        self.deadline: float | None = None

    def ask(self, until: float, answer: Callable[[str | None], None], now: float) -> None:
        """Find out whether somebody accepts connections at every listening socket, from now on:
        `answer` is called once, at `until` (monotonic seconds) at the latest."""
        self._asks.append(_Ask(until, until - now, answer))
        self._drop_connections()
        self._interval, self.deadline = FIRST_LOOK, now

    def on_suspended(self, now: float) -> None:
        """Nobody could accept before `now`: each question has its whole time again."""
        for ask in self._asks:
            ask.until = now + ask.seconds

    def on_time(self, now: float) -> None:
        """Look again, and answer whom it concerns."""
        if self.deadline is None or now < self.deadline:
            return
        silent = next((each.name for each in self._listeners if not self._accepts(each)), None)
        answered = self._asks if silent is None else [ask for ask in self._asks if now >= ask.until]
        self._asks = [ask for ask in self._asks if ask not in answered]
        if self._asks:
            self.deadline = min(now + self._interval, *(ask.until for ask in self._asks))
            self._interval = min(LONGEST_LOOK, self._interval * GROWTH)
        else:
            self.close()
        for ask in answered:
            ask.answer(silent)

    def _accepts(self, listener: Listener) -> bool:
        name = listener.name
        connection = self._connections.get(name) or self._connected(listener)
        # nobody listens, or there is no descriptor left: another try comes with the next look
        if connection is None:
            return False
        self._connections[name] = connection
        # Where the kernel doesn't say, the empty queue must do; where it doesn't say that either,
        # nothing can be told.
        found = queues.accepted(connection)
        if found is None:
            found = queues.queue(listener.socket)[0] in (0, None)
        return found or _answered(connection)

    @staticmethod
    def _connected(listener: Listener) -> socket.socket | None:
        connection: socket.socket | None = None
        try:
            connection = socket.socket(listener.socket.family, socket.SOCK_STREAM)
            connection.setblocking(False)
            connection.connect(reachable(listener))
        except BlockingIOError:
            return connection
        except OSError:
            if connection is not None:
                connection.close()
            return None
        return connection

    def _drop_connections(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def close(self) -> None:
        self._drop_connections()
        self._asks, self.deadline = [], None


def _answered(connection: socket.socket) -> bool:
    """Whether the other end has said something, or has hung up: whoever does has accepted
    before."""
    try:
        connection.recv(1, socket.MSG_PEEK)
    except OSError as error:
        return isinstance(error, ConnectionResetError)
    return True
