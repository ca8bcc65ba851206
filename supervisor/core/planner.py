"""What to do: `plan` looks at a pool and says which actions are due, and when to look again.

Pure: no I/O, no clock, no random. It acts on nothing and remembers nothing; whatever it must
remember is in the pool. The rules stand in order, and the first one with something to do ends the
plan, so that each rule may take the pool for what it is. Every action leads to a fact that makes
the same action not due again: that is why it comes to rest.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import judge_rules, template_rules
from .actions import (
    Action,
    BeginHold,
    CalmDown,
    CheckAccepting,
    EndHold,
    Finish,
    GiveUp,
    Kill,
    Leave,
    Plan,
    Retire,
    RollBack,
    Spawn,
)
from .causes import Force, Leaving, Refusal
from .pool import CALM_SECONDS, SETTLE_SECONDS, Pool, State, Stopping, Worker
from .seats import free_seats, seat_of_baseline
from .upgrade import Accepting, Check, Kind, Phase, Upgrade
from .view import View, look


def plan(pool: Pool, now: float) -> Plan:
    """Return the actions that are due at `now`, and the time of the next deadline if there are
    none."""
    view = look(pool, now)
    overdue = [*view.overdue, *template_rules.overdue(pool, view, now)]
    if overdue:
        return Plan(tuple(overdue))
    if pool.stopping is not None:
        return _stop(pool, view)
    for rule in (_roll_back, judge_rules.watch, _give_up, _hold, _retire_useless_starts,
                 _templates, _spawn, _break_before_make, _retire_outdated, _retire_surplus, _finish,
                 _calm_down):
        actions = rule(pool, view, now)
        if actions:
            return Plan(tuple(actions))
    return Plan(wake_at=min(view.deadlines, default=None))


def _stop(pool: Pool, view: View) -> Plan:
    if pool.stopping is Stopping.NOW:
        kills = [Kill(worker.id, "the master stops at once", Force.STOPPED)
                 for worker in pool.workers.values() if worker.killed_at is None]
        if kills:
            return Plan(tuple(kills))
    live = [worker for worker in pool.workers.values() if worker.state is not State.RETIRING]
    if live:
        return Plan(tuple(Retire(worker.id, "the master stops", Leaving.STOPPED)
                          for worker in live))
    if not pool.workers and not pool.left_behind:
        leaving = template_rules.stop(pool)
        if leaving:
            return Plan(tuple(leaving))
        if template_rules.all_gone(pool):
            return Plan((Leave(),))
    return Plan(wake_at=min(view.deadlines, default=None))


def _roll_back(pool: Pool, view: View, now: float) -> Iterable[Action]:
    upgrade = pool.running_upgrade
    if upgrade is None or upgrade.rolling_back or upgrade.preparing:
        return []
    if upgrade.refusal is not None and upgrade.cause is not None:
        return [RollBack(upgrade.refusal, upgrade.error, upgrade.cause)]
    if upgrade.failures >= pool.failures_allowed:
        return [RollBack(upgrade.reason or "too many failures", upgrade.error,
                         Refusal.FAILED_STARTS)]
    if _stalled(pool, view, upgrade, now):
        why = f": {upgrade.reason}" if upgrade.reason else ""
        return [RollBack(f"it made no progress for {pool.policy.progress_timeout:g} s{why}",
                         upgrade.error, Refusal.NO_PROGRESS)]
    return judge_rules.refusal(upgrade)


def _stalled(pool: Pool, view: View, upgrade: Upgrade, now: float) -> bool:
    """Whether the upgrade has waited too long for a worker to become ready. Pauses, holds and
    draining may take long."""
    if (pool.policy.progress_timeout <= 0 or upgrade.paused_by is not None
            or upgrade.phase is Phase.HELD or view.wanted_available >= _wanted_of_current(pool)):
        return False
    return view.past(pool.since(upgrade.progress_at) + pool.policy.progress_timeout, now)


def _wanted_of_current(pool: Pool) -> int:
    """How many workers of the current generation are wanted by now: all, or the canaries."""
    upgrade = pool.running_upgrade
    if upgrade is not None and upgrade.on_canary:
        return min(upgrade.terms.canary, pool.target)
    return pool.target


def _hold(pool: Pool, view: View, now: float) -> Iterable[Action]:
    """The canary's hold: it begins when all canaries serve, and ends when its time is over, or they
    do well beyond doubt, and the check has passed."""
    upgrade = pool.running_upgrade
    if upgrade is None:
        return []
    if upgrade.phase is Phase.CANARY:
        return [BeginHold()] if view.current_available >= _wanted_of_current(pool) else []
    if upgrade.phase is not Phase.HELD or upgrade.held_since is None:
        return []
    over = upgrade.hold_over
    if not over and upgrade.terms.hold is not None:
        over = view.past(pool.since(upgrade.held_since) + upgrade.terms.hold, now)
    over = over or judge_rules.ends_hold_early(pool, view, upgrade, now)
    if not over or upgrade.check not in (None, Check.PASSED):
        return []
    if upgrade.judged and upgrade.paused_by is not None:
        return []  # who pauses it beats the judge: what that says of the hold waits
    return judge_rules.refusal_of_unsure(upgrade) or [EndHold()]


def _hopeless(pool: Pool) -> bool:
    """No worker has ever been ready, and the allowed number of starts has failed."""
    generation = pool.generations[pool.current]
    return not pool.ever_ready and (generation.failures_in_a_row >= pool.failures_allowed
                                    or generation.unfit is not None)


def _give_up(pool: Pool, view: View, now: float) -> Iterable[Action]:
    # Whoever is still starting may yet become ready: wait for the last one.
    if not _hopeless(pool) or pool.running_upgrade is not None or pool.workers or pool.left_behind:
        return []
    generation = pool.generations[pool.current]
    if generation.unfit is not None:
        return [GiveUp(generation.unfit, None)]
    failed = generation.failures_in_a_row
    starts = "1 start" if failed == 1 else f"{failed} starts"
    return [GiveUp(f"no worker became ready in {starts}", generation.error)]


def _on_trial(pool: Pool) -> bool:
    """Whether the current generation still has to prove itself against a generation that it can go
    back to."""
    upgrade = pool.running_upgrade
    return (upgrade is not None and not upgrade.rolling_back
            and upgrade.from_generation != pool.current
            and not pool.generations[pool.current].proven
            and pool.generations[upgrade.from_generation].proven)


def _retire_useless_starts(pool: Pool, view: View, now: float) -> Iterable[Action]:
    """Outdated workers that aren't ready cost nothing to lose, unless they were started to fill a
    gap, or as a baseline (see _spawn)."""
    upgrade = pool.running_upgrade
    wanted = upgrade is not None and (
        upgrade.wants_baseline or (_on_trial(pool) and view.ready < pool.target))
    return [Retire(worker.id, "its generation is no longer wanted", Leaving.UNWANTED)
            for worker in view.outdated_starting if not (
                wanted and upgrade is not None and worker.generation == upgrade.from_generation)]


def _templates(pool: Pool, view: View, now: float) -> Iterable[Action]:
    wanted = {pool.current}
    if _on_trial(pool) and pool.running_upgrade is not None:
        wanted.add(pool.running_upgrade.from_generation)
    return template_rules.due(pool, view, now, wanted) or template_rules.tell(pool)


def _spawn(pool: Pool, view: View, now: float) -> Iterable[Action]:
    upgrade = pool.running_upgrade
    vacant = _vacant(pool, view)
    number, missing = pool.current, _missing(pool, view, vacant)
    if _on_trial(pool) and upgrade is not None and not upgrade.suspicious:
        # A gap left by a crash is filled from the generation that is known to work; but not from
        # one that may be what shuts the sockets down, since each of its workers that goes would do
        # so again.
        gap = pool.target - view.outdated - len(view.wanted_ready) - vacant
        if gap > 0:
            number, missing = upgrade.from_generation, gap
    baseline = upgrade is not None and number == pool.current and judge_rules.misses_baseline(pool)
    if baseline and upgrade is not None:
        number, missing = upgrade.from_generation, 1
    if (upgrade is not None and upgrade.preparing and pool.ever_ready
            and not pool.generations[number].proven):
        return []  # a newer generation is being made: don't start more of one that was never proven
    count = min(missing, _room(pool, view))
    if count < 1 or (_hopeless(pool) and upgrade is None):
        return []
    generation = pool.generations[number]
    if not template_rules.can_fork(pool, number) or not view.past(generation.not_before, now):
        return []
    seats = [seat_of_baseline(pool)] if baseline else free_seats(pool, view, generation, count)
    return [Spawn(index, number) for index in seats]


def _missing(pool: Pool, view: View, vacant: int) -> int:
    """How many workers of the current generation are to be started, if there is room for them."""
    upgrade = pool.running_upgrade
    missing = pool.target - view.wanted
    if upgrade is None or upgrade.rolling_back:
        return missing
    if upgrade.preparing:
        return missing - vacant
    # Whoever left to be replaced by the new code is replaced first.
    if vacant > 0:
        missing = min(missing, vacant - len(view.wanted_starting))
    # Held or paused, the exchange stands still, but nobody is missed.
    if upgrade.paused_by is not None:
        return min(missing, max(vacant, pool.target - view.live))
    if upgrade.on_canary:
        canaries = _wanted_of_current(pool) - view.wanted
        return min(missing, max(canaries, vacant, pool.target - view.live))
    return missing


def _vacant(pool: Pool, view: View) -> int:
    """How many seats wait for the new code alone, because their workers left for it. Once it has
    failed, none does."""
    upgrade = pool.running_upgrade
    if upgrade is None or upgrade.rolling_back or upgrade.failures:
        return 0
    held = [
        *view.wanted_ready, *view.outdated_ready, *view.outdated_starting,
        *(view.wanted_starting if upgrade.preparing else ())]
    return sum(index < pool.target for index in upgrade.vacant - {worker.index for worker in held})


def _room(pool: Pool, view: View) -> int:
    """How many workers more may be started."""
    most, room = pool.policy.max_unacked, _room_to_stand(pool, view)
    starting = len(view.wanted_starting) + len(view.outdated_starting)
    return room if most is None else min(room, most - starting)


def _room_to_stand(pool: Pool, view: View) -> int:
    upgrade = pool.running_upgrade
    if upgrade is None and pool.short_of_memory and view.due:
        # Break before make: those that leave must be gone before others come.
        return pool.target - view.live - view.retiring
    return pool.target + _surge(pool) - view.live


def _surge(pool: Pool) -> int:
    return max(pool.target, pool.policy.max_surge) if _fleet(pool) else pool.policy.max_surge


def _fleet(pool: Pool) -> bool:
    upgrade = pool.running_upgrade
    return (upgrade is not None and upgrade.terms.kind is Kind.FLEET
            and not upgrade.rolling_back)


def _break_before_make(pool: Pool, view: View, now: float) -> Iterable[Action]:
    """Where the host has no memory for a surge, a due worker goes first and its replacement comes
    after; one at a time."""
    if not pool.short_of_memory or pool.running_upgrade is not None or not view.due:
        return []
    if view.retiring or view.wanted_starting:
        return []
    if view.ready != pool.target or view.available < pool.target:
        return []
    due = min(view.outdated_ready, key=lambda worker: (worker.spawned_at, worker.id))
    reason = ("it is recycled before it is replaced, the host is short of memory: it "
              f"{due.recycled_for}")
    return [Retire(due.id, reason, Leaving.RECYCLED)]


def _retire_outdated(pool: Pool, view: View, now: float) -> Iterable[Action]:
    """As many outdated ready workers as there are ready workers too many: this rule is the
    airbag."""
    upgrade = pool.running_upgrade
    successors = {worker.index for worker in view.wanted_ready}

    def order(worker: Worker) -> tuple[bool, int, float, int]:
        succeeded = worker.index in successors or worker.index >= pool.target
        return (not succeeded, worker.generation, worker.spawned_at, worker.id)

    candidates = sorted(view.outdated_ready, key=order)
    if upgrade is not None and not upgrade.rolling_back and (upgrade.paused_by is not None
                                                             or upgrade.on_canary):
        candidates = _while_standing_still(pool, view, upgrade, candidates)
    elif _fleet(pool) and view.wanted_available < pool.target:
        # Until all new ones are there, only what scaling down has made too many may go.
        candidates = candidates[: max(0, len(candidates) - pool.target)]
    if upgrade is not None and upgrade.suspicious and not upgrade.rolling_back:
        candidates = _apart(pool, view, now, candidates)
    return _spare(pool, view, now, candidates)


def _apart(pool: Pool, view: View, now: float, candidates: list[Worker]) -> list[Worker]:
    """Old workers go one by one, and only while nothing new has just begun: whatever happens then
    has one possible cause."""
    newest = max((worker.ready_at or 0.0 for worker in view.wanted_ready), default=0.0)
    quiet = view.past(pool.since(newest) + SETTLE_SECONDS, now)
    return candidates[:1] if quiet and not view.old_retiring else []


def _while_standing_still(pool: Pool, view: View, upgrade: Upgrade,
                          candidates: list[Worker]) -> list[Worker]:
    """Paused or on canary, old workers go only where there would be too many, or no room for a
    canary that is missing; a due canary goes when its replacement is there."""
    paused = upgrade.paused_by is not None
    due = [worker for worker in candidates if worker.generation == pool.current and not paused]
    if paused or due:
        missing = 0
    else:
        missing = max(0, _wanted_of_current(pool) - view.wanted) + judge_rules.misses_baseline(pool)
        candidates = judge_rules.but_baseline(pool, upgrade, candidates)
    excess = max(0, view.live + missing - pool.target - _surge(pool))
    return due or candidates[:excess]


def _retire_surplus(pool: Pool, view: View, now: float) -> Iterable[Action]:
    """Scaled down: those that aren't ready first, then the highest seats."""
    surplus = view.wanted - pool.target
    if surplus < 1:
        return []
    starting = sorted(view.wanted_starting, key=lambda worker: -worker.index)[:surplus]
    if starting:
        return [Retire(worker.id, "scaled down", Leaving.SCALED) for worker in starting]
    highest = sorted(view.wanted_ready, key=lambda worker: -worker.index)
    return _spare(pool, view, now, highest[:surplus])


