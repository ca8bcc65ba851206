"""What people and scripts are told: the gate, its reason and the status document, all computed from
a pool.

It decides nothing and reads nothing but its arguments. The form of the document is a promise: keys
are only added.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from ...shared.gate import Gate
from ..core import judge_rules
from ..core.pool import LeftBehind, Pool, State, Worker
from ..core.template import Template, TemplateState
from ..core.upgrade import Check, Outcome, Phase, Upgrade
from . import generations
from .sharing import Memory, Reading
from .signals import Seen, of_generations

VERSION = 1


def timestamp(wall: float | None) -> str | None:
    """Seconds since the epoch as ISO 8601 in UTC."""
    return None if wall is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall))


def counted(number: int, what: str) -> str:
    """So many of something: `1 worker`, `2 workers`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def gate(pool: Pool) -> tuple[Gate, str]:
    """Return the one-word verdict on this host and the sentence that explains it.

    starting, upgrading, stopping: not final. ready, degraded, rolled-back: final until something
    else happens.
    """
    upgrade = pool.upgrade
    if pool.stopping is not None:
        still = counted(len(pool.workers), "worker")
        return Gate.STOPPING, f"{still} still there{_left_behind(pool)}"
    if upgrade is not None and upgrade.running:
        word, course = _of_running(pool, upgrade)
        return word, f"{course}{_short(pool)}"
    if upgrade is not None and upgrade.outcome is not None and upgrade.outcome.refused:
        return Gate.ROLLED_BACK, (f"{_generation(pool, upgrade)} was refused: "
                                  f"{_why(upgrade)}{_still_serving(pool, upgrade)}{_short(pool)}")
    if pool.unreachable:
        return Gate.DEGRADED, "; ".join(f"nobody can connect to {address}: {why}"
                                        for address, why in pool.unreachable.items())
    have = f"{pool.ready} of {pool.target} workers ready"
    if pool.ready >= pool.target:
        return _of_enough(pool, have)
    return _of_too_few(pool, have)


def _generation(pool: Pool, upgrade: Upgrade) -> str:
    """The new generation of an upgrade, with the name of its release."""
    release = release_of(pool, upgrade)
    named = "" if release is None else f" (release {release})"
    return f"generation {upgrade.to_generation}{named}"


def _of_running(pool: Pool, upgrade: Upgrade) -> tuple[Gate, str]:
    if upgrade.phase is Phase.GOING_BACK:
        back = upgrade.from_generation
        return Gate.UPGRADING, f"going back to generation {back}: {_why(upgrade)}"
    number = upgrade.to_generation
    if upgrade.phase is Phase.PREPARING:
        course = f"{_generation(pool, upgrade)} is being prepared"
    else:
        course = (f"{_importing(pool, number)}{replaced(pool, upgrade)} of {pool.target} workers "
                  f"on generation {number}{_left_behind(pool, number)}")
    if upgrade.paused_by is not None:
        return Gate.PAUSED, f"{course}; paused by {upgrade.paused_by}"
    if upgrade.phase is not Phase.HELD:
        return Gate.UPGRADING, course
    if upgrade.check is Check.RUNNING:
        return Gate.UPGRADING, f"{course}; the check runs"
    if upgrade.terms.hold is None:
        return Gate.PAUSED, f"{course}; held until somebody says resume or abort"
    return Gate.UPGRADING, f"{course}; held for {upgrade.terms.hold:g} s"


def _of_enough(pool: Pool, have: str) -> tuple[Gate, str]:
    current = pool.generations[pool.current]
    guessed = any(worker.guessed and worker.state is State.READY
                  for worker in pool.workers.values())
    if guessed and not pool.complete:
        stands = pool.policy.guessed_min_ready_seconds
        return Gate.STARTING, f"{have}, by a guess that has yet to stand for {stands:g} s"
    if keeps_failing(pool):
        return Gate.DEGRADED, (f"{have}, but generation {pool.current} keeps failing: "
                               f"{current.faults} times, the last: {current.fault}")
    upgrade, watched = pool.upgrade, ""
    if upgrade is not None and upgrade.watched and upgrade.terms.judging is not None:
        watched = f"; watched for {upgrade.terms.judging.watch:g} s"
    said = " (guessed)" if guessed else ""
    return Gate.READY, f"{have} on generation {pool.current}{said}{watched}"


