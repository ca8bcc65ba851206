"""What to do: `plan` looks at a pool and says which actions are due, and when to look again.

Pure: no I/O, no clock, no random. It acts on nothing and remembers nothing; whatever it must
remember is in the pool. The rules stand in order, and the first one with something to do ends the
plan, so that each rule may take the pool for what it is. Every action leads to a fact that makes
the same action not due again: that is why it comes to rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .pool import CALM_SECONDS, SETTLE_SECONDS, Generation, Pool, Recipe, State, Upgrade, Worker

# How long a hung worker has to say where it hangs, between SIGABRT and SIGKILL.
ABORT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Spawn:
    index: int
    generation: int


@dataclass(frozen=True, slots=True)
class AssumeReady:
    """The worker says nothing by itself and has lived for long enough: it is ready if somebody
    accepts connections."""

    worker: int


@dataclass(frozen=True, slots=True)
class Trust:
    """The guess that this worker is ready has stood for long enough."""

    worker: int


@dataclass(frozen=True, slots=True)
class Recycle:
    """The worker is due: it counts as outdated from now on. `memory`: because it uses too much."""

    worker: int
    reason: str
    memory: bool = False


@dataclass(frozen=True, slots=True)
class Abort:
    """SIGABRT to a hung worker, so that it says where it hangs; SIGKILL follows."""

    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class Retire:
    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL to the worker's process group. `reason` is a predicate: "was not ready within 60
    s"."""

    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class KillOrphan:
    """SIGKILL to a process that a worker has left behind, and that was asked to go long ago."""

    pid: int


@dataclass(frozen=True, slots=True)
class BeginHold:
    """All canaries serve: the hold begins, and with it the check, if one waits."""


@dataclass(frozen=True, slots=True)
class EndHold:
    """The canaries have done well."""


@dataclass(frozen=True, slots=True)
class CheckAccepting:
    """Nothing but guesses says that the new workers serve, and no old one is left: look whether
    anybody accepts connections."""


@dataclass(frozen=True, slots=True)
class CalmDown:
    """A generation has been without a fault for long enough: its old ones count no more."""

    generation: int


@dataclass(frozen=True, slots=True)
class RollBack:
    reason: str
    error: str | None


@dataclass(frozen=True, slots=True)
class Finish:
    """The running upgrade is at its end: done, or all the way back."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No worker ever became ready."""

    reason: str
    error: str | None


@dataclass(frozen=True, slots=True)
class Leave:
    """The asked-for stop is complete."""


Action = (Spawn | AssumeReady | Trust | Recycle | Abort | Retire | Kill | KillOrphan | BeginHold
          | EndHold | CheckAccepting
          | CalmDown | RollBack | Finish | GiveUp | Leave)


@dataclass(frozen=True, slots=True)
class Plan:
    """`wake_at`: when to plan again even if nothing happens; None where only a fact can change
    anything."""

    actions: tuple[Action, ...] = ()
    wake_at: float | None = None


@dataclass(slots=True)
class _View:
    """The pool sorted once, since a plan over a thousand workers must stay far below the time of
    one fork.

    wanted: of the current generation and not due. outdated: the others, of which `due` are of the
    current generation.
    """

    wanted_ready: list[Worker] = field(default_factory=list)
    wanted_starting: list[Worker] = field(default_factory=list)
    outdated_ready: list[Worker] = field(default_factory=list)
    outdated_starting: list[Worker] = field(default_factory=list)
    due: int = 0
    retiring: int = 0
    old_retiring: int = 0
    available: int = 0
    wanted_available: int = 0
    current_available: int = 0
    deadlines: list[float] = field(default_factory=list)

    @property
    def wanted(self) -> int:
        return len(self.wanted_ready) + len(self.wanted_starting)

    @property
    def outdated(self) -> int:
        return len(self.outdated_ready) + len(self.outdated_starting)

    @property
    def ready(self) -> int:
        return len(self.wanted_ready) + len(self.outdated_ready)

    @property
    def live(self) -> int:
        return self.wanted + self.outdated


def plan(pool: Pool, now: float) -> Plan:
    """Return the actions that are due at `now`, and the time of the next deadline if there are
    none."""
    view, overdue = _look(pool, now)
    if overdue:
        return Plan(tuple(overdue))
    if pool.stopping is not None:
        return _stop(pool, view)
    for rule in (_roll_back, _give_up, _hold, _retire_useless_starts, _spawn, _break_before_make,
                 _retire_outdated, _retire_surplus, _finish, _calm_down):
        actions = rule(pool, view, now)
        if actions:
            return Plan(tuple(actions))
    return Plan(wake_at=min(view.deadlines, default=None))


