"""What a fact does to the running upgrade: `TRANSITIONS` says which fact may come in which phase,
and which phase follows. Pure; `observe.py` comes here with the facts of upgrades."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

from . import facts, templating
from .bookkeeping import MEMORY, delay_after, prove, scaled, tidy, with_generation
from .causes import Recycling, Refusal
from .generation import Generation
from .pool import Pool, State, Worker
from .upgrade import Accepting, Check, Impossible, Outcome, Phase, Upgrade

_STEERED: dict[type, Phase | None] = {
    facts.Paused: None, facts.Resumed: None, facts.AbortRequested: None}
_JUDGED: dict[type, Phase | None] = {facts.RolledBack: Phase.GOING_BACK, facts.Judged: None}
# None: the phase stays. Anything that isn't here is impossible.
TRANSITIONS: Mapping[Phase, Mapping[type, Phase | None]] = {
    Phase.PREPARING: {
        facts.UpgradePrepared: Phase.CANARY,  # or exchanging, where the terms want no canary
        facts.UpgradeRefused: Phase.GOING_BACK,  # or ended, where nothing has begun
        **_STEERED,
    },
    Phase.CANARY: {
        facts.HoldBegun: Phase.HELD,
        **_JUDGED,
        facts.Checked: None,  # of a hold that a lost canary has interrupted
        **_STEERED,
    },
    Phase.HELD: {  # and back to canary when one is lost
        facts.HoldEnded: Phase.EXCHANGING,
        **_JUDGED,
        facts.Checked: None,
        **_STEERED,
    },
    Phase.EXCHANGING: {
        **_JUDGED,
        facts.Finished: Phase.ENDED,  # or watched, where the terms want that
        facts.AcceptingAsked: None,
        facts.AcceptingChecked: None,
        **_STEERED,
    },
    Phase.GOING_BACK: {
        facts.Finished: Phase.ENDED,
        # Answers to what was asked before.
        facts.Checked: None,
        facts.AcceptingChecked: None,
    },
    Phase.WATCHED: {
        **_JUDGED,
        facts.Resumed: Phase.ENDED,
        facts.AbortRequested: None,
        facts.WatchEnded: Phase.ENDED,
    },
    Phase.ENDED: {},
}


def asked(pool: Pool, event: facts.UpgradeRequested, now: float) -> Pool:
    """The newest request wins at once: the upgrade before it is superseded, even though the
    settings of the new generation have yet to be read. If they can't be (`_not_prepared`), the host
    goes back to the last proven generation rather than stay half-way."""
    before = pool.running_upgrade
    upgrade = Upgrade(
        _way_back(pool), pool.newest + 1, event.terms, event.requested_by, started_at=now,
        started_wall=event.wall, progress_at=now,
        check=Check.WAITING if event.terms.check else None,
        target_before=None if before is None else before.target_before, vacant=event.vacant)
    left_early = pool.left_early if event.vacant else 0
    if before is not None:
        pool = _end(pool, before, Outcome.SUPERSEDED, now, event.wall)
    elif pool.upgrade is not None and pool.upgrade.watched:
        pool = _watched(pool, replace(pool.upgrade, phase=Phase.ENDED, watched_since=None))
    return replace(pool, newest=pool.newest + 1, upgrade=upgrade, left_early=left_early)


def advanced(pool: Pool, event: facts.UpgradePrepared | facts.UpgradeRefused | facts.OfCourse,
             now: float) -> Pool:
    """Return the pool after a fact about the running upgrade.

    Raises:
        Impossible: none runs, or in its phase that can't be.
    """
    upgrade = pool.upgrade
    if upgrade is None or upgrade.phase is Phase.ENDED:
        raise Impossible(f"{event}, but no upgrade is under way")
    allowed = TRANSITIONS[upgrade.phase]
    if type(event) not in allowed:
        raise Impossible(f"{event}, but the upgrade to {upgrade.to_generation} is {upgrade.phase}")
    match event:
        case facts.UpgradePrepared():
            return _prepared(pool, upgrade, event, now)
        case facts.UpgradeRefused():
            return _not_prepared(pool, upgrade, event, now)
        case facts.RolledBack():
            return _go_back(pool, replace(
                upgrade, reason=event.reason, error=event.error, cause=event.cause, progress_at=now,
                watched_since=None, outcome=None, ended_at=None, ended_wall=None))
        case facts.Finished():
            return tidy(_end(pool, upgrade, Outcome.DONE, now, event.wall))
        case _:
            after = _steered(replace(upgrade, phase=allowed[type(event)] or upgrade.phase), event,
                             now)
            if upgrade.running:
                pool = replace(pool, upgrade=after)
                over = upgrade.on_canary and not after.on_canary
                return prove(pool, pool.current) if over else pool
            return tidy(_watched(pool, after))


def _watched(pool: Pool, after: Upgrade) -> Pool:
    """The pool with what has become of the upgrade that is, or was, watched: the last that has
    ended."""
    return replace(pool, upgrade=after, history=(*pool.history[:-1], after))


def refused(upgrade: Upgrade, reason: str, cause: Refusal, error: str | None = None) -> Upgrade:
    """It is to go back. What somebody has aborted stays aborted."""
    if upgrade.cause is Refusal.ABORTED:
        return upgrade
    return replace(upgrade, refusal=reason, cause=cause, error=error)


def look_at_canaries(pool: Pool) -> Pool:
    """A hold counts from when all canaries are there: if one is lost, it begins anew."""
    upgrade = pool.running_upgrade
    if upgrade is None or upgrade.phase is not Phase.HELD:
        return pool
    if _ready_of(pool, upgrade) >= min(upgrade.terms.canary, pool.target):
        return pool
    return replace(pool, upgrade=replace(upgrade, phase=Phase.CANARY, held_since=None))


def _steered(upgrade: Upgrade, event: facts.Paused | facts.Resumed | facts.AbortRequested
             | facts.HoldBegun | facts.Checked | facts.Judged | facts.WatchEnded | facts.HoldEnded
             | facts.AcceptingAsked | facts.AcceptingChecked, now: float) -> Upgrade:
    match event:
        case facts.Paused():
            return replace(upgrade, paused_by=event.by)
        case facts.Resumed():
            if upgrade.phase is Phase.ENDED:  # until now it was watched
                return replace(upgrade, watched_since=None, overruled_by=event.by)
            # Resuming what was paused doesn't end a hold as well; resuming a hold does, and beats
            # the judge.
            over = upgrade.on_canary and upgrade.paused_by is None
            overruled = event.by if over and upgrade.judged else upgrade.overruled_by
            return replace(upgrade, paused_by=None, hold_over=upgrade.hold_over or over,
                           overruled_by=overruled, progress_at=now)
        case facts.AbortRequested():
            return refused(upgrade, f"aborted by {event.by}", Refusal.ABORTED)
        case facts.HoldBegun():
            check = Check.RUNNING if upgrade.check is Check.WAITING else upgrade.check
            return replace(upgrade, held_since=now, check=check, progress_at=now)
        case facts.Checked():
            if event.reason is None:
                return replace(upgrade, check=Check.PASSED)
            return refused(upgrade, event.reason, Refusal.CHECK_FAILED, event.error)
        case facts.Judged():
            return replace(upgrade, verdict=event.verdict)
        case facts.WatchEnded():
            return replace(upgrade, watched_since=None)
        case facts.HoldEnded():
            return replace(upgrade, held_since=None, progress_at=now)
        case facts.AcceptingAsked():
            return replace(upgrade, accepting=Accepting.ASKED)
        case facts.AcceptingChecked():
            if event.reason is None:
                return replace(upgrade, accepting=Accepting.YES)
            return refused(upgrade, event.reason, Refusal.NOBODY_ACCEPTS)
        case _:
            assert_never(event)


def _prepared(pool: Pool, upgrade: Upgrade, event: facts.UpgradePrepared, now: float) -> Pool:
    if event.number != upgrade.to_generation:
        raise Impossible(f"{event.number} is prepared, but the upgrade to {upgrade.to_generation} "
                         "is under way")
    phase = Phase.CANARY if upgrade.terms.canary else Phase.EXCHANGING
    upgrade = replace(upgrade, phase=phase, progress_at=now)
    # An app whose workers leave for new code as soon as they are ready gets it, but not in a hot
    # loop.
    not_before = now + delay_after(pool.left_early - 1, pool.policy.first_delay)
    made = Generation(event.number, event.recipe, not_before=not_before)
    pool = replace(pool, upgrade=upgrade, current=event.number,
                   generations={**pool.generations, event.number: made})
    pool = templating.prepared(pool, event.number, event.template, now)
    if event.target is None:
        return pool
    before = pool.target if upgrade.target_before is None else upgrade.target_before
    return scaled(replace(pool, upgrade=replace(upgrade, target_before=before)), event.target)


def _not_prepared(pool: Pool, upgrade: Upgrade, event: facts.UpgradeRefused, now: float) -> Pool:
    cause = Refusal.NOT_PREPARED if event.aborted_by is None else Refusal.ABORTED
    upgrade = replace(upgrade, reason=event.reason, error=event.error, cause=cause)
    half_way = pool.current != upgrade.from_generation
    pool = _go_back(pool, upgrade)
    assert pool.upgrade is not None
    return tidy(pool if half_way else _end(pool, pool.upgrade, Outcome.DONE, now, event.wall))


def _way_back(pool: Pool) -> int:
    """The generation that a refused upgrade goes back to: the last proven one, if there is one."""
    if not pool.generations[pool.current].proven and pool.running_upgrade is not None:
        return pool.running_upgrade.from_generation
    return pool.current


def _go_back(pool: Pool, upgrade: Upgrade) -> Pool:
    """Want the old generation again; what failed of it long ago doesn't count against the way
    back."""
    fresh = replace(pool.generations[upgrade.from_generation], failures_in_a_row=0)
    back = replace(upgrade, phase=Phase.GOING_BACK, paused_by=None, held_since=None,
                   target_before=None)
    pool = with_generation(replace(pool, upgrade=back, current=upgrade.from_generation), fresh)
    # The number of workers that the refused release asked for goes with it, unless somebody has
    # scaled since.
    pool = pool if upgrade.target_before is None else scaled(pool, upgrade.target_before)
    return replace(pool, workers={key: _seated(pool, worker)
                                  for key, worker in pool.workers.items()})


def _seated(pool: Pool, worker: Worker) -> Worker:
    """A baseline stays until somebody stands on each seat again."""
    if (worker.generation != pool.current or worker.index < pool.target
            or worker.state is State.RETIRING or worker.recycled_for is not None):
        return worker
    return replace(worker, recycled_for="stood beside all seats, as a baseline",
                   recycling=Recycling.BASELINE)


def _end(pool: Pool, upgrade: Upgrade, outcome: Outcome, now: float, wall: float) -> Pool:
    """End an upgrade; one that goes back is at its end too, whatever ends it. `outcome`: if it
    doesn't."""
    if upgrade.rolling_back:
        aborted = upgrade.cause is Refusal.ABORTED
        outcome = Outcome.ABORTED if aborted else Outcome.ROLLED_BACK
    watched = (upgrade.judged and upgrade.terms.judging is not None
               and upgrade.terms.judging.watch > 0 and outcome is Outcome.DONE)
    ended = replace(
        upgrade, phase=Phase.WATCHED if watched else Phase.ENDED, outcome=outcome, ended_at=now,
        ended_wall=wall, paused_by=None, replaced=min(_ready_of(pool, upgrade), pool.target),
        watched_since=now if watched else None)
    # One that was watched ends a second time.
    others = [each for each in pool.history if each.to_generation != ended.to_generation]
    return replace(pool, upgrade=ended, history=(*others, ended)[-MEMORY:])


def _ready_of(pool: Pool, upgrade: Upgrade) -> int:
    """How many workers of the upgrade's generation are ready."""
    return sum(worker.generation == upgrade.to_generation and worker.state is State.READY
               for worker in pool.workers.values())