def _of_too_few(pool: Pool, have: str) -> tuple[Gate, str]:
    current = pool.generations[pool.current]
    have = f"{_importing(pool, pool.current)}{have}"
    if not pool.complete and current.failures_in_a_row < pool.failures_allowed:
        return Gate.STARTING, have
    if pool.short_of_memory:
        have += "; the host is short of memory, so due workers leave before they are replaced"
    failed = current.error and current.failures_in_a_row
    return Gate.DEGRADED, f"{have}: {current.error}" if failed else have


def _importing(pool: Pool, number: int) -> str:
    """What a generation's workers wait for while its template imports the app."""
    generation, template = pool.generations.get(number), pool.templates.get(number)
    if (generation is None or not generation.preloads or template is None
            or template.state is not TemplateState.STARTING):
        return ""
    recipe = generation.recipe
    does = ("imports the app" if not recipe.program_forks else
            "loads its file" if recipe.preload_file else "has yet to say that it can fork")
    return f"generation {number}'s template {does}; "


def _short(pool: Pool) -> str:
    if pool.ready >= pool.target:
        return ""
    return f"; {pool.ready} of {pool.target} workers ready"


def _still_serving(pool: Pool, refused: Upgrade) -> str:
    still = sum(worker.generation == refused.to_generation and worker.state is State.READY
                for worker in pool.workers.values())
    if not still:
        return ""
    return ("; 1 worker of it still serves, until its replacement is ready" if still == 1 else
            f"; {still} workers of it still serve, until their replacements are ready")


def keeps_failing(pool: Pool) -> bool:
    """Whether workers of the current generation die soon after they were ready, over and over."""
    return pool.generations[pool.current].faults > pool.policy.max_failures


def _left_behind(pool: Pool, but_of: int | None = None) -> str:
    """Which processes, but those of one generation, are waited for though their workers are
    gone."""
    pids = [str(each.pid) for each in pool.left_behind.values() if each.generation != but_of]
    more = f" and {len(pids) - 3} more" if len(pids) > 3 else ""
    if not pids:
        return ""
    return f"; what workers have left behind is still there: pid {', '.join(pids[:3])}{more}"


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


def release_of(pool: Pool, upgrade: Upgrade) -> str | None:
    """The release of an upgrade: as its generation has it, for a branch means a revision; before
    that is made, as it was asked for."""
    generation = generations.find(pool, upgrade.to_generation)
    made = None if generation is None else generation.recipe.release
    return upgrade.terms.release if made is None else made


def upgrade_document(pool: Pool, upgrade: Upgrade, now: float) -> dict[str, Any]:
    """The `upgrade` part of the status document."""
    ended_at = now if upgrade.ended_at is None else upgrade.ended_at
    baseline = _baseline(pool) if upgrade.running else None
    return {
        "from": upgrade.from_generation,
        "to": upgrade.to_generation,
        "kind": upgrade.terms.kind,
        "phase": upgrade.phase,
        "release": release_of(pool, upgrade),
        "outcome": upgrade.outcome,
        "replaced": replaced(pool, upgrade),
        "failures": upgrade.failures,
        "cause": upgrade.cause,
        "reason": upgrade.reason,
        "error": upgrade.error,
        "last_lines": list(upgrade.lines),
        "requested_by": upgrade.requested_by,
        "canary": upgrade.terms.canary or None,
        "check": upgrade.check,
        "hold_left_seconds": _hold_left(pool, upgrade, now),
        "paused_by": upgrade.paused_by,
        "judged": upgrade.terms.judging is not None,
        "verdict": _verdict_document(upgrade),
        "baseline": None if baseline is None else baseline.index,
        "watch_left_seconds": _watch_left(pool, upgrade, now),
        "recipe_of": upgrade.terms.recipe_of,
        "started_at": timestamp(upgrade.started_wall),
        "ended_at": timestamp(upgrade.ended_wall),
        "took_seconds": round(ended_at - upgrade.started_at, 3),
    }


