"""Who has exited, and what follows: each part is asked whether it was its own, and what a worker
has left behind is put in order. The one place that reaps.

Whether a worker's exit begins an upgrade is the core's to say (observe.py).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from functools import partial

from .core import facts, observe
from .core.pool import Worker
from .core.upgrade import Terms
from .launch.prepared import Generations
from .launch.shared_page import Page
from .launch.workers import Workers
from .logs.output import LAST_LINES, LINES_SEARCHED, Output
from .outside.web import Web
from .reporting.complaints import complaint
from .sockets.listener_repair import Listening
from .steering.hooks import Hooks
from .steering.upgrades import Upgrades
from .system.guard import Guard
from .system.ledger import Ledger
from .system.orphans import Orphans
from .system.part import Part
from .system.processes import Exit, Processes


class Exits(Part):
    """`parts`: who is asked, in order."""

    name = "exits"

    def __init__(self, parts: Callable[[], Iterable[Part]], guard: Guard, ledger: Ledger,
                 processes: Processes, workers: Workers, generations: Generations,
                 listening: Listening, page: Page, output: Output, web: Web, hooks: Hooks,
                 upgrades: Upgrades) -> None:
        self._parts = parts
        self._guard = guard
        self._ledger = ledger
        self._processes = processes
        self._workers = workers
        self._generations = generations
        self._listening = listening
        self._page = page
        self._output = output
        self._web = web
        self._hooks = hooks
        self._upgrades = upgrades
        self._orphans = Orphans()
        self._missed: list[Exit] = []  # ends of workers that could not be observed yet

    def on_time(self, now: float) -> None:
        self.reap()

    def reap(self) -> None:
        """Collect whoever has exited.

        Raises whatever came of one of them; the others are seen to first.
        """
        exits, self._missed, failures = [*self._missed, *self._processes.reap()], [], []
        for exit in exits:
            try:
                self._on_exit(exit)
            except Exception as error:
                failures.append(error)
                if exit.pid in self._workers.by_pid:
                    # it must be observed, since nobody else will ever tell of it
                    self._missed.append(exit)
        if exits:
            self._guard.run("orphans", self._look_for_orphans)
        self._generations.forget_all_but(
            {*self._ledger.pool.generations, self._upgrades.preparing})
        if failures:
            raise failures[0]

    def _on_exit(self, exit: Exit) -> None:
        worker = self._workers.of(exit.pid)
        if worker:
            self._on_worker_exit(self._ledger.pool.workers[worker], exit)
        elif exit.pid in self._ledger.pool.left_behind:
            self._ledger.observe(facts.OrphanGone(exit.pid))
        else:
            any(part.on_exit(exit) for part in self._parts())

    def _look_for_orphans(self) -> None:
        living = {worker.id: worker.pid for worker in self._ledger.pool.workers.values()}
        sockets = {os.fstat(each.socket.fileno()).st_ino for each in self._listening.all}
        for orphan in self._orphans.look(self._processes.ours, living, sockets):
            # As what it leaves in its process group; and what this one leaves is found when it is
            # gone.
            self._processes.adopt(orphan.pid)
            self._processes.signal(orphan.pid, signal.SIGTERM, group=True)
            self._ledger.observe(facts.OrphanFound(orphan.pid, orphan.index, orphan.generation))

    def _on_worker_exit(self, worker: Worker, exit: Exit) -> None:
        # While it still counts as leaving: what it did to the sockets on its way out is not the new
        # code's doing.
        self._guard.run("listening", self._listening.mend)
        pool = self._ledger.pool
        worker = pool.workers[worker.id]
        asker = observe.upgrade_asked_by(pool, worker, exit.status)
        lines = self._output.lines_of(worker.id, LINES_SEARCHED)
        # Once it serves, its last lines are about requests as like as not, above all where a signal
        # has ended it.
        starting = worker.ready_at is None
        why = complaint(lines, or_last=starting
                        and exit.status > 0) if starting or exit.status > 0 else None
        self._ledger.observe(
            facts.Exited(worker.id, exit.status, exit.error, lines[-LAST_LINES:], why))
        self._workers.by_pid.pop(exit.pid)
        tidy = partial(self._guard.run, "what a worker left")
        tidy(self._output.worker_is_gone, worker.id)
        tidy(lambda: self._ledger.tally.worker_is_gone(self._page.requests(worker.id)))
        tidy(self._page.give_back, worker.id)
        tidy(self._web.worker_is_gone, worker.generation, exit.pid)
        tidy(self._hooks.of_gunicorn, self._generations.prepared[worker.generation], "child_exit",
             [[exit.pid, worker.index + 1]])
        if asker is not None:
            self._upgrades.request(Terms(), *asker)
