"""Statuses of judged upgrades, made of pools by what makes those of a master: for whatever shows
them. `JUDGED` by name: a canary that is held, beside its baseline; an upgrade that is watched after
its end; one that went back by its verdict."""

from __future__ import annotations

import json
from typing import Any

from einhornpy.shared import printable
from einhornpy.supervisor.core.evidence import Measure
from einhornpy.supervisor.core.generation import Recipe
from einhornpy.supervisor.core.pool import Pool, State
from einhornpy.supervisor.core.traffic import BOUNDS, NO_LATENCIES, Traffic
from einhornpy.supervisor.core.upgrade import Judging, Outcome, Phase, Terms
from einhornpy.supervisor.core.verdict import Compared, Verdict, Word
from einhornpy.supervisor.reporting.report import status_document
from einhornpy.supervisor.reporting.sharing import Memory, Reading
from einhornpy.supervisor.reporting.signals import Seen

from .reporting.pools import NOW, pool, upgrade, worker

TERMS = Terms(canary=1, hold=300.0, judging=Judging(watch=600.0), release="3f2c1ab")
WHY = "p99 310 ms against 120 ms, p < 0.001"
SINCE = 940.0  # when the canary and its baseline were ready


def verdict(word: Word, reason: str) -> Verdict:
    return Verdict(word, reason, 1310, 5200, (
        Compared(Measure.FAILED, 0.041, 0.002, 0.0005, 1.0, 1310),
        Compared(Measure.P99, 0.31, 0.12, 0.0001, 1.0, 1310),
        Compared(Measure.CPU, None, None, 1.0, 1.0, 0)))


def _seen(requests: int, failed: int, p99: float) -> Seen:
    """Of a tenth of the requests in the last 10 s."""
    def traffic(part: int) -> Traffic:
        count, latencies = requests // part, list(NO_LATENCIES)
        latencies[BOUNDS.index(0.01)], latencies[BOUNDS.index(p99)] = count - count // 50, count // 50
        return Traffic(count, (0, count - failed // part, 0, 0, failed // part), failed // part, 0,
                       0, 1000 * count, 0.01 * count, tuple(latencies))

    return Seen(traffic(10), 10.4, traffic(1), 100.0)


def _status(found: Pool) -> dict[str, Any]:
    traffic = {each.id: _seen(1310, 54, 0.33) if each.generation == 2 else _seen(4000, 20, 0.12)
               for each in found.workers.values() if each.state is State.READY}
    said = status_document(
        found, NOW, name="shop", started_at=0.0,
        master={"pid": 4000, "version": "0.1.0", "socket": "/run/shop.sock", "reloads": 0,
                "reload_refused": None},
        listeners=[{"address": "127.0.0.1:8000", "fd": 3, "queue": 0, "backlog": 2048}],
        memory=Memory(Reading(20 << 20), {}, {each: Reading(40 << 20) for each in found.workers}),
        usage={each: {"requests": 812, "in_flight": 1, "busy_share": 0.12}
               for each in found.workers},
        traffic=traffic, labels={"region": "north"}, last_lines={})
    document: dict[str, Any] = printable.document(json.loads(json.dumps(said)))
    return document


def held() -> dict[str, Any]:
    """The canary sits beside an old worker of seat 0; the baseline has a seat of its own."""
    course = upgrade(Phase.HELD, terms=TERMS, held_since=SINCE,
                     verdict=verdict(Word.NO_WORSE, f"nothing is worse beyond doubt: {WHY}"))
    return _status(pool(3, [
        worker(1), worker(2), worker(3), worker(4, ready_at=SINCE, spawned_at=SINCE - 1),
        worker(5, generation=2, index=0, ready_at=SINCE, spawned_at=SINCE - 1)], course,
                        generations={2: {"recipe": Recipe(("app",), "/srv/next")}}))


def watched() -> dict[str, Any]:
    course = upgrade(Phase.WATCHED, Outcome.DONE, TERMS, ended_at=NOW - 60, ended_wall=1.8e9,
                     watched_since=NOW - 60, replaced=3,
                     verdict=verdict(Word.WELL, f"within the tolerance beyond doubt: {WHY}"))
    new = [worker(number, generation=2) for number in (1, 2, 3)]
    return _status(pool(3, new, course))


def refused() -> dict[str, Any]:
    course = upgrade(Phase.ENDED, Outcome.ROLLED_BACK, TERMS, ended_at=NOW - 60, ended_wall=1.8e9,
                     reason=WHY, verdict=verdict(Word.WORSE, WHY))
    return _status(pool(3, [worker(number) for number in (1, 2, 3)], course))


JUDGED = {"held": held, "watched": watched, "refused": refused}
