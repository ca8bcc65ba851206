"""What the master says of itself: who it is, how its workers are, and what has happened so far."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from ..core import worker_environment
from ..launch import readings, shared_page
from ..launch.traffic_pages import TrafficPages
from ..logs.log import Log
from ..logs.output import Output
from ..places.runtime_directory import RuntimeDirectory
from ..reporting import report, signals
from ..reporting.sharing import Memory
from ..sockets import queues
from ..sockets.listener_repair import Listening
from ..system.ledger import Ledger
from ..system.part import Keep, Part, State
from ..system.plain_data import to_plain
from .state import VERSION


class Answers(Part):
    """`changed`: told of the status whenever something in it has changed. `templates`: their own
    pids, by generation. `reloads`: how many replacements there have been, and why the last one was
    refused."""

    name = "status"
    keeps = {"started_at": Keep(float, needed=True)}

    def __init__(self, ledger: Ledger, place: RuntimeDirectory, listening: Listening,
                 page: shared_page.SharedPage, traffic: TrafficPages, output: Output, log: Log,
                 templates: Callable[[], Mapping[int, int]],
                 changed: Callable[[Callable[[], dict[str, Any]]], None]) -> None:
        self._ledger = ledger
        self._place = place
        self._listening = listening
        self._page = page
        self._traffic = traffic
        self._output = output
        self._log = log
        self._templates = templates
        self._changed = changed
        self._readings = readings.Readings()
        self._started_at = time.monotonic()
        self.reloads: Callable[[], tuple[int, str | None]] = lambda: (0, None)

    def hand_over(self) -> dict[str, Any]:
        return {"started_at": self._started_at}

    def take_over(self, state: State) -> None:
        if state["started_at"] is not None:
            self._started_at = state["started_at"]

    def on_time(self, now: float) -> None:
        """Tell those who follow the status, if it has changed."""
        if self._ledger.changed:
            self._ledger.changed = False
            self._changed(self.status)

    def identity(self) -> dict[str, Any]:
        return {
            "name": self._place.master, "pid": os.getpid(), "version": VERSION,
            "socket": self._place.path, "reloads": self.reloads()[0]}

    def status(self) -> dict[str, Any]:
        """The status document."""
        pool, now = self._ledger.pool, time.monotonic()
        count, refused = self.reloads()
        listeners = []
        for fd, listener in enumerate(self._listening.all, worker_environment.FIRST_FD):
            queue, backlog = queues.queue(listener.socket)
            listeners.append(
                {"address": listener.name, "fd": fd, "queue": queue, "backlog": backlog})
        document = report.status_document(
            pool, now, name=self._place.master, started_at=self._started_at, master={
                "pid": os.getpid(), "version": VERSION, "socket": self._place.path,
                "reloads": count, "reload_refused": refused}, listeners=listeners,
            memory=self._memory(), usage=self._usage(now), traffic=self._seen(now),
            labels=self._log.labels, last_lines={
                worker: self._ledger.redaction.lines(self._output.kept_lines(worker))
                for worker in pool.workers})
        if self._ledger.early and pool.stopping is None:
            document["reason"] = "generation 1 is being prepared"
        return document

    def _memory(self) -> Memory:
        # A template before its workers: what they share must not be counted as saved without it.
        master, templates = os.getpid(), self._templates()
        workers = {worker.id: worker.pid for worker in self._ledger.pool.workers.values()
                   if worker.pid}
        found, whole = self._readings.of((master, *templates.values(), *workers.values()))
        return Memory(found.get(master),
                      {number: found[pid] for number, pid in templates.items() if pid in found},
                      {worker: found[pid] for worker, pid in workers.items() if pid in found},
                      whole)

    def _usage(self, now: float) -> dict[int, dict[str, Any]]:
        found = {}
        for worker in self._ledger.pool.workers.values():
            counters = self._page.counters(worker.id, now, now - worker.spawned_at)
            if counters is not None:
                found[worker.id] = asdict(counters)
        return found

    def _seen(self, now: float) -> dict[int, signals.Seen]:
        found = {}
        for worker in self._ledger.pool.workers.values():
            if (seen := self._traffic.seen(worker.id, now)) is not None:
                found[worker.id] = signals.Seen(*seen, max(0.0, now - worker.spawned_at))
        return found

    def tally(self) -> dict[str, Any]:
        """What has happened since the first master started, as numbers, and what this one costs:
        see docs/observability.md."""
        used, own = os.times(), readings.read(os.getpid())
        requests = sum(self._traffic.served(worker) for worker in self._ledger.pool.workers)
        return self._ledger.tally.document(requests) | {
            "traffic": signals.counts(self._traffic.of_generations()),
            "log": to_plain(self._log.counts), "master": {
                "cpu_seconds": used.user + used.system,
                "memory_bytes": own and own.share, "started_at": round(
                    time.time() - (time.monotonic() - self._started_at), 3),
                "reloads": self.reloads()[0]}}