def _look(pool: Pool, now: float) -> tuple[_View, list[Action]]:
    """Sort the workers, and collect rule 1: whoever has overstayed is killed, whoever hangs is
    aborted, whoever is too old or too big is due, whoever has lived long enough is ready.

    While the master stops, nobody is expected to become ready any more.
    """
    view = _View()
    overdue: list[Action] = []
    deadlines: set[float] = set()
    current, policy, generations = pool.current, pool.policy, pool.generations
    upgrade = pool.running_upgrade
    # A canary is watched until its hold is over, whatever its age; but too much memory is what it
    # is watched for.
    held = upgrade is not None and upgrade.on_canary and not upgrade.preparing and not upgrade.rolling_back
    for worker in pool.workers.values():
        recipe = generations[worker.generation].recipe
        old = worker.generation != current
        if worker.state is State.RETIRING:
            view.retiring += 1
            view.old_retiring += old
            _look_at_retiring(worker, recipe, now, overdue, deadlines)
            continue
        if worker.unfit is not None:
            overdue.append(Kill(worker.id, worker.unfit))
            continue
        if pool.deaf(worker):
            overdue.append(
                Retire(worker.id, "a listening socket of it is no more what clients connect to"))
            continue
        if worker.state is State.STARTING:
            (view.outdated_starting if old else view.wanted_starting).append(worker)
            if pool.stopping is not None:
                continue
            assumable = recipe.ack_seconds is not None and worker.assumed_at is None
            if assumable and recipe.ack_seconds is not None and now >= worker.spawned_at + recipe.ack_seconds:
                overdue.append(AssumeReady(worker.id))
            elif now >= worker.spawned_at + policy.ready_timeout:
                overdue.append(Kill(worker.id, f"was not ready within {policy.ready_timeout:g} s"))
            else:
                deadlines.add(worker.spawned_at + policy.ready_timeout)
                if assumable and recipe.ack_seconds is not None:
                    deadlines.add(worker.spawned_at + recipe.ack_seconds)
            continue
        due = worker.recycled_for is not None and (worker.over_memory or not held)
        if due and worker.ready_at is not None and now < worker.ready_at + SETTLE_SECONDS:
            # One that is due as soon as it is ready, like its successor, must not be exchanged in a
            # hot loop.
            due = False
            deadlines.add(worker.ready_at + SETTLE_SECONDS)
        outdated = old or due
        (view.outdated_ready if outdated else view.wanted_ready).append(worker)
        view.due += outdated and not old
        if worker.available(now, policy):
            view.available += 1
            view.wanted_available += not outdated
            view.current_available += not old
            if worker.guessed and not worker.stood:
                overdue.append(Trust(worker.id))
        elif worker.ready_at is not None:
            deadlines.add(worker.ready_at + policy.min_ready(worker))
        action = _look_at_ready(worker, recipe, now, deadlines)
        if action is not None:
            overdue.append(action)
    for orphan in pool.left_behind.values():
        view.old_retiring += orphan.generation != current
        if not orphan.killed and (now >= orphan.kill_at or pool.stopping == "now"):
            overdue.append(KillOrphan(orphan.pid))
        elif not orphan.killed:
            deadlines.add(orphan.kill_at)
    view.deadlines.extend(deadlines)
    return view, overdue


def _look_at_retiring(
    worker: Worker, recipe: Recipe, now: float, overdue: list[Action], deadlines: set[float]
) -> None:
    if worker.killed_at is not None or worker.retired_at is None:
        return
    deadline = worker.retired_at + recipe.graceful_timeout
    reason = f"did not leave within {recipe.graceful_timeout:g} s"
    if worker.aborted_at is not None:
        deadline, reason = worker.aborted_at + ABORT_SECONDS, "did not leave after SIGABRT"
    if now >= deadline:
        overdue.append(Kill(worker.id, reason))
    else:
        deadlines.add(deadline)


