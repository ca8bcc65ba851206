"""What people and scripts are told: the gate, its reason and the status document, all computed from
a pool.

It decides nothing and reads nothing but its arguments. The form of the document is a promise: keys
are only added.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from ..core.pool import Pool, State, Worker
from ..core.upgrade import Upgrade

VERSION = 1


def timestamp(wall: float | None) -> str | None:
    """Seconds since the epoch as ISO 8601 in UTC."""
    return None if wall is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall))


def counted(number: int, what: str) -> str:
    """So many of something: `1 worker`, `2 workers`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def gate(pool: Pool) -> tuple[str, str]:
    """Return the one-word verdict on this host and the sentence that explains it.

    starting, upgrading, stopping: not final. ready, degraded, rolled-back: final until something
    else happens.
    """
    upgrade, ready, target = pool.upgrade, pool.ready, pool.target
    have = f"{ready} of {target} workers ready"
    if pool.stopping is not None:
        return "stopping", f"{counted(len(pool.workers), 'worker')} still there{_left_behind(pool)}"
    if upgrade is not None and upgrade.running:
        word, course = _gate_of_upgrade(pool, upgrade)
        return word, f"{course}{_short(pool)}"
    if upgrade is not None and upgrade.outcome in ("rolled-back", "aborted"):
        refused = upgrade.to_generation
        still = sum(worker.generation == refused and worker.state is State.READY
                    for worker in pool.workers.values())
        serve = "" if not still else "; 1 worker of it still serves, until its replacement is ready" if still == 1 else \
            f"; {still} workers of it still serve, until their replacements are ready"
        return "rolled-back", f"generation {refused} was refused: {_why(upgrade)}{serve}{_short(pool)}"
    current = pool.generations[pool.current]
    guessed = " (guessed)" if any(worker.guessed and worker.state is State.READY
                                  for worker in pool.workers.values()) else ""
    if pool.lost:
        return "degraded", "; ".join(f"nobody can connect to {address}: {why}"
                                     for address, why in pool.lost.items())
    if ready >= target and guessed and not pool.settled:
        return "starting", f"{have}, by a guess that has yet to stand for {pool.policy.guessed_min_ready_seconds:g} s"
    if ready >= target and keeps_failing(pool):
        return "degraded", f"{have}, but generation {pool.current} keeps failing: {current.faults} times, the last: {current.fault}"
    if ready >= target:
        return "ready", f"{have} on generation {pool.current}{guessed}"
    failing = current.failures_in_a_row >= pool.failures_allowed
    if not pool.settled and not failing:
        return "starting", have
    if pool.short_of_memory:
        have += "; the host is short of memory, so due workers leave before they are replaced"
    return "degraded", f"{have}: {current.error}" if current.error and current.failures_in_a_row else have


def _short(pool: Pool) -> str:
    return "" if pool.ready >= pool.target else f"; {pool.ready} of {pool.target} workers ready"


def keeps_failing(pool: Pool) -> bool:
    """Whether workers of the current generation die soon after they were ready, over and over."""
    return pool.generations[pool.current].faults > pool.policy.max_failures


def _gate_of_upgrade(pool: Pool, upgrade: Upgrade) -> tuple[str, str]:
    if upgrade.rolling_back:
        return "upgrading", f"going back to generation {upgrade.from_generation}: {_why(upgrade)}"
    if upgrade.preparing:
        course = f"generation {upgrade.to_generation} is being prepared"
    else:
        course = (
            f"{replaced(pool, upgrade)} of {pool.target} workers on generation "
            f"{upgrade.to_generation}"
            f"{_left_behind(pool, upgrade.to_generation)}")
    if upgrade.paused_by is not None:
        return "paused", f"{course}; paused by {upgrade.paused_by}"
    if upgrade.held_since is None:
        return "upgrading", course
    if upgrade.check == "running":
        return "upgrading", f"{course}; the check runs"
    if upgrade.terms.hold is None:
        return "paused", f"{course}; held until somebody says resume or abort"
    return "upgrading", f"{course}; held for {upgrade.terms.hold:g} s"


def _left_behind(pool: Pool, but_of: int | None = None) -> str:
    """Which processes, but those of one generation, are waited for though their workers are
    gone."""
    pids = [str(each.pid) for each in pool.left_behind.values() if each.generation != but_of]
    more = f" and {len(pids) - 3} more" if len(pids) > 3 else ""
    return f"; what workers have left behind is still there: pid {', '.join(pids[:3])}{more}" if pids else ""


def _why(upgrade: Upgrade) -> str:
    reason = upgrade.reason or "it failed"
    return reason if not upgrade.error or upgrade.error in reason else f"{reason}: {upgrade.error}"


def replaced(pool: Pool, upgrade: Upgrade) -> int:
    """How many workers of the upgrade's generation are ready, at most the target; where it is over,
    were then."""
    if not upgrade.running:
        return upgrade.replaced
    on_it = sum(worker.generation == upgrade.to_generation and worker.state is State.READY
                for worker in pool.workers.values())
    return min(on_it, pool.target)


