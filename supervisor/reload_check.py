"""Whether a master can go on from a state: looked at by the next program before it is exec'ed, and
again before it touches anything.

What a state holds is told by the parts, and what of theirs can't be; here is what can't be of the
whole. Nothing here has an effect: plan and report are run once on what was read, and forgotten.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..shared.commands import MOST_WORKERS
from .core import facts, observe, planner
from .core.pool import Policy, Pool
from .core.upgrade import Check, Phase, Upgrade
from .outside.announcements import NAME as ANNOUNCE
from .parts import SCHEMA
from .reporting import generations, journal, report
from .reporting.events import Weight
from .reporting.sharing import Memory
from .reporting.tally import Tally
from .sockets import systemd
from .steering.state import as_plain, kepts
from .system.errands import KeptErrand, KeptErrands
from .system.part import State
from .system.plain_data import Unreadable, to_plain


def readable(document: Mapping[str, Any], policy: Policy, now: float) -> dict[str, Any]:
    """Read the whole state and try what a master does with it; return it with exactly what is
    known here.

    Raises:
        Unreadable: this program could not go on from it; one line says why.
    """
    state = SCHEMA.read(document)
    for doubt in doubts(state):
        raise Unreadable(f"the state contradicts itself: {doubt}")
    try:
        rehearse(state, replace(state["pool"], policy=policy), now)
    # whatever it is, the program that would take over now would fail of it
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise Unreadable(f"cannot go on from the state: {why}") from error
    return as_plain(state)


def doubts(state: State) -> Iterator[str]:
    """What can't be true of a state, though each part by itself may be."""
    pool: Pool = state["pool"]
    yield from _of_pool(pool)
    if not pool.generations.keys() <= state["prepared"].keys():
        yield f"generations {[*pool.generations]} are in use, {[*state['prepared']]} are prepared"
    if state["next_worker"] <= max(pool.workers, default=0):
        yield f"the next worker is {state['next_worker']}, there are {[*pool.workers]}"
    yield from _of_processes(state)
    if not 0 <= state["least_weight"] <= Weight.ATTENTION or state["reloads"] < 0:
        yield f"least_weight {state['least_weight']}, reloads {state['reloads']}"
    texts = [text for each in kepts(state) for text in each.texts()]
    if not all(text.isascii() or max(map(ord, text)) < 256 for text in texts):
        yield "what was not written yet is no bytes"
    for each in kepts(state):
        yield from each.doubts()
    yield from _of_announcements(state)


def _of_processes(state: State) -> Iterator[str]:
    ours = {*state["processes"].pids}
    pids = [worker.pid for worker in state["pool"].workers.values()]
    pids += [pid for each in kepts(state) for pid in each.process_ids()]
    if len({*pids}) < len(pids) or not ours.issuperset(pids) or any(pid < 2 for pid in ours):
        yield f"processes {sorted(pids)} are in use, {sorted(ours)} are ours"
    fds = SCHEMA.descriptors(state)
    if len({*fds}) < len(fds) or any(fd < 3 for fd in fds):
        yield f"descriptors {sorted(fds)}"


def _of_pool(pool: Pool) -> Iterator[str]:
    generations, upgrade = pool.generations, pool.running_upgrade
    if not 1 <= pool.target <= MOST_WORKERS or pool.current not in generations:
        yield f"target {pool.target}, current {pool.current} of {[*generations]}"
    for known in (generations, pool.remembered):
        if any(number != each.number or not 0 < number <= pool.newest
               for number, each in known.items()):
            yield f"generations {[*known]}, the newest is {pool.newest}"
    yield from _of_workers(pool)
    for each in pool.history:
        if each.outcome is None:
            yield "an upgrade that is over has ended as None"
    for each in (*pool.history, *(() if pool.upgrade is None else (pool.upgrade,))):
        if each.running != (each.outcome is None) or each.terms.canary < 0:
            yield (f"an upgrade is {each.phase}, with {each.terms.canary} canaries, outcome "
                   f"{each.outcome}")
    if upgrade is not None:
        yield from _of_upgrade(pool, upgrade)


def _of_workers(pool: Pool) -> Iterator[str]:
    generations = pool.generations
    for number, worker in pool.workers.items():
        if (number != worker.id or number < 1 or worker.index < 0
                or worker.generation not in generations):
            yield (f"worker {worker.id} has seat {worker.index} and generation "
                   f"{worker.generation} of {[*generations]}")
    if len(pool.workers) > 3 * MOST_WORKERS:
        yield f"{len(pool.workers)} workers"


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


def _of_announcements(state: State) -> Iterator[str]:
    errands: KeptErrands = state["errands"]
    sent: list[KeptErrand] = [*errands.running, *errands.waiting]
    told = [(each.name, each.stdin) for each in sent if each.name.startswith(f"{ANNOUNCE} ")]
    told += [(place, text) for place, several in state["announcements"].items() for text in several]
    for place, text in told:
        try:
            assert place.split(" ", 2)[2], "no place"
            assert text is None or json.loads(text)["document"]["event"], "no event"
        except (ValueError, KeyError, TypeError, IndexError, AssertionError) as error:
            yield f"an announcement for {place!r}: {error}"


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
    tally = Tally(to_plain(state["tally"]))
    for worker in pool.workers.values():
        event = facts.Exited(worker.id, 1)
        before, pool = pool, observe.observe(pool, event, now)
        tally.observe(before, event, pool, now)
        for entry in journal.changes(before, event, pool, now):
            json.dumps(journal.event_document(entry, pool, now))
    planner.plan(pool, now)
    _report(state, pool, now)


def _report(state: State, pool: Pool, now: float) -> None:
    systemd.messages(pool, state["systemd"], now)
    json.dumps(report.status_document(
        pool, now, name=state["name"], started_at=state["started_at"], master={}, listeners=[],
        memory=Memory(), usage={}, traffic={}, labels=state["labels"], last_lines={}))


def check_descriptors(found: Mapping[str, Any]) -> None:
    """Look whether every descriptor of a state is there.

    Raises:
        Unreadable: one isn't.
    """
    for fd in SCHEMA.descriptors(SCHEMA.read(found)):
        try:
            os.fstat(fd)
        except OSError as error:
            raise Unreadable(f"descriptor {fd} of the state: {error.strerror}") from None
