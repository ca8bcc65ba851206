"""The master: it lets each part have its turn, as soon as something happens or is due, and ends
them when the plan says so. It decides nothing, and does nothing in between that could wait.

Whatever happens reaches the ledger as a fact (system/ledger.py); whatever is done is something that
the plan asked for (carrying_out.py). Which parts there are, and in which order, stands in parts.py.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ..shared import printable
from .carrying_out import LATE
from .first_start import FirstStart, NotAllowed
from .launch.lookups import LookedUp
from .launch.recognition import Refused
from .logs.log import STANDARD_ERROR
from .parts import SCHEMA, Parts
from .places.pidfile import NoPidfile
from .places.runtime_directory import NoRuntimeDirectory
from .reporting.events import Entry, Event
from .reporting.redaction import Redaction, secrets_of
from .settings.table import Settings
from .sockets.addresses import BadAddress
from .sockets.listeners import CannotListen
from .steering.state import VERSION as VERSION
from .steering.trial import Trial
from .suspensions import Suspensions
from .system import attributes, descriptors
from .system.guard import FIRST_HOLD
from .system.own_code import OwnCode
from .system.part import Part


class CannotRun(RuntimeError):
    """The master can't start; the message is one line, `code` the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Master:
    """One app's master. `run` returns the exit code of the process.

    `given`: the command line, from which `settings` were made. `looked_up`: who and what they name.
    `own_code`: its files as they were at the start. `left_open`: the descriptors that it found
    when it began (system/descriptors.py). `inherited`: the state of the master that this one
    replaces.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str], given: Mapping[str, Any],
                 looked_up: LookedUp, own_code: OwnCode,
                 left_open: Mapping[int, tuple[int, int]],
                 inherited: Mapping[str, Any] | None = None) -> None:
        self._left_open = left_open
        self._inherited = inherited or {}
        self._state = SCHEMA.empty() if inherited is None else SCHEMA.read(inherited)
        for fd in SCHEMA.descriptors(self._state):
            os.set_inheritable(fd, False)  # they were to survive exec, but are nothing for a worker
        ours = dict(environ)
        self.parts = Parts(settings, ours, dict(given), looked_up, own_code)
        self._suspensions = Suspensions(self.parts)
        self._start = FirstStart(self.parts, settings, ours, looked_up, self._early_turn)

    # --- starting and ending ---

    def run(self) -> int:
        """Start, run until stopped, clean up; return the exit code: 0 after an asked-for stop, 3
        when no worker ever became ready.

        Raises:
            CannotRun: the master can't start.
        """
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, self.parts.terminal_signals.blocked)
            self.parts.guard.strict = False  # there is no master before us who could go on
            self.parts.take_over(self._state)
            if not self._start.begin():
                return 0
            self._close_unclaimed()
            return self._go_on()
        except NotAllowed as error:
            raise CannotRun(self.parts.ledger.redaction.text(str(error)), 3) from None
        except (CannotListen, BadAddress, NoRuntimeDirectory, NoPidfile, Refused,
                attributes.Refused) as error:
            detail = getattr(error, "error", None)
            code = 2 if getattr(error, "bad_input", False) or isinstance(error,
                                                                         attributes.Refused) else 1
            told = f"{error}: {self.parts.ledger.redaction.text(detail)}" if detail else str(error)
            raise CannotRun(told, code) from None
        finally:
            self._clean_up()

    def take_over(self, way_back: int, failed: str | None) -> int:
        """Go on where the master before us was, and `run`. `way_back`: the state, to be closed when
        there is none any more. `failed`: why the master that should have gone on in our place
        didn't.

        Raises whatever goes wrong in the first second, with nothing cleaned up: the master before
        goes on then.
        """
        parts = self.parts
        parts.reloads.trial = trial = Trial(way_back)
        try:
            parts.take_over(self._state)
            trial.whole = self._as_left
            # Whoever had exec'ed us had blocked them all, so that none was lost meanwhile.
            signal.pthread_sigmask(signal.SIG_SETMASK, parts.terminal_signals.blocked)
            self._turn()
            trial.begin()
            while parts.plan.exit_code is None and time.monotonic() < (trial.until or 0.0):
                self._turn()
        except BaseException:
            trial.failed(parts.signals.waiting)
            raise
        parts.reloads.trial = None
        trial.passed()
        self._inherited = self._state = {}  # it may be much
        try:
            parts.guard.strict = False
            parts.guard.run("reload", parts.reloads.conclude, failed)
            parts.guard.run("descriptors", self._close_unclaimed)
            return self._go_on()
        finally:
            self._clean_up()

    def _close_unclaimed(self) -> None:
        """What we were meant to have is ours by now. What else somebody left open, a shell's lock
        for instance, would be held for as long as the service runs."""
        closed = descriptors.close_unclaimed(self._left_open)
        if closed:
            self.parts.ledger.log(Entry(Event.INHERITED_DESCRIPTORS_CLOSED,
                                        {"descriptors": " ".join(closed)}))

    def _as_left(self) -> dict[str, Any]:
        """The state for the master before us: what is true by now, but for what it has told us of
        its own way."""
        way = {key: self._inherited[key] for key in ("reloads", "reloaded_by", "way_back")}
        return SCHEMA.whole(self.parts.state() | way)

    def _go_on(self) -> int:
        guard, plan = self.parts.guard, self.parts.plan
        guard.strict = False
        while plan.exit_code is None:
            try:
                self._turn()
            except Exception as error:  # between its parts: the loop itself, for instance
                guard.failed("turn", error)
                select.select([], [], [], FIRST_HOLD)
        if plan.exit_code == 0:
            guard.run("errands", self._wait_for_errands)
            guard.run("announcements", self.parts.announcements.give_up)
            self.parts.ledger.log(Entry(Event.MASTER_STOPPED, {"pid": os.getpid()}))
        return plan.exit_code

    def _clean_up(self) -> None:
        self.parts.guard.strict = False
        self.parts.close()

    # --- the turn: wait, hear, let each part do what is due ---

    def _turn(self) -> None:
        self._listen(self.parts)
        now = time.monotonic()
        for part in self.parts:
            self.parts.guard.part(part.name, part.on_time, now)

    def _listen(self, among: Iterable[Part], longest: float | None = None) -> None:
        """Wait until something happens or is due to one of these parts, for `longest` seconds at
        most."""
        loop, guard = self.parts.loop, self.parts.guard
        now, listened_at = time.monotonic(), loop.listened_at
        deadlines = [guard.due(part.name, part.deadline) for part in among]
        deadlines.append(None if longest is None else now + longest)
        soonest = min((each for each in deadlines if each is not None), default=None)
        came = loop.wait(None if soonest is None else soonest - now)
        if soonest is not None and time.monotonic() > max(soonest, listened_at) + LATE:
            # We were stopped, or the host is: hear first what was said in time, before anybody is
            # judged by the clock.
            self.parts.hear()
        self._suspensions.note(came)
        self.parts.signals.came |= came

    def _few(self) -> list[Part]:
        """Those that have something to do when there are no workers."""
        parts = self.parts
        return [parts.server, parts.upgrades, parts.errands, parts.exits]

    def _early_turn(self, longest: float | None = None) -> None:
        """There is nobody yet who could be lost: whatever fails ends the start."""
        self._listen(self._few(), longest)
        for part in self._few():
            part.on_time(time.monotonic())

    def _wait_for_errands(self) -> None:
        """Let the last hooks finish; whoever asks us to stop once more doesn't want to wait for
        them."""
        begun, parts = time.monotonic(), self.parts
        parts.signals.came.clear()
        while (left := begun + parts.errands.grace - time.monotonic()) > 0:
            self._listen(self._few(), left)
            if parts.signals.came & parts.signals.stops.keys():
                return
            for part in self._few():
                parts.guard.part(part.name, part.on_time, time.monotonic())


def fail(message: str, code: int, as_it_is: bool = False) -> int:
    """Print one line about what went wrong; return the exit code. `as_it_is`: nothing secret is in
    it, and what was expected isn't to be taken for that."""
    told = message if as_it_is else Redaction(known=secrets_of(os.environ)).text(message)
    with contextlib.suppress(OSError):  # the exit code says it too
        os.write(STANDARD_ERROR, f"einhornpy: {printable.escaped(told)}\n".encode())
    return code