def _look_at_ready(worker: Worker, recipe: Recipe, now: float,
                   deadlines: set[float]) -> Action | None:
    if worker.heartbeat_at is not None and recipe.timeout > 0:
        if now >= worker.heartbeat_at + recipe.timeout:
            return Abort(worker.id, f"gave no heartbeat for {recipe.timeout:g} s")
        deadlines.add(worker.heartbeat_at + recipe.timeout)
    if worker.memory is not None:
        if 0 < recipe.max_memory_hard <= worker.memory:
            return Kill(
                worker.id,
                f"used {_mebibytes(worker.memory)}, the most is "
                f"{_mebibytes(recipe.max_memory_hard)}"
            )
        if 0 < recipe.max_memory <= worker.memory and worker.recycled_for is None:
            used = f"used {_mebibytes(worker.memory)}, and is due from {_mebibytes(recipe.max_memory)} on"
            return Recycle(worker.id, used, memory=True)
    if worker.expires_at is not None and worker.recycled_for is None:
        if now >= worker.expires_at:
            return Recycle(worker.id,
                           f"has lived for {worker.expires_at - worker.spawned_at:.0f} s")
        deadlines.add(worker.expires_at)
    return None


def _mebibytes(count: int) -> str:
    return f"{count / (1 << 20):.0f} MiB"


def farewell(pool: Pool) -> str:
    """The signal that asks a worker to leave. SIGTERM to the master is SIGTERM to its workers, as
    in Einhorn, unless somebody named another one for them."""
    policy = pool.policy
    return policy.terminate_signal if pool.stopping == "terminate" else policy.stop_signal


def _stop(pool: Pool, view: _View) -> Plan:
    if pool.stopping == "now":
        kills = [Kill(worker.id, "the master stops at once") for worker in pool.workers.values()
                 if worker.killed_at is None]
        if kills:
            return Plan(tuple(kills))
    live = [worker for worker in pool.workers.values() if worker.state is not State.RETIRING]
    if live:
        return Plan(tuple(Retire(worker.id, "the master stops") for worker in live))
    return Plan((Leave(),)) if not pool.workers and not pool.left_behind else Plan(
        wake_at=min(view.deadlines, default=None))


def _roll_back(pool: Pool, view: _View, now: float) -> Iterable[Action]:
    upgrade = pool.running_upgrade
    if upgrade is None or upgrade.rolling_back or upgrade.preparing:
        return []
    if upgrade.refusal is not None:
        return [RollBack(upgrade.refusal, upgrade.error)]
    if upgrade.failures >= pool.failures_allowed:
        return [RollBack(upgrade.reason or "too many failures", upgrade.error)]
    if _stalled(pool, view, upgrade, now):
        why = f": {upgrade.reason}" if upgrade.reason else ""
        return [
            RollBack(f"it made no progress for {pool.policy.progress_timeout:g} s{why}",
                     upgrade.error)]
    return []


def _stalled(pool: Pool, view: _View, upgrade: Upgrade, now: float) -> bool:
    """Whether the upgrade has waited too long for a worker to become ready. Pauses, holds and
    draining may take long."""
    if pool.policy.progress_timeout <= 0 or upgrade.paused_by is not None or upgrade.held_since is not None:
        return False
    if view.wanted_available >= _wanted_of_current(pool):
        return False
    deadline = upgrade.progress_at + pool.policy.progress_timeout
    if now < deadline:
        view.deadlines.append(deadline)
    return now >= deadline


def _wanted_of_current(pool: Pool) -> int:
    """How many workers of the current generation are wanted by now: all, or the canaries."""
    upgrade = pool.running_upgrade
    return min(upgrade.terms.canary,
               pool.target) if upgrade is not None and upgrade.on_canary else pool.target


def _hold(pool: Pool, view: _View, now: float) -> Iterable[Action]:
    """The canary's hold: it begins when all canaries serve, and ends when its time is over and the
    check has passed."""
    upgrade = pool.running_upgrade
    if upgrade is None or not upgrade.on_canary or upgrade.preparing or upgrade.rolling_back:
        return []
    if upgrade.held_since is None:
        return [BeginHold()] if view.current_available >= _wanted_of_current(pool) else []
    over = upgrade.hold_over
    if not over and upgrade.terms.hold is not None:
        over = now >= upgrade.held_since + upgrade.terms.hold
        if not over:
            view.deadlines.append(upgrade.held_since + upgrade.terms.hold)
    return [EndHold()] if over and upgrade.check in (None, "passed") else []


def _hopeless(pool: Pool) -> bool:
    """No worker has ever been ready, and the allowed number of starts has failed."""
    generation = pool.generations[pool.current]
    return not pool.ever_ready and (generation.failures_in_a_row >= pool.failures_allowed
                                    or generation.unfit is not None)


def _give_up(pool: Pool, view: _View, now: float) -> Iterable[Action]:
    # Whoever is still starting may yet become ready: wait for the last one.
    if not _hopeless(pool) or pool.running_upgrade is not None or pool.workers or pool.left_behind:
        return []
    generation = pool.generations[pool.current]
    if generation.unfit is not None:
        return [GiveUp(generation.unfit, None)]
    starts = "1 start" if generation.failures_in_a_row == 1 else f"{generation.failures_in_a_row} starts"
    return [GiveUp(f"no worker became ready in {starts}", generation.error)]


