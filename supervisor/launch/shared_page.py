"""What the master notices by itself: the shared page of heartbeats and counters.

The page is one in-memory file with a slot a worker: 32 words, each a native float64. The worker
alone writes its slot (worker/gunicorn_counters.py), without a system call; the master reads it
when somebody asks for the status, or when a heartbeat seems too old.

    word    holds
    0       layout version, 1; 0 while nothing was written
    1       sequence: odd while the worker writes, changed by each write
    2       CLOCK_MONOTONIC seconds of the last heartbeat
    3, 4    requests done, requests in flight
    5       busy seconds: with at least one request in flight, without the present stretch
    6       since when the present busy stretch lasts, in CLOCK_MONOTONIC seconds; 0 while idle
    7       the newest second (of CLOCK_MONOTONIC) for which a word of the ring was written
    8..23   the ring: word 8 + second % 16 holds the busy seconds at the beginning of that second
    24      1 where nothing is known to count requests, so that words 3 to 23 say nothing
    25..31  reserved, zero

Whole numbers are exact up to 2**53. A reader copies the slot twice, until both copies are the same
and the sequence is even: then no write lay between. A worker that was stopped in the middle of a
write leaves an odd sequence for ever; the heartbeat, an aligned word, is still read then.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...shared.frozen import dataclass
from ..system.part import Keep, Kept, Part, State
from .slot_file import LARGEST, SlotFile, doubts, settled

LAYOUT_VERSION = 1
SLOT_SIZE = 256
RING = 16
BUSY_WINDOW = 10.0
_SLOT = struct.Struct("=32d")


@dataclass(frozen=True, slots=True)
class Counters:
    """One slot. Times in seconds; `busy_share`: 0 to 1, of the last 10 seconds or, if it is
    younger, its life. All but the heartbeat are None where requests are not counted."""

    heartbeat: float
    requests: int | None = None
    in_flight: int | None = None
    busy_share: float | None = None


@dataclass(frozen=True, slots=True)
class KeptPage(Kept):
    """`slots`: worker → offset in bytes."""

    fd: int
    size: int
    slots: Mapping[int, int]

    def descriptors(self) -> Iterable[int]:
        return [self.fd]

    def doubts(self) -> Iterator[str]:
        yield from doubts(self.size, SLOT_SIZE, self.slots.values())


class SharedPage(Part):
    """The shared page. `elsewhere`: the descriptors of pages that workers have made themselves,
    each with its slot at the beginning; whoever puts one here closes it (traffic_pages.py)."""

    name = "page"
    keeps = {"page": Keep(KeptPage, needed=True)}

    def __init__(self) -> None:
        self._file = SlotFile("einhornpy-workers", SLOT_SIZE)
        self._slots: dict[int, int] = {}
        self.elsewhere: dict[int, int] = {}

    @property
    def fd(self) -> int:
        return self._file.fd

    def hand_over(self) -> dict[str, Any]:
        slots = {str(worker): offset for worker, offset in self._slots.items()}
        return {"page": {"fd": self.fd, "size": self._file.size, "slots": slots}}

    def take_over(self, state: State) -> None:
        kept: KeptPage | None = state["page"]
        if kept is None:
            return
        self._slots = dict(kept.slots)
        self._file.take_over(kept.fd, kept.size, self._slots.values())

    def take(self, worker: int) -> int:
        """Give `worker` a slot; return its offset in bytes."""
        offset = self._slots[worker] = self._file.take()
        return offset

    def heartbeat(self, worker: int) -> float | None:
        """When `worker` last gave a sign of life here, in monotonic seconds; None if it never did.
        Pages elsewhere are for counters alone."""
        words = self._words(worker) if worker in self._slots else None
        return None if words is None or not 0.0 < words[2] <= LARGEST else words[2]

    def counters(self, worker: int, now: float, age: float) -> Counters | None:
        """What the slot of `worker`, which is `age` seconds old, says; None if it has none, has
        written nothing yet, or writes another layout, or nonsense."""
        words = self._words(worker)
        if words is None or words[2] <= 0.0 or not _sensible(words):
            return None
        if words[24]:
            return Counters(words[2])
        return Counters(words[2], int(words[3]), int(words[4]), round(busy_share(words, now, age),
                                                                      4))

    def requests(self, worker: int) -> int | None:
        """How many requests `worker` has served; None where it doesn't count them here."""
        return self._count(worker, 3)

    def in_flight(self, worker: int) -> int:
        """How many requests `worker` has in its hands; 0 where it doesn't count them here."""
        return self._count(worker, 4) or 0

    def _count(self, worker: int, at: int) -> int | None:
        words = self._words(worker)
        return None if words is None or words[24] or not _sensible(words) else int(words[at])

    def _words(self, worker: int) -> tuple[float, ...] | None:
        offset, fd = self._slots.get(worker), self.fd
        if offset is None:
            if worker not in self.elsewhere:
                return None
            offset, fd = 0, self.elsewhere[worker]
        copy = os.pread(fd, SLOT_SIZE, offset)
        for _ in range(100):
            again = os.pread(fd, SLOT_SIZE, offset)
            if settled(copy, again):
                break
            copy = again
        words: tuple[float, ...] = _SLOT.unpack(again)
        return words if words[0] == LAYOUT_VERSION else None

    def give_back(self, worker: int) -> None:
        """Free the slot of a worker that is gone."""
        offset = self._slots.pop(worker, None)
        if offset is not None:
            self._file.give_back(offset)

    def close(self) -> None:
        self._file.close()


def _sensible(words: tuple[float, ...]) -> bool:
    return all(0.0 <= word <= LARGEST for word in words[2:8 + RING])


def busy_share(words: tuple[float, ...], now: float, age: float) -> float:
    """The part of the last `BUSY_WINDOW` seconds, or of `age` where that is less, in which a
    request was in flight."""
    total, since, newest = words[5], words[6], int(words[7])
    begin = int(now - BUSY_WINDOW)
    until_now = total + (max(0.0, now - since) if since else 0.0)
    if since and begin >= since:
        at_begin = total + (begin - since)
    elif begin > newest:
        at_begin = total  # nothing ended since, and what goes on began later
    else:
        at_begin = words[8 + begin % RING] if newest - begin < RING else total
    return min(1.0, max(0.0, (until_now - at_begin) / max(0.001, min(now - begin, age))))


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal (proc(5), `SigCgt`)."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            mask = next(line for line in file if line.startswith(b"SigCgt:"))
        return bool(int(mask.split()[1], 16) >> (number - 1) & 1)
    except (OSError, StopIteration, ValueError):
        return False
