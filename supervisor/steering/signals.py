"""The signals that the master takes, and what each asks for. One that can't be heard now waits: who
has sent it will not do so again."""

from __future__ import annotations

import signal
from functools import partial

from ..core.pool import Stopping
from ..launch import shared_page
from ..launch.arbiter_hooks import ArbiterHooks
from ..logs.log import Log
from ..logs.sinks import CannotLog
from ..places.watched import STIRRED
from ..reporting.events import Entry, Event
from ..settings.parsers import AckMode
from ..settings.table import Settings
from ..system.guard import Guard
from ..system.ledger import Ledger
from ..system.loop import READ, Loop
from ..system.part import Part
from ..system.processes import Processes
from ..system.terminal_signals import Sender, TerminalSignals
from .orders import Orders
from .upgrades import Upgrades

SIGNALS = {
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGTTIN, signal.SIGTTOU, signal.SIGCHLD, signal.SIGALRM, signal.SIGCONT, STIRRED}
# A hang-up ends nothing: who serves goes on.
HUNG_UP = {
    Sender.KERNEL: "the terminal has hung up, which is no order; einhornpy stop stops the master",
    Sender.SHELL: "it comes from the shell in which the master was started, as when a terminal is "
                  "closed, and is no order; einhornpy upgrade upgrades"}
# Einhorn's; see `Signals.stops`.
STOPS = {
    signal.SIGUSR2: Stopping.GRACEFUL, signal.SIGINT: Stopping.GRACEFUL,
    signal.SIGTERM: Stopping.TERMINATE, signal.SIGQUIT: Stopping.NOW}


class Signals(Part):
    """`came`: those that have yet to be heard. `stops`: those that stop the master, and how."""

    name = "signals"

    def __init__(self, loop: Loop, guard: Guard, ledger: Ledger, orders: Orders, upgrades: Upgrades,
                 processes: Processes, arbiter_hooks: ArbiterHooks, log: Log,
                 of_terminal: TerminalSignals, settings: Settings) -> None:
        self._loop = loop
        self._guard = guard
        self._ledger = ledger
        self._orders = orders
        self._upgrades = upgrades
        self._processes = processes
        self._arbiter_hooks = arbiter_hooks
        self._log = log
        self._of_terminal = of_terminal
        self.stops = dict(STOPS)
        if settings.ack_mode is not AckMode.MANUAL and not settings.einhorn:
            # It stops an Einhorn; to everybody else, such as gunicorn's users, it means new code.
            del self.stops[signal.SIGUSR2]
        self.came: set[signal.Signals] = set()
        if of_terminal.blocked:
            loop.watch(of_terminal.fd, READ, self._hear_terminal)

    def _hear_terminal(self, events: int) -> None:
        for number, sender in self._of_terminal.read():
            if number is signal.SIGHUP and sender in HUNG_UP:
                self._ledger.log(
                    Entry(Event.SIGNAL_IGNORED, {"signal": "HUP", "reason": HUNG_UP[sender]}))
            elif sender is not Sender.KERNEL:
                self.came.add(number)

    def waiting(self) -> set[signal.Signals]:
        """Those that have yet to be heard, and those that nobody has been told of yet. The next
        master looks at its places by itself."""
        return (self._loop.pending() | self.came) - {STIRRED}

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
            case _ if number in self.stops:
                # The second time somebody is in a hurry.
                self._orders.stop(Stopping.NOW if pool.stopping is not None else self.stops[number])
            case signal.SIGHUP | signal.SIGALRM | signal.SIGUSR2:
                if pool.stopping is None:
                    self._upgrades.request(
                        self._upgrades.usual(), f"signal {number.name.removeprefix('SIG')}",
                        as_einhorn=True)
            case signal.SIGUSR1:
                self._open_log_anew()
            case signal.SIGTTIN | signal.SIGTTOU:
                try:
                    self._orders.scale(pool.target + (1 if number is signal.SIGTTIN else -1))
                except ValueError as error:
                    self._ledger.log(
                        Entry(Event.SIGNAL_IGNORED, {
                            "signal": number.name.removeprefix("SIG"), "reason": str(error)}))

    def close(self) -> None:
        self._loop.unwatch(self._of_terminal.fd)
        self._of_terminal.close()

    def _open_log_anew(self) -> None:
        try:
            self._log.reopen()
        except CannotLog as error:
            self._ledger.log(
                Entry(Event.LOG_FILE_NOT_OPENED_ANEW, {"reason": str(error)}))
        self._arbiter_hooks.reopen_logs()
        for worker in self._ledger.pool.workers.values():
            # One that has no handler for it, or not yet, would die of it.
            if shared_page.catches(worker.pid, signal.SIGUSR1):
                self._processes.signal(worker.pid, signal.SIGUSR1)


def _named(number: signal.Signals) -> str:
    return f"signal {number.name}"
