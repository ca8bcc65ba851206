"""The keeper as the master sees it: a child that is sent each pipe of a worker, see
keeper_process.py. Started when it is first needed, and again when it has died.
"""

from __future__ import annotations

import array
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ...shared.frozen import dataclass
from ..programs import keeper_process
from ..reporting.events import Entry, Event, Seconds
from ..system.own_code import OwnCode, path
from ..system.part import Keep, Kept, Part, State
from ..system.processes import CannotStart, Exit, Launch, Processes
from .output import Output

DELAY, MOMENT = 1.0, 0.05
PROGRAM = "supervisor/programs/keeper_process.py"


@dataclass(frozen=True, slots=True)
class KeptKeeper(Kept):
    """`fd`: the way to it. `unsent`: pipes that it has yet to be sent."""

    pid: int | None
    fd: int
    unsent: tuple[int, ...]

    def descriptors(self) -> Iterable[int]:
        return [self.fd]

    def process_ids(self) -> Iterable[int]:
        return [] if self.pid is None else [self.pid]


class Keeper(Part):
    """`output`: whose pipes it holds. `escaped`: what workers print is escaped in the log (a keeper
    that is there already goes on as it was told)."""

    name = "keeper"
    keeps = {"keeper": Keep(KeptKeeper | None)}
    deadline: float | None = None

    def __init__(self, processes: Processes, environ: Mapping[str, str], output: Output,
                 log: Callable[[Entry], None], escaped: bool, own_code: OwnCode) -> None:
        self._processes = processes
        self._environ = environ
        self._output = output
        output.keep = self.keep
        self._log = log
        self._words = ["escaped"] if escaped else []
        self._own_code = own_code
        self._pid: int | None = None
        self._socket: socket.socket | None = None
        self._unsent: list[int] = []

    def keep(self, pipe: int) -> None:
        """Let it hold a pipe too."""
        if os.getpid() == 1:
            return  # nobody outlives us
        self._unsent.append(pipe)
        if self._socket is None and self.deadline is None:
            self._start()
        else:
            self._send()

    def _send(self) -> None:
        """Send what is to be held, as much as the socket takes; the rest a moment later."""
        if self._socket is None:
            return
        if len(self._unsent) > 1:  # some have waited, and may be closed by now
            open_now = set(self._output.open_pipes())
            self._unsent = [pipe for pipe in self._unsent if pipe in open_now]
        while self._unsent:
            some = self._unsent[:keeper_process.MOST_AT_ONCE]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", some))]
            try:
                self._socket.sendmsg([b"p"], rights, socket.MSG_DONTWAIT)
            except OSError:
                self.deadline = time.monotonic() + MOMENT
                return
            del self._unsent[:len(some)]

    def _start(self) -> None:
        command = [sys.executable, "-I", "-S", path(keeper_process.PROGRAM), "keeper_process",
                   *self._words]
        try:
            ours, theirs = socket.socketpair()
        except OSError:
            self.deadline = time.monotonic() + DELAY
            return
        program = -1
        try:
            program = os.memfd_create("einhornpy-keeper", os.MFD_CLOEXEC)
            os.write(program, self._own_code.read(PROGRAM))
            # Not told of our death: that is when its work begins.
            self._pid = self._processes.start(Launch(command, "/", self._environ,
                                                     [theirs.fileno(), program]))
        except (OSError, CannotStart):
            ours.close()
            self.deadline = time.monotonic() + DELAY
            return
        finally:
            theirs.close()
            if program >= 0:
                os.close(program)
        self._socket = ours
        self._unsent = list(self._output.open_pipes())
        self._send()

    def on_time(self, now: float) -> None:
        if self.deadline is None or now < self.deadline:
            return
        self.deadline = None
        if self._socket is not None:
            self._send()
        elif self._output.open_pipes():
            self._start()

    def on_exit(self, exit: Exit) -> bool:
        """Note that a child has exited; return whether it was the keeper."""
        if exit.pid != self._pid:
            return False
        self._forget()
        self.deadline = time.monotonic() + DELAY
        self._log(
            Entry(Event.KEEPER_DIED,
                  {"status": exit.status, "next_try_in": Seconds(DELAY, "g")}))
        return True

    def hand_over(self) -> dict[str, Any]:
        return {"keeper": None if self._socket is None else {
            "pid": self._pid, "fd": self._socket.fileno(), "unsent": self._unsent}}

    def take_over(self, state: State) -> None:
        kept: KeptKeeper | None = state["keeper"]
        if kept is None:
            # There may be pipes already, whose keeper died before the master before us could start
            # another one.
            self.deadline = None if os.getpid() == 1 else time.monotonic()
            return
        self._pid, self._socket = kept.pid, socket.socket(fileno=kept.fd)
        self._unsent = list(kept.unsent)
        self.deadline = time.monotonic() if self._unsent else None

    def close(self) -> None:
        """End it, or, where somebody still writes whom workers have left behind, leave it to end
        with them. Who that is, is seen when what is there has been read."""
        self._output.read_the_rest()
        if self._pid is not None and not self._output.open_pipes():
            self._processes.end(self._pid)
        self._forget()

    def _forget(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._pid, self._socket = None, None