def _failed_start(pool: Pool) -> dict[str, Any] | None:
    """The last start that failed and has not been made good since: why, and the end of its standard
    error."""
    generation, upgrade = pool.generations[pool.current], pool.upgrade
    if upgrade is not None and upgrade.failures and upgrade.outcome is not Outcome.DONE:
        return {"generation": upgrade.to_generation, "error": upgrade.error or upgrade.reason,
                "last_lines": list(upgrade.lines)}
    if generation.failures_in_a_row and pool.ready < pool.target:
        return {"generation": generation.number, "error": generation.error,
                "last_lines": list(generation.lines)}
    return None


def _hold_left(pool: Pool, upgrade: Upgrade, now: float) -> float | None:
    if upgrade.phase is not Phase.HELD or upgrade.held_since is None or upgrade.terms.hold is None:
        return None
    return round(max(0.0, pool.since(upgrade.held_since) + upgrade.terms.hold - now), 3)


def _watch_left(pool: Pool, upgrade: Upgrade, now: float) -> float | None:
    judging = upgrade.terms.judging
    if upgrade.watched_since is None or judging is None:
        return None
    return round(max(0.0, pool.since(upgrade.watched_since) + judging.watch - now), 3)


def _baseline(pool: Pool) -> Worker | None:
    """The old worker that is as young as the canaries."""
    upgrade = pool.running_upgrade
    if upgrade is None or not upgrade.wants_baseline:
        return None
    worker = judge_rules.baseline(pool, upgrade)
    return None if worker is None else pool.workers[worker]


def _verdict_document(upgrade: Upgrade) -> dict[str, Any] | None:
    if upgrade.verdict is None:
        return None
    return asdict(upgrade.verdict) | {"overruled_by": upgrade.overruled_by}


def _worker_document(pool: Pool, worker: Worker, now: float, memory: Reading | None,
                     usage: Mapping[str, Any], seen: Seen | None, last_lines: list[str],
                     baseline: Worker | None) -> dict[str, Any]:
    ready_after = None if worker.ready_at is None else worker.ready_at - worker.spawned_at
    killed_in = _killed_in(pool, worker, now)
    requests = usage.get("requests")
    if requests is None and seen is not None:  # it says what it has answered, and no more
        requests = seen.since_start.requests
    return {
        "index": worker.index,
        "pid": worker.pid,
        "generation": worker.generation,
        "state": worker.state,
        "guessed": worker.guessed,
        "age_seconds": round(now - worker.spawned_at, 3),
        "ready_after_seconds": None if ready_after is None else round(ready_after, 3),
        "restarts": pool.restarts.get(worker.index, 0),
        "memory_bytes": None if memory is None else memory.share,
        "requests": requests,
        "in_flight": usage.get("in_flight"),
        "busy_share": usage.get("busy_share"),
        "traffic": None if seen is None else seen.document(),
        "baseline": worker is baseline,
        "recycling": worker.recycling,
        "recycled_for": worker.recycled_for,
        "last_lines": last_lines,
        "killed_in_seconds": None if killed_in is None else round(killed_in, 3),
        "waits_for": _waits_for(worker, killed_in, usage.get("in_flight")),
    }


def _killed_in(pool: Pool, worker: Worker, now: float) -> float | None:
    """In how many seconds a retiring worker is killed; None for the others, and after that."""
    if worker.retired_at is None or worker.killed_at is not None or worker.aborted_at is not None:
        return None
    return max(0.0, pool.since(worker.retired_at) + pool.patience(worker) - now)


