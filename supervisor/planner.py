"""What to do: `plan` looks at a pool and says which actions are due, and when to look again.

Pure: no I/O, no clock, no random. It acts on nothing and remembers nothing; whatever it must remember is in the pool.
The rules stand in order, and the first one with something to do ends the plan, so that each rule may take the pool
for what it is. Every action leads to a fact that makes the same action not due again: that is why it comes to rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .pool import Generation, Pool, State, Worker


@dataclass(frozen=True, slots=True)
class Spawn:
    index: int
    generation: int


@dataclass(frozen=True, slots=True)
class AssumeReady:
    """The worker says nothing by itself and has lived for long enough."""

    worker: int


@dataclass(frozen=True, slots=True)
class Retire:
    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL to the worker's process group. `reason` is a predicate: "was not ready within 60 s"."""

    worker: int
    reason: str


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


Action = Spawn | AssumeReady | Retire | Kill | RollBack | Finish | GiveUp | Leave


@dataclass(frozen=True, slots=True)
class Plan:
    """`wake_at`: when to plan again even if nothing happens; None where only a fact can change anything."""

    actions: tuple[Action, ...] = ()
    wake_at: float | None = None


@dataclass(slots=True)
class _View:
    """The pool sorted once, since a plan over a thousand workers must stay far below the time of one fork."""

    wanted_ready: list[Worker] = field(default_factory=list)
    wanted_starting: list[Worker] = field(default_factory=list)
    outdated_ready: list[Worker] = field(default_factory=list)
    outdated_starting: list[Worker] = field(default_factory=list)
    outdated_retiring: int = 0
    available: int = 0
    wanted_available: int = 0
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
    """Return the actions that are due at `now`, and the time of the next deadline if there are none."""
    view, overdue = _look(pool, now)
    if overdue:
        return Plan(tuple(overdue))
    if pool.stopping is not None:
        return _stop(pool, view)
    for rule in (_roll_back, _give_up, _retire_useless_starts, _spawn, _retire_outdated, _retire_surplus, _finish):
        actions = rule(pool, view, now)
        if actions:
            return Plan(tuple(actions))
    return Plan(wake_at=min(view.deadlines, default=None))


def _look(pool: Pool, now: float) -> tuple[_View, list[Action]]:
    """Sort the workers, and collect rule 1: whoever has overstayed is killed, whoever has lived long enough is ready.

    While the master stops, nobody is expected to become ready any more.
    """
    view = _View()
    overdue: list[Action] = []
    deadlines = set()
    current, policy, generations = pool.current, pool.policy, pool.generations
    for worker in pool.workers.values():
        outdated = worker.generation != current
        if worker.state is State.RETIRING:
            view.outdated_retiring += outdated
            if worker.killed_at is None and worker.retired_at is not None:
                patience = generations[worker.generation].recipe.graceful_timeout
                if now >= worker.retired_at + patience:
                    overdue.append(Kill(worker.id, f"did not leave within {patience:g} s"))
                else:
                    deadlines.add(worker.retired_at + patience)
            continue
        recipe = generations[worker.generation].recipe
        if worker.state is State.STARTING:
            (view.outdated_starting if outdated else view.wanted_starting).append(worker)
            if pool.stopping is not None:
                continue
            if recipe.ack_seconds is not None and now >= worker.spawned_at + recipe.ack_seconds:
                overdue.append(AssumeReady(worker.id))
            elif now >= worker.spawned_at + policy.ready_timeout:
                overdue.append(Kill(worker.id, f"was not ready within {policy.ready_timeout:g} s"))
            else:
                deadlines.add(worker.spawned_at + policy.ready_timeout)
                if recipe.ack_seconds is not None:
                    deadlines.add(worker.spawned_at + recipe.ack_seconds)
            continue
        (view.outdated_ready if outdated else view.wanted_ready).append(worker)
        if worker.available(now, policy.min_ready_seconds):
            view.available += 1
            view.wanted_available += not outdated
        elif worker.ready_at is not None:
            deadlines.add(worker.ready_at + policy.min_ready_seconds)
        if worker.heartbeat_at is not None and recipe.timeout > 0:
            if now >= worker.heartbeat_at + recipe.timeout:
                overdue.append(Kill(worker.id, f"gave no heartbeat for {recipe.timeout:g} s"))
            else:
                deadlines.add(worker.heartbeat_at + recipe.timeout)
    view.deadlines.extend(deadlines)
    return view, overdue


def _stop(pool: Pool, view: _View) -> Plan:
    if pool.stopping == "now":
        kills = [Kill(worker.id, "the master stops at once") for worker in pool.workers.values()
                 if worker.killed_at is None]
        if kills:
            return Plan(tuple(kills))
    live = [worker for worker in pool.workers.values() if worker.state is not State.RETIRING]
    if live:
        return Plan(tuple(Retire(worker.id, "the master stops") for worker in live))
    return Plan((Leave(),)) if not pool.workers else Plan(wake_at=min(view.deadlines, default=None))


def _roll_back(pool: Pool, view: _View, now: float) -> Iterable[Action]:
    upgrade = pool.running_upgrade
    if upgrade is None or upgrade.rolling_back or upgrade.preparing:
        return []
    if upgrade.failures < max(1, pool.policy.max_failures):
        return []
    return [RollBack(upgrade.reason or "too many failures", upgrade.error)]


def _hopeless(pool: Pool) -> bool:
    """No worker has ever been ready, and the allowed number of starts has failed."""
    generation = pool.generations[pool.current]
    return not pool.ever_ready and generation.failures_in_a_row >= max(1, pool.policy.max_failures)


