"""What anybody may ask of the workers as they are: more or fewer of them, another one in a seat, a
signal, the end. Commands and signals ask here; upgrades are asked for in upgrades.py."""

from __future__ import annotations

import signal

from ...shared.commands import MOST_WORKERS
from ...shared.protocol import BadRequest, Code
from ..core import facts
from ..core.causes import Recycling
from ..core.pool import State, Stopping
from ..launch.arbiter_hooks import ArbiterHooks
from ..launch.measures import Measures
from ..reporting.events import Entry, Event
from ..system.ledger import Ledger
from ..system.processes import Processes
from .upgrades import Upgrades


class Orders:
    """Each is carried out at once, or refused."""

    def __init__(self, ledger: Ledger, arbiter_hooks: ArbiterHooks, processes: Processes,
                 measures: Measures, upgrades: Upgrades) -> None:
        self._ledger = ledger
        self._arbiter_hooks = arbiter_hooks
        self._processes = processes
        self._measures = measures
        self._upgrades = upgrades

    def scale(self, target: int) -> None:
        """Keep so many workers ready.

        Raises:
            ValueError: that is too many or too few.
        """
        if not 1 <= target <= MOST_WORKERS:
            raise ValueError(f"{target} workers asked for, expected 1 to {MOST_WORKERS}")
        old = self._ledger.pool.target
        self._ledger.observe(facts.Scaled(target))
        self._arbiter_hooks.call(self._ledger.pool.current, "nworkers_changed", target, old)

    def recycle(self, index: int, by: str) -> int:
        """Let the ready worker of a seat be replaced; return its pid.

        Raises:
            BadRequest: nobody there is ready, or it is due already.
        """
        ready = [
            worker for worker in self._ledger.pool.workers.values()
            if worker.index == index and worker.state is State.READY]
        if not ready:
            raise BadRequest(Code.NOT_READY, f"no worker with index {index} is ready")
        due = [worker for worker in ready if worker.recycled_for is None]
        if not due:
            raise BadRequest(
                Code.NOT_READY,
                f"worker {index} (pid {ready[0].pid}) is due already: it {ready[0].recycled_for}")
        self._ledger.observe(facts.Due(due[0].id, f"was asked to go by {by}", Recycling.ASKED))
        self._measures.look_soon()  # is there room for its replacement?
        return due[0].pid

    def signal_workers(self, name: str) -> int:
        """Send a signal to every worker; return how many have taken it."""
        count = sum(
            self._processes.signal(worker.pid, signal.Signals[name])
            for worker in self._ledger.pool.workers.values())
        self._ledger.log(Entry(Event.SIGNAL_SENT, {"signal": name, "workers": count}))
        return count

    def stop(self, how: Stopping) -> None:
        """Stop; a stop under way can only become faster."""
        if self._ledger.pool.stopping in (Stopping.NOW, how):
            return
        self._upgrades.stop_preparing()
        self._upgrades.check.drop()
        self._ledger.observe(facts.StopRequested(how))
