"""What each worker has answered, as the master reads it: the page of traffic, layout version 2, and
the sums of the workers that are gone.

It is a file in memory of its own, since the first page (shared_page.py) stays as earlier versions
know it. Each worker that counts has a slot of 1024 words, each a native float64; it alone writes
there (worker/traffic_slot.py), without a system call, or the master does for one that reports by
datagrams (traffic_reports.py). Or it has such a slot in a page of its own (worker/own_page.py),
after that of the first page. The master reads when somebody asks.

    word        holds
    0           layout version, 2; 0 while nobody is known to count
    1           sequence: odd while somebody writes, changed by each write
    2           the newest second (of CLOCK_MONOTONIC) for which a record of the ring was written
    3..15       reserved, zero
    16..87      the totals: one record
    88..1023    the ring, 13 records: record `second % 13` holds the totals at the beginning of that
                second; the first request of a second writes it, and those of the seconds without

A record has 72 words, all of which only grow:

    0           requests that are over
    1..5        of these, answered by 1xx, 2xx, 3xx, 4xx, 5xx
    6, 7, 8     failed, exceptions, aborted, as `Traffic` has them
    9           bytes of bodies sent
    10          the sum of all latencies, in seconds
    11..70      how many latencies fell into each bucket of `BOUNDS`, and beyond the last one
    71          reserved, zero

Whole numbers are exact up to 2**53. A reader copies what it wants twice, until both copies are the
same and the sequence is even. A worker that was stopped in the middle of a write leaves an odd one:
its totals are then off by one request at most. What can't be true is not read at all.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from operator import sub
from typing import Any

from ...shared.frozen import dataclass
from ...worker.traffic_slot import (
    HEAD,
    LATENCIES,
    LAYOUT_VERSION,
    RECORD,
    RING,
    SLOT_SIZE,
    TrafficSlot,
)
from ..core.traffic import BOUNDS, CLASSES, Traffic, total
from ..system.part import Keep, Kept, Part, State
from .shared_page import SharedPage
from .slot_file import LARGEST, SlotFile, doubts, settled
from .traffic_reports import Report

# Of a page that a worker has made: worker/own_page.py.
OWN_SIZE = 2 * SLOT_SIZE

# Seconds: what is recent began at the beginning of a second, so long ago or a little more.
RECENT = 10
# Of so many generations the sums are kept, beside those that have workers.
GENERATIONS_KEPT = 5
_TRIES, _TRIES_OF_STOPPED = 2000, 100
_WORD = 8
_NOTHING = Traffic()
_HEAD, _RECORD = struct.Struct(f"={HEAD + RECORD}d"), struct.Struct(f"={RECORD}d")


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a worker's traffic is counted. `offset`: in bytes. `generation`: whose code it runs.
    `since`: when it began, in monotonic seconds. `fd`: its own page, None where it is ours.
    `reported`: the master writes there."""

    offset: int
    generation: int
    since: float
    fd: int | None = None
    reported: bool = False


@dataclass(frozen=True, slots=True)
class KeptTraffic(Kept):
    """`slots`: by worker; `gone`: the sums of the workers that are gone, by generation."""

    fd: int
    size: int
    slots: Mapping[int, Slot]
    gone: Mapping[int, Traffic]

    def descriptors(self) -> Iterable[int]:
        return [self.fd, *(slot.fd for slot in self.slots.values() if slot.fd is not None)]

    def doubts(self) -> Iterator[str]:
        slots = self.slots.values()
        yield from doubts(self.size, SLOT_SIZE, (each.offset for each in slots if each.fd is None))
        yield from doubts(OWN_SIZE, SLOT_SIZE, (each.offset for each in slots
                                                if each.fd is not None))


