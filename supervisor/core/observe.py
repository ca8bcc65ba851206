"""From fact to pool: `observe` makes the next pool from one fact, and refuses with `Impossible`
what can't be true.

Pure: nothing here acts, decides what to do, reads a clock or does I/O.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from . import facts, template_facts, templating, upgrading
from .bookkeeping import (
    count_failure,
    delay_after,
    progress,
    prove,
    scaled,
    settled,
    tidy,
    with_generation,
    with_worker,
)
from .causes import Recycling, Refusal
from .facts import Event
from .generation import Generation, Preload, Recipe
from .pool import FAULT_SECONDS, LeftBehind, Policy, Pool, State, Worker
from .upgrade import Impossible

__all__ = ["Impossible", "asks_for_upgrade", "delay_after", "new_pool", "observe"]


def new_pool(recipe: Recipe, target: int, policy: Policy, template: int = 0,
             now: float = 0.0) -> Pool:
    """The pool of a fresh master: generation 1, no worker yet, `target` workers wanted. `template`:
    the pid of its template, 0 where it has none."""
    pool = Pool(policy=policy, target=target, current=1, generations={1: Generation(1, recipe)})
    return templating.prepared(pool, 1, template, now)


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

    Raises:
        Impossible: the event can't be true of this pool (an unknown worker, a second spawn under
            one id …).
    """
    match event:
        case facts.UpgradeRequested():
            return upgrading.asked(pool, event, now)
        case (facts.UpgradePrepared() | facts.UpgradeRefused() | facts.Paused() | facts.Resumed()
              | facts.AbortRequested() | facts.HoldBegun() | facts.Checked() | facts.HoldEnded()
              | facts.AcceptingAsked() | facts.AcceptingChecked() | facts.RolledBack()
              | facts.Finished() | facts.Judged() | facts.WatchEnded()):
            return upgrading.advanced(pool, event, now)
        case facts.OrphanFound() | facts.OrphanKilled() | facts.OrphanGone():
            return _of_orphan(pool, event, now)
        case (facts.Assumed() | facts.SaidReady() | facts.Stood() | facts.FoundUnfit()
              | facts.SaidFailed() | facts.Heartbeat() | facts.Unheard() | facts.Due()
              | facts.Aborted() | facts.Retired() | facts.Killed() | facts.Exited()
              | facts.Forked() | facts.NotForked()):
            return upgrading.look_at_canaries(_of_worker(pool, event, now))
        case template_facts.TemplateReady():
            return _looked_at(templating.observed(pool, event, now), event, now)
        case (template_facts.TemplateMissing() | template_facts.TemplateStarted()
              | template_facts.TemplateTold() | template_facts.TemplateRetired()
              | template_facts.TemplateKilled() | template_facts.TemplateGone()):
            return templating.observed(pool, event, now)
        case _:
            return _of_host(pool, event, now)


def _of_host(pool: Pool, event: facts.OfHost, now: float) -> Pool:
    match event:
        case facts.Spawned():
            return _spawned(pool, event, now)
        case facts.SpawnFailed():
            return _spawn_failed(pool, event, now)
        case facts.Measured():
            return replace(pool, workers={
                key: replace(worker, memory=event.memory.get(key, worker.memory))
                for key, worker in pool.workers.items()})
        case facts.HostMeasured():
            return replace(pool, short_of_memory=event.short)
        case facts.Scaled():
            return _scaled(pool, event)
        case facts.ListenerShut():
            return _listener_shut(pool, event, now)
        case facts.ListenerSwept():
            return _listener_swept(pool, event)
        case facts.ListenerLost():
            return _listener_lost(pool, event)
        case facts.Calmed():
            return with_generation(
                pool, replace(pool.generations[event.generation], faults=0, fault=None))
        case facts.Suspended():
            return replace(pool, suspended_until=now)
        case facts.StopRequested():
            return replace(pool, stopping=event.how)
        case _:
            assert_never(event)


