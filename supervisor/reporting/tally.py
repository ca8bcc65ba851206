"""The tally: how often what has happened, and how long it took, since the first master started.
Counts only grow.

Computed from the pool before and after a fact, as the journal is. It survives a reload; who shows
it (control/web) may come and go, and a counter of its own would lose what happened meanwhile.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core import facts
from ..core.causes import Recycling
from ..core.pool import Pool, State, Worker
from ..core.upgrade import Outcome, Phase, Upgrade

UPGRADE_SECONDS = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
READY_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0)
LAG_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
# Why a worker left its seat.
REASONS = ("died", "failed-start", "hung", "killed", *map(str, Recycling), "upgrade", "scaled",
           "stopped")


@dataclass(slots=True)
class Histogram:
    """`bounds`: upper ends in seconds, rising. `counts`: how many fell into each, and beyond the
    last one; not cumulative."""

    bounds: Sequence[float]
    counts: list[int] = field(default_factory=list)
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def document(self) -> dict[str, Any]:
        return {"bounds": list(self.bounds), "counts": list(self.counts), "sum": round(self.sum, 6)}


class Tally:
    """`inherited`: the document of the master before us."""

    def __init__(self, inherited: Mapping[str, Any] | None = None) -> None:
        old = inherited or {}
        self.upgrades: dict[str, int] = dict.fromkeys(Outcome, 0) | old.get("upgrades", {})
        self.exits: dict[str, int] = dict.fromkeys(REASONS, 0) | old.get("exits", {})
        self.upgrade_seconds = _histogram(UPGRADE_SECONDS, old.get("upgrade_seconds"))
        self.ready_seconds = _histogram(READY_SECONDS, old.get("ready_seconds"))
        self.lag_seconds = _histogram(LAG_SECONDS, old.get("lag_seconds"))
        self._requests_of_the_gone: int = old.get("requests", 0)
        self.errors: int = old.get("errors", 0)

    def observe(self, before: Pool, event: facts.Event, after: Pool, now: float) -> None:
        """Count what `event` changed between two pools."""
        match event:
            case facts.SaidReady():
                worker = after.workers[event.worker]
                if worker != before.workers[event.worker]:
                    self.ready_seconds.add(now - worker.spawned_at)
            case facts.Exited():
                self.exits[_why_it_left(before, before.workers[event.worker])] += 1
            case facts.SpawnFailed():
                self.exits["failed-start"] += 1
        ended = _over(before, after)
        if ended is not None and ended.ended_at is not None:
            self.upgrades[str(ended.outcome)] += 1
            self.upgrade_seconds.add(ended.ended_at - ended.started_at)

    def failed(self) -> None:
        """An exception was caught that nobody had foreseen."""
        self.errors += 1

    def worker_is_gone(self, requests: int) -> None:
        """Keep the number of requests that a worker has served, whose slot of the shared page is
        given to another one."""
        self._requests_of_the_gone += requests

    def document(self, requests_of_the_living: int = 0) -> dict[str, Any]:
        """The tally as plain data; seconds and counts."""
        return {
            "upgrades": dict(self.upgrades),
            "exits": dict(self.exits),
            "upgrade_seconds": self.upgrade_seconds.document(),
            "ready_seconds": self.ready_seconds.document(),
            "lag_seconds": self.lag_seconds.document(),
            "requests": self._requests_of_the_gone + requests_of_the_living,
            "errors": self.errors,
        }


def _histogram(bounds: Sequence[float], old: Mapping[str, Any] | None) -> Histogram:
    if old is None or tuple(old["bounds"]) != bounds:
        return Histogram(bounds)
    return Histogram(bounds, list(old["counts"]), old["sum"])


def _over(before: Pool, after: Pool) -> Upgrade | None:
    """The upgrade of which it was decided between two pools how it ended: what a counter has added
    can't be taken back, so one that is watched counts when nothing can change its outcome."""
    old, new = before.history[-1:], after.history[-1:]
    if not new or new[0].phase is not Phase.ENDED:
        return None
    known = old and old[0].to_generation == new[0].to_generation
    return None if known and old[0].phase is Phase.ENDED else new[0]


def _why_it_left(pool: Pool, worker: Worker) -> str:
    if worker.state is not State.RETIRING:
        return "died" if worker.state is State.READY else "failed-start"
    if pool.stopping is not None:
        return "stopped"
    if worker.ready_at is None and worker.killed_at is not None:
        return "failed-start"
    if worker.aborted_at is not None:
        return "hung"
    if worker.recycling is not None:
        return worker.recycling
    if worker.killed_at is not None and worker.killed_at == worker.retired_at:
        return "killed"  # at once, for using far too much memory
    return "upgrade" if worker.generation != pool.current else "scaled"