class TrafficPages(Part):
    """The page of traffic, and what workers have made themselves."""

    name = "traffic"
    keeps = {"traffic": Keep(KeptTraffic | None)}

    def __init__(self, first_page: SharedPage) -> None:
        """`first_page`: is told where workers have a page of their own."""
        self._first_page = first_page
        self._writers: dict[int, TrafficSlot] = {}
        self._file = SlotFile("einhornpy-traffic", SLOT_SIZE)
        self._slots: dict[int, Slot] = {}
        self._gone: dict[int, Traffic] = {}

    @property
    def fd(self) -> int:
        return self._file.fd

    def hand_over(self) -> dict[str, Any]:
        return {"traffic": {
            "fd": self.fd, "size": self._file.size,
            "slots": {str(worker): asdict(slot) for worker, slot in self._slots.items()},
            "gone": {str(generation): asdict(sums) for generation, sums in self._gone.items()}}}

    def take_over(self, state: State) -> None:
        kept: KeptTraffic | None = state["traffic"]
        if kept is None:  # a fresh start, or an earlier version
            return
        self._slots = {worker: slot for worker, slot in kept.slots.items()
                       if slot.fd is None or _is_own_page(slot.fd)}
        self._first_page.elsewhere.update({
            worker: slot.fd for worker, slot in self._slots.items() if slot.fd is not None})
        # Another version may have had other buckets.
        self._gone = {generation: sums for generation, sums in kept.gone.items() if _fits(sums)}
        self._file.take_over(kept.fd, kept.size, (
            slot.offset for slot in self._slots.values() if slot.fd is None))

    def take(self, worker: int, generation: int, since: float, reported: bool = False) -> int:
        """Give `worker`, which runs the code of `generation` and began at `since` (monotonic
        seconds), a slot; return its offset in bytes. `reported`: it will be written here."""
        offset = self._file.take()
        self._slots[worker] = Slot(offset, generation, since, reported=reported)
        return offset

    def adopt(self, worker: int, generation: int, since: float, fd: int) -> bool:
        """Read the traffic of `worker` in a page of its own, of which `fd` is a descriptor, from
        now on; return whether it has no other, and that is such a page. `fd` may be closed then."""
        if worker in self._slots or not _is_own_page(fd):
            return False
        own = os.dup(fd)
        self._slots[worker] = Slot(SLOT_SIZE, generation, since, own)
        self._first_page.elsewhere[worker] = own
        return True

    def report(self, worker: int, generation: int, since: float, now: float,
               reports: Iterable[Report]) -> bool:
        """Count what `worker` says that it has answered; return whether it doesn't count by
        itself."""
        if worker not in self._slots:
            self.take(worker, generation, since, reported=True)
        slot = self._slots[worker]
        if not slot.reported:
            return False
        if worker not in self._writers:
            self._writers[worker] = TrafficSlot((self.fd, slot.offset))
        for each in reports:
            self._writers[worker].note(now, each.status, each.seconds, each.bytes_out,
                                       each.exception, each.aborted)
        return True

    def of(self, worker: int) -> Traffic | None:
        """What `worker` has answered since its start; None where that isn't known."""
        slot = self._slots.get(worker)
        if slot is None:
            return None
        head, _ = self._read(slot, 0)
        return _traffic(head[0], head[HEAD:])

    def served(self, worker: int) -> int:
        """How many requests `worker` has served, whichever page has them."""
        found = self._first_page.requests(worker)
        if found is None and (traffic := self.of(worker)) is not None:
            found = traffic.requests
        return found or 0

    def recent(self, worker: int, now: float) -> tuple[Traffic, float] | None:
        """What `worker` has answered in the last 10 to 11 seconds or, if it is younger, its life;
        and how many seconds those are. None where that isn't known. `now`: monotonic seconds."""
        found = self.seen(worker, now)
        return None if found is None else found[:2]

    def seen(self, worker: int, now: float) -> tuple[Traffic, float, Traffic] | None:
        """The same, and what it has answered since its start, of the same moment."""
        slot = self._slots.get(worker)
        if slot is None:
            return None
        begin = max(0, int(now) - RECENT)
        seconds = max(0.001, now - max(float(begin), slot.since))
        head, then = self._read(slot, begin)
        version, newest, totals = head[0], head[2], head[HEAD:]
        whole = _traffic(version, totals)
        if whole is None or newest - RING >= begin:  # overwritten: `now` was long ago
            return None
        recent = _NOTHING if newest < begin else _traffic(version, tuple(map(sub, totals, then)))
        return None if recent is None else (recent, seconds, whole)

    def of_generations(self) -> Mapping[int, Traffic]:
        """What each generation has answered, by its workers that live and those that are gone: of
        all that have workers, and of the last few that had traffic."""
        found = dict(self._gone)
        for worker, slot in self._slots.items():
            sums = self.of(worker)
            if sums is not None:
                before = found.get(slot.generation)
                found[slot.generation] = sums if before is None else before + sums
        return found

    def give_back(self, worker: int) -> None:
        """Free the slot of a worker that is gone; its sums are kept."""
        sums, slot = self.of(worker), self._slots.pop(worker, None)
        if slot is None:
            return
        self._writers.pop(worker, None)
        if slot.fd is None:
            self._file.give_back(slot.offset)
        else:
            self._first_page.elsewhere.pop(worker, None)
            os.close(slot.fd)
        if sums is None or not sums.requests:
            return
        generation = slot.generation
        # The one that was added to last stands last.
        self._gone[generation] = total((self._gone.pop(generation, Traffic()), sums))
        living = {each.generation for each in self._slots.values()}
        others = [each for each in self._gone if each not in living]
        for each in others[: -GENERATIONS_KEPT]:
            del self._gone[each]

    def _read(self, slot: Slot, begin: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The head with the totals, and the record of the ring for the second `begin`."""
        fd = self.fd if slot.fd is None else slot.fd
        at = slot.offset + _WORD * (HEAD + RECORD * (1 + begin % RING))
        copy, still = os.pread(fd, _HEAD.size, slot.offset), 0
        # One that was stopped in the middle of a write is waited for less than one that is busy.
        for _ in range(_TRIES):
            # What lies between two equal copies of the head is of the same moment.
            ring = os.pread(fd, _RECORD.size, at)
            again = os.pread(fd, _HEAD.size, slot.offset)
            still += copy == again
            if settled(copy, again) or still == _TRIES_OF_STOPPED:
                break
            copy = again
        return _HEAD.unpack(copy), _RECORD.unpack(ring)

    def close(self) -> None:
        self._file.close()
        for slot in self._slots.values():
            if slot.fd is not None:
                os.close(slot.fd)


def _is_own_page(fd: int) -> bool:
    """Whether it is a file in memory of the right size that can't shrink. Of nothing else more is
    asked than its seals: whatever is read could make the master wait."""
    try:
        return (fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK != 0
                and os.fstat(fd).st_size == OWN_SIZE
                and len(os.pread(fd, 1, 0)) == 1)  # it may be open for writing alone
    except (OSError, ValueError):
        return False


def _traffic(version: float, record: tuple[float, ...]) -> Traffic | None:
    """What a record says; None where nobody counts, or it can't be true."""
    whole = sum(record)
    # No comparison with what is no number is true.
    if version != LAYOUT_VERSION or not (min(record) >= 0.0 and whole <= LARGEST):
        return None
    if not whole:
        return _NOTHING
    counts = [*map(int, record[:-1])]
    failed, exceptions, aborted, bytes_out = counts[6:10]
    found = Traffic(counts[0], tuple(counts[1:6]), failed, exceptions, aborted, bytes_out,
                    record[10], tuple(counts[LATENCIES:]))
    return found if _adds_up(found) else None


def _fits(traffic: Traffic) -> bool:
    """Whether an earlier version's sums can be those of this one."""
    parts = (*traffic.responses, traffic.failed, traffic.exceptions, traffic.aborted,
             traffic.bytes_out, traffic.seconds, *traffic.latencies)
    return (len(traffic.responses) == len(CLASSES) and len(traffic.latencies) == len(BOUNDS) + 1
            and min(parts) >= 0 and _adds_up(traffic))


def _adds_up(traffic: Traffic) -> bool:
    """Whether the parts are no more than the whole."""
    return traffic.exceptions <= traffic.failed and traffic.requests >= max(
        sum(traffic.responses), traffic.failed, traffic.aborted, sum(traffic.latencies))
