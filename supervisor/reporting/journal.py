"""What happened, as events with fields: computed from the pool before and after a fact, for the log
and for listeners. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..core import facts
from ..core.pool import LeftBehind, Pool, State, Worker
from .report import gate, keeps_failing, replaced, timestamp

DETAIL, NORMAL, ATTENTION = 0, 1, 2
# So many faults of a release in a row are told one by one.
TOLD_FAULTS = 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened. `name` in words (`worker ready`); `weight`: DETAIL, NORMAL or
    ATTENTION. `remembered`: among the last events, for those who come later."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    weight: int = NORMAL
    remembered: bool = True

    @property
    def level(self) -> str:
        """The weight as logs call it: debug, info or warning."""
        return ("debug", "info", "warning")[self.weight]


def changes(before: Pool, event: facts.Event, after: Pool, now: float) -> Iterator[Entry]:
    """Yield what `event` changed between two pools, in the order in which it is to be told."""
    match event:
        case facts.Spawned():
            yield Entry("worker starting", _worker(after.workers[event.worker]))
        case facts.SpawnFailed():
            yield Entry("worker cannot be started", {
                "index": event.index, "generation": event.generation, "error": event.error},
                        ATTENTION)
        case facts.SaidReady():
            if after.workers[event.worker] != before.workers[event.worker]:
                worker = after.workers[event.worker]
                took: dict[str, Any] = {"took": f"{now - worker.spawned_at:.2f}s"}
                yield Entry("worker ready",
                            _worker(worker) | took | ({"guessed": True} if worker.guessed else {}))
            else:
                yield Entry("late ack ignored", _worker(after.workers[event.worker]), DETAIL)
        case facts.SaidFailed():
            # The first time alone: it may say so as often as it likes.
            if before.workers[event.worker].error is None:
                yield Entry("worker failed",
                            _worker(after.workers[event.worker]) | {"error": event.error},
                            ATTENTION)
        case facts.ListenerLost():
            yield (Entry("listener is back", {"address": event.address})
                   if event.reason is None else Entry(
                       "listener lost", {
                           "address": event.address, "reason": event.reason,
                           "so": "nobody can connect to it"}, ATTENTION))
        case facts.FoundUnfit(
        ) if after.workers != before.workers or after.upgrade != before.upgrade:
            yield Entry("worker unfit",
                        _worker(after.workers[event.worker]) | {"reason": event.reason}, ATTENTION)
        case facts.ListenerShut():
            yield _listener_shut(event, after)
        case facts.Due():
            if after.workers[event.worker] != before.workers[event.worker]:
                yield Entry("worker due",
                            _worker(after.workers[event.worker]) | {"reason": event.reason})
        case facts.HostMeasured():
            yield Entry(
                "host short of memory" if event.short else "host has memory again", {
                    "available": f"{event.available >> 20}MiB",
                    "so": "due workers leave before they are replaced" if event.short else None},
                ATTENTION)
        case facts.Aborted():
            yield Entry("worker hung",
                        _worker(after.workers[event.worker]) | {"reason": event.reason}, ATTENTION)
        case facts.Retired():
            if after.workers[event.worker] != before.workers[event.worker]:
                yield Entry("worker retiring",
                            _worker(after.workers[event.worker]) | {"reason": event.reason})
        case facts.Killed():
            yield Entry("worker killed",
                        _worker(after.workers[event.worker]) | {"reason": event.reason}, ATTENTION)
        case facts.Exited():
            yield _exit(before.workers[event.worker], event, now)
        case facts.OrphanFound():
            yield Entry("process left behind", _orphan(after.left_behind[event.pid]))
        case facts.OrphanKilled():
            yield Entry("process left behind killed", _orphan(after.left_behind[event.pid]),
                        ATTENTION)
        case facts.OrphanGone():
            yield Entry("process left behind gone", _orphan(before.left_behind[event.pid]))
        case facts.Paused():
            yield Entry("upgrade paused", {"generation": after.newest, "by": event.by})
        case facts.Resumed():
            yield Entry("upgrade resumed", {"generation": after.newest, "by": event.by})
        case facts.AbortRequested():
            yield Entry("upgrade aborted", {"generation": after.newest, "by": event.by})
        case facts.HoldBegun() | facts.HoldEnded():
            yield from _hold(event, after)
        case facts.Checked():
            yield Entry("check passed" if event.reason is None else "check failed", {
                "generation": after.newest, "reason": event.reason, "error": event.error},
                NORMAL if event.reason is None else ATTENTION)
        case facts.Scaled():
            yield Entry("scaled", {"from": before.target, "to": after.target})
        case facts.StopRequested():
            yield Entry("stopping", {"how": event.how, "workers": len(after.workers)})
        case facts.UpgradePrepared():
            if after.target != before.target:
                yield Entry("scaled", {"from": before.target, "to": after.target})
            yield Entry("generation prepared",
                        {"generation": event.number, "directory": event.recipe.directory})
        case facts.UpgradeRefused():
            if event.aborted_by is not None:
                yield Entry("upgrade aborted", {
                    "generation": event.number, "by": event.aborted_by})
            yield Entry(
                "upgrade refused", {
                    "generation": event.number, "back_to": after.current, "reason": event.reason,
                    "error": event.error}, ATTENTION)
            if after.target != before.target:
                yield Entry("scaled", {"from": before.target, "to": after.target})
        case facts.RolledBack():
            yield Entry(
                "upgrade refused", {
                    "generation": before.current, "back_to": after.current, "reason": event.reason,
                    "error": event.error}, ATTENTION)
            if after.target != before.target:
                yield Entry("scaled", {"from": before.target, "to": after.target})
    yield from _failures(before, after, now)
    yield from _faults(before, after)
    yield from _upgrade(before, after, now)


def _hold(event: facts.HoldBegun | facts.HoldEnded, after: Pool) -> Iterator[Entry]:
    upgrade = after.upgrade
    assert upgrade is not None
    if isinstance(event, facts.HoldEnded):
        yield Entry("hold ended", {"generation": upgrade.to_generation})
        return
    hold = upgrade.terms.hold
    canaries = min(upgrade.terms.canary, after.target)
    yield Entry(
        "hold begun", {
            "generation": upgrade.to_generation, "canaries": canaries,
            "hold": "until resume" if hold is None else f"{hold:g}s", "check": upgrade.terms.check})


def _worker(worker: Worker) -> dict[str, Any]:
    return {"index": worker.index, "pid": worker.pid, "generation": worker.generation}


def _orphan(orphan: LeftBehind) -> dict[str, Any]:
    how = "it holds a listening socket" if orphan.generation is None else None
    return {
        "pid": orphan.pid, "index": orphan.index, "generation": orphan.generation, "known_by": how}


def _exit(worker: Worker, event: facts.Exited, now: float) -> Entry:
    fields = _worker(worker) | {"status": event.status, "age": f"{now - worker.spawned_at:.2f}s"}
    if worker.error or event.error:
        fields["error"] = worker.error or event.error
    expected = worker.state is State.RETIRING
    return Entry("worker gone" if expected else "worker died", fields,
                 NORMAL if expected else ATTENTION)


def _failures(before: Pool, after: Pool, now: float) -> Iterator[Entry]:
    for number, generation in after.generations.items():
        old = before.generations.get(number)
        if old is not None and generation.not_before > old.not_before:
            tried_again = generation.failures_in_a_row < after.failures_allowed or after.ever_ready
            if after.running_upgrade is not None and after.running_upgrade.to_generation == number:
                tried_again = after.running_upgrade.failures < after.failures_allowed
            yield Entry(
                "start failed", {
                    "generation": number, "in_a_row": generation.failures_in_a_row,
                    "next_try_in": f"{generation.not_before - now:.1f}s" if tried_again else None,
                    "error": generation.error}, ATTENTION)


def _listener_shut(event: facts.ListenerShut, after: Pool) -> Entry:
    suspects = sorted({worker.generation for worker in after.workers.values()} | {after.current})
    return Entry("listener shut down", {
        "address": event.address, "by": f"a worker of generation {' or '.join(map(str, suspects))}",
        "so": "it listens again; connections that came meanwhile were refused"},
        # A release that does nothing else must not fill the log.
        ATTENTION if after.generations[after.current].faults <= TOLD_FAULTS else DETAIL)


def _faults(before: Pool, after: Pool) -> Iterator[Entry]:
    if keeps_failing(after) == keeps_failing(before) or after.current != before.current:
        return
    current = after.generations[after.current]
    if keeps_failing(after):
        yield Entry("generation keeps failing",
                    {"generation": current.number, "times": current.faults, "last": current.fault},
                    ATTENTION)
    else:
        yield Entry("generation is calm again", {"generation": current.number})


def _upgrade(before: Pool, after: Pool, now: float) -> Iterator[Entry]:
    old, new = before.upgrade, after.upgrade
    for ended in after.history[-1:] if after.history != before.history else ():
        superseded = new is not None and new.to_generation != ended.to_generation
        yield Entry(
            "upgrade ended", {
                "generation": ended.to_generation, "release": ended.terms.release,
                "outcome": ended.outcome,
                "by": new.to_generation if superseded and new is not None else None,
                "took": f"{now - ended.started_at:.2f}s", "reason": ended.reason,
                "error": ended.error},
            NORMAL if ended.outcome in ("done", "superseded") else ATTENTION,
        )
    if new is not None and (old is None or new.to_generation != old.to_generation):
        terms = new.terms
        yield Entry(
            "upgrade started", {
                "from": new.from_generation, "to": new.to_generation, "kind": terms.kind,
                "release": terms.release, "requested_by": new.requested_by, "canary": terms.canary
                or None, "recipe_of": terms.recipe_of})


def event_document(entry: Entry, pool: Pool, wall: float) -> dict[str, Any]:
    """What listeners get: the entry, and the pool's counts right after it."""
    verdict, reason = gate(pool)
    names = {
        "event": entry.name.replace(" ", "-"), "level": entry.level, "time": timestamp(wall),
        "unix_time": round(wall, 3)}
    document = names | entry.fields | {
        "ready": pool.ready, "live": pool.live, "target": pool.target, "gate": verdict,
        "gate_reason": reason,}
    if pool.running_upgrade is not None and not pool.running_upgrade.rolling_back:
        document["replaced"] = replaced(pool, pool.running_upgrade)
    return document
