"""Watches one master for somebody who looks on: its status, its events, and whether it is still
there.

One connection carries all of it, so what is told comes in the order in which it happened. Blocking,
for a thread of its own; `close` ends it from any other one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from ..shared import backoff, protocol
from ..shared.frozen import dataclass
from . import client

# Seconds. How long a connection may take; between two looks at what no event tells of (requests,
# ages, queues); until a master that doesn't answer is called silent; before the first and the last
# of the growing delays between two tries to connect.
CONNECT, LOOK, SILENCE, FIRST_DELAY, LONGEST_DELAY = 3.0, 1.0, 3.0, 0.25, 8.0
# A look may use at most this part of the time: a status of a thousand workers is work for the
# master. But there is one at least once in so many seconds.
SHARE, LONGEST_LOOK = 0.1, 10.0
# So long a pause for each worker follows a status: an upgrade changes it all the time, and of a
# thousand workers' two or three a second are enough. The master sends only the newest one, and
# after what has happened before it, so it is a second old at most.
PAUSE_PER_WORKER = 0.0005
FOLLOWED, EVENTS, LOOKED = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Status:
    """The status document, newer than all before."""

    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Events:
    """What happened; `anew`: these are the last ones of a new connection, and take the place of all
    before."""

    documents: list[dict[str, Any]]
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is no more; the next try comes in so many seconds."""

    reason: str
    again_in: float


@dataclass(frozen=True, slots=True)
class Silent:
    """The master is there, but hasn't answered for so many seconds."""

    seconds: float


News = Status | Events | Lost | Silent


class Watch:
    """The news of the master at `path`, for ever: across its restarts, and across its own
    replacements."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._closed = threading.Event()
        self._master: client.Client | None = None

    def close(self) -> None:
        """End `news`, soon."""
        self._closed.set()
        if self._master is not None:
            self._master.hang_up()

    def news(self) -> Iterator[News]:
        """Yield what is new until `close`."""
        failures = 0
        while not self._closed.is_set():
            reason = "the master closed the connection"
            try:
                with client.Client(self.path, CONNECT) as self._master:
                    for each in self._listen(self._master):
                        failures = 0
                        yield each
            except (client.NoMaster, client.MasterGone, client.TimedOut, client.Failed) as error:
                reason = str(error)
            if self._closed.is_set():
                return
            failures += 1
            delay = backoff.delay_after(failures, FIRST_DELAY, LONGEST_DELAY)
            yield Lost(reason, delay)
            self._closed.wait(delay)

    def _listen(self, master: client.Client) -> Iterator[News]:
        master.send(protocol.request("status", {"follow": True}, FOLLOWED))
        master.send(protocol.request("events", {}, EVENTS))
        master.wait_for_ever()
        begun = time.monotonic()
        asked: float | None = begun  # the first answer is waited for like that of a look
        due = begun + LOOK
        while not self._closed.is_set():
            reply = master.receive(max(0.0, due - time.monotonic()))
            now = time.monotonic()
            if reply is not None:
                if not reply.get("ok"):
                    raise client.Failed(reply["error"]["code"], reply["message"])
                if asked is not None and reply.get("request_id") in (LOOKED, FOLLOWED):
                    # One that came late because the master hung says nothing of what a look costs.
                    cost = now - asked if now - asked < SILENCE else 0.0
                    due, asked = now + min(LONGEST_LOOK, max(LOOK, cost / SHARE)), None
                yield from self._told(reply)
            elif asked is None:
                asked, due = now, now + LOOK
                master.send(protocol.request("status", {}, LOOKED))
            else:
                due = now + LOOK
                if now - asked >= SILENCE:
                    yield Silent(now - asked)

    def _told(self, reply: dict[str, Any]) -> Iterator[News]:
        result = reply["result"]
        if reply.get("request_id") != EVENTS:
            yield Status(result)
            self._closed.wait(PAUSE_PER_WORKER * len(result["workers"]))
        elif "event" in result:
            yield Events([result["event"]])
        else:
            yield Events(result["recent"], anew=True)
