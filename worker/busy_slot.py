"""A worker's own slot of the master's first page: heartbeat, requests done and in flight, busy
time; written without a system call. What was answered is the other slot's business
(traffic_slot.py).

The layout stands in supervisor/launch/shared_page.py. Plain standard library from Python 3.9 on.
"""

import _thread
import mmap
import time
from typing import Callable

LAYOUT_VERSION = 1.0
SLOT_SIZE = 256
RING = 16


class Slot:
    """One slot. `limit`: after so many requests `reached` is called with a sentence, until it
    returns True (0: never)."""

    def __init__(self, fd: int, offset: int, limit: int, reached: Callable[[str], bool]) -> None:
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        page = mmap.mmap(fd, offset - start + SLOT_SIZE, offset=start)
        # Assigning to a view of doubles stores eight aligned bytes at once; struct.pack_into writes
        # them one by one.
        self.words = memoryview(page)[offset - start : offset - start + SLOT_SIZE].cast("d")
        self.words[0] = LAYOUT_VERSION
        self.counts = True
        self.next_second = 0  # the ring is filled up to here
        # A lock that gevent has not patched: nothing below ever waits for another greenlet.
        self.lock = _thread.allocate_lock()
        self.limit = limit
        self.reached = reached
        self.now = time.monotonic

    def does_not_count(self) -> None:
        """Nothing here counts requests, as far as anybody knows; the first one that is counted
        shows that something does."""
        self.counts = False
        self.words[24] = 1.0

    def beat(self) -> None:
        """A sign of life."""
        self.words[2] = self.now()

    def begin(self) -> float:
        """A request begins; return when, in monotonic seconds."""
        words, now = self.words, self.now()
        with self.lock:
            sequence = words[1] + 1.0
            words[1] = sequence
            in_flight = words[4] + 1.0
            words[4] = in_flight
            if not self.counts:
                self.counts, words[24] = True, 0.0
            if in_flight == 1.0:
                if now >= self.next_second:
                    self.fill_ring(now, 0.0)
                words[6] = now
            words[1] = sequence + 1.0
        return now

    def end(self) -> float:
        """A request is over, well or not; return when, in monotonic seconds."""
        words, now = self.words, self.now()
        with self.lock:
            sequence = words[1] + 1.0
            words[1] = sequence
            done, in_flight = words[3] + 1.0, words[4] - 1.0
            words[3], words[4] = done, in_flight
            if in_flight == 0.0:
                since = words[6]
                if now >= self.next_second:
                    self.fill_ring(now, since)
                if now > since:  # another thread may have begun a little later
                    words[5] += now - since
                words[6] = 0.0
            words[1] = sequence + 1.0
        if 0 < self.limit <= done and self.reached("served %d requests" % self.limit):
            self.limit = 0
        return now

    def fill_ring(self, now: float, since: float) -> None:
        """Note the busy seconds at the beginning of every second up to `now`; `since`: when we
        became busy, 0.0 if idle."""
        words = self.words
        newest, second = int(words[7]), int(now)
        for each in range(max(newest + 1, second - RING + 1), second + 1):
            words[8 + each % RING] = words[5] + (max(0.0, each - since) if since else 0.0)
        words[7] = float(second)
        self.next_second = second + 1

    def let_go(self) -> None:
        """Count nowhere from now on: in a process that was forked of the worker, for instance."""
        self.words = memoryview(bytearray(SLOT_SIZE)).cast("d")
        self.lock = _thread.allocate_lock()
        self.limit = 0
