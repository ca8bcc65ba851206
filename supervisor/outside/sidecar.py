"""The web sidecar as the master sees it: a child with a listening socket and two connections to the
control socket that may only look. Restarted with growing delays, never one of the N workers; what
it serves is control/web's business.
"""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence

from ...shared import backoff
from ..reporting.events import Entry, Event, Seconds
from ..sockets.listener import Listener
from ..system.own_code import OwnCode
from ..system.processes import CannotStart, Exit, Processes

FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0
# One that has lived for so long died for a reason of its own.
SETTLED = 60.0


class Sidecar:
    """`listener`: where it serves. `admit`: takes one end of a connection that may only look.
    `user`: (uid, gid) for it to become, None for ours. `metrics`: the directory of the app's own
    metrics, if there is one. `hosts`: by which other names it may be asked."""

    def __init__(self, processes: Processes, listener: Listener, environ: Mapping[str, str],
                 name: str, user: tuple[int, int] | None, metrics: str | None, hosts: Sequence[str],
                 admit: Callable[[socket.socket], None], log: Callable[[Entry], None],
                 own_code: OwnCode) -> None:
        self._processes = processes
        self.listener = listener
        self._environ = environ
        self._told = json.dumps({"name": name, "user": user, "metrics": metrics, "hosts": hosts})
        self._admit = admit
        self._log = log
        self._own_code = own_code
        self.pid: int | None = None
        self._started_at = 0.0
        self._failures = 0
        self.deadline: float | None = time.monotonic()  # when it is to be started

    def on_time(self, now: float) -> None:
        """Start it, if it is time."""
        if self.deadline is None or now < self.deadline:
            return
        self.deadline = None
        pairs: list[tuple[socket.socket, socket.socket]] = []
        try:
            pairs += [socket.socketpair() for _ in range(2)]
        except OSError as error:
            self._lost(f"no connection for it: {error.strerror}", now)
            return
        descriptors = [self.listener.socket.fileno(), *(theirs.fileno() for _, theirs in pairs)]
        launch = self._own_code.launch("control.web", [self._told], self._environ, descriptors,
                                       signal.SIGTERM)
        try:
            self.pid = self._processes.start(launch)
        except CannotStart as error:
            for ours, _ in pairs:
                ours.close()
            self._lost(str(error), now)
            return
        finally:
            for _, theirs in pairs:
                theirs.close()
        self._started_at = now
        for ours, _ in pairs:
            self._admit(ours)
        self._log(Entry(Event.WEB_STARTED, {"pid": self.pid, "listen": self.listener.name}))

    def on_exit(self, exit: Exit) -> bool:
        """Note that a child has exited; return whether it was this one."""
        if exit.pid != self.pid:
            return False
        self.pid = None
        now = time.monotonic()
        if now - self._started_at >= SETTLED:
            self._failures = 0
        self._lost(exit.error or f"status {exit.status}", now)
        return True

    def _lost(self, why: str, now: float) -> None:
        self._failures += 1
        delay = backoff.delay_after(self._failures, FIRST_DELAY, LONGEST_DELAY)
        self.deadline = now + delay
        self._log(Entry(Event.WEB_DIED, {"why": why, "next_try_in": Seconds(delay, "g")}))

    def take_over(self, pid: int | None) -> None:
        """End that of the master before us: ours is of the new version. Who asks meanwhile waits in
        the queue of the socket."""
        self.pid = pid
        self._end()

    def close(self) -> None:
        """End it, without letting it finish: what it streams has no end."""
        self.deadline = None
        self._end()

    def _end(self) -> None:
        if self.pid is None:
            return
        self._processes.end(self.pid)
        self.pid = None
