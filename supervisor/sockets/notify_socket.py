"""What workers say about themselves, from every way in which they may say it, as one stream of
notices.

It believes nothing but the kernel's word on who speaks: a notice carries the worker whose process
said it, found when that process was alive, so that whoever has its pid later says nothing in its
name.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ...shared import peer
from ..system import files
from ..system.loop import READ, Loop
from . import binding
from .listeners import CannotListen

LONGEST_ERROR = 4000
# What gunicorn's arbiter says together with READY=1, before its workers have imported anything
# (gunicorn/arbiter.py, start).
_ARBITER = b"STATUS=Gunicorn arbiter"
# So many are read in one turn: all that the kernel queues, with the usual limits, so that each is
# read before the next fork.
MOST_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Notice:
    """`worker`: its id. `said`: ready, alive (a heartbeat), due (to be recycled) or failed, the
    last two with the reason in `error`; arbiter: it is gunicorn's own, whose word on readiness is
    worth nothing. `request_id`: what a ping of Einhorn's clients says it is busy with. `framework`:
    what a gunicorn app says it is made with."""

    worker: int
    said: Literal["ready", "alive", "due", "failed", "arbiter"]
    error: str | None = None
    request_id: str | None = None
    framework: str | None = None


def from_command(command: str, args: Mapping[str, Any], pid: int, worker: int) -> Notice | str:
    """Read a `worker:…` command of the control socket; return why it doesn't count where it
    doesn't. `pid`, `worker`: whose word it is.

    An ack counts only from the process it speaks of.
    """
    named = str(args.get("pid", pid))
    if named != str(pid):
        return f"it speaks of pid {named[:20]!r}"
    match command:
        case "worker:ack":
            framework = args.get("framework")
            return Notice(worker, "ready",
                          framework=framework if isinstance(framework, str) else None)
        case "worker:ping":
            request_id = args.get("request_id")
            return Notice(worker, "alive",
                          request_id=None if request_id is None else str(request_id)[:200])
        case _:
            error = args.get("error")
            return Notice(worker, "failed",
                          str(error)[:LONGEST_ERROR] if error else "it gave no reason")


class NotifySocket:
    """The datagram socket behind NOTIFY_SOCKET: sd_notify(3)'s `READY=1` and `WATCHDOG=1`, and our
    own `X_EINHORNPY_DUE=`, by which a worker asks to be recycled, for the reason after it."""

    def __init__(self, loop: Loop, path: str, mode: int, worker_of: Callable[[int], int],
                 worker_above: Callable[[int], int], receive: Callable[[Notice], None],
                 fd: int | None = None) -> None:
        """Bind the socket at `path` with these permission bits, or go on with the bound one that
        `fd` is. `worker_of`: the worker that has a pid, `worker_above`: in whose process tree it
        is; 0 if none."""
        self.path = path
        self._loop = loop
        self._worker_of = worker_of
        self._worker_above = worker_above
        self._receive = receive
        if fd is None:
            self._socket = self._bound(path, mode)
        else:
            self._socket = socket.socket(fileno=fd)
        self._by_pidfd = peer.ask_who_sends(self._socket)
        loop.watch(self._socket.fileno(), READ, self._read)

    @staticmethod
    def _bound(path: str, mode: int) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        made.setblocking(False)
        try:
            binding.clear(path)
            binding.bind(made, path, mode)
        except OSError as error:
            made.close()
            raise CannotListen(f"cannot bind {path}: {error.strerror}") from None
        return made

    def fileno(self) -> int:
        return self._socket.fileno()

    def _read(self, events: int) -> None:
        room = peer.room_for_sender(self._by_pidfd)
        for _ in range(MOST_AT_ONCE):
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(4096, room, socket.MSG_DONTWAIT)
            except OSError:
                return
            sender, lines = peer.sender(ancillary, self._by_pidfd), data.split(b"\n")
            arbiter = any(line.startswith(_ARBITER) for line in lines)
            worker = self._worker_above(sender) if arbiter else self._worker_of(sender)
            if flags & socket.MSG_TRUNC or not worker:
                continue
            if arbiter:
                self._receive(Notice(worker, "arbiter"))
                continue
            if b"READY=1" in lines:
                self._receive(Notice(worker, "ready"))
            if b"WATCHDOG=1" in lines:
                self._receive(Notice(worker, "alive"))
            for line in lines:
                if line.startswith(b"X_EINHORNPY_DUE="):
                    reason = line.partition(b"=")[2].decode(errors="replace")[:200]
                    self._receive(Notice(worker, "due", reason or "asked for it"))

    def close(self) -> None:
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        files.remove(self.path)
