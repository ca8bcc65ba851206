"""Who compares new workers with old ones while an upgrade is judged: it looks once a second at what
they have answered and used since, and tells the verdict as a fact. What the figures prove stands
in core/evidence.py, what a verdict does in core/judge_rules.py.
"""

from __future__ import annotations

from typing import Any

from ...shared.frozen import dataclass
from ..core import facts
from ..core.comparison import Work, sliced
from ..core.evidence import ROUND, Evidence, look
from ..core.pool import Pool, State, Worker
from ..core.slices import Group, Pair, Slice, Tolerance
from ..core.traffic import NO_LATENCIES, Traffic
from ..core.upgrade import Upgrade
from ..core.verdict import Verdict, Word, verdict
from ..launch.shared_page import SharedPage
from ..launch.traffic_pages import TrafficPages
from ..launch.usage import anonymous_memory, cpu_seconds
from ..system.ledger import Ledger
from ..system.part import Keep, Kept, Part
from ..system.part import State as KeptState
from ..system.plain_data import to_plain

LOOK_SECONDS = 1.0
# What is in flight at so many looks in a row hangs; who answers nobody at so many is stalled.
WAITED, STALLED = 5, 10
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
    """What a worker had done at some moment. `cpu`: seconds; `memory`: bytes; `in_flight`: how many
    requests it had in its hands, at the last looks; `waited`: the most that it ever had all through
    so many looks (as many had no answer for so long, whichever they were); `idle`: for how many
    looks it has answered nobody."""

    traffic: Traffic
    cpu: float
    memory: int
    in_flight: tuple[int, ...]
    waited: int
    idle: int

    @property
    def begun(self) -> int:
        return self.traffic.requests + self.in_flight[-1]

    @property
    def stalled(self) -> bool:
        """Whether it has several requests in its hands, and has answered nobody for long: a worker
        of a few threads begins no more when they all hang."""
        return self.idle >= STALLED and min(self.in_flight) > 1

    def work(self, then: Seen) -> Group:
        """What it has done since. Each second in which it is stalled counts as one more request
        that hangs."""
        return Group(
            self.traffic.since(then.traffic), max(0.0, self.cpu - then.cpu),
            float(self.memory - then.memory), 1, max(0, self.begun - then.begun) + self.stalled,
            self.waited - then.waited + self.stalled)


class Judge(Part):
    """One comparison at a time."""

    name = "judge"
    keeps = {"judgement": Keep(KeptEvidence | None)}

    def __init__(self, ledger: Ledger, pages: TrafficPages, page: SharedPage) -> None:
        self._ledger = ledger
        self._pages = pages
        self._page = page
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
        before = self._seen
        self._seen = {worker.id: self._look_at(worker, answered[worker.id])
                      for worker in workers if worker.id in answered}
        if first and not self._evidence.slices:
            done, seconds = self._lately(upgrade, workers, now), LOOK_SECONDS
        else:
            done = self._since(workers, before, judging.after)
        self._evidence = look(
            self._evidence, sliced(self._ledger.pool, upgrade, done, now, seconds),
            judging.tolerance)
        self._tell(verdict(self._evidence, judging.tolerance) if answered else BLIND, now)

    def _forget(self) -> None:
        if self._generation:
            self._generation, self._evidence, self._seen = 0, Evidence(), {}
            self._looked_at, self._told = None, (None, 0.0)

    def _look_at(self, worker: Worker, answered: Traffic) -> Seen:
        """What a worker has done by now."""
        then, now = self._seen.get(worker.id), self._page.in_flight(worker.id)
        in_flight: tuple[int, ...] = (now,)
        waited = idle = 0
        if then is not None:
            in_flight = (*then.in_flight, now)[-WAITED:]
            waited = max(then.waited, min(in_flight) if len(in_flight) == WAITED else 0)
            idle = then.idle + 1 if answered.requests == then.traffic.requests and now else 0
        return Seen(answered, cpu_seconds(worker.pid), anonymous_memory(worker.pid), in_flight,
                    waited, idle)

    def _since(self, workers: list[Worker], before: dict[int, Seen], after: int) -> list[Work]:
        """What has come since the last look, of whoever was there then and is still, and had so
        many requests behind it."""
        done = []
        for worker in workers:
            then, seen = before.get(worker.id), self._seen.get(worker.id)
            if then is not None and seen is not None and (then.begun >= after or seen.stalled):
                done.append(Work(worker, seen.work(then), seen.traffic.requests))
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
