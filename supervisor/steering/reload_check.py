"""Whether a master can go on from a state: looked at by the next program before it is exec'ed, and
again before it touches anything.

The state as a whole is put together and taken apart by `Master.state` and `Master._take_over`; what
it holds is told by state.py. Nothing here has an effect: plan and report are run once on what was
read, and forgotten.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, replace
from typing import Any

from ..core import facts, observe, planner
from ..core.pool import Policy, Pool
from ..core.upgrade import Check, Phase, Upgrade
from ..outside.announcements import NAME as ANNOUNCE
from ..reporting import generations, journal, report
from ..reporting.events import Weight
from ..reporting.tally import Tally
from ..settings.table import SETTINGS, Reload, Settings
from ..sockets import systemd
from ..sockets.addresses import Address
from ..sockets.listener import Listener
from ..system.plain_data import Unreadable, made, plain
from .state import State, normal

MOST_WORKERS, LARGEST_PAGE = 10000, 1 << 30


def readable(document: Mapping[str, Any], policy: Policy, now: float) -> dict[str, Any]:
    """Read the whole state and try what a master does with it; return it with exactly the fields
    that are known here.

    Raises:
        Unreadable: this program could not go on from it; one line says why.
    """
    missing = [each.name for each in fields(State) if _needed(each) and each.name not in document]
    if missing:
        raise Unreadable(f"the state has no {', '.join(sorted(missing))}")
    state, found = normal(document)
    for doubt in doubts(state):
        raise Unreadable(f"the state contradicts itself: {doubt}")
    try:
        rehearse(state, replace(state.pool, policy=policy), now)
    # whatever it is, the program that would take over now would fail of it
    except Exception as error:
        raise Unreadable(f"cannot go on from the state: {type(error).__name__}: {error}") from error
    return found


def _needed(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def doubts(state: State) -> Iterator[str]:
    """What can't be true of a state, though each part by itself may be."""
    yield from _of_pool(state.pool)
    pool, processes = state.pool, {*state.processes.pids}
    if not pool.generations.keys() <= state.prepared.keys():
        yield f"generations {[*pool.generations]} are in use, {[*state.prepared]} are prepared"
    if state.next_worker <= max(pool.workers, default=0):
        yield f"the next worker is {state.next_worker}, there are {[*pool.workers]}"
    pids = [worker.pid
            for worker in pool.workers.values()] + [each.pid for each in state.errands.running]
    pids += [
        each.pid for each in (state.keeper, state.web) if each is not None and each.pid is not None]
    if len({*pids}) < len(pids) or not processes.issuperset(pids) or any(pid < 2
                                                                         for pid in processes):
        yield f"processes {sorted(pids)} are in use, {sorted(processes)} are ours"
    fds = descriptors_in(plain(state))
    if len({*fds}) < len(fds) or any(fd < 3 for fd in fds):
        yield f"descriptors {sorted(fds)}"
    if state.page.size % 256 or not 0 <= state.page.size <= LARGEST_PAGE:
        yield f"a page of {state.page.size} bytes"
    if any(offset % 256 or not 0 <= offset < state.page.size
           for offset in state.page.slots.values()):
        yield f"slots {dict(state.page.slots)} in a page of {state.page.size} bytes"
    soft, hard = state.processes.limits
    if min(soft, hard) < -1 or (hard != -1 and not 0 <= soft <= hard) or max(soft, hard) >= 1 << 63:
        yield f"limits {state.processes.limits}"
    if not 0 <= state.least_weight <= Weight.ATTENTION or state.reloads < 0:
        yield f"least_weight {state.least_weight}, reloads {state.reloads}"
    yield from _of_words(state)


def _of_pool(pool: Pool) -> Iterator[str]:
    generations, upgrade = pool.generations, pool.running_upgrade
    if not 1 <= pool.target <= MOST_WORKERS or pool.current not in generations:
        yield f"target {pool.target}, current {pool.current} of {[*generations]}"
    for known in (generations, pool.remembered):
        if any(number != each.number or not 0 < number <= pool.newest
               for number, each in known.items()):
            yield f"generations {[*known]}, the newest is {pool.newest}"
    for number, worker in pool.workers.items():
        if (number != worker.id or number < 1 or worker.index < 0
                or worker.generation not in generations):
            yield (f"worker {worker.id} has seat {worker.index} and generation "
                   f"{worker.generation} of {[*generations]}")
    if len(pool.workers) > 3 * MOST_WORKERS:
        yield f"{len(pool.workers)} workers"
    for each in pool.history:
        if each.outcome is None:
            yield "an upgrade that is over has ended as None"
    for each in (*pool.history, *(() if pool.upgrade is None else (pool.upgrade,))):
        if each.running != (each.outcome is None) or each.terms.canary < 0:
            yield (f"an upgrade is {each.phase}, with {each.terms.canary} canaries, outcome "
                   f"{each.outcome}")
    if upgrade is not None:
        yield from _of_upgrade(pool, upgrade)


def _of_upgrade(pool: Pool, upgrade: Upgrade) -> Iterator[str]:
    if upgrade.from_generation not in pool.generations or upgrade.to_generation > pool.newest:
        yield (f"an upgrade from {upgrade.from_generation} to {upgrade.to_generation}, generations "
               f"{[*pool.generations]}")
    if not (upgrade.preparing or upgrade.rolling_back) and upgrade.to_generation != pool.current:
        yield f"an upgrade to {upgrade.to_generation}, while {pool.current} is wanted"
    if upgrade.target_before is not None and not 1 <= upgrade.target_before <= MOST_WORKERS:
        yield f"a target of {upgrade.target_before} before the upgrade"
    if upgrade.check is Check.RUNNING and upgrade.terms.check is None:
        yield "a check runs that there is not"
    if upgrade.phase in (Phase.CANARY, Phase.HELD) and not upgrade.terms.canary:
        yield f"an upgrade without canaries is {upgrade.phase}"
    if (upgrade.phase is Phase.HELD) != (upgrade.held_since is not None):
        yield f"an upgrade that is {upgrade.phase} has been held since {upgrade.held_since}"


