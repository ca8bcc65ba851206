"""Which worker a process is: our own ids of workers, never given twice, and their pids."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ..system.ledger import Ledger
from ..system.part import Keep, Part, State
from ..system.processes import parent


class Workers(Part):
    """`by_pid`: the worker that has a pid. `hear`: hears of those that are just forked, who may
    speak before we have read of them."""

    name = "workers"
    keeps = {"next_worker": Keep(int, 1, needed=True)}

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._next = 1
        self.by_pid: dict[int, int] = {}
        self.hear: Callable[[], None] = lambda: None

    def new_id(self) -> int:
        self._next += 1
        return self._next - 1

    def of(self, pid: int) -> int:
        """The worker that has this pid; 0 if none has."""
        if pid not in self.by_pid:
            self.hear()
        return self.by_pid.get(pid, 0)

    def above(self, pid: int) -> int:
        """The worker in whose process tree a process is; 0 if it is in nobody's."""
        above: int | None = pid
        while above is not None and above != os.getpid():
            if above in self.by_pid:
                return self.by_pid[above]
            above = parent(above)
        return 0

    def lives(self, worker: int) -> bool:
        return worker in self._ledger.pool.workers

    def hand_over(self) -> dict[str, Any]:
        return {"next_worker": self._next}

    def take_over(self, state: State) -> None:
        self._next = state["next_worker"]
        self.by_pid = {each.pid: each.id for each in self._ledger.pool.workers.values()}
