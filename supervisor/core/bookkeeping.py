"""What several facts have in common: the next pool with one thing changed, and what follows from
that by itself. Pure; for `observe.py` and `upgrading.py` alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...shared import backoff
from .generation import Generation
from .pool import SETTLE_SECONDS, Pool, State, Worker
from .template import TemplateState
from .upgrade import Upgrade

DELAY_GROWTH = 1.5
LONGEST_DELAY = 30.0
# How many ended upgrades, and generations that nothing runs any more, are remembered.
MEMORY = 50


def delay_after(failures: int, first: float = 1.0) -> float:
    """Seconds to wait before the next start, after so many failed ones in a row; `first`: after the
    first one."""
    return backoff.delay_after(failures, first, max(first, LONGEST_DELAY), DELAY_GROWTH)


def settled(pool: Pool, worker: Worker, now: float) -> bool:
    """Whether a worker has been ready for so long that its end, whatever it is, says nothing about
    its start."""
    least = max(SETTLE_SECONDS, pool.policy.min_ready(worker))
    return worker.ready_at is not None and now - worker.ready_at >= least


def with_worker(pool: Pool, worker: Worker) -> Pool:
    return replace(pool, workers={**pool.workers, worker.id: worker})


def with_generation(pool: Pool, generation: Generation) -> Pool:
    return replace(pool, generations={**pool.generations, generation.number: generation})


def progress(pool: Pool, now: float) -> Pool:
    """The running upgrade has come nearer to its end."""
    upgrade = pool.running_upgrade
    return pool if upgrade is None else replace(pool, upgrade=replace(upgrade, progress_at=now))


def prove(pool: Pool, number: int) -> Pool:
    """Note what has now been reached: enough ready workers, and enough of this generation to have
    proven it. Canaries prove nothing before their hold is over, may they take every seat: a newer
    upgrade would take them for the way back."""
    ready = [worker for worker in pool.workers.values() if worker.convincing]
    generation = pool.generations[number]
    of_it = sum(worker.generation == number for worker in ready)
    upgrade = pool.running_upgrade
    held = upgrade is not None and upgrade.on_canary and upgrade.to_generation == number
    if not generation.proven and of_it >= pool.target and not held:
        pool = with_generation(pool, replace(generation, proven=True))
    return replace(pool, ever_ready=pool.ever_ready or bool(ready),
                   complete=pool.complete or len(ready) >= pool.target)


def scaled(pool: Pool, target: int) -> Pool:
    return prove(replace(pool, target=target, complete=False), pool.current)


def count_failure(pool: Pool, number: int, reason: str, error: str | None, lines: tuple[str, ...],
                  now: float, who: str = "a worker") -> Pool:
    """A start of this generation failed, that of `who`: hold its next one back, longer each time
    until one of its workers has settled, and charge the upgrade that wants it."""
    generation = pool.generations[number]
    recovered = any(
        worker.generation == number and worker.state is State.READY and worker.ready_at is not None
        and worker.ready_at >= generation.failed_at and settled(pool, worker, now)
        for worker in pool.workers.values())
    failures = 1 if recovered else generation.failures_in_a_row + 1
    not_before = now + delay_after(failures, pool.policy.first_delay)
    pool = with_generation(pool, replace(
        generation, failures_in_a_row=failures, failed_at=now, not_before=not_before,
        error=error or reason, lines=lines))
    upgrade = pool.running_upgrade
    if upgrade is None or upgrade.to_generation != number or upgrade.rolling_back:
        return pool
    return replace(pool, upgrade=replace(
        upgrade, failures=upgrade.failures + 1, reason=f"{who} {reason}", error=error,
        lines=lines))


def needed(pool: Pool) -> set[int]:
    """The generations that something refers to."""
    found = {pool.current, *(worker.generation for worker in pool.workers.values())}
    upgrade = pool.upgrade
    if upgrade is not None and (upgrade.running or upgrade.watched):
        found |= {upgrade.from_generation, upgrade.to_generation}
    return found


def just_ended(before: Pool, after: Pool) -> Upgrade | None:
    """The upgrade that has ended between two pools; one that goes back while it is watched ends a
    second time."""
    old, new = before.history[-1:], after.history[-1:]
    if not new or (old and (old[0].to_generation, old[0].ended_at)
                   == (new[0].to_generation, new[0].ended_at)):
        return None
    return new[0]


def tidy(pool: Pool) -> Pool:
    """Move generations that nothing refers to any more to those that are remembered."""
    useful = needed(pool)
    if any(template.state is TemplateState.GONE and number not in useful
           for number, template in pool.templates.items()):
        pool = replace(pool, templates={
            number: template for number, template in pool.templates.items()
            if number in useful or template.state is not TemplateState.GONE})
    if useful.issuperset(pool.generations):
        return pool
    over = {number: each for number, each in pool.generations.items() if number not in useful}
    remembered: Mapping[int, Generation] = dict(
        sorted((dict(pool.remembered) | over).items())[-MEMORY:])
    return replace(pool, remembered=remembered, generations={
        number: each for number, each in pool.generations.items() if number in useful})