def _give_up(pool: Pool, view: _View, now: float) -> Iterable[Action]:
    # Whoever is still starting may yet become ready: wait for the last one.
    if not _hopeless(pool) or pool.running_upgrade is not None or pool.workers:
        return []
    generation = pool.generations[pool.current]
    return [GiveUp(f"no worker became ready in {generation.failures_in_a_row} starts", generation.error)]


def _on_trial(pool: Pool) -> bool:
    """Whether the current generation still has to prove itself against a generation that it can go back to."""
    upgrade = pool.running_upgrade
    return (
        upgrade is not None and not upgrade.rolling_back and upgrade.from_generation != pool.current
        and not pool.generations[pool.current].proven and pool.generations[upgrade.from_generation].proven
    )


def _retire_useless_starts(pool: Pool, view: _View, now: float) -> Iterable[Action]:
    """Outdated workers that aren't ready cost nothing to lose, unless they were started to fill a gap (see _spawn)."""
    upgrade = pool.running_upgrade
    gap = _on_trial(pool) and view.ready < pool.target
    return [
        Retire(worker.id, "its generation is no longer wanted") for worker in view.outdated_starting
        if not (gap and upgrade is not None and worker.generation == upgrade.from_generation)
    ]


def _spawn(pool: Pool, view: _View, now: float) -> Iterable[Action]:
    upgrade = pool.running_upgrade
    number, missing = pool.current, pool.target - view.wanted
    if _on_trial(pool) and upgrade is not None:
        # A gap left by a crash is filled from the generation that is known to work.
        gap = pool.target - view.outdated - len(view.wanted_ready)
        if gap > 0:
            number, missing = upgrade.from_generation, gap
    if upgrade is not None and upgrade.preparing and not pool.generations[number].proven and pool.ever_ready:
        return []  # a newer generation is being made: don't start more of one that was never proven
    fleet = upgrade is not None and upgrade.kind == "fleet" and not upgrade.rolling_back
    room = pool.target + (max(pool.target, pool.policy.max_surge) if fleet else pool.policy.max_surge) - view.live
    count = min(missing, room)
    if count < 1 or (_hopeless(pool) and upgrade is None):
        return []
    if now < pool.generations[number].not_before:
        view.deadlines.append(pool.generations[number].not_before)
        return []
    return [Spawn(index, number) for index in _free_seats(pool, view, pool.generations[number], count)]


def _free_seats(pool: Pool, view: _View, generation: Generation, count: int) -> list[int]:
    """Seats for new workers: empty ones first, then those of the outdated workers that they will replace."""
    live = [*view.wanted_ready, *view.wanted_starting, *view.outdated_ready, *view.outdated_starting]
    same = {worker.index for worker in live if worker.generation == generation.number}
    held = {worker.index for worker in live}
    seats = [index for index in range(pool.target) if index not in held][:count]
    if len(seats) < count:
        by_age = sorted(view.outdated_ready, key=lambda worker: (worker.generation, worker.spawned_at, worker.id))
        for worker in by_age:
            if len(seats) == count:
                break
            if worker.index < pool.target and worker.index not in same and worker.index not in seats:
                seats.append(worker.index)
    index = 0
    while len(seats) < count:  # only after scaling down and up again can every seat below the target be shared
        if index not in held and index not in seats:
            seats.append(index)
        index += 1
    return seats


def _retire_outdated(pool: Pool, view: _View, now: float) -> Iterable[Action]:
    """As many outdated ready workers as there are ready workers too many: this rule is the airbag."""
    upgrade = pool.running_upgrade
    fleet = upgrade is not None and upgrade.kind == "fleet" and not upgrade.rolling_back
    successors = {worker.index for worker in view.wanted_ready}

    def order(worker: Worker) -> tuple[bool, int, float, int]:
        succeeded = worker.index in successors or worker.index >= pool.target
        return (not succeeded, worker.generation, worker.spawned_at, worker.id)

    candidates = sorted(view.outdated_ready, key=order)
    if fleet and view.wanted_available < pool.target:
        # Until all new ones are there, only what scaling down has made too many may go.
        candidates = candidates[: max(0, len(candidates) - pool.target)]
    return _spare(pool, view, now, candidates, "it is replaced")


def _retire_surplus(pool: Pool, view: _View, now: float) -> Iterable[Action]:
    """Scaled down: those that aren't ready first, then the highest seats."""
    surplus = view.wanted - pool.target
    if surplus < 1:
        return []
    starting = sorted(view.wanted_starting, key=lambda worker: -worker.index)[:surplus]
    if starting:
        return [Retire(worker.id, "scaled down") for worker in starting]
    return _spare(pool, view, now, sorted(view.wanted_ready, key=lambda worker: -worker.index)[:surplus], "scaled down")


def _spare(pool: Pool, view: _View, now: float, candidates: list[Worker], reason: str) -> list[Action]:
    """Retire candidates in order, for as long as enough ready and enough available workers remain."""
    ready, available = view.ready, view.available
    actions: list[Action] = []
    for worker in candidates:
        counted = worker.available(now, pool.policy.min_ready_seconds)
        if ready - 1 < pool.target:
            break
        if available - counted < pool.target:
            continue
        ready -= 1
        available -= counted
        actions.append(Retire(worker.id, reason))
    return actions


def _finish(pool: Pool, view: _View, now: float) -> Iterable[Action]:
    upgrade = pool.running_upgrade
    if upgrade is None or upgrade.preparing:
        return []
    if view.outdated == 0 and view.outdated_retiring == 0 and view.wanted_available >= pool.target:
        return [Finish()]
    # Going back fails as well: say so now rather than never; the exchange goes on by the other rules.
    failed = pool.generations[pool.current].failures_in_a_row >= max(1, pool.policy.max_failures)
    return [Finish()] if upgrade.rolling_back and failed else []
