"""Who compares new workers with old ones while an upgrade is judged: it looks once a second at what
they have answered and used since, and tells the verdict as a fact. What the figures prove stands
in core/evidence.py, what a verdict does in core/judge_rules.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core import facts
from ..core.comparison import Work, sliced
from ..core.evidence import ROUND, Evidence, Group, Pair, Slice, Tolerance, look
from ..core.pool import Pool, State, Worker
from ..core.traffic import NO_LATENCIES, Traffic
from ..core.upgrade import Judging, Upgrade
from ..core.verdict import Verdict, Word, verdict
from ..launch.traffic_pages import TrafficPages
from ..launch.usage import anonymous_memory, cpu_seconds
from ..system.ledger import Ledger
from ..system.part import Keep, Kept, Part
from ..system.part import State as KeptState
from ..system.plain_data import to_plain

LOOK_SECONDS = 1.0
# Figures that say the same as before are told so often.
TELL_SECONDS = 10.0
BLIND = Verdict(Word.UNSURE,
                "nothing is known of what the workers answer: none counts its requests")


@dataclass(frozen=True, slots=True)
class KeptEvidence(Kept):
    """What is known of the upgrade to this generation."""

    generation: int
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Seen:
    """What a worker had done at some moment. `cpu`: seconds; `memory`: bytes."""

    traffic: Traffic
    cpu: float
    memory: int


class Judge(Part):
    """One comparison at a time."""

    name = "judge"
    keeps = {"judgement": Keep(KeptEvidence | None)}

    def __init__(self, ledger: Ledger, pages: TrafficPages) -> None:
        self._ledger = ledger
        self._pages = pages
        self._generation = 0
        self._evidence = Evidence()
        self._seen: dict[int, Seen] = {}
        self._looked_at: float | None = None
        self._told: tuple[Verdict | None, float] = (None, 0.0)

    def hand_over(self) -> dict[str, Any]:
        kept = KeptEvidence(self._generation, self._evidence) if self._generation else None
        return {"judgement": to_plain(kept)}

    def take_over(self, state: KeptState) -> None:
        kept: KeptEvidence | None = state["judgement"]
        if kept is not None and _goes_on(kept.evidence):
            self._generation, self._evidence = kept.generation, kept.evidence

    def _judged(self) -> Upgrade | None:
        upgrade = self._ledger.pool.upgrade
        return upgrade if upgrade is not None and upgrade.judged else None

    @property
    def deadline(self) -> float | None:
        """When it looks next: never, while nobody is judged."""
        if self._judged() is None:
            return None
        return 0.0 if self._looked_at is None else self._looked_at + LOOK_SECONDS

    def on_suspended(self, now: float, seconds: float | None) -> None:
        self._seen, self._looked_at = {}, None

    def on_time(self, now: float) -> None:
        upgrade = self._judged()
        if upgrade is None or upgrade.terms.judging is None:
            self._forget()
            return
        if upgrade.to_generation != self._generation:
            self._forget()
            self._generation = upgrade.to_generation
        if self._looked_at is not None and now < self._looked_at + LOOK_SECONDS:
            return
        first, seconds = self._looked_at is None, now - (self._looked_at or now)
        self._looked_at = now
        judging, workers = upgrade.terms.judging, _compared(self._ledger.pool, upgrade)
        answered = {worker.id: traffic for worker in workers
                    if (traffic := self._pages.of(worker.id)) is not None}
        before, self._seen = self._seen, _seen(workers, answered, judging)
        if first and not self._evidence.slices:
            done, seconds = self._lately(upgrade, workers, now), LOOK_SECONDS
        else:
            done = self._since(workers, before)
        self._evidence = look(
            self._evidence, sliced(self._ledger.pool, upgrade, done, now, seconds),
            judging.tolerance)
        self._tell(verdict(self._evidence, judging.tolerance) if answered else BLIND, now)

    def _forget(self) -> None:
        if self._generation:
            self._generation, self._evidence, self._seen = 0, Evidence(), {}
            self._looked_at, self._told = None, (None, 0.0)

    def _since(self, workers: list[Worker], before: dict[int, Seen]) -> list[Work]:
        """What has come since the last look, of whoever was there then and is still."""
        done = []
        for worker in workers:
            then, seen = before.get(worker.id), self._seen.get(worker.id)
            if then is not None and seen is not None:
                done.append(Work(worker, Group(
                    seen.traffic.since(then.traffic), max(0.0, seen.cpu - then.cpu),
                    float(seen.memory - then.memory), 1), seen.traffic.requests))
        return done

    def _lately(self, upgrade: Upgrade, workers: list[Worker], now: float) -> list[Work]:
        """What old workers have answered in the last seconds before anybody is compared: where no
        canary is held, there is little time to see how they do."""
        done = []
        for worker in workers:
            recent = self._pages.recent(worker.id, now)
            if recent is not None and worker.generation == upgrade.from_generation:
                done.append(Work(worker, Group(recent[0], workers=1), recent[0].requests))
        return done

    def _tell(self, found: Verdict, now: float) -> None:
        told, at = self._told
        if told is not None and told.word is found.word and (
                now < at + TELL_SECONDS or told.reason == found.reason):
            return
        self._told = (found, now)
        self._ledger.observe(facts.Judged(found))


def _goes_on(evidence: Evidence) -> bool:
    """Whether what an earlier version knew can be added to, as a few slices of one request each
    show; it may have had other buckets. Else the comparison begins anew."""
    one = Group(Traffic(1, latencies=(1, *NO_LATENCIES[1:])), workers=1)
    tolerance = Tolerance()
    try:
        for old in (one, None) * ROUND:
            pair = Pair(one, old)
            evidence = look(evidence, Slice(LOOK_SECONDS, pair, pair), tolerance)
        verdict(evidence, tolerance)
    except (ArithmeticError, LookupError, ValueError):
        return False
    return True


def _compared(pool: Pool, upgrade: Upgrade) -> list[Worker]:
    return [worker for worker in pool.workers.values()
            if worker.state is State.READY and worker.pid
            and worker.generation in (upgrade.from_generation, upgrade.to_generation)]


def _seen(workers: list[Worker], answered: Mapping[int, Traffic],
          judging: Judging) -> dict[int, Seen]:
    """What those have done by now who have answered their first requests."""
    return {worker.id: Seen(answered[worker.id], cpu_seconds(worker.pid),
                            anonymous_memory(worker.pid))
            for worker in workers
            if worker.id in answered and answered[worker.id].requests >= judging.after}
