"""What the master looks at by itself, and only when somebody has to know: heartbeats, the workers'
memory, the host's.

It measures and observes facts; what follows from them is the planner's business.
"""

from __future__ import annotations

import time

from ..core import facts
from ..core.pool import State, Worker
from ..system import part
from ..system.ledger import Ledger
from . import memory, shared_page

# How often memory is looked at, where somebody limits it; nothing wakes the master for it
# otherwise.
MEMORY_INTERVAL = 5.0


class Measures(part.Part):
    """`deadline`: when memory is looked at next. `min_available`: bytes that
    the host must have for a surge, None for what the due worker uses."""

    name = "measures"
    deadline: float | None = None

    def __init__(self, ledger: Ledger, page: shared_page.SharedPage,
                 min_available: int | None) -> None:
        self._ledger = ledger
        self._page = page
        self._min_available = min_available

    def on_time(self, now: float) -> None:
        self._look_at_heartbeats(now)
        if self.deadline is not None and now >= self.deadline:
            self._look_at_memory(now)

    def take_over(self, state: part.State) -> None:
        for worker in self._ledger.pool.workers.values():
            self.expect(worker, time.monotonic())

    def expect(self, worker: Worker, now: float) -> None:
        """Look at memory from now on, if this worker's has a limit."""
        if self.deadline is None and self._limit_of(worker):
            self.deadline = now + MEMORY_INTERVAL

    def heard_by_path(self) -> list[int]:
        """The workers whose heartbeats come from wherever they find our socket, and not by the
        page."""
        return [worker.id for worker in self._ledger.pool.workers.values()
                if worker.heartbeat_at is not None and self._page.heartbeat(worker.id) is None]

    def look_soon(self) -> None:
        """Look at memory in the next turn."""
        self.deadline = time.monotonic()

    def _look_at_heartbeats(self, now: float) -> None:
        """When some heartbeat seems too old, look at all of them: the next look is then due for all
        at once."""
        pool = self._ledger.pool
        watched = [worker for worker in pool.workers.values()
                   if worker.heartbeat_at is not None and worker.state is State.READY]
        if any(0 < pool.generations[worker.generation].recipe.timeout <= now -
               (worker.heartbeat_at or 0) for worker in watched):
            for worker in watched:
                at = self._page.heartbeat(worker.id)
                if at is not None and at > (worker.heartbeat_at or 0):
                    self._ledger.observe(facts.Heartbeat(worker.id, at))

    def beats(self, worker: Worker) -> bool:
        """Whether it has said that it lives since we last looked: the last look before it is taken
        for hung, since a turn may take longer than was left when it began."""
        at = self._page.heartbeat(worker.id)
        if at is None or at <= (worker.heartbeat_at or 0):
            return False
        self._ledger.observe(facts.Heartbeat(worker.id, at))
        return True

    def _look_at_memory(self, now: float) -> None:
        """Measure the workers where somebody limits them, and the host where a worker is due."""
        pool = self._ledger.pool
        workers = [worker for worker in pool.workers.values() if worker.state is State.READY]
        limits = [limit for limit in map(self._limit_of, workers) if limit]
        if limits:
            used = memory.group_memory((worker.pid for worker in workers), min(limits))
            self._ledger.observe(facts.Measured({
                worker.id: used[worker.pid] for worker in workers if worker.pid in used}))
        due = [worker for worker in workers if self._is_due(worker)]
        if due or pool.short_of_memory:
            self.look_at_host(due, now)
        self.deadline = now + MEMORY_INTERVAL if limits or due else None

    def _is_due(self, worker: Worker) -> bool:
        return worker.recycled_for is not None or 0 < self._limit_of(worker) <= (worker.memory or 0)

    def _limit_of(self, worker: Worker) -> int:
        recipe = self._ledger.pool.generations[worker.generation].recipe
        return recipe.max_memory or recipe.max_memory_hard

    def look_at_host(self, due: list[Worker], now: float) -> None:
        """Look whether there is room for one worker more, and again a little later."""
        needed = self._min_available
        if needed is None:
            needed = max((memory.own_memory(worker.pid) for worker in due), default=0)
        available = memory.available_memory()
        if (available < needed) != self._ledger.pool.short_of_memory:
            self._ledger.observe(facts.HostMeasured(available < needed, available))
        self.deadline = now + MEMORY_INTERVAL