def _on_trial(pool: Pool) -> bool:
    """Whether the current generation still has to prove itself against a generation that it can go
    back to."""
    upgrade = pool.running_upgrade
    return (upgrade is not None and not upgrade.rolling_back
            and upgrade.from_generation != pool.current
            and not pool.generations[pool.current].proven
            and pool.generations[upgrade.from_generation].proven)


def _retire_useless_starts(pool: Pool, view: _View, now: float) -> Iterable[Action]:
    """Outdated workers that aren't ready cost nothing to lose, unless they were started to fill a
    gap (see _spawn)."""
    upgrade = pool.running_upgrade
    gap = _on_trial(pool) and view.ready < pool.target
    return [
        Retire(worker.id, "its generation is no longer wanted") for worker in view.outdated_starting
        if not (gap and upgrade is not None and worker.generation == upgrade.from_generation)
    ]


def _spawn(pool: Pool, view: _View, now: float) -> Iterable[Action]:
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
    if upgrade is not None and upgrade.preparing and not pool.generations[
            number].proven and pool.ever_ready:
        return []  # a newer generation is being made: don't start more of one that was never proven
    count = min(missing, _room(pool, view))
    if count < 1 or (_hopeless(pool) and upgrade is None):
        return []
    if now < pool.generations[number].not_before:
        view.deadlines.append(pool.generations[number].not_before)
        return []
    return [
        Spawn(index, number) for index in _free_seats(pool, view, pool.generations[number], count)]


def _missing(pool: Pool, view: _View, vacant: int) -> int:
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
        return min(missing,
                   max(_wanted_of_current(pool) - view.wanted, vacant, pool.target - view.live))
    return missing


def _vacant(pool: Pool, view: _View) -> int:
    """How many seats wait for the new code alone, because their workers left for it. Once it has
    failed, none does."""
    upgrade = pool.running_upgrade
    if upgrade is None or upgrade.rolling_back or upgrade.failures:
        return 0
    held = [
        *view.wanted_ready, *view.outdated_ready, *view.outdated_starting,
        *(view.wanted_starting if upgrade.preparing else ())]
    return sum(index < pool.target for index in upgrade.vacant - {worker.index for worker in held})


def _room(pool: Pool, view: _View) -> int:
    """How many workers more may be started."""
    most, starting = pool.policy.max_unacked, len(view.wanted_starting) + len(
        view.outdated_starting)
    room = _room_to_stand(pool, view)
    return room if most is None else min(room, most - starting)


def _room_to_stand(pool: Pool, view: _View) -> int:
    upgrade = pool.running_upgrade
    if upgrade is None and pool.short_of_memory and view.due:
        # Break before make: those that leave must be gone before others come.
        return pool.target - view.live - view.retiring
    return pool.target + _surge(pool) - view.live


def _surge(pool: Pool) -> int:
    fleet = _fleet(pool)
    return max(pool.target, pool.policy.max_surge) if fleet else pool.policy.max_surge


def _fleet(pool: Pool) -> bool:
    upgrade = pool.running_upgrade
    return upgrade is not None and upgrade.terms.kind == "fleet" and not upgrade.rolling_back


def _free_seats(pool: Pool, view: _View, generation: Generation, count: int) -> list[int]:
    """Seats for new workers: empty ones first, then those of the outdated workers that they will
    replace."""
    wanted = [*view.wanted_ready, *view.wanted_starting]
    live = [*wanted, *view.outdated_ready, *view.outdated_starting]
    same = {
        worker.index for worker in (wanted if generation.number == pool.current else live)
        if worker.generation == generation.number and (
            generation.number == pool.current or worker.recycled_for is None)}
    held = {worker.index for worker in live}
    seats = [index for index in range(pool.target) if index not in held][:count]
    if len(seats) < count:
        by_age = sorted(view.outdated_ready, key=lambda worker:
                        (worker.generation, worker.spawned_at, worker.id))
        for worker in by_age:
            if len(seats) == count:
                break
            if worker.index < pool.target and worker.index not in same and worker.index not in seats:
                seats.append(worker.index)
    index = 0
    # only after scaling down and up again can every seat below the target be shared
    while len(seats) < count:
        if index not in held and index not in seats:
            seats.append(index)
        index += 1
    return seats


