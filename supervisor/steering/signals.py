"""The signals that the master takes, and what each asks for. One that can't be heard now waits: who
has sent it will not do so again."""

from __future__ import annotations

import signal
from functools import partial

from ..core.pool import Stopping
from ..core.upgrade import Terms
from ..launch import shared_page
from ..logs.log import Log
from ..logs.sinks import CannotLog
from ..reporting.events import Entry, Event
from ..system.guard import Guard
from ..system.ledger import Ledger
from ..system.loop import Loop
from ..system.part import Part
from ..system.processes import Processes
from .orders import Orders
from .upgrades import Upgrades

SIGNALS = [
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGTTIN, signal.SIGTTOU, signal.SIGCHLD, signal.SIGALRM,]
STOPS = {
    signal.SIGUSR2: Stopping.GRACEFUL, signal.SIGINT: Stopping.GRACEFUL,
    signal.SIGTERM: Stopping.TERMINATE, signal.SIGQUIT: Stopping.NOW}


class Signals(Part):
    """`came`: those that have yet to be heard."""

    name = "signals"

    def __init__(self, loop: Loop, guard: Guard, ledger: Ledger, orders: Orders, upgrades: Upgrades,
                 processes: Processes, log: Log) -> None:
        self._loop = loop
        self._guard = guard
        self._ledger = ledger
        self._orders = orders
        self._upgrades = upgrades
        self._processes = processes
        self._log = log
        self.came: set[signal.Signals] = set()

    def waiting(self) -> set[signal.Signals]:
        """Those that have yet to be heard, and those that nobody has been told of yet."""
        return self._loop.pending() | self.came

    @property
    def deadline(self) -> float | None:
        return min((self._guard.due(_named(number), 0.0) or 0.0 for number in self.came),
                   default=None)

    def on_time(self, now: float) -> None:
        """Hear them. Each fails by itself, and none holds another one back."""
        for number in sorted(self.came):
            self._guard.part(_named(number), partial(self._hear, number))

    def _hear(self, number: signal.Signals) -> None:
        self._carry_out(number)
        # not before: somebody has sent it once and will not do so again
        self.came.discard(number)

    def _carry_out(self, number: signal.Signals) -> None:
        pool = self._ledger.pool
        match number:
            case signal.SIGHUP | signal.SIGALRM:
                if pool.stopping is None:
                    self._upgrades.request(Terms(), f"signal {number.name.removeprefix('SIG')}",
                                           as_einhorn=True)
            case signal.SIGINT | signal.SIGTERM | signal.SIGUSR2 | signal.SIGQUIT:
                # The second time somebody is in a hurry.
                self._orders.stop(Stopping.NOW if pool.stopping is not None else STOPS[number])
            case signal.SIGUSR1:
                self._open_log_anew()
            case signal.SIGTTIN | signal.SIGTTOU:
                try:
                    self._orders.scale(pool.target + (1 if number is signal.SIGTTIN else -1))
                except ValueError as error:
                    self._ledger.log(
                        Entry(Event.SIGNAL_IGNORED, {
                            "signal": number.name.removeprefix("SIG"), "reason": str(error)}))

    def _open_log_anew(self) -> None:
        try:
            self._log.reopen()
        except CannotLog as error:
            self._ledger.log(
                Entry(Event.LOG_FILE_NOT_OPENED_ANEW, {"reason": str(error)}))
        for worker in self._ledger.pool.workers.values():
            # One that has no handler for it, or not yet, would die of it.
            if shared_page.catches(worker.pid, signal.SIGUSR1):
                self._processes.signal(worker.pid, signal.SIGUSR1)


def _named(number: signal.Signals) -> str:
    return f"signal {number.name}"
