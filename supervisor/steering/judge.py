"""Who compares new workers with old ones while an upgrade is judged: it looks once a second at what
they have answered and used since, and tells the verdict as a fact. What the figures prove stands
in core/evidence.py, what a verdict does in core/judge_rules.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core import facts
from ..core.evidence import Evidence, Group, Pair, Slice, look
from ..core.pool import Pool, State, Worker
from ..core.traffic import Traffic
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
# A worker that has been ready for so long is warm: young ones are compared with young ones.
WARM_SECONDS = 60.0
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
        if kept is not None:
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
        judging = upgrade.terms.judging
        before, self._seen = self._seen, self._look_at_workers(upgrade, judging)
        if first and not self._evidence.slices:
            found = self._lately(upgrade, now)
        else:
            found = self._slice(upgrade, before, now, seconds)
        self._evidence = look(self._evidence, found, judging.tolerance)
        self._tell(verdict(self._evidence, judging.tolerance) if self._counts(upgrade) else BLIND,
                   now)

    def _counts(self, upgrade: Upgrade) -> bool:
        """Whether anything is known of what those who are compared answer."""
        return any(self._pages.of(worker.id) is not None
                   for worker in _compared(self._ledger.pool, upgrade))

    def _forget(self) -> None:
        if self._generation:
            self._generation, self._evidence, self._seen = 0, Evidence(), {}
            self._looked_at, self._told = None, (None, 0.0)

    def _look_at_workers(self, upgrade: Upgrade, judging: Judging) -> dict[int, Seen]:
        """What those who are compared have done by now: who has answered its first requests."""
        found = {}
        for worker in _compared(self._ledger.pool, upgrade):
            traffic = self._pages.of(worker.id)
            if traffic is not None and traffic.requests >= judging.after:
                pid = worker.pid
                found[worker.id] = Seen(traffic, cpu_seconds(pid), anonymous_memory(pid))
        return found

    def _slice(self, upgrade: Upgrade, before: dict[int, Seen], now: float,
               seconds: float) -> Slice:
        """What has come since the last look, of whoever was there then and is still."""
        parts = []
        for worker in _compared(self._ledger.pool, upgrade):
            then, seen = before.get(worker.id), self._seen.get(worker.id)
            if then is not None and seen is not None:
                parts.append((worker, Group(
                    seen.traffic.since(then.traffic), max(0.0, seen.cpu - then.cpu),
                    float(seen.memory - then.memory), 1)))
        return self._sorted(upgrade, parts, now, seconds)

    def _lately(self, upgrade: Upgrade, now: float) -> Slice:
        """What old workers have answered in the last seconds before anybody is compared: where no
        canary is held, there is little time to see how they do."""
        parts = []
        for worker in _compared(self._ledger.pool, upgrade):
            recent = self._pages.recent(worker.id, now)
            if recent is not None and worker.generation == upgrade.from_generation:
                parts.append((worker, Group(recent[0], workers=1)))
        return self._sorted(upgrade, parts, now, LOOK_SECONDS)

    def _sorted(self, upgrade: Upgrade, parts: list[tuple[Worker, Group]], now: float,
                seconds: float) -> Slice:
        groups: dict[tuple[bool, bool], list[Group]] = {}
        for worker, group in parts:
            new = worker.generation == upgrade.to_generation
            ready = self._ledger.pool.since(worker.ready_at or now)
            groups.setdefault((new, now - ready >= WARM_SECONDS), []).append(group)

        def pair(warm: bool) -> Pair:
            return Pair(_sum(groups.get((True, warm), [])),
                        _sum(groups[False, warm]) if (False, warm) in groups else None)

        return Slice(seconds, young=pair(False), warm=pair(True))

    def _tell(self, found: Verdict, now: float) -> None:
        told, at = self._told
        if told is not None and told.word is found.word and (
                now < at + TELL_SECONDS or told.reason == found.reason):
            return
        self._told = (found, now)
        self._ledger.observe(facts.Judged(found))


def _compared(pool: Pool, upgrade: Upgrade) -> list[Worker]:
    return [worker for worker in pool.workers.values()
            if worker.state is State.READY and worker.pid
            and worker.generation in (upgrade.from_generation, upgrade.to_generation)]


def _sum(groups: list[Group]) -> Group:
    traffic = Traffic()
    for each in groups:
        traffic = traffic + each.traffic
    return Group(traffic, sum(each.cpu_seconds for each in groups),
                 sum(each.memory_growth for each in groups), len(groups))

