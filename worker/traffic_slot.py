"""Counts what one worker has answered, in its slot of a page that the master reads: a request costs
no system call. It doesn't know who serves, nor what the master makes of it.

The layout stands in supervisor/launch/traffic_pages.py. Plain standard library from Python 3.9 on.
"""

import _thread
import mmap
from bisect import bisect_left
from typing import Optional, Tuple

LAYOUT_VERSION = 2.0
SLOT_SIZE = 8192
HEAD, RECORD, RING = 16, 72, 13
# Where in a record the latencies begin.
LATENCIES = 11
# Upper ends of the latencies' buckets, as in supervisor/core/traffic.py.
E12 = (1.0, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3, 3.9, 4.7, 5.6, 6.8, 8.2)
BOUNDS = (
    *(round(step * scale, 4) for scale in (0.001, 0.01, 0.1, 1.0) for step in E12),
    *(round(step * 10.0, 4) for step in E12[:10]), 60.0)


class TrafficSlot:
    """The slot at an offset of an open file; where there is none, nobody hears of it."""

    def __init__(self, place: Optional[Tuple[int, int]]) -> None:
        """`place`: descriptor and offset."""
        # A lock that gevent has not patched: nothing below ever waits for another greenlet.
        self.lock = _thread.allocate_lock()
        self.next_second = 0  # the ring is written up to here
        if place is None:
            self.let_go()
            return
        fd, offset = place
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        page = mmap.mmap(fd, offset - start + SLOT_SIZE, offset=start)
        # Assigning to a view of doubles stores eight aligned bytes at once.
        self.words = memoryview(page)[offset - start : offset - start + SLOT_SIZE].cast("d")
        self.next_second = int(self.words[2]) + 1

    def counts(self) -> None:
        """Let the master know that somebody counts, before the first request."""
        self.words[0] = LAYOUT_VERSION

    def note(self, now: float, status: int, seconds: float, bytes_out: float = 0,
             exception: bool = False, aborted: bool = False) -> None:
        """A request is over.

        Args:
            now: when, in monotonic seconds.
            status: of the answer that was sent, 100 to 599; 0 where there was none.
            seconds: from the request's beginning to the answer's end. Of a websocket (1xx), or
                where the client left, they say nothing, and aren't counted.
            bytes_out: of the body.
            exception: one of the app's reached the server.
            aborted: the client left before it had its answer.
        """
        words = self.words
        with self.lock:
            sequence = words[1] // 2.0 * 2.0 + 1.0  # also after an exception in the middle
            words[1] = sequence
            if now >= self.next_second:
                self.begin_second(int(now))
            words[16] += 1.0
            if 100 <= status < 600:
                words[16 + status // 100] += 1.0
            if exception or status >= 500:
                words[22] += 1.0
                if exception:
                    words[23] += 1.0
            if bytes_out:
                words[25] += bytes_out
            if aborted:
                words[24] += 1.0
            elif status >= 200 or not status:
                words[26] += seconds
                words[27 + bisect_left(BOUNDS, seconds)] += 1.0
            words[1] = sequence + 1.0

    def begin_second(self, second: int) -> None:
        """Keep the totals as they were at the beginning of this second, and of those skipped."""
        words = self.words
        totals = words[HEAD : HEAD + RECORD]
        for each in range(max(self.next_second, second - RING + 1), second + 1):
            begin = HEAD + RECORD * (1 + each % RING)
            words[begin : begin + RECORD] = totals
        self.next_second = second + 1
        words[2] = float(second)
        words[0] = LAYOUT_VERSION

    def let_go(self) -> None:
        """Count nowhere from now on: in a process that was forked of the worker, for instance."""
        self.words = memoryview(bytearray(SLOT_SIZE)).cast("d")
        self.lock = _thread.allocate_lock()
