"""What systemd is told (sd_notify(3)) and what it gives (sd_listen_fds(3)), where it started this
master.

What to say is computed from the pool; saying it never waits and never fails: a service manager that
doesn't listen must not cost a worker.
"""

from __future__ import annotations

import array
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...shared import printable
from ...shared.frozen import dataclass
from ..core.pool import Pool
from ..core.worker_environment import FIRST_FD
from ..reporting.report import gate
from ..system.descriptors import open_from
from ..system.ledger import Ledger
from ..system.part import Keep, Part, State
from ..system.plain_data import to_plain

# A little more than what may still happen, so that the limit is ours and not systemd's.
MARGIN = 5.0
# A message that found no room is said again so many seconds later.
AGAIN = 0.5
SHORTEST_INTERVAL = 0.1


@dataclass(frozen=True, slots=True)
class Told:
    """What systemd knows. `reloading`: since an upgrade began. `extended`: until when, in monotonic
    seconds. `newest`: the newest generation, 0 where that isn't known."""

    ready: bool = False
    reloading: bool = False
    stopping: bool = False
    status: str = ""
    extended: float = 0.0
    newest: int = 0


def messages(pool: Pool, told: Told, now: float) -> tuple[list[str], Told]:
    """Return what is to be said, as lines of one message, and what systemd knows after it.

    READY=1 comes when all workers are ready; RELOADING=1 when an upgrade begins, and READY=1 again
    when it has ended, well or not, however soon, since `systemctl reload` waits for both;
    STOPPING=1; STATUS= in words; EXTEND_TIMEOUT_USEC= while workers
    start or drain and may take longer.
    """
    verdict, reason = gate(pool)
    lines: list[str] = []
    upgrading = pool.running_upgrade is not None
    begun = upgrading or 0 < told.newest < pool.newest
    told = replace(told, newest=pool.newest)
    if pool.stopping is not None:
        if not told.stopping:
            lines.append("STOPPING=1")
            # systemd counts anew in each phase: what it granted in the one before is over.
            told = replace(told, stopping=True, extended=0.0)
    elif told.reloading and not upgrading:
        lines.append("READY=1")
        told = replace(told, reloading=False)
    elif not told.ready and pool.complete:
        lines.append("READY=1")
        told = replace(told, ready=True)
    if told.ready and begun and not told.reloading and not told.stopping:
        lines += ["RELOADING=1", f"MONOTONIC_USEC={int(now * 1_000_000)}"]
        told = replace(told, reloading=True, extended=0.0)
    until = _may_take_until(pool, told)
    if until > max(told.extended, now):
        lines.append(f"EXTEND_TIMEOUT_USEC={int((until - now) * 1_000_000)}")
        told = replace(told, extended=until)
    status = printable.escaped(f"{verdict}: {reason}")
    # Of one that has ended already READY=1, which is still to come, tells how.
    if status != told.status and (upgrading or not told.reloading):
        lines.append(f"STATUS={status}")
        told = replace(told, status=status)
    return lines, told


def _may_take_until(pool: Pool, told: Told) -> float:
    """Until when systemd must be patient: while it starts us, reloads us or stops us."""
    ends = [0.0]
    for worker in pool.workers.values():
        if worker.retired_at is not None and (told.stopping or told.reloading):
            ends.append(pool.since(worker.retired_at) + pool.patience(worker) + MARGIN)
        if worker.ready_at is None and not told.stopping and (told.reloading or not told.ready):
            ends.append(pool.since(worker.spawned_at) + pool.policy.ready_timeout + MARGIN)
    return max(ends)


class Notifier(Part):
    """The way to systemd: NOTIFY_SOCKET and WATCHDOG_USEC of our own environment."""

    name = "systemd"
    keeps = {"systemd": Keep(Told, Told(), needed=True)}

    def __init__(self, environ: Mapping[str, str], ledger: Ledger) -> None:
        self._ledger = ledger
        self._told = Told()
        self._path = environ.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        self._interval: float | None = None
        self._watchdog_at: float | None = None
        self._again_at: float | None = None
        self._unstored: list[tuple[str, int]] = []
        if not self._path.startswith(("/", "@")):
            return
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", str(os.getpid()))
        if re.fullmatch("[0-9]{1,18}", usec) and int(usec) > 0 and pid == str(os.getpid()):
            self._interval = max(SHORTEST_INTERVAL, int(usec) / 2_000_000)
            self._watchdog_at = 0.0

    @property
    def deadline(self) -> float | None:
        """Due even if nothing has changed: systemd waits for a sign of life, or had
        no room for a message."""
        return min((at for at in (self._watchdog_at, self._again_at) if at is not None),
                   default=None)

    def hand_over(self) -> dict[str, Any]:
        return {"systemd": to_plain(self._told)}

    def take_over(self, state: State) -> None:
        self._told = state["systemd"]

    def on_time(self, now: float) -> None:
        """Say what has changed, and that we live where it is time for that."""
        if self._socket is None:
            return
        now = time.monotonic()  # what was done in this turn is in the pool
        while self._unstored and self._store(*self._unstored[0]):
            self._unstored.pop(0)
        lines, told = messages(self._ledger.pool, self._told, now)
        if self._interval is not None and now >= (self._watchdog_at or 0.0):
            lines.append("WATCHDOG=1")
            self._watchdog_at = now + self._interval
        if not lines or self._send("\n".join(lines)):
            self._told = told
            self._again_at = now + AGAIN if self._unstored else None
            if told.reloading and self._ledger.pool.running_upgrade is None:
                self._again_at = now  # it has ended already: two messages, or systemd sees but one
        else:
            # its queue is full: what it was to know, it has yet to be told
            self._again_at = now + AGAIN

    def store(self, sockets: Sequence[tuple[str, int]]) -> None:
        """Leave listening sockets, by name and descriptor, with systemd: should this process die,
        the next one gets them (`FDSTORE=1`, where the unit has a FileDescriptorStoreMax=)."""
        self._unstored = [each for each in sockets
                          if not self._store(*each)] if self._socket is not None else []

    def _store(self, name: str, fd: int) -> bool:
        return self._send(f"FDSTORE=1\nFDNAME={name}", [fd])

    def _send(self, text: str, descriptors: Sequence[int] = ()) -> bool:
        """Return whether it was taken; a socket that isn't there takes everything."""
        if self._socket is None:
            return True
        address = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                   array.array("i", descriptors))] if descriptors else []
        try:
            self._socket.sendmsg([text.encode(errors="replace")], rights, 0, address)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


def given_sockets(environ: Mapping[str, str]) -> list[tuple[int, str]]:
    """The descriptors that systemd gave this process, with their names ("" where there is none)."""
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid()) or not re.fullmatch("[0-9]{1,9}", count):
        return []
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    given = [fd for fd in open_from(FIRST_FD) if fd < FIRST_FD + int(count)]
    return [(fd, names[fd - FIRST_FD] if fd - FIRST_FD < len(names) else "") for fd in given]
