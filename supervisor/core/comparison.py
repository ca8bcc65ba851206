"""Who is held against whom while new workers are judged: like against like. Pure; what the figures
prove is the business of `evidence.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...shared.frozen import dataclass
from .judge_rules import baseline
from .pool import Pool, Worker
from .slices import Group, Pair, Slice
from .traffic import NO_LATENCIES, total
from .upgrade import Upgrade

# A worker that has been ready for so many seconds is warm: young ones are held against young ones.
WARM_SECONDS = 60.0
# How slow a worker is at first goes by what it has answered, too, and the kernel may give one of
# them most of the connections. Until it has answered so many times what is left out of its first
# requests, its latencies count only beside others as fresh, of which none has answered more than
# so many times what another has.
FRESH, ALIKE = 5, 2


@dataclass(frozen=True, slots=True)
class Work:
    """What a worker did in a slice, and how many requests it has answered in all."""

    worker: Worker
    group: Group
    answered: int


def sliced(pool: Pool, upgrade: Upgrade, done: Sequence[Work], now: float,
           seconds: float) -> Slice:
    """All the work of a slice: of new and of old workers, young and warm ones apart.

    An answer that took longer than the youngest has been ready isn't held against anybody: a long
    stream has ended first on whichever side was ready first. Where there is a baseline, the
    latencies of other young ones of the old code don't count: they may have kept connections, and
    with these other requests.
    """
    judging = upgrade.terms.judging
    fresh = 0 if judging is None else FRESH * judging.after
    alike = _alike([work for work in done if work.answered < fresh])
    alone = baseline(pool, upgrade)
    groups: dict[tuple[bool, bool], list[Group]] = {}
    youngest = WARM_SECONDS
    for work in done:
        new = work.worker.generation == upgrade.to_generation
        age = now - pool.since(work.worker.ready_at or now)
        youngest = min(youngest, max(0.0, age))
        group = work.group
        other = alone is not None and not new and age < WARM_SECONDS and work.worker.id != alone
        if (work.answered < fresh and not alike) or other:
            group = replace(group, traffic=replace(group.traffic, latencies=NO_LATENCIES))
        groups.setdefault((new, age >= WARM_SECONDS), []).append(group)

    def pair(warm: bool) -> Pair:
        return Pair(_sum(groups.get((True, warm), [])),
                    _sum(groups[False, warm]) if (False, warm) in groups else None)

    return Slice(seconds, young=pair(False).within(youngest), warm=pair(True))


def _alike(fresh: Sequence[Work]) -> bool:
    """Whether those that are fresh can be held against one another: on either side is one, and
    they have answered about as many requests."""
    answered = [work.answered for work in fresh]
    return (len({work.worker.generation for work in fresh}) == 2
            and max(answered) <= ALIKE * min(answered))


def _sum(groups: list[Group]) -> Group:
    return Group(total(each.traffic for each in groups), sum(each.cpu_seconds for each in groups),
                 sum(each.memory_growth for each in groups), len(groups),
                 sum(each.begun for each in groups), sum(each.hung for each in groups))