def _spawn_failed(pool: Pool, event: facts.SpawnFailed, now: float) -> Pool:
    if event.generation not in pool.generations:
        raise Impossible(f"{event} with generations {[*pool.generations]}")
    return count_failure(pool, event.generation, f"cannot be started: {event.error}", event.error,
                         (), now)


def _scaled(pool: Pool, event: facts.Scaled) -> Pool:
    if event.target < 1:
        raise Impossible(f"{event}: a pool has at least one worker")
    if pool.upgrade is not None and (pool.upgrade.running or pool.upgrade.watched):
        pool = replace(pool, upgrade=replace(pool.upgrade, target_before=None))
    return upgrading.look_at_canaries(scaled(pool, event.target))


def _listener_lost(pool: Pool, event: facts.ListenerLost) -> Pool:
    others = {key: why for key, why in pool.lost.items() if key != event.address}
    lost = {} if event.reason is None else {event.address: event.reason}
    return replace(pool, lost=others | lost)


def _listener_swept(pool: Pool, event: facts.ListenerSwept) -> Pool:
    """Everybody is due, and goes on until somebody else is there: what waits in the old socket's
    queue, and whoever comes by another address, is served meanwhile."""
    pool = replace(pool, unserved=pool.unserved | {event.address})
    for worker in pool.workers.values():
        if worker.state is not State.RETIRING and worker.recycled_for is None:
            pool = with_worker(pool, replace(
                worker, recycled_for=f"has a socket of {event.address} whose file was removed",
                recycling=Recycling.LISTENER))
    return pool


def _of_worker(pool: Pool, event: facts.OfWorker, now: float) -> Pool:
    try:
        worker = pool.workers[event.worker]
    except KeyError:
        raise Impossible(f"{event}, but there is no such worker") from None
    match event:
        case facts.Assumed():
            return with_worker(pool, replace(worker, assumed_at=now))
        case facts.SaidReady():
            return _said_ready(pool, worker, event.guessed, now)
        case facts.Stood():
            return prove(with_worker(pool, replace(worker, stood=True)), worker.generation)
        case facts.FoundUnfit():
            return _found_unfit(pool, worker, event.reason)
        case facts.SaidFailed():
            return with_worker(pool, replace(worker, error=event.error))
        case facts.Heartbeat():
            return with_worker(
                pool, replace(worker, heartbeat_at=event.at, pinged_request_id=event.request_id))
        case facts.Unheard():
            return with_worker(pool, replace(worker, heartbeat_at=None))
        case facts.Due():
            return _due(pool, worker, event, now)
        case facts.Retired():
            if worker.state is State.RETIRING:
                return pool
            return with_worker(pool, replace(worker, state=State.RETIRING, retired_at=now))
        case facts.Aborted():
            return _ended(pool, worker, replace(worker, aborted_at=now), event, now)
        case facts.Killed():
            return _ended(pool, worker, replace(worker, killed_at=now), event, now)
        case facts.Exited():
            return tidy(_exited(pool, worker, event, now))
        case facts.Forked():
            return templating.forked(pool, worker, event, now)
        case facts.NotForked():
            return tidy(templating.not_forked(pool, worker, event, now))
        case _:
            assert_never(event)


def _spawned(pool: Pool, event: facts.Spawned, now: float) -> Pool:
    if event.worker in pool.workers or event.generation not in pool.generations:
        raise Impossible(f"{event} in a pool of {len(pool.workers)} workers, generations "
                         f"{[*pool.generations]}")
    recipe = pool.generations[event.generation].recipe
    lifetime = recipe.max_lifetime + event.jitter * recipe.max_lifetime_jitter
    return with_worker(pool, Worker(
        event.worker, event.index, event.generation, event.pid, spawned_at=now,
        expires_at=now + lifetime if recipe.max_lifetime else None,
        restarts=pool.restarts.get(event.index, 0), sockets=pool.sockets))


