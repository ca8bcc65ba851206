"""The golden signals: the traffic of workers and of generations as figures for people and scripts,
over the last seconds and since the start. Pure: who has counted it is launch/traffic_pages.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...shared.frozen import dataclass
from ..core.pool import Worker
from ..core.traffic import BOUNDS, CLASSES, Traffic, total

QUANTILES = {"p50_seconds": 0.5, "p95_seconds": 0.95, "p99_seconds": 0.99}


@dataclass(frozen=True, slots=True)
class Seen:
    """The traffic of one worker. `recent`: what came in the last `recent_seconds`; `since_start`:
    all of it, in `seconds`."""

    recent: Traffic
    recent_seconds: float
    since_start: Traffic
    seconds: float

    def document(self) -> dict[str, Any]:
        return {"recent": signals(self.recent, self.recent_seconds),
                "since_start": signals(self.since_start, self.seconds)}


def signals(traffic: Traffic, seconds: float) -> dict[str, Any]:
    """What was answered in so many seconds, as figures: see docs/status.md."""
    if not traffic.requests:
        return {"seconds": round(seconds, 3), **_NOTHING}
    return {"seconds": round(seconds, 3), **_figures(traffic, seconds)}


def _figures(traffic: Traffic, seconds: float) -> dict[str, Any]:
    share = traffic.failed_share
    return {
        "requests": traffic.requests,
        "requests_per_second": round(traffic.requests / seconds, 3) if seconds > 0 else 0.0,
        "failed": traffic.failed,
        "failed_share": None if share is None else round(share, 6),
        "exceptions": traffic.exceptions,
        "aborted": traffic.aborted,
        "bytes_out": traffic.bytes_out,
        "responses": dict(zip(CLASSES, traffic.responses, strict=True)),
        **{name: None if found is None else round(found, 6)
           for name, found in zip(QUANTILES, traffic.quantiles(QUANTILES.values()), strict=True)}}


# Of many workers most are idle.
_NOTHING = _figures(Traffic(), 1.0)


def of_generations(workers: Iterable[Worker], seen: Mapping[int, Seen]) -> list[dict[str, Any]]:
    """The sums over the living workers of each generation, the oldest one first; one of which no
    worker counts is left out. The time is that of the worker which was counted for longest, so that
    a rate is that of all of them together over this time."""
    found: dict[int, list[Seen]] = {}
    for worker in workers:
        if worker.id in seen:
            found.setdefault(worker.generation, []).append(seen[worker.id])
    return [{"generation": number} | Seen(
        total(each.recent for each in of_it), max(each.recent_seconds for each in of_it),
        total(each.since_start for each in of_it), max(each.seconds for each in of_it)).document()
            for number, of_it in sorted(found.items())]


def counts(generations: Mapping[int, Traffic]) -> dict[str, Any]:
    """What each generation has answered since the first master started, as plain counts for the
    tally; `latencies` as in `Traffic`."""
    return {"bounds": list(BOUNDS), "generations": [{
        "generation": number, "requests": each.requests,
        "responses": dict(zip(CLASSES, each.responses, strict=True)), "failed": each.failed,
        "exceptions": each.exceptions, "aborted": each.aborted, "bytes_out": each.bytes_out,
        "seconds": round(each.seconds, 6), "latencies": list(each.latencies)}
        for number, each in sorted(generations.items())]}
