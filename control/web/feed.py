"""What the sidecar knows of the master: one connection to ask on, one on which it is told; and the
streams that pass it on.

However many pages are open, the master tells one listener, and is asked for the moving figures once
a second; with no page open, not at all.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from ...shared import protocol
from ..client import Client, Failed, MasterGone, TimedOut

# Each waits in a thread of its own; the others are for whoever asks once.
MOST_STREAMS = 16
# Seconds: the master has this long to answer; between two looks at the moving figures, at least and
# at most; until a silent stream says that it lives.
PATIENCE, INTERVAL, LONGEST_INTERVAL, SILENCE = 10.0, 1.0, 10.0, 15.0
# Where nobody has looked just now, a new stream waits so long for a status that is newer than
# itself, and takes an older one then.
FRESH = 3.0
MOST_EVENTS, MOST_SAMPLES = 2000, 600
MOVING = ("requests_per_second", "failed_share", "p99_seconds")


class Master:
    """The connection to ask on. Any thread may. `gone` is called when the master hangs up."""

    def __init__(self, client: Client, gone: Callable[[], None]) -> None:
        self._client = client
        self._gone = gone
        self._lock = threading.Lock()
        self._number = 0

    def ask(self, command: str, patience: float = PATIENCE) -> dict[str, Any]:
        """The result of a command.

        Raises:
            MasterGone, TimedOut, Failed: there is none.
        """
        if not self._lock.acquire(timeout=patience):
            raise TimedOut("no answer in time")
        try:
            self._number += 1
            self._client.allow(patience)
            request = protocol.request(command, {}, self._number)
            result: dict[str, Any] = next(self._client.converse(request, self._number))["result"]
            return result
        except MasterGone:
            self._gone()
            raise
        finally:
            self._lock.release()


class Feed:
    """The newest status, the last events and samples, for every stream. `gone` is called when the
    master hangs up."""

    def __init__(self, client: Client, master: Master, gone: Callable[[], None]) -> None:
        self._client = client
        self._master = master
        self._gone = gone
        self._condition = threading.Condition()
        self._status: dict[str, Any] = {}
        self._version = 0
        self._told_at = 0.0  # when the status came, in monotonic seconds
        self._events: deque[dict[str, Any]] = deque(maxlen=MOST_EVENTS)
        self._told = 0  # how many events there have ever been
        self._caught_up = False  # what happened before the sidecar was there has arrived
        self._samples: deque[dict[str, Any]] = deque(maxlen=MOST_SAMPLES)
        self._streams = 0
        self._ended = False

    def start(self) -> None:
        """Begin to listen, in threads that end with the process."""
        for work in (self._listen, self._sample):
            threading.Thread(target=work, daemon=True).start()

    def _listen(self) -> None:
        events, status = 1, 2
        try:
            self._client.send(protocol.request("events", {}, events))
            self._client.send(protocol.request("status", {"follow": True}, status))
            while True:
                reply = self._client.next_reply()
                with self._condition:
                    if reply["request_id"] == status:
                        self._set_status(reply["result"])
                    elif "event" in reply["result"]:
                        self._events.append(reply["result"]["event"])
                        self._told += 1
                    else:
                        self._events.extend(reply["result"]["recent"])
                        self._told = len(self._events)
                        self._caught_up = True
                    self._condition.notify_all()
        except (MasterGone, OSError):
            pass
        finally:
            with self._condition:
                self._ended = True
                self._condition.notify_all()
            self._gone()

    def _set_status(self, document: dict[str, Any]) -> None:
        self._status = document
        self._told_at = time.monotonic()
        self._version += 1

    def _sample(self) -> None:
        while not self._ended:
            with self._condition:
                self._condition.wait_for(lambda: self._streams or self._ended)
            began = time.monotonic()
            try:
                document = self._master.ask("status")
            except (MasterGone, TimedOut, Failed):
                with self._condition:
                    self._condition.wait_for(lambda: self._ended, INTERVAL)
                continue
            took = time.monotonic() - began
            with self._condition:
                self._set_status(document)
                self._samples.append(sample(document))
                self._condition.notify_all()
                # With very many workers a look is work, and a tenth of the time may go into it; but
                # one that came late because the master hung says nothing of what it costs.
                cost = took if took < FRESH else 0.0
                self._condition.wait_for(lambda: self._ended,
                                         min(LONGEST_INTERVAL, max(INTERVAL, 10 * cost)))

    def stream(self) -> Iterator[bytes] | None:
        """Server-sent events for one page, for as long as it listens: `hello` with everything that
        is known and how old the status is, then `event` for each event and `status` for the newest
        status, each with a sample. None: too many pages listen."""
        with self._condition:
            if self._streams >= MOST_STREAMS:
                return None
            self._streams += 1
            self._condition.notify_all()
        return self._stream()

    def _stream(self) -> Iterator[bytes]:
        try:
            with self._condition:
                if time.monotonic() - self._told_at > INTERVAL:
                    self._condition.wait_for(self._news_since(self._told, self._version), FRESH)
                # Before the first status and the last events have arrived there is nothing to show.
                self._condition.wait_for(lambda: (self._version and self._caught_up) or self._ended,
                                         PATIENCE)
                seen, version = self._told, self._version
                hello = {
                    "status": self._status, "age_seconds": round(time.monotonic() - self._told_at,
                                                                 3), "events": list(self._events),
                    "samples": list(self._samples)}
            yield b"retry: 1000\n" + message("hello", hello)
            while True:
                with self._condition:
                    self._condition.wait_for(self._news_since(seen, version), SILENCE)
                    if self._ended:
                        return
                    missed = min(self._told - seen, len(self._events))
                    events = [self._events[-number] for number in range(missed, 0, -1)]
                    status = self._status if self._version > version else None
                    seen, version = self._told, self._version
                parts = [message("event", each) for each in events]
                if status is not None:
                    parts.append(message("status", {"status": status, "sample": sample(status)}))
                yield b"".join(parts) or b": still here\n\n"
        finally:
            with self._condition:
                self._streams -= 1

    def _news_since(self, seen: int, version: int) -> Callable[[], bool]:
        return lambda: self._told > seen or self._version > version or self._ended


def sample(document: dict[str, Any]) -> dict[str, Any]:
    """The moving figures of a status document, at this moment. `in_flight`: None where no worker
    counts; `traffic`: of the last seconds, by generation."""
    counted = [
        worker["in_flight"] for worker in document["workers"] if worker["in_flight"] is not None]
    return {
        "unix_time": round(time.time(), 3),
        "ready": document["ready"],
        "target": document["target"],
        "queue": sum(listener["queue"] or 0 for listener in document["listeners"]),
        "in_flight": sum(counted) if counted else None,
        "traffic": {each["generation"]: {name: each["recent"][name] for name in MOVING}
                    for each in document.get("traffic", ())},
    }


def message(name: str, data: Any) -> bytes:
    """One server-sent event (the HTML standard, section 9.2)."""
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