def _said_ready(pool: Pool, worker: Worker, guessed: bool, now: float) -> Pool:
    if worker.state is State.RETIRING and worker.ready_at is None:
        # Too late to count, but it may serve somebody by now: it leaves like one that does.
        return with_worker(pool, replace(worker, ready_at=now))
    if worker.state is not State.STARTING or worker.unfit is not None:
        return pool
    pool = with_worker(pool, replace(worker, state=State.READY, ready_at=now, guessed=guessed))
    if worker.recycling is not Recycling.LISTENER:
        pool = replace(pool, unserved=frozenset())
    if worker.generation == pool.current:
        pool = progress(pool, now)
    return prove(pool, worker.generation)


def _found_unfit(pool: Pool, worker: Worker, reason: str) -> Pool:
    """Refuse the release; a worker that already serves as proven code is left alone all the
    same."""
    after = _unfit(pool, worker.generation, reason)
    if worker.state is State.RETIRING or after is None:
        return pool
    # else it may be what others have gone for, and stays until it is replaced
    return after if worker.convincing else with_worker(after, replace(worker, unfit=reason))


def _on_trial(pool: Pool, number: int) -> bool:
    upgrade = pool.running_upgrade
    return (upgrade is not None and upgrade.to_generation == number
            and not upgrade.rolling_back)


def _unfit(pool: Pool, number: int, reason: str) -> Pool | None:
    """The pool where none of a generation can be trusted; None where it has proven itself."""
    upgrade, generation = pool.running_upgrade, pool.generations[number]
    on_trial = _on_trial(pool, number)
    if generation.proven and not on_trial:
        return None
    pool = with_generation(pool, replace(generation, unfit=reason))
    if upgrade is None or not on_trial:
        return pool
    return replace(pool, upgrade=upgrading.refused(upgrade, reason, Refusal.UNFIT))


def _looked_at(pool: Pool, event: template_facts.TemplateReady, now: float) -> Pool:
    """A template has imported the app, and has looked at what it has since."""
    number, found = event.generation, event.findings
    generation = pool.generations.get(number)
    if generation is None or not generation.preloads:
        return pool
    pool = with_generation(pool, replace(
        generation, findings=found,
        separate=bool(found) and generation.recipe.preload is Preload.AUTO))
    if number == pool.current:
        pool = progress(pool, now)
    if not found or generation.recipe.preload is not Preload.STRICT:
        return pool
    if pool.ever_ready and not _on_trial(pool, number):
        return pool  # there is nothing else to start workers of, and they are needed
    return _unfit(pool, number, templating.not_safe(found)) or pool


def _due(pool: Pool, worker: Worker, event: facts.Due, now: float) -> Pool:
    if worker.state is not State.READY or worker.recycled_for is not None:
        return pool
    pool = with_worker(pool, replace(worker, recycled_for=event.reason, recycling=event.cause))
    upgrade = pool.running_upgrade
    too_big = event.cause is Recycling.MEMORY
    if (too_big and upgrade is not None and upgrade.on_canary
            and worker.generation == upgrade.to_generation):
        return count_failure(pool, worker.generation, event.reason, None, (), now)
    return pool


def _ended(pool: Pool, worker: Worker, after: Worker, event: facts.Aborted | facts.Killed,
           now: float) -> Pool:
    """A worker was told by force to go. Counted now, not when it is gone: a process that can't be
    killed must not hide a failure."""
    retired_at = now if worker.retired_at is None else worker.retired_at
    pool = with_worker(pool, replace(after, state=State.RETIRING, retired_at=retired_at))
    if worker.state is State.RETIRING or pool.stopping:
        return pool
    return _lost(pool, worker, event.reason, worker.error, event.lines, now)


def _exited(pool: Pool, worker: Worker, event: facts.Exited, now: float) -> Pool:
    pool = replace(pool,
                   workers={key: each for key, each in pool.workers.items() if key != worker.id})
    if worker.generation != pool.current:
        pool = progress(pool, now)
    if worker.state is State.RETIRING or pool.stopping:
        return pool
    if asks_for_upgrade(pool, worker, event.status):  # nobody's failure
        pool = replace(pool, left_early=0 if settled(pool, worker, now) else pool.left_early + 1)
        upgrade = pool.running_upgrade
        if upgrade is None:
            return pool
        return replace(pool, upgrade=replace(upgrade, vacant=upgrade.vacant | {worker.index}))
    when = ("before it was ready" if worker.ready_at is None
            else f"{now - worker.ready_at:.1f} s after it was ready")
    return _lost(pool, worker, f"{facts.how_it_ended(event.status)} {when}",
                 worker.error or event.error or event.complaint, event.lines, now)


