"""From fact to pool: `observe` makes the next pool from one fact, and refuses with `Impossible`
what can't be true.

Pure: nothing here acts, decides what to do, reads a clock or does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from . import pool as facts
from .pool import (
    FAULT_SECONDS,
    SETTLE_SECONDS,
    Event,
    Generation,
    Policy,
    Pool,
    Recipe,
    State,
    Upgrade,
    Worker,
)

DELAY_GROWTH = 1.5
LONGEST_DELAY = 30.0
# How many ended upgrades, and generations that nothing runs any more, are remembered.
MEMORY = 50


class Impossible(ValueError):
    """A fact that can't be true of this pool: a mistake of the caller, never of a worker or a
    client."""


def new_pool(recipe: Recipe, target: int, policy: Policy) -> Pool:
    """The pool of a fresh master: generation 1, no worker yet, `target` workers wanted."""
    return Pool(policy=policy, target=target, current=1, generations={1: Generation(1, recipe)})


def delay_after(failures: int, first: float = 1.0) -> float:
    """Seconds to wait before the next start, after so many failed ones in a row; `first`: after the
    first one."""
    return 0.0 if failures < 1 else min(max(first, LONGEST_DELAY),
                                        first * DELAY_GROWTH**min(failures - 1, 32))


def settled(pool: Pool, worker: Worker, now: float) -> bool:
    """Whether a worker has been ready for so long that its end, whatever it is, says nothing about
    its start."""
    return worker.ready_at is not None and now - worker.ready_at >= max(
        SETTLE_SECONDS, pool.policy.min_ready(worker))


def asks_for_upgrade(pool: Pool, worker: Worker, status: int) -> bool:
    """Whether a worker that exits with `status` asks for new code: only one that was ready, and
    that isn't itself the new code of a running upgrade. Otherwise an app that always exits so would
    be upgraded for ever."""
    upgrade = pool.running_upgrade
    return (status == pool.policy.reload_exit_code and worker.state is State.READY
            and pool.stopping is None
            and (upgrade is None or
                 (not upgrade.rolling_back and upgrade.to_generation != worker.generation)))


def upgrade_asked_by(pool: Pool, worker: Worker,
                     status: int) -> tuple[str, frozenset[int]] | None:
    """Who asks for an upgrade, and whose seats wait for it, if a worker's exit is to begin one: the
    one under way is for those who ask now, too."""
    if pool.running_upgrade is not None or not asks_for_upgrade(pool, worker, status):
        return None
    asker = f"worker {worker.index} (pid {worker.pid}, exit code {status})"
    return asker, frozenset({worker.index})


def observe(pool: Pool, event: Event, now: float) -> Pool:
    """Return the pool after `event`.

    Raises: Impossible: the event can't be true of this pool (an unknown worker, a second spawn
        under one id …).
    """
    match event:
        case facts.UpgradeRequested() | facts.UpgradePrepared() | facts.UpgradeRefused():
            return _beginning(pool, event, now)
        case (facts.Paused() | facts.Resumed() | facts.AbortRequested() | facts.HoldBegun()
              | facts.Checked()
              | facts.HoldEnded() | facts.AcceptingAsked() | facts.AcceptingChecked()
              | facts.RolledBack() | facts.Finished()):
            return _steered(pool, event, now)
        case facts.Spawned():
            if event.worker in pool.workers or event.generation not in pool.generations:
                raise Impossible(
                    f"{event} in a pool of {len(pool.workers)} workers, generations "
                    f"{[*pool.generations]}"
                )
            return _with_worker(pool, _spawned(pool, event, now))
        case facts.SpawnFailed():
            if event.generation not in pool.generations:
                raise Impossible(f"{event} with generations {[*pool.generations]}")
            return _count_failure(pool, event.generation, f"cannot be started: {event.error}",
                                  event.error, (), now)
        case facts.Measured():
            measured = {key: replace(worker, memory=event.memory.get(key, worker.memory))
                        for key, worker in pool.workers.items()}
            return replace(pool, workers=measured)
        case facts.HostMeasured():
            return replace(pool, short_of_memory=event.short)
        case facts.Scaled():
            if event.target < 1:
                raise Impossible(f"{event}: a pool has at least one worker")
            if pool.running_upgrade is not None:
                pool = replace(pool, upgrade=replace(pool.running_upgrade, target_before=None))
            return _look_at_canaries(_scaled(pool, event.target))
        case facts.ListenerShut():
            return _listener_shut(pool, event, now)
        case facts.ListenerLost():
            others = {
                address: why for address, why in pool.lost.items() if address != event.address}
            return replace(
                pool,
                lost=others if event.reason is None else {**others, event.address: event.reason})
        case facts.Calmed():
            return _with_generation(
                pool, replace(pool.generations[event.generation], faults=0, fault=None))
        case facts.StopRequested():
            return replace(pool, stopping=event.how)
        case facts.OrphanFound() | facts.OrphanKilled() | facts.OrphanGone():
            return _of_orphan(pool, event, now)
        case _:
            return _look_at_canaries(_of_worker(pool, event, now))


# --- workers ---------------------------------------------------------------------------------------------------------

_OfWorker = (facts.Assumed | facts.SaidReady | facts.Stood | facts.FoundUnfit
             | facts.SaidFailed | facts.Heartbeat | facts.Due | facts.Retired | facts.Aborted
             | facts.Killed
             | facts.Exited)


def _of_worker(pool: Pool, event: _OfWorker, now: float) -> Pool:
    try:
        worker = pool.workers[event.worker]
    except KeyError:
        raise Impossible(f"{event}, but there is no such worker") from None
    match event:
        case facts.Assumed():
            return _with_worker(pool, replace(worker, assumed_at=now))
        case facts.SaidReady():
            return _said_ready(pool, worker, event.guessed, now)
        case facts.Stood():
            return _prove(_with_worker(pool, replace(worker, stood=True)), worker.generation)
        case facts.FoundUnfit():
            return _found_unfit(pool, worker, event.reason)
        case facts.SaidFailed():
            return _with_worker(pool, replace(worker, error=event.error))
        case facts.Heartbeat():
            return _with_worker(
                pool, replace(worker, heartbeat_at=event.at, pinged_request_id=event.request_id))
        case facts.Due():
            return _due(pool, worker, event, now)
        case facts.Retired():
            if worker.state is State.RETIRING:
                return pool
            return _with_worker(pool, replace(worker, state=State.RETIRING, retired_at=now))
        case facts.Aborted():
            return _ended(pool, worker, replace(worker, aborted_at=now), event, now)
        case facts.Killed():
            return _ended(pool, worker, replace(worker, killed_at=now), event, now)
        case facts.Exited():
            return _tidy(_exited(pool, worker, event, now))


def _spawned(pool: Pool, event: facts.Spawned, now: float) -> Worker:
    recipe = pool.generations[event.generation].recipe
    expires_at = now + recipe.max_lifetime + event.jitter * recipe.max_lifetime_jitter if recipe.max_lifetime else None
    return Worker(event.worker, event.index, event.generation, event.pid, spawned_at=now,
                  expires_at=expires_at, restarts=pool.restarts.get(event.index,
                                                                    0), sockets=pool.sockets)


def _said_ready(pool: Pool, worker: Worker, guessed: bool, now: float) -> Pool:
    if worker.state is not State.STARTING or worker.unfit is not None:
        return pool
    pool = _with_worker(pool, replace(worker, state=State.READY, ready_at=now, guessed=guessed))
    if worker.generation == pool.current:
        pool = _progress(pool, now)
    return _prove(pool, worker.generation)


def _found_unfit(pool: Pool, worker: Worker, reason: str) -> Pool:
    """Refuse the release; a worker that already serves as proven code is left alone all the
    same."""
    upgrade = pool.running_upgrade
    on_trial = upgrade is not None and upgrade.to_generation == worker.generation and not upgrade.rolling_back
    generation = pool.generations[worker.generation]
    if worker.state is State.RETIRING or (generation.proven and not on_trial):
        return pool
    # else it may be what others have gone for, and stays until it is replaced
    if not worker.convincing:
        pool = _with_worker(pool, replace(worker, unfit=reason))
    pool = _with_generation(pool, replace(generation, unfit=reason))
    if upgrade is None or not on_trial:
        return pool
    return replace(pool, upgrade=replace(upgrade, refusal=reason, error=None))


def _due(pool: Pool, worker: Worker, event: facts.Due, now: float) -> Pool:
    if worker.state is not State.READY or worker.recycled_for is not None:
        return pool
    pool = _with_worker(pool, replace(worker, recycled_for=event.reason, over_memory=event.memory))
    upgrade = pool.running_upgrade
    if event.memory and upgrade is not None and upgrade.on_canary and worker.generation == upgrade.to_generation:
        return _count_failure(pool, worker.generation, event.reason, None, (), now)
    return pool


def _ended(pool: Pool, worker: Worker, after: Worker, event: facts.Aborted | facts.Killed,
           now: float) -> Pool:
    """A worker was told by force to go. Counted now, not when it is gone: a process that can't be
    killed must not hide a failure."""
    retired_at = now if worker.retired_at is None else worker.retired_at
    pool = _with_worker(pool, replace(after, state=State.RETIRING, retired_at=retired_at))
    if worker.state is State.RETIRING or pool.stopping:
        return pool
    return _lost(pool, worker, event.reason, worker.error, event.lines, now)


def _exited(pool: Pool, worker: Worker, event: facts.Exited, now: float) -> Pool:
    pool = replace(pool,
                   workers={key: each for key, each in pool.workers.items() if key != worker.id})
    if worker.generation != pool.current:
        pool = _progress(pool, now)
    if worker.state is State.RETIRING or pool.stopping:
        return pool
    if asks_for_upgrade(pool, worker, event.status):
        pool = replace(pool, hasty=0 if settled(pool, worker, now) else pool.hasty + 1)
        upgrade = pool.running_upgrade
        return pool if upgrade is None else replace(
            pool, upgrade=replace(upgrade, vacant=upgrade.vacant | {worker.index}))
    how = f"was ended by signal {-event.status}" if event.status < 0 else f"exited with code {event.status}"
    when = "before it was ready" if worker.ready_at is None else f"{now - worker.ready_at:.1f} s after it was ready"
    return _lost(pool, worker, f"{how} {when}", worker.error or event.error or event.complaint,
                 event.lines, now)


def _lost(pool: Pool, worker: Worker, reason: str, error: str | None, lines: tuple[str, ...],
          now: float) -> Pool:
    """A worker that nobody had asked to go is no more; unless it had settled, or is on trial, its
    start has failed."""
    pool = _count_restart(pool, worker)
    if worker.ready_at is not None and now - worker.ready_at < FAULT_SECONDS:
        pool = _fault(pool, worker.generation, f"worker {worker.index} {reason}", now)
    upgrade = pool.running_upgrade
    on_trial = upgrade is not None and upgrade.to_generation == worker.generation
    if settled(pool, worker, now) and not on_trial:
        return pool
    return _count_failure(pool, worker.generation, reason, error, lines, now)


def _fault(pool: Pool, number: int, fault: str, now: float) -> Pool:
    generation = pool.generations[number]
    return _with_generation(
        pool, replace(generation, faults=generation.faults + 1, fault=fault, fault_at=now))


def _listener_shut(pool: Pool, event: facts.ListenerShut, now: float) -> Pool:
    """Blame the release that did it, where that is certain: old code that is just leaving may have
    done it as well."""
    pool = replace(pool, sockets=pool.sockets + event.anew)
    if pool.stopping is not None or not event.blamed:
        return pool
    upgrade = pool.running_upgrade
    if any(worker.generation != pool.current and worker.state is State.RETIRING
           for worker in pool.workers.values()):
        return pool if upgrade is None else replace(pool, upgrade=replace(upgrade, suspicious=True))
    fault = f"a worker of it shut down the listening socket {event.address}"
    if upgrade is not None and upgrade.to_generation == pool.current and not upgrade.rolling_back:
        pool = replace(pool, upgrade=replace(upgrade, refusal=fault, error=None))
    elif event.anew:  # all of its workers are replaced for it, and must not be in a hot loop
        pool = _count_failure(pool, pool.current, fault, None, (), now)
    return _fault(pool, pool.current, fault, now)


def _count_restart(pool: Pool, worker: Worker) -> Pool:
    upgrade = pool.running_upgrade
    if upgrade is not None and upgrade.to_generation == worker.generation and worker.ready_at is None:
        # a start that fails on trial is the upgrade's failure; the seat has its old worker still
        return pool
    return replace(pool,
                   restarts={**pool.restarts, worker.index: pool.restarts.get(worker.index, 0) + 1})


def _count_failure(pool: Pool, number: int, reason: str, error: str | None, lines: tuple[str, ...],
                   now: float) -> Pool:
    """A start of this generation failed: hold its next one back, longer each time until one of its
    workers has settled, and charge the upgrade that wants it."""
    generation = pool.generations[number]
    recovered = any(
        worker.generation == number and worker.ready_at is not None and worker.ready_at >=
        generation.failed_at and worker.state is State.READY and settled(pool, worker, now)
        for worker in pool.workers.values())
    failures = 1 if recovered else generation.failures_in_a_row + 1
    delay = delay_after(failures, pool.policy.first_delay)
    pool = _with_generation(
        pool,
        replace(generation, failures_in_a_row=failures, failed_at=now, not_before=now + delay,
                error=error or reason, lines=lines),
    )
    upgrade = pool.running_upgrade
    if upgrade is not None and upgrade.to_generation == number and not upgrade.rolling_back:
        pool = replace(
            pool, upgrade=replace(upgrade, failures=upgrade.failures + 1,
                                  reason=f"a worker {reason}", error=error, lines=lines))
    return pool


def _prove(pool: Pool, number: int) -> Pool:
    """Note what has now been reached: enough ready workers, and enough of this generation to have
    proven it."""
    ready = [worker for worker in pool.workers.values() if worker.convincing]
    generation = pool.generations[number]
    if not generation.proven and sum(worker.generation == number
                                     for worker in ready) >= pool.target:
        pool = _with_generation(pool, replace(generation, proven=True))
    return replace(pool, ever_ready=pool.ever_ready or bool(ready), settled=pool.settled
                   or len(ready) >= pool.target)


def _scaled(pool: Pool, target: int) -> Pool:
    return _prove(replace(pool, target=target, settled=False), pool.current)


def _of_orphan(pool: Pool, event: facts.OrphanFound | facts.OrphanKilled | facts.OrphanGone,
               now: float) -> Pool:
    others = {pid: each for pid, each in pool.left_behind.items() if pid != event.pid}
    if isinstance(event, facts.OrphanFound):
        # Its generation may be forgotten by now.
        recipe = pool.generations.get(event.generation or 0, pool.generations[pool.current]).recipe
        found = facts.LeftBehind(event.pid, event.index, event.generation, now,
                                 now + recipe.graceful_timeout)
        return replace(pool, left_behind={**others, event.pid: found})
    if event.pid not in pool.left_behind:
        raise Impossible(f"{event}, but no such process is left behind")
    if isinstance(event, facts.OrphanKilled):
        return replace(
            pool,
            left_behind={**others, event.pid: replace(pool.left_behind[event.pid], killed=True)})
    return _progress(replace(pool, left_behind=others), now)


# --- upgrades --------------------------------------------------------------------------------------------------------


def _beginning(pool: Pool,
               event: facts.UpgradeRequested | facts.UpgradePrepared | facts.UpgradeRefused,
               now: float) -> Pool:
    match event:
        case facts.UpgradeRequested():
            upgrade = Upgrade(
                _way_back(pool), pool.newest + 1, event.terms, event.requested_by, started_at=now,
                started_wall=event.wall, progress_at=now, on_canary=event.terms.canary > 0,
                check="waiting" if event.terms.check else None,
                target_before=pool.running_upgrade.target_before
                if pool.running_upgrade is not None else None, vacant=event.vacant)
            hasty = pool.hasty if event.vacant else 0
            return replace(_superseded(pool, now, event.wall), newest=pool.newest + 1,
                           upgrade=upgrade, hasty=hasty)
        case facts.UpgradePrepared():
            upgrade = _running(pool, event)
            if event.number != upgrade.to_generation or not upgrade.preparing:
                raise Impossible(
                    f"{event.number} is prepared, but the upgrade to {upgrade.to_generation} is "
                    "under way"
                )
            upgrade = replace(upgrade, preparing=False, progress_at=now)
            # An app whose workers leave for new code as soon as they are ready gets it, but not in
            # a hot loop.
            not_before = now + delay_after(pool.hasty - 1, pool.policy.first_delay)
            made = Generation(event.number, event.recipe, not_before=not_before)
            pool = replace(pool, upgrade=upgrade, current=event.number,
                           generations={**pool.generations, event.number: made})
            if event.target is None:
                return pool
            before = pool.target if upgrade.target_before is None else upgrade.target_before
            return _scaled(replace(pool, upgrade=replace(upgrade, target_before=before)),
                           event.target)
        case facts.UpgradeRefused():
            upgrade = replace(_running(pool, event), preparing=False, rolling_back=True,
                              reason=event.reason, error=event.error, aborted=event.aborted,
                              paused_by=None, on_canary=False)
            if pool.current == upgrade.from_generation:
                return _tidy(_end(_go_back(pool, upgrade), None, now, event.wall))
            return _tidy(_go_back(pool, upgrade))


def _steered(pool: Pool, event: Event, now: float) -> Pool:
    upgrade = _running(pool, event)
    match event:
        case facts.Paused():
            return replace(pool, upgrade=replace(upgrade, paused_by=event.by))
        case facts.Resumed():
            # Resuming what was paused doesn't end a hold as well; resuming a hold does.
            over = upgrade.on_canary and upgrade.paused_by is None
            return replace(
                pool, upgrade=replace(upgrade, paused_by=None, hold_over=upgrade.hold_over or over,
                                      progress_at=now))
        case facts.AbortRequested():
            return replace(
                pool, upgrade=replace(upgrade, refusal=f"aborted by {event.by}", error=None,
                                      aborted=True))
        case facts.HoldBegun():
            check = "running" if upgrade.check == "waiting" else upgrade.check
            return replace(pool, upgrade=replace(upgrade, held_since=now, check=check,
                                                 progress_at=now))
        case facts.Checked():
            if event.reason is None:
                return replace(pool, upgrade=replace(upgrade, check="passed"))
            return replace(pool, upgrade=replace(upgrade, refusal=event.reason, error=event.error))
        case facts.HoldEnded():
            return replace(
                pool, upgrade=replace(upgrade, on_canary=False, held_since=None, progress_at=now))
        case facts.AcceptingAsked():
            return replace(pool, upgrade=replace(upgrade, accepting="asked"))
        case facts.AcceptingChecked():
            if event.reason is None:
                return replace(pool, upgrade=replace(upgrade, accepting="yes"))
            return replace(pool, upgrade=replace(upgrade, refusal=event.reason, error=None))
        case facts.RolledBack():
            return _go_back(
                pool,
                replace(upgrade, rolling_back=True, reason=event.reason, error=event.error,
                        paused_by=None, on_canary=False, held_since=None, progress_at=now))
        case _:
            wall = event.wall if isinstance(event, facts.Finished) else 0.0
            return _tidy(_end(pool, None if upgrade.rolling_back else "done", now, wall))


def _running(pool: Pool, event: Event) -> Upgrade:
    if pool.running_upgrade is None:
        raise Impossible(f"{event}, but no upgrade is under way")
    return pool.running_upgrade


def _way_back(pool: Pool) -> int:
    """The generation that a refused upgrade goes back to: the last proven one, if there is one."""
    if not pool.generations[pool.current].proven and pool.running_upgrade is not None:
        return pool.running_upgrade.from_generation
    return pool.current


def _go_back(pool: Pool, upgrade: Upgrade) -> Pool:
    """Want the old generation again; what failed of it long ago doesn't count against the way
    back."""
    fresh = replace(pool.generations[upgrade.from_generation], failures_in_a_row=0)
    back = replace(upgrade, target_before=None)
    pool = _with_generation(replace(pool, upgrade=back, current=upgrade.from_generation), fresh)
    # The number of workers that the refused release asked for goes with it, unless somebody has
    # scaled since.
    return pool if upgrade.target_before is None else _scaled(pool, upgrade.target_before)


def _superseded(pool: Pool, now: float, wall: float) -> Pool:
    upgrade = pool.running_upgrade
    return pool if upgrade is None else _end(pool, None if upgrade.rolling_back else "superseded",
                                             now, wall)


def _end(pool: Pool, outcome: str | None, now: float, wall: float) -> Pool:
    """End the running upgrade. `outcome`: None where it went back."""
    upgrade = pool.running_upgrade
    assert upgrade is not None
    back = "aborted" if upgrade.aborted else "rolled-back"
    there = sum(worker.generation == upgrade.to_generation and worker.state is State.READY
                for worker in pool.workers.values())
    ended = replace(upgrade, outcome=outcome or back, ended_at=now, ended_wall=wall,
                    on_canary=False, paused_by=None, replaced=min(there, pool.target))
    return replace(pool, upgrade=ended, history=(*pool.history, ended)[-MEMORY:])


def _progress(pool: Pool, now: float) -> Pool:
    upgrade = pool.running_upgrade
    return pool if upgrade is None else replace(pool, upgrade=replace(upgrade, progress_at=now))


def _look_at_canaries(pool: Pool) -> Pool:
    """A hold counts from when all canaries are there: if one is lost, it begins anew."""
    upgrade = pool.running_upgrade
    if upgrade is None or upgrade.held_since is None:
        return pool
    serving = sum(worker.generation == upgrade.to_generation and worker.state is State.READY
                  for worker in pool.workers.values())
    if serving >= min(upgrade.terms.canary, pool.target):
        return pool
    return replace(pool, upgrade=replace(upgrade, held_since=None))


# --- the rest --------------------------------------------------------------------------------------------------------


def _with_worker(pool: Pool, worker: Worker) -> Pool:
    return replace(pool, workers={**pool.workers, worker.id: worker})


def _with_generation(pool: Pool, generation: Generation) -> Pool:
    return replace(pool, generations={**pool.generations, generation.number: generation})


def _tidy(pool: Pool) -> Pool:
    """Move generations that nothing refers to any more to those that are remembered."""
    needed = {pool.current, *(worker.generation for worker in pool.workers.values())}
    if pool.running_upgrade is not None:
        needed |= {pool.running_upgrade.from_generation, pool.running_upgrade.to_generation}
    if needed.issuperset(pool.generations):
        return pool
    over = {number: each for number, each in pool.generations.items() if number not in needed}
    remembered: Mapping[int, Generation] = dict(
        sorted((dict(pool.remembered) | over).items())[-MEMORY:])
    return replace(
        pool, remembered=remembered,
        generations={number: each for number, each in pool.generations.items() if number in needed})
