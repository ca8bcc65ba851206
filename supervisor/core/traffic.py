"""What workers have answered: requests by the class of their answer, failures, bytes, and how long
it took, as plain counts that only grow. Pure: nothing here knows who has counted, or reads a clock.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import replace
from functools import reduce
from itertools import accumulate
from operator import add

from ...shared.frozen import dataclass

# Upper ends of the latencies' buckets in seconds: twelve a decade from 1 ms on, the preferred
# numbers E12 of IEC 60063, each about 1.21 times the one before; the last bucket has no end.
E12 = (1.0, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3, 3.9, 4.7, 5.6, 6.8, 8.2)
BOUNDS: tuple[float, ...] = (
    *(round(step * scale, 4) for scale in (0.001, 0.01, 0.1, 1.0) for step in E12),
    *(round(step * 10.0, 4) for step in E12[:10]), 60.0)
CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
NO_LATENCIES = (0,) * (len(BOUNDS) + 1)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What has been answered in some time, by a worker or by several.

    `requests`: those that are over, well or not. `responses`: by class, as `CLASSES`. `failed`: how
    many were answered by 5xx or ended in an exception, each counted once. `exceptions`: how many of
    the app's reached the server. `aborted`: how many clients left before they had their answer.
    `bytes_out`: of bodies. `seconds`: the sum of all latencies. `latencies`: how many fell into
    each bucket of `BOUNDS`, and beyond the last one; not cumulative. A latency lasts from the
    beginning of the request to the end of its answer; websockets and what was aborted have none.
    """

    requests: int = 0
    responses: tuple[int, ...] = (0, 0, 0, 0, 0)
    failed: int = 0
    exceptions: int = 0
    aborted: int = 0
    bytes_out: int = 0
    seconds: float = 0.0
    latencies: tuple[int, ...] = NO_LATENCIES

    def __add__(self, other: Traffic) -> Traffic:
        """Raises ValueError: they don't have the same classes and buckets."""
        if len(self.responses) != len(other.responses) or (
                len(self.latencies) != len(other.latencies)):
            raise ValueError("traffic of other classes or buckets")
        return Traffic(
            self.requests + other.requests, tuple(map(add, self.responses, other.responses)),
            self.failed + other.failed, self.exceptions + other.exceptions,
            self.aborted + other.aborted, self.bytes_out + other.bytes_out,
            self.seconds + other.seconds, tuple(map(add, self.latencies, other.latencies)))

    def since(self, earlier: Traffic) -> Traffic:
        """What has come since the same counts were `earlier`; none of it is negative."""
        return Traffic(
            max(0, self.requests - earlier.requests),
            tuple(max(0, now - before)
                  for now, before in zip(self.responses, earlier.responses, strict=True)),
            max(0, self.failed - earlier.failed), max(0, self.exceptions - earlier.exceptions),
            max(0, self.aborted - earlier.aborted), max(0, self.bytes_out - earlier.bytes_out),
            max(0.0, self.seconds - earlier.seconds),
            tuple(max(0, now - before)
                  for now, before in zip(self.latencies, earlier.latencies, strict=True)))

    @property
    def unanswered(self) -> int:
        """How many failed, or their clients left: none of them was answered well."""
        return min(self.requests, self.failed + self.aborted)

    @property
    def failed_share(self) -> float | None:
        """The part of the requests that failed, 0 to 1; None where there were none."""
        return self.failed / self.requests if self.requests else None

    def quantile(self, share: float) -> float | None:
        """The latency in seconds that this share of the requests did not exceed, interpolated
        within its bucket; the last bound for what is beyond it, None where there were none."""
        return self.quantiles((share,))[0]

    def quantiles(self, shares: Iterable[float]) -> list[float | None]:
        """The same for several shares at once."""
        if not any(self.latencies):
            return [None for _ in shares]
        upto = list(accumulate(self.latencies))
        return [_interpolated(upto, share * upto[-1]) for share in shares]

    def within(self, seconds: float) -> Traffic:
        """The same without the latencies that may be longer."""
        known = bisect_right(BOUNDS, seconds)
        return replace(self, latencies=self.latencies[:known] + NO_LATENCIES[known:])

    def slower_than(self, index: int) -> int:
        """How many took longer than `BOUNDS[index]`."""
        return sum(self.latencies[index + 1:])


def _interpolated(upto: list[int], wanted: float) -> float:
    """The latency of the request of this rank, where so many are in each bucket or before it."""
    # Of empty buckets none is meant.
    index = bisect_left(upto, wanted) if wanted > 0 else bisect_right(upto, 0)
    if index >= len(BOUNDS):
        return BOUNDS[-1]
    low, before = (BOUNDS[index - 1], upto[index - 1]) if index else (0.0, 0)
    return low + (BOUNDS[index] - low) * (wanted - before) / (upto[index] - before)


def total(parts: Iterable[Traffic]) -> Traffic:
    """The sum of them."""
    return reduce(add, parts, Traffic())
