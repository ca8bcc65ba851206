"""Errands: other people's commands (hooks, checks) run in processes of their own, with a time
limit; nobody waits for them.

It knows nothing of workers and upgrades. What a command prints is kept as far as its last line; how
it ended is told to whoever sent it.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ...shared.frozen import dataclass
from ..core.facts import how_it_ended
from .attributes import Attributes
from .guard import Guard
from .loop import READ, Loop
from .part import Keep, Kept, Part, State
from .plain_data import to_plain
from .processes import CannotStart, Exit, Launch, Processes

# So many run at once, the others wait in line; beyond the longest line the newest are dropped.
MOST_AT_ONCE = 8
LONGEST_LINE = 1000
_TAIL = 4000


@dataclass(frozen=True, slots=True)
class Ended:
    """How an errand ended. `reason`: what was wrong ("exited with code 1", "took longer than 30
    s"), None if nothing was. `last_line`: the last line that it printed, if any, `line_before`: the
    one before."""

    reason: str | None
    last_line: str | None = None
    line_before: str | None = None


@dataclass(slots=True, eq=False)
class Errand:
    """One command. `limit`: seconds. `grace`: for so many seconds the master's end waits for it.
    `urgent`: it doesn't wait in line, and takes no place that the others wait for. `most`: so many
    bytes of what it prints are kept. `heard`: told each line of it."""

    name: str
    launch: Launch
    limit: float
    done: Callable[[Ended], None]
    stdin: str | None = None
    grace: float = 30.0
    urgent: bool = False
    most: int = _TAIL
    heard: Callable[[str], None] | None = None
    deadline: float = 0.0
    timed_out: bool = False
    output: int | None = None
    tail: bytes = b""
    cancelled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptErrand:
    name: str
    limit: float
    deadline: float
    timed_out: bool
    cancelled: bool
    stdin: str | None = None
    grace: float = 30.0
    urgent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptWaiting(KeptErrand):
    """An errand that has yet to begin."""

    launch: Launch


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRunning(KeptErrand):
    """An errand that runs."""

    pid: int
    output: int | None
    tail: str


@dataclass(frozen=True, slots=True)
class KeptErrands(Kept):
    running: tuple[KeptRunning, ...] = ()
    waiting: tuple[KeptWaiting, ...] = ()

    def descriptors(self) -> Iterable[int]:
        return [each.output for each in self.running if each.output is not None]

    def process_ids(self) -> Iterable[int]:
        return [each.pid for each in self.running]

    def texts(self) -> Iterable[str]:
        return [each.tail for each in self.running]


# Who is to know how an errand of the master before us ended; None where it was somebody else's.
Resume = Callable[[Errand], Callable[[Ended], None] | None]


class Errands(Part):
    """All of them. `unclaimed`: told how one ended that nobody here has sent, by its name."""

    name = "errands"
    keeps = {"errands": Keep(KeptErrands, KeptErrands(), needed=True)}

    def __init__(self, processes: Processes, loop: Loop, guard: Guard) -> None:
        self._senders: list[Resume] = []
        self.unclaimed: Callable[[str, Ended], None] = lambda name, ended: None
        self._guard = guard
        self._processes = processes
        self._loop = loop
        self._running: dict[int, Errand] = {}
        self._waiting: deque[Errand] = deque()

    @property
    def grace(self) -> float:
        """For how many seconds the master's end waits for those that run or wait."""
        return max((errand.grace for errand in (*self._running.values(), *self._waiting)),
                   default=0.0)

    @property
    def deadline(self) -> float | None:
        """When `on_time` is due."""
        return min((errand.deadline for errand in self._running.values()), default=None)

    def resumed_by(self, resume: Resume) -> None:
        """Let somebody who sends errands go on with those that he has sent as the master before
        us."""
        self._senders.append(resume)

    def shell(self, name: str, command: str, directory: str, environment: Mapping[str, str],
              limit: float, done: Callable[[Ended],
                                           None], document: Mapping[str, Any] | None = None,
              attributes: Attributes | None = None, urgent: bool = False,
              ) -> Errand:
        """Send a shell command on its way; `document` is its standard input, as JSON."""
        launch = Launch(["/bin/sh", "-c", command], directory, environment, (), signal.SIGKILL,
                        attributes=attributes)
        return self.send(
            Errand(name, launch, limit, done,
                   json.dumps({} if document is None else document) + "\n", urgent=urgent))

    def send(self, errand: Errand) -> Errand:
        """Send an errand on its way, or put it in line."""
        if errand.urgent or self._has_room():
            self._start(errand)
        elif len(self._waiting) < LONGEST_LINE:
            self._waiting.append(errand)
        else:
            self._done(errand, Ended(f"was dropped: {LONGEST_LINE} others wait already"))
        return errand

    def _has_room(self) -> bool:
        return sum(not each.urgent for each in self._running.values()) < MOST_AT_ONCE

    def cancel(self, errand: Errand) -> None:
        """Kill it, or take it out of the line; it tells nobody how it ended."""
        errand.cancelled = True
        if errand in self._waiting:
            self._waiting.remove(errand)
        for pid, each in self._running.items():
            if each is errand:
                self._processes.signal(pid, signal.SIGKILL, group=True)

    def _start(self, errand: Errand) -> None:
        files: list[int] = []
        try:
            launch = errand.launch
            if errand.stdin is not None:
                stdin = os.memfd_create("einhornpy-errand", os.MFD_CLOEXEC)
                files.append(stdin)
                os.write(stdin, errand.stdin.encode())
                os.lseek(stdin, 0, os.SEEK_SET)
                errand.output, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                os.set_blocking(writer, True)
                files.append(writer)
                launch = replace(launch, stdin=stdin, stdout=writer, stderr=writer)
            pid = self._processes.start(launch)
        except Exception as error:
            if not isinstance(error, CannotStart | OSError):
                self._guard.failed("errand", error)
            why = str(error)
            if isinstance(error, OSError):
                why = f"cannot make the files that it is given: {error.strerror}"
            self._close(errand)
            self._done(errand, Ended(f"cannot be started: {why}"))
            return
        finally:
            for fd in files:
                os.close(fd)
        errand.deadline = time.monotonic() + errand.limit
        self._running[pid] = errand
        if errand.output is not None:
            self._loop.watch(errand.output, READ, partial(self._on_output, errand))

    def _on_output(self, errand: Errand, events: int) -> None:
        self._read(errand)

    def _read(self, errand: Errand, everything: bool = False) -> None:
        while errand.output is not None:
            try:
                data = os.read(errand.output, 65536)
            except BlockingIOError:
                return
            if errand.heard is not None:
                self._tell(errand, data)
            errand.tail = (errand.tail + data)[-errand.most:]
            if not data:
                self._close(errand)
            if not everything:
                return

    def _tell(self, errand: Errand, data: bytes) -> None:
        """Tell the lines that end in `data`; what the tail ends with is the beginning of one."""
        assert errand.heard is not None
        for line in (errand.tail.rpartition(b"\n")[2] + data).split(b"\n")[:-1]:
            text = line.decode(errors="replace").strip()
            if text:
                self._guard.run("errand's output", errand.heard, text[:2000])

    def _close(self, errand: Errand) -> None:
        if errand.output is not None:
            self._loop.unwatch(errand.output)
            os.close(errand.output)
            errand.output = None

    def on_time(self, now: float) -> None:
        """Kill what has overstayed."""
        for pid, errand in self._running.items():
            if now >= errand.deadline:
                errand.timed_out = True
                errand.deadline = now + errand.limit + 1.0
                self._processes.signal(pid, signal.SIGKILL, group=True)

    def on_suspended(self, now: float, seconds: float | None) -> None:
        for errand in self._running.values():
            errand.deadline = now + errand.limit

    def runs(self, pid: int) -> bool:
        """Whether this process is an errand of whose end nobody has heard yet."""
        return pid in self._running

    def on_exit(self, exit: Exit) -> bool:
        """Note that a child has exited; return whether it was an errand."""
        errand = self._running.pop(exit.pid, None)
        if errand is None:
            return False
        # whoever waits for its end is told, whatever becomes of its pipe
        self._guard.run("errand's output", self._read, errand, True)
        self._guard.run("errand's output", self._close, errand)
        lines = [
            line.strip() for line in errand.tail.decode(errors="replace").splitlines()
            if line.strip()]
        if not errand.cancelled:
            self._done(errand, Ended(_reason(errand, exit), lines[-1][:2000] if lines else None,
                                     lines[-2] if len(lines) > 1 else None))
        while self._waiting and self._has_room():
            self._start(self._waiting.popleft())
        return True

    def _done(self, errand: Errand, ended: Ended) -> None:
        """Tell whoever sent it; others wait in line, whatever that does."""
        self._guard.run(f"end of {errand.name.partition(' ')[0]}", errand.done, ended)

    def hand_over(self) -> dict[str, Any]:
        running = [{
            "pid": pid, "output": errand.output, "tail": errand.tail.decode("latin-1"),
            **_told(errand)} for pid, errand in self._running.items()]
        waiting = [{"launch": to_plain(errand.launch), **_told(errand)} for errand in self._waiting]
        return {"errands": {"running": running, "waiting": waiting}}

    def take_over(self, state: State) -> None:
        kept: KeptErrands = state["errands"]
        for each in kept.running:
            errand = self._retold(each, Launch((), "/", {}))
            errand.output, errand.tail = each.output, each.tail.encode("latin-1")
            self._running[each.pid] = errand
            if errand.output is not None:
                self._loop.watch(errand.output, READ, partial(self._on_output, errand))
        for waits in kept.waiting:
            self._waiting.append(self._retold(waits, waits.launch))

    def _retold(self, told: KeptErrand, launch: Launch) -> Errand:
        errand = Errand(told.name, launch, told.limit, partial(self.unclaimed, told.name),
                        told.stdin, told.grace, told.urgent, deadline=told.deadline,
                        timed_out=told.timed_out, cancelled=told.cancelled)
        whom = (resume(errand) for resume in self._senders)
        errand.done = next((done for done in whom if done is not None), errand.done)
        return errand

    def close(self) -> None:
        """Kill them all, and see them gone."""
        self._waiting.clear()
        for pid, errand in self._running.items():
            self._processes.signal(pid, signal.SIGKILL, group=True)
            self._close(errand)
        for pid in self._running:
            self._processes.end(pid)
        self._running.clear()


def _told(errand: Errand) -> dict[str, Any]:
    return {
        "name": errand.name, "limit": errand.limit, "grace": errand.grace, "urgent": errand.urgent,
        "stdin": errand.stdin, "deadline": errand.deadline, "timed_out": errand.timed_out,
        "cancelled": errand.cancelled}


def _reason(errand: Errand, exit: Exit) -> str | None:
    if errand.timed_out:
        return f"took longer than {errand.limit:g} s"
    if exit.error is not None:
        return f"cannot be started: {exit.error}"
    if exit.status == 0:
        return None
    return how_it_ended(exit.status)
