"""What happened, as entries: computed from the pool before and after a fact, for the log and for
listeners. How each is worded stands in events.py. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, assert_never

from ..core import facts, judge_rules, template_facts
from ..core.bookkeeping import just_ended
from ..core.generation import Preload
from ..core.pool import Pool, State, Worker
from ..core.template import DEATHS_BEFORE_SILENCE
from ..core.upgrade import Upgrade
from .events import Bytes, Entry, Event, Seconds, Weight, message
from .report import gate, keeps_failing, release_of, replaced, timestamp

# So many faults of a release in a row are told one by one.
TOLD_FAULTS = 20


def changes(before: Pool, fact: facts.Event, after: Pool, now: float) -> Iterator[Entry]:
    """Yield what `fact` changed between two pools, in the order in which it is to be told."""
    if isinstance(fact, facts.OfWorker):
        yield from _of_worker(before, fact, after, now)
    elif isinstance(fact, template_facts.OfTemplate):
        yield from _of_template(before, fact, after, now)
    elif isinstance(fact, facts.OfOrphan):
        yield _of_orphan(before, fact, after)
    elif isinstance(fact, facts.OfBeginning):
        yield from _of_beginning(before, fact, after)
    elif isinstance(fact, facts.OfCourse):
        yield from _of_course(before, fact, after, now)
    elif isinstance(fact, facts.OfHost):
        yield from _of_host(before, fact, after)
    else:
        assert_never(fact)
    yield from _failures(before, after, now)
    yield from _faults(before, after)
    yield from _upgrade(before, after, now)


def _of_worker(before: Pool, fact: facts.OfWorker, after: Pool, now: float) -> Iterator[Entry]:
    old = before.workers[fact.worker]
    new = after.workers.get(fact.worker, old)
    match fact:
        case facts.SaidReady():
            yield _ready(old, new, now)
        case facts.SaidFailed():
            # The first time alone: it may say so as often as it likes.
            if old.error is None:
                yield Entry(Event.WORKER_FAILED, _worker(new, error=fact.error))
        case facts.FoundUnfit():
            if after.workers != before.workers or after.upgrade != before.upgrade:
                yield Entry(Event.WORKER_UNFIT, _worker(new, reason=fact.reason))
        case facts.Due():
            if new != old:
                yield Entry(Event.WORKER_DUE, _because(new, fact))
        case facts.Aborted():
            yield Entry(Event.WORKER_HUNG, _because(new, fact))
        case facts.Retired():
            if new != old:
                yield Entry(Event.WORKER_RETIRING, _because(new, fact))
        case facts.Killed():
            yield Entry(Event.WORKER_KILLED, _because(new, fact))
        case facts.Exited():
            yield _exit(old, fact, now)
        case facts.Forked():
            if new != old:
                yield _starting(after, new)
        case facts.NotForked():
            if fact.error is not None:
                yield Entry(Event.WORKER_CANNOT_BE_STARTED, {
                    "index": old.index, "generation": old.generation, "error": fact.error})
        case facts.Assumed() | facts.Stood() | facts.Heartbeat() | facts.Unheard():
            pass
        case _:
            assert_never(fact)


def _worker(worker: Worker, **more: Any) -> dict[str, Any]:
    return {"index": worker.index, "pid": worker.pid, "generation": worker.generation} | more


def _starting(after: Pool, worker: Worker) -> Entry:
    upgrade = after.running_upgrade
    is_baseline = (upgrade is not None and upgrade.wants_baseline
                   and judge_rules.baseline(after, upgrade) == worker.id)
    return Entry(Event.WORKER_STARTING, _worker(worker, baseline=is_baseline or None))


def _because(worker: Worker, fact: facts.Due | facts.Aborted | facts.Retired | facts.Killed,
             ) -> dict[str, Any]:
    return _worker(worker, reason=fact.reason, cause=fact.cause)


def _ready(old: Worker, new: Worker, now: float) -> Entry:
    if new.state is not State.READY or old.state is State.READY:
        return Entry(Event.LATE_ACK_IGNORED, _worker(new))
    fields = _worker(new, took=Seconds(now - new.spawned_at))
    return Entry(Event.WORKER_READY, fields | ({"guessed": True} if new.guessed else {}))


def _exit(worker: Worker, fact: facts.Exited, now: float) -> Entry:
    fields = _worker(worker, status=fact.status, age=Seconds(now - worker.spawned_at))
    if worker.error or fact.error:
        fields["error"] = worker.error or fact.error
    expected = worker.state is State.RETIRING
    return Entry(Event.WORKER_GONE if expected else Event.WORKER_DIED, fields)


def _of_orphan(before: Pool, fact: facts.OfOrphan, after: Pool) -> Entry:
    match fact:
        case facts.OrphanFound():
            event, orphan = Event.PROCESS_LEFT_BEHIND, after.left_behind[fact.pid]
        case facts.OrphanKilled():
            event, orphan = Event.PROCESS_LEFT_BEHIND_KILLED, after.left_behind[fact.pid]
        case facts.OrphanGone():
            event, orphan = Event.PROCESS_LEFT_BEHIND_GONE, before.left_behind[fact.pid]
        case _:
            assert_never(fact)
    how = "it holds a listening socket" if orphan.generation is None else None
    return Entry(event, {"pid": orphan.pid, "index": orphan.index,
                         "generation": orphan.generation, "known_by": how})


def _of_template(before: Pool, fact: template_facts.OfTemplate, after: Pool,
                 now: float) -> Iterator[Entry]:
    known = after.templates.get(fact.generation)
    old = before.templates.get(fact.generation)
    told: dict[str, Any] = {"generation": fact.generation}
    match fact:
        case template_facts.TemplateStarted():
            yield Entry(Event.TEMPLATE_STARTING, told | {"pid": fact.pid})
        case template_facts.TemplateReady():
            yield Entry(Event.TEMPLATE_READY, told | {
                "pid": known and known.pid,
                "imported": Seconds(fact.import_seconds) if known and known.preloaded else None})
            yield from _not_safe(fact, after)
        case template_facts.TemplateKilled():
            yield Entry(Event.TEMPLATE_KILLED,
                        told | {"pid": known and known.pid, "reason": fact.reason})
        case template_facts.TemplateGone():
            told["pid"] = old and old.pid
            if known is None:
                yield Entry(Event.TEMPLATE_GONE, told)
            else:
                yield Entry(Event.TEMPLATE_DIED, told | {
                    "reason": fact.reason, "error": fact.error,
                    "so": "its workers go on, and another one is made" + (
                        "" if known.deaths < DEATHS_BEFORE_SILENCE else " without when_ready"),
                    "next_try_in": Seconds(max(0.0, known.not_before - now), ".1f")})
        case (template_facts.TemplateMissing() | template_facts.TemplateTold()
              | template_facts.TemplateRetired()):
            pass
        case _:
            assert_never(fact)


def _not_safe(fact: template_facts.TemplateReady, after: Pool) -> Iterator[Entry]:
    generation = after.generations.get(fact.generation)
    if generation is None:
        return
    so = {Preload.AUTO: "its workers import the app themselves",
          Preload.STRICT: generation.unfit and "the release is refused"}
    for found in fact.findings:
        yield Entry(Event.NOT_SAFE_TO_FORK, {
            "generation": fact.generation, "kind": found.kind, "what": found.what,
            "module": found.module, "advice": found.advice,
            "so": so.get(generation.recipe.preload)})


def _of_beginning(before: Pool, fact: facts.OfBeginning, after: Pool) -> Iterator[Entry]:
    match fact:
        case facts.UpgradeRequested():
            pass
        case facts.UpgradePrepared():
            yield from _scaled(before, after)
            imports = after.generations[fact.number].preloads
            yield Entry(Event.GENERATION_PREPARED, {
                "generation": fact.number, "directory": fact.recipe.directory,
                "so": "its template imports the app" if imports else None})
        case facts.UpgradeRefused():
            if fact.aborted_by is not None:
                yield Entry(Event.UPGRADE_ABORTED,
                            {"generation": fact.number, "by": fact.aborted_by})
            yield _refused(fact, fact.number, after)
            yield from _scaled(before, after)
        case _:
            assert_never(fact)


def _refused(fact: facts.UpgradeRefused | facts.RolledBack, generation: int, after: Pool) -> Entry:
    assert after.upgrade is not None
    return Entry(Event.UPGRADE_REFUSED, {
        "generation": generation, "back_to": after.current, "reason": fact.reason,
        "error": fact.error, "cause": after.upgrade.cause})


def _scaled(before: Pool, after: Pool) -> Iterator[Entry]:
    if after.target != before.target:
        yield Entry(Event.SCALED, {"from": before.target, "to": after.target})


def _of_course(before: Pool, fact: facts.OfCourse, after: Pool, now: float) -> Iterator[Entry]:
    generation = {"generation": after.newest}
    match fact:
        case facts.Paused():
            yield Entry(Event.UPGRADE_PAUSED, generation | {"by": fact.by})
        case facts.Resumed():
            watched = before.upgrade is not None and before.upgrade.watched
            yield (Entry(Event.WATCH_ENDED, generation | _verdict(after) | {"by": fact.by})
                   if watched else Entry(Event.UPGRADE_RESUMED, generation | {"by": fact.by}))
        case facts.AbortRequested():
            yield Entry(Event.UPGRADE_ABORTED, generation | {"by": fact.by})
        case facts.HoldBegun():
            yield _hold_begun(after)
        case facts.HoldEnded():
            yield _hold_ended(before, after, now)
        case facts.Checked():
            yield Entry(Event.CHECK_PASSED if fact.reason is None else Event.CHECK_FAILED,
                        generation | {"reason": fact.reason, "error": fact.error})
        case facts.RolledBack():
            yield _refused(fact, before.current, after)
            yield from _scaled(before, after)
        case facts.Judged():
            yield from _judged(before, fact, generation)
        case facts.WatchEnded():
            yield Entry(Event.WATCH_ENDED, generation | _verdict(after) | {"by": None})
        case facts.AcceptingAsked() | facts.AcceptingChecked() | facts.Finished():
            pass
        case _:
            assert_never(fact)


def _judged(before: Pool, fact: facts.Judged, generation: dict[str, Any]) -> Iterator[Entry]:
    """Told when the word changes; the figures of the same word do so all the time."""
    verdict, upgrade = fact.verdict, before.upgrade
    if upgrade is None or upgrade.verdict is None or upgrade.verdict.word is not verdict.word:
        yield Entry(Event.UPGRADE_JUDGED, generation | {
            "word": verdict.word, "reason": verdict.reason, "requests": verdict.requests,
            "old_requests": verdict.old_requests})


def _verdict(pool: Pool) -> dict[str, Any]:
    """What the comparison says, where there is one."""
    found = pool.upgrade and pool.upgrade.verdict
    return {"verdict": found and found.word, "figures": found and found.reason}


def _hold_begun(after: Pool) -> Entry:
    assert after.upgrade is not None
    terms = after.upgrade.terms
    return Entry(Event.HOLD_BEGUN, {
        "generation": after.newest, "canaries": min(terms.canary, after.target),
        "hold": "until resume" if terms.hold is None else Seconds(terms.hold, "g"),
        "check": terms.check, "no_baseline": _no_baseline(after, after.upgrade)})


def _no_baseline(pool: Pool, upgrade: Upgrade) -> str | None:
    """Why canaries are judged without a baseline, and will be: not, where it has yet to start, or
    nobody wants it now."""
    if (not upgrade.wants_baseline or upgrade.paused_by is not None or upgrade.suspicious
            or judge_rules.baseline(pool, upgrade) is not None):
        return None
    return judge_rules.why_no_baseline(pool, upgrade)


def _hold_ended(before: Pool, after: Pool, now: float) -> Entry:
    held = before.upgrade
    assert held is not None
    hold, since = held.terms.hold, before.since(held.held_since or now)
    early = not held.hold_over and (hold is None or now < since + hold)
    return Entry(Event.HOLD_ENDED, {
        "generation": after.newest, "after": Seconds(now - since, ".1f") if early else None,
        **_verdict(after), "by": held.overruled_by})


def _of_host(before: Pool, fact: facts.OfHost, after: Pool) -> Iterator[Entry]:
    match fact:
        case facts.Spawned():
            if fact.pid:  # else it is told of when it is there
                yield _starting(after, after.workers[fact.worker])
        case facts.SpawnFailed():
            yield Entry(Event.WORKER_CANNOT_BE_STARTED, {
                "index": fact.index, "generation": fact.generation, "error": fact.error})
        case facts.HostMeasured():
            so = "due workers leave before they are replaced" if fact.short else None
            yield Entry(Event.HOST_SHORT_OF_MEMORY if fact.short else Event.HOST_HAS_MEMORY_AGAIN,
                        {"available": Bytes(fact.available), "so": so})
        case facts.Scaled():
            yield Entry(Event.SCALED, {"from": before.target, "to": after.target})
        case facts.ListenerShut():
            yield _listener_shut(fact, after)
        case facts.ListenerSwept():
            yield Entry(Event.LISTENER_MADE_AGAIN, {
                "address": fact.address, "so": "its workers are replaced, one after the other"})
        case facts.ListenerLost():
            yield _listener_lost(fact)
        case facts.Suspended():
            lost = None if fact.seconds is None else Seconds(fact.seconds)
            yield Entry(Event.MASTER_SUSPENDED, {
                "lost": lost, "so": "that time counts for nothing, and each deadline begins anew"})
        case facts.StopRequested():
            yield Entry(Event.STOPPING, {"how": fact.how, "workers": len(after.workers)})
        case facts.Measured() | facts.Calmed():
            pass
        case _:
            assert_never(fact)


def _listener_shut(fact: facts.ListenerShut, after: Pool) -> Entry:
    suspects = sorted({worker.generation for worker in after.workers.values()} | {after.current})
    # A release that does nothing else must not fill the log.
    often = after.generations[after.current].faults > TOLD_FAULTS
    return Entry(Event.LISTENER_SHUT_DOWN, {
        "address": fact.address, "by": f"a worker of generation {' or '.join(map(str, suspects))}",
        "so": "it listens again; connections that came meanwhile were refused",
        "generations": suspects}, Weight.DETAIL if often else None)


def _listener_lost(fact: facts.ListenerLost) -> Entry:
    if fact.reason is None:
        return Entry(Event.LISTENER_IS_BACK, {"address": fact.address})
    return Entry(Event.LISTENER_LOST, {
        "address": fact.address, "reason": fact.reason, "so": "nobody can connect to it"})


def _failures(before: Pool, after: Pool, now: float) -> Iterator[Entry]:
    for number, generation in after.generations.items():
        old = before.generations.get(number)
        if old is not None and generation.not_before > old.not_before:
            tried_again = generation.failures_in_a_row < after.failures_allowed or after.ever_ready
            if after.running_upgrade is not None and after.running_upgrade.to_generation == number:
                tried_again = after.running_upgrade.failures < after.failures_allowed
            delay = Seconds(generation.not_before - now, ".1f")
            yield Entry(Event.START_FAILED, {
                "generation": number, "in_a_row": generation.failures_in_a_row,
                "next_try_in": delay if tried_again else None, "error": generation.error})


def _faults(before: Pool, after: Pool) -> Iterator[Entry]:
    if keeps_failing(after) == keeps_failing(before) or after.current != before.current:
        return
    current = after.generations[after.current]
    if keeps_failing(after):
        yield Entry(Event.GENERATION_KEEPS_FAILING, {
            "generation": current.number, "times": current.faults, "last": current.fault})
    else:
        yield Entry(Event.GENERATION_IS_CALM_AGAIN, {"generation": current.number})


def _upgrade(before: Pool, after: Pool, now: float) -> Iterator[Entry]:
    old, new = before.upgrade, after.upgrade
    ended = just_ended(before, after)
    if ended is not None:
        judging, verdict = ended.terms.judging, ended.verdict
        superseded = new is not None and new.to_generation != ended.to_generation
        yield Entry(Event.UPGRADE_ENDED, {
            "generation": ended.to_generation, "release": release_of(after, ended),
            "outcome": ended.outcome,
            "by": new.to_generation if superseded and new is not None else None,
            "took": Seconds(now - ended.started_at), "reason": ended.reason, "error": ended.error,
            "cause": ended.cause,
            "watched_for": Seconds(judging.watch, "g") if ended.watched and judging else None,
            "verdict": verdict and verdict.word, "figures": verdict and verdict.reason},
            Weight.ATTENTION if ended.outcome is not None and ended.outcome.refused else None)
    if new is not None and (old is None or new.to_generation != old.to_generation):
        terms = new.terms
        yield Entry(Event.UPGRADE_STARTED, {
            "from": new.from_generation, "to": new.to_generation, "kind": terms.kind,
            "release": terms.release, "requested_by": new.requested_by,
            "canary": terms.canary or None, "recipe_of": terms.recipe_of,
            "judged": terms.judging is not None or None})


def event_document(entry: Entry, pool: Pool, wall: float) -> dict[str, Any]:
    """What listeners get: the entry, and the pool's counts right after it."""
    verdict, reason = gate(pool)
    names = {
        "event": entry.event.value, "level": entry.weight.level, "time": timestamp(wall),
        "unix_time": round(wall, 3), "message": message(entry)}
    document = names | entry.document() | {
        "ready": pool.ready, "live": pool.live, "target": pool.target, "gate": verdict,
        "gate_reason": reason}
    if pool.running_upgrade is not None and not pool.running_upgrade.rolling_back:
        document["replaced"] = replaced(pool, pool.running_upgrade)
    return document