def _spare(pool: Pool, view: View, now: float, candidates: list[Worker]) -> list[Action]:
    """Retire candidates in order, for as long as enough ready and enough available workers
    remain."""
    ready, available = view.ready, view.available
    actions: list[Action] = []
    for worker in candidates:
        counted = pool.available(worker, now)
        if ready <= pool.target:
            break
        if available - counted >= pool.target:
            ready, available = ready - 1, available - counted
            actions.append(Retire(worker.id, *_why(pool, worker)))
    return actions


def _why(pool: Pool, worker: Worker) -> tuple[str, Leaving]:
    if worker.generation != pool.current:
        upgrade = pool.running_upgrade
        if upgrade is not None and upgrade.rolling_back:
            return "its generation goes back", Leaving.GOING_BACK
        return "it is replaced", Leaving.REPLACED
    if worker.recycled_for is None:
        return "scaled down", Leaving.SCALED
    return f"it is recycled: it {worker.recycled_for}", Leaving.RECYCLED


def _finish(pool: Pool, view: View, now: float) -> Iterable[Action]:
    upgrade = pool.running_upgrade
    if upgrade is None or upgrade.phase not in (Phase.EXCHANGING, Phase.GOING_BACK):
        return []
    if upgrade.paused_by is not None:
        return []
    everybody_new = view.outdated == view.due and view.old_retiring == 0
    if everybody_new and view.current_available >= pool.target:
        return [Finish()] if upgrade.rolling_back else _finish_well(pool, view, upgrade)
    # Going back fails as well: say so now rather than never; the exchange goes on by the other
    # rules.
    failed = pool.generations[pool.current].failures_in_a_row >= pool.failures_allowed
    if upgrade.rolling_back and (failed or _stalled(pool, view, upgrade, now)):
        return [Finish()]
    return []


def _finish_well(pool: Pool, view: View, upgrade: Upgrade) -> Iterable[Action]:
    """The upgrade is done, if whoever connects finds somebody."""
    if pool.unreachable:
        reason = " and ".join(f"nobody can connect to {address}: {why}"
                              for address, why in pool.unreachable.items())
        return [RollBack(reason, None, Refusal.LISTENER_LOST)]
    # Also one that is due again already: it serves, and the next one is not there yet.
    guessed = any(worker.guessed for worker in (*view.wanted_ready, *view.outdated_ready))
    if upgrade.accepting is Accepting.YES or not guessed:
        return [Finish()]
    return [CheckAccepting()] if upgrade.accepting is None else []


def _calm_down(pool: Pool, view: View, now: float) -> Iterable[Action]:
    generation = pool.generations[pool.current]
    if not generation.faults:
        return []
    calm = view.past(generation.fault_at + CALM_SECONDS, now)
    return [CalmDown(pool.current)] if calm else []
