"""What workers say about themselves, from every way in which they may say it, as one stream of notices.

It believes nothing but the kernel's word on who speaks: a notice carries the pid of the sending process.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .listeners import CannotListen
from .loop import READ, Loop

_UCRED = struct.Struct("=iII")
LONGEST_ERROR = 4000


@dataclass(frozen=True, slots=True)
class Notice:
    """`said`: ready, alive (a heartbeat), due (to be recycled) or failed; the last two with the reason in `error`."""

    pid: int
    said: Literal["ready", "alive", "due", "failed"]
    error: str | None = None


def from_command(command: str, args: Mapping[str, Any], peer: int) -> Notice | str:
    """Read a `worker:…` command of the control socket; return why it doesn't count where it doesn't.

    An ack counts only from the process it speaks of.
    """
    pid = args.get("pid", peer)
    if pid != peer:
        return f"it speaks of pid {pid!r}"
    match command:
        case "worker:ack":
            return Notice(peer, "ready")
        case "worker:ping":
            return Notice(peer, "alive")
        case _:
            error = args.get("error")
            return Notice(peer, "failed", str(error)[:LONGEST_ERROR] if error else "it gave no reason")


class NotifySocket:
    """The datagram socket behind NOTIFY_SOCKET: sd_notify(3)'s `READY=1` and `WATCHDOG=1`, and our own `X_EINHORNPY_DUE=`,
    by which a worker asks to be recycled, for the reason after it."""

    def __init__(self, loop: Loop, path: str, receive: Callable[[Notice], None]) -> None:
        self.path = path
        self._loop = loop
        self._receive = receive
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        try:
            if os.path.lexists(path):
                os.unlink(path)
            self._socket.bind(path)
        except OSError as error:
            raise CannotListen(f"cannot bind {path}: {error.strerror}") from None
        os.chmod(path, 0o600)
        loop.watch(self._socket.fileno(), READ, self._read)

    def _read(self, events: int) -> None:
        for _ in range(256):
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(_UCRED.size))
            except BlockingIOError:
                return
            except OSError:
                return
            pids = [
                _UCRED.unpack(content[: _UCRED.size])[0] for level, kind, content in ancillary
                if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and len(content) >= _UCRED.size
            ]
            if flags & socket.MSG_TRUNC or not pids:
                continue
            lines = data.split(b"\n")
            if b"READY=1" in lines:
                self._receive(Notice(pids[0], "ready"))
            if b"WATCHDOG=1" in lines:
                self._receive(Notice(pids[0], "alive"))
            for line in lines:
                if line.startswith(b"X_EINHORNPY_DUE="):
                    reason = line.partition(b"=")[2].decode(errors="replace")[:200]
                    self._receive(Notice(pids[0], "due", reason or "asked for it"))

    def close(self) -> None:
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        try:
            os.unlink(self.path)
        except OSError:
            pass