def _waits_for(worker: Worker, killed_in: float | None, in_flight: int | None) -> str | None:
    """What a retiring worker still has to do; None for the others."""
    if worker.state is not State.RETIRING:
        return None
    if killed_in is None:
        signal = "SIGABRT" if worker.killed_at is None else "SIGKILL"
        return f"the end of its process, after {signal}"
    waits = f"{counted(in_flight, 'request')} in flight" if in_flight else "the end of its process"
    return f"{waits}, killed in {killed_in:.0f} s"


def _template_document(pool: Pool, template: Template, now: float,
                       memory: Reading | None) -> dict[str, Any]:
    generation = pool.generations.get(template.generation)
    return {
        "generation": template.generation,
        "pid": template.pid or None,
        "state": template.state,
        "age_seconds": round(now - template.since, 3),
        "preloads": template.preloaded or (generation is not None and generation.preloads),
        "import_seconds": round(template.import_seconds, 3) if template.preloaded else None,
        "forks": template.forks,
        "memory_bytes": None if memory is None else memory.share,
    }


def _findings(pool: Pool) -> Iterator[dict[str, Any]]:
    """What isn't safe to fork in the generations that are in use, and in the one that was refused
    last. They are the generation's: another template may have taken the place of the one that had
    them."""
    known = dict(pool.generations)
    upgrade = pool.upgrade
    if upgrade is not None and upgrade.outcome is not None and upgrade.outcome.refused:
        refused = pool.remembered.get(upgrade.to_generation)
        known |= {} if refused is None else {refused.number: refused}
    for number, generation in sorted(known.items()):
        for found in generation.findings:
            yield {"generation": number, "kind": found.kind, "what": found.what,
                   "module": found.module, "advice": found.advice,
                   "separate": generation.separate}


def _left_behind_document(process: LeftBehind, now: float) -> dict[str, Any]:
    left = None if process.killed else round(max(0.0, process.kill_at - now), 3)
    return {"pid": process.pid, "index": process.index, "generation": process.generation,
            "age_seconds": round(now - process.found_at, 3), "killed_in_seconds": left}


def status_document(pool: Pool, now: float, *, name: str, started_at: float,
                    master: Mapping[str, Any], listeners: Iterable[Mapping[str, Any]],
                    memory: Memory, usage: Mapping[int, Mapping[str, Any]],
                    traffic: Mapping[int, Seen], labels: Mapping[str, str],
                    last_lines: Mapping[int, list[str]]) -> dict[str, Any]:
    """The whole status document.

    Args:
        usage: worker → what the shared page says of it: `requests`, `in_flight`, `busy_share`.
        traffic: worker → what it has answered, where that is counted.
        last_lines: worker → the end of its standard error.
    """
    word, reason = gate(pool)
    # One that is being forked is not there yet.
    workers = sorted((worker for worker in pool.workers.values() if worker.pid),
                     key=lambda worker: (worker.index, worker.id))
    baseline = _baseline(pool)
    return {
        "version": VERSION,
        "gate": word,
        "reason": reason,
        "name": name,
        "generation": pool.current,
        "newest_generation": pool.newest,
        "release": pool.generations[pool.current].recipe.release,
        "target": pool.target,
        "ready": pool.ready,
        "labels": dict(labels),
        "uptime_seconds": round(now - started_at, 3),
        "master": {**master, "memory_bytes": memory.master and memory.master.share},
        "memory": {"total_bytes": memory.total if memory.whole else None,
                   "saved_bytes": memory.saved if memory.whole else None},
        "workers": [
            _worker_document(pool, worker, now, memory.workers.get(worker.id),
                             usage.get(worker.id, {}), traffic.get(worker.id),
                             last_lines.get(worker.id, []), baseline)
            for worker in workers],
        "traffic": of_generations(workers, traffic),
        "listeners": [dict(each) for each in listeners],
        "templates": [_template_document(pool, each, now, memory.templates.get(number))
                      for number, each in pool.templates.items()],
        "findings": list(_findings(pool)),
        "left_behind": [_left_behind_document(each, now) for each in pool.left_behind.values()],
        "failed_start": _failed_start(pool),
        "upgrade": None if pool.upgrade is None else upgrade_document(pool, pool.upgrade, now),
    }
