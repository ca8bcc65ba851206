"""Who has exited, and what follows: each part is asked whether it was its own, and what a worker
has left behind is put in order. The one place that reaps.

Whether a worker's exit begins an upgrade is the core's to say (observe.py).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ..shared.frozen import dataclass
from .core import facts, observe
from .core.pool import Worker
from .logs.output import LAST_LINES, LINES_SEARCHED
from .reporting.complaints import complaint
from .system.orphans import Orphan, Orphans
from .system.part import Keep, Kept, Part, State
from .system.processes import Exit

if TYPE_CHECKING:
    from .parts import Parts


@dataclass(frozen=True, slots=True)
class KeptGroup(Kept):
    """A process group that a worker which is gone has left behind."""

    group: int
    worker: int
    index: int
    generation: int

    def doubts(self) -> Iterator[str]:
        if not 2 <= self.group < 1 << 31:
            yield f"the process group {self.group} of worker {self.worker}"


class Exits(Part):
    """`parts`: who is asked, in order."""

    name = "exits"
    keeps = {"left_groups": Keep(tuple[KeptGroup, ...], ())}

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._orphans = Orphans()
        self._missed: list[Exit] = []  # ends that could not be observed yet
        self._generations: set[int] = set()

    def on_time(self, now: float) -> None:
        self.reap()

    def hand_over(self) -> dict[str, Any]:
        return {"left_groups": [
            {"group": group, "worker": each.worker, "index": each.index,
             "generation": each.generation} for group, each in self._orphans.groups.items()]}

    def take_over(self, state: State) -> None:
        kept: tuple[KeptGroup, ...] = state["left_groups"]
        self._orphans.groups = {
            each.group: Orphan(each.group, each.worker, each.index, each.generation)
            for each in kept}

    def reap(self) -> None:
        """Collect whoever has exited.

        Raises whatever came of one of them; the others are seen to first.
        """
        parts = self._parts
        reaped: list[Exit] = []
        if parts.processes.somebody_exited():
            # What it has said in the end comes before its end: once it is reaped, nobody is
            # believed to be it any more.
            parts.hear()
            reaped = parts.processes.reap()
        exits, self._missed, failures = [*self._missed, *reaped], [], []
        for exit in exits:
            try:
                self._on_exit(exit)
            except Exception as error:
                failures.append(error)
                if exit.pid in parts.workers.by_pid or parts.errands.runs(exit.pid):
                    # it must be observed, since nobody else will ever tell of it
                    self._missed.append(exit)
        if exits or self._generations != parts.ledger.pool.generations.keys():
            self._generations = {*parts.ledger.pool.generations}
            parts.guard.run("orphans", self._look_for_orphans)
        parts.generations.forget_all_but(
            {*parts.ledger.pool.generations, parts.upgrades.preparing})
        if failures:
            raise failures[0]

    def _on_exit(self, exit: Exit) -> None:
        parts = self._parts
        worker = parts.workers.of(exit.pid)
        if worker:
            self._on_worker_exit(parts.ledger.pool.workers[worker], exit)
        elif exit.pid in parts.ledger.pool.left_behind:
            parts.ledger.observe(facts.OrphanGone(exit.pid))
        else:
            any(part.on_exit(exit) for part in parts)

    def _look_for_orphans(self) -> None:
        parts = self._parts
        living = {worker.id: worker.pid for worker in parts.ledger.pool.workers.values()}
        sockets = {os.fstat(each.socket.fileno()).st_ino for each in parts.listening.all}
        generations = {*parts.ledger.pool.generations}
        if parts.upgrades.preparation is not None:
            generations.add(parts.upgrades.preparing)
        for orphan in self._orphans.look(parts.processes.ours, living, sockets, generations):
            # As what it leaves in its process group; and what this one leaves is found when it is
            # gone.
            parts.processes.adopt(orphan.pid)
            parts.processes.signal(orphan.pid, signal.SIGTERM, group=True)
            parts.ledger.observe(facts.OrphanFound(orphan.pid, orphan.index, orphan.generation))

    def _on_worker_exit(self, worker: Worker, exit: Exit) -> None:
        parts = self._parts
        # While it still counts as leaving: what it did to the sockets on its way out is not the new
        # code's doing.
        parts.guard.run("listening", parts.listening.mend)
        pool = parts.ledger.pool
        worker = pool.workers[worker.id]
        asker = observe.upgrade_asked_by(pool, worker, exit.status)
        lines = parts.output.lines_of(worker.id, LINES_SEARCHED)
        # Once it serves, its last lines are about requests as like as not, above all where a signal
        # has ended it.
        starting = worker.ready_at is None
        why = complaint(lines, or_last=starting
                        and exit.status > 0) if starting or exit.status > 0 else None
        if starting and parts.generations.prepared[worker.generation].gunicorn is None:
            parts.guard.run("guesses", parts.guesses.on_failed_start, worker.id, lines)
        parts.ledger.observe(
            facts.Exited(worker.id, exit.status, exit.error, lines[-LAST_LINES:], why))
        parts.workers.by_pid.pop(exit.pid)
        self._orphans.groups[exit.pid] = Orphan(exit.pid, worker.id, worker.index,
                                                worker.generation)
        tidy = partial(parts.guard.run, "what a worker left")
        tidy(parts.output.worker_is_gone, worker.id)
        tidy(lambda: parts.ledger.tally.worker_is_gone(parts.traffic.served(worker.id)))
        tidy(parts.page.give_back, worker.id)
        tidy(parts.traffic.give_back, worker.id)
        tidy(parts.web.worker_is_gone, worker.generation, exit.pid)
        tidy(parts.arbiter_hooks.worker_is_gone, worker.generation, exit.pid)
        tidy(parts.arbiter_hooks.say_how_many)
        if asker is not None:
            parts.upgrades.request(parts.upgrades.usual(), *asker)