def _lost(pool: Pool, worker: Worker, reason: str, error: str | None, lines: tuple[str, ...],
          now: float) -> Pool:
    """A worker that nobody had asked to go is no more; unless it had settled, its start has failed.

    On trial any death counts, however long after its ready: otherwise a release whose workers serve
    for a while and die would be exchanged for ever.
    """
    pool = _count_restart(pool, worker)
    if worker.ready_at is not None and now - worker.ready_at < FAULT_SECONDS:
        pool = _fault(pool, worker.generation, f"worker {worker.index} {reason}", now)
    upgrade = pool.running_upgrade
    on_trial = upgrade is not None and upgrade.to_generation == worker.generation
    if settled(pool, worker, now) and not on_trial:
        return pool
    return count_failure(pool, worker.generation, reason, error, lines, now)


def _fault(pool: Pool, number: int, fault: str, now: float) -> Pool:
    generation = pool.generations[number]
    return with_generation(
        pool, replace(generation, faults=generation.faults + 1, fault=fault, fault_at=now))


def _listener_shut(pool: Pool, event: facts.ListenerShut, now: float) -> Pool:
    """Blame the release that did it, where that is certain: old code that is just leaving may have
    done it as well. The kernel doesn't say who shut a socket down. So where both may have, nobody
    is blamed, and from then on old and new code are kept apart (`Upgrade.suspicious`)."""
    pool = replace(pool, sockets=pool.sockets + event.anew)
    if pool.stopping is not None or not event.blamed:
        return pool
    upgrade = pool.running_upgrade
    if any(worker.generation != pool.current and worker.state is State.RETIRING
           for worker in pool.workers.values()):
        return pool if upgrade is None else replace(pool, upgrade=replace(upgrade, suspicious=True))
    fault = f"a worker of it shut down the listening socket {event.address}"
    if upgrade is not None and upgrade.to_generation == pool.current and not upgrade.rolling_back:
        pool = replace(pool, upgrade=upgrading.refused(upgrade, fault, Refusal.LISTENER_SHUT))
    elif event.anew:  # all of its workers are replaced for it, and must not be in a hot loop
        pool = count_failure(pool, pool.current, fault, None, (), now)
    return _fault(pool, pool.current, fault, now)


def _count_restart(pool: Pool, worker: Worker) -> Pool:
    upgrade = pool.running_upgrade
    on_trial = upgrade is not None and upgrade.to_generation == worker.generation
    if on_trial and worker.ready_at is None:
        # a start that fails on trial is the upgrade's failure; the seat has its old worker still
        return pool
    return replace(pool,
                   restarts={**pool.restarts, worker.index: pool.restarts.get(worker.index, 0) + 1})


def _of_orphan(pool: Pool, event: facts.OrphanFound | facts.OrphanKilled | facts.OrphanGone,
               now: float) -> Pool:
    others = {pid: each for pid, each in pool.left_behind.items() if pid != event.pid}
    if isinstance(event, facts.OrphanFound):
        # Its generation may be forgotten by now.
        recipe = pool.generations.get(event.generation or 0, pool.generations[pool.current]).recipe
        found = LeftBehind(event.pid, event.index, event.generation, now,
                                 now + recipe.graceful_timeout)
        return replace(pool, left_behind={**others, event.pid: found})
    if event.pid not in pool.left_behind:
        raise Impossible(f"{event}, but no such process is left behind")
    if isinstance(event, facts.OrphanKilled):
        return replace(
            pool,
            left_behind={**others, event.pid: replace(pool.left_behind[event.pid], killed=True)})
    return progress(replace(pool, left_behind=others), now)