def _of_words(state: State) -> Iterator[str]:
    """Bytes that travel as text, and what sessions and announcements wait for."""
    kept = [*(each.tail for each in state.errands.running), *(each.rest for each in state.output),
            *(text for each in state.sessions for text in (each.unsent, each.begun)),
            *(each.data for several in state.log.unwritten for each in several)]
    if not all(each.isascii() or max(map(ord, each)) < 256 for each in kept):
        yield "what was not written yet is no bytes"
    for session in state.sessions:
        try:
            made(tuple[tuple[Any, int], ...], session.role.get("upgrade", ()))
            made(tuple[Any, ...], session.role.get("reload", ()))
        except Unreadable as error:
            yield f"a session waits for {dict(session.role)}: {error}"
    told = [(each.name, each.stdin) for each in state.errands.running
            if each.name.startswith(f"{ANNOUNCE} ")]
    told += [(each.name, each.stdin) for each in state.errands.waiting
             if each.name.startswith(f"{ANNOUNCE} ")]
    told += [(place, text) for place, several in state.announcements.items() for text in several]
    for place, text in told:
        try:
            assert place.split(" ", 2)[2], "no place"
            assert text is None or json.loads(text)["document"]["event"], "no event"
        except (ValueError, KeyError, TypeError, IndexError, AssertionError) as error:
            yield f"an announcement for {place!r}: {error}"
    for histogram in (state.tally.upgrade_seconds, state.tally.ready_seconds,
                      state.tally.lag_seconds):
        if histogram is not None and len(histogram.counts) != len(histogram.bounds) + 1:
            yield f"a histogram of {len(histogram.counts)} counts for {len(histogram.bounds)} bounds"


def rehearse(state: State, pool: Pool, now: float) -> None:
    """Plan and report once, now and when every deadline has passed; let every worker go; look at
    every upgrade and generation."""
    for at in (now, now + 1e9):
        planner.plan(pool, at)
        _report(state, pool, at)
    for number in generations.known(pool):
        json.dumps(generations.generation_document(pool, number, values=True))
    for upgrade in (*pool.history, *(() if pool.upgrade is None else (pool.upgrade,))):
        json.dumps(report.upgrade_document(pool, upgrade, now))
    tally = Tally(plain(state.tally))
    for worker in pool.workers.values():
        event = facts.Exited(worker.id, 1)
        before, pool = pool, observe.observe(pool, event, now)
        tally.observe(before, event, pool, now)
        for entry in journal.changes(before, event, pool, now):
            json.dumps(journal.event_document(entry, pool, now))
    planner.plan(pool, now)
    _report(state, pool, now)


def _report(state: State, pool: Pool, now: float) -> None:
    systemd.messages(pool, state.systemd, now)
    json.dumps(
        report.status_document(pool, now, name=state.name, started_at=state.started_at, master={},
                               listeners=[], memory={}, usage={}, labels=state.labels,
                               last_lines={}))


def check_descriptors(found: Mapping[str, Any]) -> None:
    """Look whether every descriptor of a state is there.

    Raises:
        Unreadable: one isn't.
    """
    for fd in descriptors_in(found):
        try:
            os.fstat(fd)
        except OSError as error:
            raise Unreadable(f"descriptor {fd} of the state: {error.strerror}") from None


def descriptors_in(document: Mapping[str, Any]) -> list[int]:
    """Every descriptor that a state speaks of."""
    place, running = document["place"], document["errands"]["running"]
    return [
        *(each["fd"] for each in (document.get("web"), document.get("keeper")) if each is not None),
        place["listener"], place["lock"], document["notify"], document["page"]["fd"],
        *document["processes"]["errors"], *(each["fd"] for each in document["listeners"]),
        *(each["fd"] for each in document["sessions"]),
        *(each["fd"] for each in document.get("output", ()) if each["fd"] >= 0),
        *(each["output"] for each in running if each["output"] is not None),]


def whole(document: Mapping[str, Any]) -> dict[str, Any]:
    """A state as it is written down for the next program: whoever stands in between (stage.py)
    knows no part of it but this one."""
    return {**document, "descriptors": descriptors_in(document)}


def listener_state(listener: Listener) -> dict[str, Any]:
    """A listener as plain data. `fd` must stay open."""
    return {
        "fd": listener.socket.fileno(), "address": plain(listener.address), "made": listener.made,
        "label": listener.label}


def listener_of(state: Mapping[str, Any]) -> Listener:
    """The opposite."""
    return Listener(made(Address, state["address"]), socket.socket(fileno=state["fd"]),
                    state["made"] and (state["made"][0], state["made"][1]), state["label"])


def kept(settings: Settings) -> dict[str, Any]:
    """The settings that a reload keeps, as plain data."""
    return {name: plain(getattr(settings, name)) for name, setting in SETTINGS.items()
            if setting.reload is Reload.RESTART}


def ignored(settings: Settings, kept_before: Mapping[str, Any]) -> list[str]:
    """The names of those that have been changed since, for nothing."""
    return [
        SETTINGS[name].key for name, value in kept(settings).items()
        if name in kept_before and value != kept_before[name]]
