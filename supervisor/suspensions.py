"""Time in which nobody ran: a container that was frozen, a job that was stopped, a machine that
slept. Noticed here and told to every part; what follows from it is theirs.
"""

from __future__ import annotations

import signal
import time

from .parts import Parts
from .reporting.events import Entry, Event

# Who should have run and didn't for so many seconds was suspended; less is a host that is busy.
SUSPENDED = 2.0
# What only looks as if we had stood still counts but once in so many seconds: it may be nothing,
# and one that hangs is not to be spared for ever.
SIGNS_APART = 600.0


class Suspensions:
    """`parts`: who is told."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._sign_at = -SIGNS_APART

    def note(self, came: set[signal.Signals]) -> None:
        """After each sleep: tell everybody if nobody ran for a while. `came`: the signals that have
        come, of which those are taken out that are no order."""
        loop, now = self._parts.loop, time.monotonic()
        lost, interrupted = loop.lost, loop.interrupted
        loop.lost = loop.interrupted = 0.0
        continued = signal.SIGCONT in came
        came.discard(signal.SIGCONT)
        if continued and interrupted:
            self._ignore_hang_up(came)
        if lost >= SUSPENDED:
            self._tell(now, lost)
        elif interrupted >= SUSPENDED and (continued or now >= self._sign_at + SIGNS_APART):
            if not continued:
                self._sign_at = now
            self._tell(now, None)

    def _ignore_hang_up(self, came: set[signal.Signals]) -> None:
        """The kernel sends HUP and CONT to a group that is stopped when whoever cares for it leaves
        (setpgid(2)). With a terminal it is known who sends HUP: see terminal_signals.py."""
        if signal.SIGHUP in came:
            came.discard(signal.SIGHUP)
            self._parts.ledger.log(Entry(Event.SIGNAL_IGNORED, {
                "signal": "HUP", "reason": "the master was stopped, and whoever started it may "
                                           "have left, which is no order"}))

    def _tell(self, now: float, seconds: float | None) -> None:
        for part in self._parts:
            self._parts.guard.run(part.name, part.on_suspended, now, seconds)