def upgrade_document(pool: Pool, upgrade: Upgrade, now: float) -> dict[str, Any]:
    """The `upgrade` part of the status document."""
    return {
        "from": upgrade.from_generation, "to": upgrade.to_generation, "kind": upgrade.terms.kind,
        "release": upgrade.terms.release, "outcome": upgrade.outcome,
        "replaced": replaced(pool, upgrade), "failures": upgrade.failures, "reason": upgrade.reason,
        "error": upgrade.error, "last_lines": list(upgrade.lines),
        "requested_by": upgrade.requested_by, "canary": upgrade.terms.canary or None,
        "check": upgrade.check, "hold_left_seconds": _hold_left(upgrade, now),
        "paused_by": upgrade.paused_by, "recipe_of": upgrade.terms.recipe_of,
        "started_at": timestamp(upgrade.started_wall), "ended_at": timestamp(upgrade.ended_wall),
        "took_seconds": round(
            (now if upgrade.ended_at is None else upgrade.ended_at) - upgrade.started_at, 3),}


def _failed_start(pool: Pool) -> dict[str, Any] | None:
    """The last start that failed and has not been made good since: why, and the end of its standard
    error."""
    generation = pool.generations[pool.current]
    if pool.upgrade is not None and pool.upgrade.failures and pool.upgrade.outcome != "done":
        upgrade = pool.upgrade
        return {
            "generation": upgrade.to_generation, "error": upgrade.error or upgrade.reason,
            "last_lines": list(upgrade.lines)}
    if generation.failures_in_a_row and pool.ready < pool.target:
        return {
            "generation": generation.number, "error": generation.error,
            "last_lines": list(generation.lines)}
    return None


def _hold_left(upgrade: Upgrade, now: float) -> float | None:
    if not upgrade.running or upgrade.held_since is None or upgrade.terms.hold is None:
        return None
    return round(max(0.0, upgrade.held_since + upgrade.terms.hold - now), 3)


def worker_documents(pool: Pool, now: float, memory: Mapping[int, int | None],
                     usage: Mapping[int, Mapping[str, Any]], last_lines: Mapping[int, list[str]],
                     ) -> list[dict[str, Any]]:
    """The `workers` part of the status document. `memory`: pid → resident bytes. `usage`: worker →
    what the shared page says of it: `requests`, `in_flight`, `busy_share`. `last_lines`: worker →
    the end of its standard error."""
    return [{
        "index": worker.index, "pid": worker.pid, "generation": worker.generation,
        "state": worker.state.value, "guessed": worker.guessed,
        "age_seconds": round(now - worker.spawned_at, 3), "ready_after_seconds": None
        if worker.ready_at is None else round(worker.ready_at - worker.spawned_at, 3),
        "restarts": pool.restarts.get(worker.index, 0), "memory_bytes": memory.get(worker.pid),
        "requests": usage.get(worker.id, {}).get("requests"),
        "in_flight": usage.get(worker.id,
                               {}).get("in_flight"), "busy_share": usage.get(worker.id,
                                                                             {}).get("busy_share"),
        "recycled_for": worker.recycled_for, "last_lines": last_lines.get(worker.id, []),
        "waits_for": _waits_for(pool, worker, now,
                                usage.get(worker.id, {}).get("in_flight")),
    } for worker in sorted(pool.workers.values(), key=lambda worker: (worker.index, worker.id))]


def _waits_for(pool: Pool, worker: Worker, now: float, in_flight: int | None) -> str | None:
    """What a retiring worker still has to do; None for the others."""
    if worker.state is not State.RETIRING or worker.retired_at is None:
        return None
    if worker.killed_at is not None:
        return "the end of its process, after SIGKILL"
    if worker.aborted_at is not None:
        return "the end of its process, after SIGABRT"
    left = worker.retired_at + pool.generations[worker.generation].recipe.graceful_timeout - now
    until = f"killed in {max(0.0, left):.0f} s"
    return f"{counted(in_flight, 'request')} in flight, {until}" if in_flight else f"the end of its process, {until}"


def status_document(pool: Pool, now: float, *, name: str, started_at: float,
                    master: Mapping[str, Any], listeners: Iterable[Mapping[str, Any]],
                    memory: Mapping[int, int | None], usage: Mapping[int, Mapping[str, Any]],
                    labels: Mapping[str, str], last_lines: Mapping[int, list[str]],
                    ) -> dict[str, Any]:
    """The whole status document."""
    verdict, reason = gate(pool)
    return {
        "version": VERSION, "gate": verdict, "reason": reason, "name": name,
        "generation": pool.current, "newest_generation": pool.newest,
        "release": pool.generations[pool.current].recipe.release, "target": pool.target,
        "ready": pool.ready, "labels": dict(labels), "uptime_seconds": round(now - started_at, 3),
        "master": dict(master), "workers": worker_documents(pool, now, memory, usage, last_lines),
        "listeners": [dict(each) for each in listeners], "left_behind": [{
            "pid": each.pid, "index": each.index, "generation": each.generation,
            "age_seconds": round(now - each.found_at, 3),
            "killed_in_seconds": None if each.killed else round(max(0.0, each.kill_at - now), 3)
        } for each in pool.left_behind.values()], "failed_start": _failed_start(pool),
        "upgrade": None if pool.upgrade is None else upgrade_document(pool, pool.upgrade, now),}
