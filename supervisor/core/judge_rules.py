"""What the comparison of new workers with old ones decides: the planner's rules about it. Pure.

It can refuse a release, end a hold early, and wants an old worker as young as the canaries. Who
pauses an upgrade, or says resume in its hold, beats it.
"""

from __future__ import annotations

from .actions import Action, EndWatch, RollBack
from .causes import Refusal
from .generation import Generation
from .pool import Pool, State, Worker
from .upgrade import Phase, Upgrade
from .verdict import Word
from .view import View


def refusal(upgrade: Upgrade) -> list[Action]:
    """The release does worse than the old code, beyond doubt."""
    verdict = upgrade.verdict
    if (not upgrade.judged or upgrade.paused_by is not None or verdict is None
            or verdict.word is not Word.WORSE):
        return []
    return [RollBack(verdict.reason, None, Refusal.WORSE)]


def refusal_of_unsure(upgrade: Upgrade) -> list[Action]:
    """Its hold is over, and nobody can tell whether it does well."""
    judging = upgrade.terms.judging
    if (judging is None or not judging.refuses_unsure or not upgrade.judged
            or upgrade.doing is not Word.UNSURE):
        return []
    reason = "nothing was compared yet" if upgrade.verdict is None else upgrade.verdict.reason
    return [RollBack(f"the hold is over, and the judge is unsure: {reason}", None, Refusal.UNSURE)]


def ends_hold_early(pool: Pool, view: View, upgrade: Upgrade, now: float) -> bool:
    """Whether the release does well beyond doubt, and has been held for as long as it must."""
    judging = upgrade.terms.judging
    if (judging is None or judging.least_hold is None or upgrade.held_since is None
            or not upgrade.judged):
        return False
    over = view.past(pool.since(upgrade.held_since) + judging.least_hold, now)
    return over and upgrade.doing is Word.WELL


def misses_baseline(pool: Pool) -> bool:
    """Whether a worker of the old code is to be started with the canaries. Whoever was started of
    it since the upgrade was asked for is young enough."""
    upgrade = pool.running_upgrade
    if (upgrade is None or not upgrade.wants_baseline or upgrade.phase is not Phase.CANARY
            or upgrade.paused_by is not None or upgrade.suspicious):
        return False
    return why_no_baseline(pool, upgrade) is None and baseline(pool, upgrade) is None


def why_no_baseline(pool: Pool, upgrade: Upgrade) -> str | None:
    """Why no worker of the old code can be started for canaries to be held against; None where one
    can."""
    old, new = (pool.generations.get(number)
                for number in (upgrade.from_generation, upgrade.to_generation))
    if old is None or new is None or not old.proven:
        return f"generation {upgrade.from_generation} has never had all its workers ready"
    if not _still_there(pool, old, new):
        return ("the old code has neither a directory of its own nor a template that has imported "
                "it, so its workers can't be started any more")
    if old.failures_in_a_row and old.failed_at >= upgrade.started_at:  # canaries don't wait for it
        return f"a worker of the old code could not be started: {old.error or 'it failed'}"
    return None


def _still_there(pool: Pool, old: Generation, new: Generation) -> bool:
    """Whether a worker that is started of the old generation now runs its old code: it has a
    directory of its own, or a template that has imported it. Code that was overwritten in place
    would be compared with itself."""
    template = pool.templates.get(old.number)
    imported = template is not None and template.preloaded
    return imported or old.recipe.directory != new.recipe.directory


def baseline(pool: Pool, upgrade: Upgrade) -> int | None:
    """The id of a worker of the old code that is as young as the canaries."""
    return next((worker.id for worker in pool.workers.values()
                 if worker.generation == upgrade.from_generation
                 and worker.state is not State.RETIRING
                 and worker.spawned_at >= upgrade.started_at), None)


def but_baseline(pool: Pool, upgrade: Upgrade, candidates: list[Worker]) -> list[Worker]:
    """Those who may go while an upgrade is on canary."""
    kept = baseline(pool, upgrade) if upgrade.wants_baseline else None
    return [worker for worker in candidates if worker.id != kept]


def watch(pool: Pool, view: View, now: float) -> list[Action]:
    """An upgrade that has ended well goes back if its release does badly after all (its workers die
    again and again, or do worse than the old ones), or if somebody says abort."""
    upgrade = pool.upgrade
    if upgrade is None or upgrade.watched_since is None or upgrade.terms.judging is None:
        return []
    if upgrade.refusal is not None and upgrade.cause is not None:
        return [RollBack(upgrade.refusal, None, upgrade.cause)]
    generation = pool.generations[upgrade.to_generation]
    if generation.faults >= pool.failures_allowed_by(upgrade):
        return [RollBack(generation.fault or "its workers keep failing", generation.error,
                         Refusal.FAILED_STARTS)]
    over = view.past(pool.since(upgrade.watched_since) + upgrade.terms.judging.watch, now)
    return refusal(upgrade) or ([EndWatch()] if over else [])