def _break_before_make(pool: Pool, view: _View, now: float) -> Iterable[Action]:
    """Where the host has no memory for a surge, a due worker goes first and its replacement comes
    after; one at a time."""
    if not pool.short_of_memory or pool.running_upgrade is not None or not view.due:
        return []
    if view.retiring or view.wanted_starting or view.ready != pool.target or view.available < pool.target:
        return []
    due = min(view.outdated_ready, key=lambda worker: (worker.spawned_at, worker.id))
    return [
        Retire(
            due.id,
            "it is recycled before it is replaced, the host is short of memory: it "
            f"{due.recycled_for}"
        )]


def _retire_outdated(pool: Pool, view: _View, now: float) -> Iterable[Action]:
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
        candidates = _apart(view, now, candidates)
    return _spare(pool, view, now, candidates)


def _apart(view: _View, now: float, candidates: list[Worker]) -> list[Worker]:
    """Old workers go one by one, and only while nothing new has just begun: whatever happens then
    has one possible cause."""
    quiet_at = max(
        (worker.ready_at or 0.0 for worker in view.wanted_ready), default=0.0) + SETTLE_SECONDS
    if now < quiet_at:
        view.deadlines.append(quiet_at)
    return [] if view.old_retiring or now < quiet_at else candidates[:1]


def _while_standing_still(pool: Pool, view: _View, upgrade: Upgrade,
                          candidates: list[Worker]) -> list[Worker]:
    """Paused or on canary, old workers go only where there would be too many, or no room for a
    canary that is missing; a due canary goes when its replacement is there."""
    paused = upgrade.paused_by is not None
    due = [worker for worker in candidates if worker.generation == pool.current and not paused]
    if paused or due:
        missing = 0
    else:
        missing = max(0, _wanted_of_current(pool) - view.wanted)
    excess = max(0, view.live + missing - pool.target - _surge(pool))
    return due or candidates[:excess]


def _retire_surplus(pool: Pool, view: _View, now: float) -> Iterable[Action]:
    """Scaled down: those that aren't ready first, then the highest seats."""
    surplus = view.wanted - pool.target
    if surplus < 1:
        return []
    starting = sorted(view.wanted_starting, key=lambda worker: -worker.index)[:surplus]
    if starting:
        return [Retire(worker.id, "scaled down") for worker in starting]
    return _spare(pool, view, now,
                  sorted(view.wanted_ready, key=lambda worker: -worker.index)[:surplus])


def _spare(pool: Pool, view: _View, now: float, candidates: list[Worker]) -> list[Action]:
    """Retire candidates in order, for as long as enough ready and enough available workers
    remain."""
    ready, available = view.ready, view.available
    actions: list[Action] = []
    for worker in candidates:
        counted = worker.available(now, pool.policy)
        if ready - 1 < pool.target:
            break
        if available - counted < pool.target:
            continue
        ready -= 1
        available -= counted
        actions.append(Retire(worker.id, _why(pool, worker)))
    return actions


def _why(pool: Pool, worker: Worker) -> str:
    if worker.generation != pool.current:
        upgrade = pool.running_upgrade
        return "its generation goes back" if upgrade is not None and upgrade.rolling_back else "it is replaced"
    return "scaled down" if worker.recycled_for is None else f"it is recycled: it {worker.recycled_for}"


def _finish(pool: Pool, view: _View, now: float) -> Iterable[Action]:
    upgrade = pool.running_upgrade
    if upgrade is None or upgrade.preparing or upgrade.on_canary or upgrade.paused_by is not None:
        return []
    if view.outdated == view.due and view.old_retiring == 0 and view.current_available >= pool.target:
        if pool.lost and not upgrade.rolling_back:
            return [
                RollBack(
                    " and ".join(f"nobody can connect to {address}: {why}"
                                 for address, why in pool.lost.items()), None)]
        if upgrade.rolling_back or upgrade.accepting == "yes" or not any(
                worker.guessed for worker in view.wanted_ready):
            return [Finish()]
        return [CheckAccepting()] if upgrade.accepting is None else []
    # Going back fails as well: say so now rather than never; the exchange goes on by the other
    # rules.
    failed = pool.generations[pool.current].failures_in_a_row >= pool.failures_allowed
    return [Finish()
            ] if upgrade.rolling_back and (failed or _stalled(pool, view, upgrade, now)) else []


def _calm_down(pool: Pool, view: _View, now: float) -> Iterable[Action]:
    generation = pool.generations[pool.current]
    if not generation.faults:
        return []
    calm_at = generation.fault_at + CALM_SECONDS
    if now < calm_at:
        view.deadlines.append(calm_at)
        return []
    return [CalmDown(pool.current)]
