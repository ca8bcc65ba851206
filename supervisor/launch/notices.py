"""What a worker's words mean: from a notice to facts. Whose words they are was found before
(notify_socket.py)."""

from __future__ import annotations

import time
from typing import assert_never

from ..core import facts
from ..core.causes import Recycling
from ..core.pool import Worker
from ..places.notify_socket import Notice
from ..reporting import hints
from ..reporting.events import Entry, Event
from ..settings.table import Settings
from ..system.guard import Guard
from ..system.ledger import Ledger
from ..system.part import Part, State
from . import traffic_reports
from .guesses import Guesses
from .measures import Measures
from .prepared import Generations
from .traffic_pages import TrafficPages


class Notices(Part):
    """They are received here, by whichever way they come."""

    name = "notices"

    def __init__(self, ledger: Ledger, generations: Generations, guesses: Guesses,
                 measures: Measures, traffic: TrafficPages, settings: Settings,
                 guard: Guard) -> None:
        self._ledger = ledger
        self._generations = generations
        self._guesses = guesses
        self._measures = measures
        self._traffic = traffic
        self._misread: set[int] = set()  # workers whose traffic could not be read
        self._guard = guard
        self._advised = bool(settings.warm_up)

    def take_over(self, state: State) -> None:
        # The master before us has seen the first worker.
        self._advised = self._advised or state["pool"] is not None

    def guarded(self, notice: Notice) -> None:
        """The same, where there are more of them to be read."""
        self._guard.run("notice", self.receive, notice)

    def receive(self, notice: Notice) -> None:
        """A process said something about itself."""
        # Its words may arrive with its death, and a notice from nobody we know is nobody's.
        worker, pool = notice.worker, self._ledger.pool
        if worker not in pool.workers:
            return
        match notice.said:
            case "ready":
                prepared = self._generations.prepared[pool.workers[worker].generation]
                if prepared.gunicorn is not None:
                    self._ledger.observe(facts.SaidReady(worker))
                    self._ledger.observe(facts.Heartbeat(worker, time.monotonic()))
                    self._advise(notice.framework)
                elif not self._guesses.is_unfit(worker):
                    self._ledger.observe(facts.SaidReady(worker))
            case "arbiter":
                self._guesses.found_arbiter(worker)
            case "alive":
                self._ledger.observe(facts.Heartbeat(worker, time.monotonic(), notice.request_id))
            case "due":
                self._ledger.observe(facts.Due(worker, notice.error or "", Recycling.REQUESTS))
                self._measures.look_soon()  # is there room for its replacement?
            case "failed":
                self._ledger.observe(facts.SaidFailed(worker, notice.error or ""))
            case "page":
                each = pool.workers[worker]
                self._traffic.adopt(worker, each.generation, each.spawned_at, notice.descriptor)
            case "traffic":
                self._count(pool.workers[worker], notice.text)
            case _:
                assert_never(notice.said)

    def _count(self, worker: Worker, text: bytes) -> None:
        """Count what a worker says of its traffic, all of it or nothing."""
        reports = traffic_reports.read(text)
        if reports is not None:
            self._traffic.report(worker.id, worker.generation, worker.spawned_at, time.monotonic(),
                                 reports)
        elif worker.id not in self._misread:
            self._misread = {worker.id} | (self._misread & self._ledger.pool.workers.keys())
            self._ledger.log(Entry(Event.TRAFFIC_UNREADABLE, {
                "index": worker.index, "pid": worker.pid, "generation": worker.generation,
                "text": text[:100].decode(errors="replace")}))

    def _advise(self, framework: str | None) -> None:
        """Say once what could be warmed up."""
        if not self._advised:
            self._advised = True
            self._ledger.log(hints.about_warm_up(framework))
