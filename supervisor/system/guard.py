"""One guard around every part of what the master does: an exception in one ends neither the master
nor the other parts.

It is logged with where it came from, told once and then at most once a minute with how often, and
counted. A part that fails is held back, longer each time, so that one that always fails is no hot
loop. What a part leaves behind when it fails is its own affair.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ...shared import backoff
from ..reporting.events import Entry, Event

FIRST_HOLD, LONGEST_HOLD = 0.1, 5.0
# The same fault is told again after so many seconds, and so many different ones are kept apart.
AGAIN, MOST_FAULTS = 60.0, 100
LONGEST_ERROR, DEEPEST = 500, 12

T = TypeVar("T")


@dataclass(slots=True)
class Hold:
    """`until`: in monotonic seconds. `failures`: how many there were in a row."""

    until: float
    failures: int

    @classmethod
    def after(cls, before: Hold | None) -> Hold:
        """The hold of something that has just failed, maybe not for the first time."""
        failures = 1 if before is None else before.failures + 1
        delay = backoff.delay_after(failures, FIRST_HOLD, LONGEST_HOLD)
        return cls(time.monotonic() + delay, failures)


@dataclass(slots=True)
class _Fault:
    """`untold`: how often it has happened since it was told."""

    entry: Entry
    told_at: float
    untold: int = 0


class Guard:
    """`tell`: the log and everybody who follows. `count`: called for each exception. `strict`: pass
    exceptions on; as long as the master has yet to settle, a failure is an end that somebody else
    can mend."""

    def __init__(self, tell: Callable[[Entry], None], count: Callable[[], None]) -> None:
        self._tell = tell
        self._count = count
        self._holds: dict[str, Hold] = {}
        self._faults: dict[tuple[str, str], _Fault] = {}
        self._telling = False
        self.strict = True

    def run(self, what: str, act: Callable[..., T], *arguments: Any) -> T | None:
        """Do something that must not stop what comes after it; None where it failed."""
        try:
            return act(*arguments)
        except Exception as error:
            self.failed(what, error)
            return None

    def part(self, what: str, act: Callable[..., Any], *arguments: Any) -> None:
        """Do a part of each turn, unless it has failed just now."""
        hold = self._holds.get(what)
        if hold is not None and time.monotonic() < hold.until:
            return
        try:
            act(*arguments)
            self._holds.pop(what, None)
        except Exception as error:
            self._holds[what] = Hold.after(hold)
            self.failed(what, error)

    def due(self, what: str, deadline: float | None) -> float | None:
        """When a part is due that would like to be at `deadline`."""
        hold = self._holds.get(what)
        return deadline if hold is None else hold.until

    def failed(self, what: str, error: Exception) -> None:
        """Count an exception and tell of it. Called where it is handled."""
        if self.strict:
            raise error
        with contextlib.suppress(Exception):
            self._count()
        with contextlib.suppress(Exception):  # no memory for it, for instance
            fault = self._faults.get((what, type(error).__name__))
            if fault is None or time.monotonic() >= fault.told_at + AGAIN:
                self._told(what, error, 1 if fault is None else fault.untold + 1)
            else:
                fault.untold += 1

    def _told(self, what: str, error: Exception, times: int) -> None:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_ERROR]
        entry = Entry(
            Event.INTERNAL_ERROR, {
                "in": what, "error": text, "times": times if times > 1 else None,
                "traceback": traceback(error), "so": "the master goes on"})
        if len(self._faults) >= MOST_FAULTS:
            del self._faults[min(self._faults, key=lambda each: self._faults[each].told_at)]
        self._faults[what, type(error).__name__] = _Fault(entry, time.monotonic())
        self._say(entry)

    def _say(self, entry: Entry) -> None:
        if self._telling:
            return  # telling is what fails
        self._telling = True
        try:
            self._tell(entry)
        finally:
            self._telling = False

    @property
    def deadline(self) -> float | None:
        """When `on_time` is due."""
        return min((fault.told_at + AGAIN for fault in self._faults.values() if fault.untold),
                   default=None)

    def on_time(self, now: float) -> None:
        """Say how often what was told a while ago has happened since."""
        for fault in self._faults.values():
            if fault.untold and now >= fault.told_at + AGAIN:
                times, fault.untold, fault.told_at = fault.untold, 0, now
                self._say(Entry(fault.entry.event, {**fault.entry.fields, "times": times}))


def traceback(error: BaseException) -> str:
    """The way to an exception in one line, its place last: `master.py:480 _turn > errands.py:151
    on_exit`."""
    steps, step = [], error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        steps.append(f"{os.path.basename(code.co_filename)}:{step.tb_lineno} {code.co_name}")
        step = step.tb_next
    return " > ".join(steps[-DEEPEST:])


def named(callback: Any) -> str:
    """What a callback is called."""
    function = getattr(callback, "func", callback)  # of a partial
    return str(getattr(function, "__qualname__", type(callback).__name__))
