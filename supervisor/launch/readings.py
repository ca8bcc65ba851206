"""How much memory processes use where they share pages: read when somebody asks, and kept for a
while, since a reading walks through all pages of a process, 5 to 20 ms a GiB (`python -m
bench.readings`).

A deploy tool asks for the status every second, and nobody else may wait for that. So the time that
goes into it is an allowance, which grows by a hundredth of the time that passes; who has never been
measured comes first, and what isn't measured in this turn keeps its last reading. A thread would
read at any time, but the master forks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..reporting.sharing import Reading
from .memory import memory, numbers

# Seconds for which a reading is good. One of a process that is younger, and may still grow, is good
# for as long as that one was known then; any is due when a process has come or gone, with which
# another one shares, or shared. A costly one is good for so many times what it has cost.
GOOD_SECONDS = 10.0
RARE = 200
# The part of all time that may go into readings, and the most that is spent at once, in seconds; a
# reading that has begun isn't broken off.
PART, MOST_AT_ONCE = 0.01, 0.05


def read(pid: int) -> Reading | None:
    """What a process uses (proc(5), `smaps_rollup`); its resident bytes where we may not see that,
    as of another user's process in a container; None if it is gone."""
    try:
        found = numbers(os.fsdecode(Path(f"/proc/{pid}/smaps_rollup").read_bytes()))
        return Reading(found["Pss:"] << 10, found["Anonymous:"] << 10, found["Pss_Anon:"] << 10)
    except (OSError, KeyError):
        resident = memory(pid)
        return Reading(resident) if resident else None


@dataclass(slots=True)
class _Known:
    """`since`: when somebody first asked for it. `at`: when it was measured, if it was; `cost`: how
    many seconds of work that took. `reading`: None where it was gone."""

    since: float
    at: float | None = None
    cost: float = 0.0
    reading: Reading | None = None

    def due(self, now: float, changed_at: float) -> bool:
        if self.at is None:
            return True
        age = now - self.at
        return age >= RARE * self.cost and (
            self.at < changed_at or age >= min(GOOD_SECONDS, self.at - self.since))


class Readings:
    """`clock`: monotonic seconds; `work`: seconds that this thread has been at work, since a host
    that is busy with others is not what a reading costs; `read`: as above."""

    def __init__(self, clock: Callable[[], float] = time.monotonic,
                 work: Callable[[], float] = time.thread_time,
                 read: Callable[[int], Reading | None] = read) -> None:
        self._clock = clock
        self._work = work
        self._read = read
        self._known: dict[int, _Known] = {}
        self._left = MOST_AT_ONCE
        self._looked_at = self._changed_at = clock()

    def of(self, pids: Iterable[int]) -> tuple[Mapping[int, Reading], bool]:
        """The readings of these processes as far as there are some, and whether there is none that
        has yet to be measured. Of those that have never been, the first ones come first."""
        now = self._clock()
        # One that isn't asked for is over, and its pid may be another process's next time.
        known = {pid: self._known.get(pid) or _Known(now) for pid in pids}
        if known.keys() != self._known.keys():
            self._changed_at = now
        self._known = known
        self._left = min(MOST_AT_ONCE, self._left + PART * (now - self._looked_at))
        self._looked_at = now
        due = [pid for pid, each in known.items() if each.due(now, self._changed_at)]
        for pid in sorted(due, key=lambda pid: known[pid].at or 0.0):
            if self._left <= 0:
                break
            self._measure(pid, known[pid])
        return ({pid: each.reading for pid, each in known.items() if each.reading is not None},
                all(each.at is not None for each in known.values()))

    def _measure(self, pid: int, known: _Known) -> None:
        began = self._work()
        known.reading, known.at = self._read(pid), self._clock()
        known.cost = self._work() - began
        self._left -= known.cost
