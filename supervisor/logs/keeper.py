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

from ..programs import keeper_process
from ..reporting.events import Entry, Event, Seconds
from ..system.processes import CannotStart, Exit, Launch, Processes

DELAY, MOMENT = 1.0, 0.05


class Keeper:
    """`pipes`: tells every pipe that is open now, for a new one. `escaped`: what workers print is
    escaped in the log (a keeper that is there already goes on as it was told). `inherited`: what
    `hand_over` of the master before us said."""

    def __init__(self, processes: Processes, environ: Mapping[str, str],
                 pipes: Callable[[], Iterable[int]], log: Callable[[Entry], None], escaped: bool,
                 inherited: Mapping[str, Any] | None) -> None:
        self._processes = processes
        self._environ = environ
        self._pipes = pipes
        self._log = log
        self._words = ["escaped"] if escaped else []
        self._pid: int | None = None
        self._socket: socket.socket | None = None
        self._unsent: list[int] = []
        # There may be pipes already, whose keeper died before the master before us could start
        # another one.
        self.deadline: float | None = None if os.getpid() == 1 else time.monotonic()
        if inherited is not None:
            self._pid, self._socket = inherited["pid"], socket.socket(fileno=inherited["fd"])
            self._unsent = list(inherited["unsent"])
            self.deadline = time.monotonic() if self._unsent else None

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
            open_now = set(self._pipes())
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
        command = [
            sys.executable, "-I", "-S",
            os.path.abspath(keeper_process.__file__), *self._words]
        try:
            ours, theirs = socket.socketpair()
        except OSError:
            self.deadline = time.monotonic() + DELAY
            return
        try:
            # Not told of our death: that is when its work begins.
            self._pid = self._processes.start(Launch(command, "/", self._environ,
                                                     [theirs.fileno()]))
        except CannotStart:
            ours.close()
            self.deadline = time.monotonic() + DELAY
            return
        finally:
            theirs.close()
        self._socket = ours
        self._unsent = list(self._pipes())
        self._send()

    def on_time(self, now: float) -> None:
        if self.deadline is None or now < self.deadline:
            return
        self.deadline = None
        if self._socket is not None:
            self._send()
        elif self._pipes():
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

    def hand_over(self) -> dict[str, Any] | None:
        """What the next master needs to know. `fd` must stay open."""
        return None if self._socket is None else {
            "pid": self._pid, "fd": self._socket.fileno(), "unsent": self._unsent}

    def close(self) -> None:
        """End it, or, where somebody still writes whom workers have left behind, leave it to end
        with them."""
        if self._pid is not None and not self._pipes():
            self._processes.end(self._pid)
        self._forget()

    def _forget(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._pid, self._socket = None, None
