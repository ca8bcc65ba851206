"""What workers say about themselves, from every way in which they may say it, as one stream of
notices.

It believes nothing but the kernel's word on who speaks: a notice carries the worker whose process
said it, found when that process was alive, so that whoever has its pid later says nothing in its
name.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

from ...shared import peer
from ...shared.frozen import dataclass
from ..sockets import binding
from ..sockets.listeners import CannotListen
from ..system.loop import READ, Loop
from ..system.part import Keep, Kept, Part, State

LONGEST_ERROR = 4000
# What gunicorn's arbiter says together with READY=1, before its workers have imported anything
# (gunicorn/arbiter.py, start).
_ARBITER = b"STATUS=Gunicorn arbiter"
# How a worker hands over the page in which it counts its traffic.
_PAGE = {b"FDSTORE=1", b"FDNAME=einhornpy-traffic"}
# Bytes of a datagram; a longer one is passed over.
LONGEST = 4096
# So many are read in one turn: all that the kernel queues, with the usual limits, so that each is
# read before the next fork.
MOST_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Notice:
    """`worker`: its id. `said`: ready, alive (a heartbeat), due (to be recycled) or failed, the
    last two with the reason in `error`; arbiter: it is gunicorn's own, whose word on readiness is
    worth nothing; page: it counts its traffic where `descriptor` leads, which is open until this
    was heard; traffic: what it says of that in `text`. `request_id`: what a ping of Einhorn's
    clients says it is busy with. `framework`: what a gunicorn app says it is made with."""

    worker: int
    said: Literal["ready", "alive", "due", "failed", "arbiter", "page", "traffic"]
    error: str | None = None
    request_id: str | None = None
    framework: str | None = None
    descriptor: int = -1
    text: bytes = b""


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


@dataclass(frozen=True, slots=True)
class KeptWay(Kept):
    """Both ends of what workers have by descriptor."""

    ours: int
    theirs: int

    def descriptors(self) -> Iterable[int]:
        return [self.ours, self.theirs]


class NotifySocket(Part):
    """The datagram socket behind NOTIFY_SOCKET: sd_notify(3)'s `READY=1` and `WATCHDOG=1`, and our
    own: `X_EINHORNPY_DUE=`, by which a worker asks to be recycled, for the reason after it,
    `X_EINHORNPY_TRAFFIC=`, and a page of its own by sd_pid_notify_with_fds(3).

    The socket has a path, as that protocol wants it. Whatever becomes of its file, whoever is given
    the descriptor `way` reaches us too: a socket that is connected to us, the same for all."""

    name = "notify"
    keeps = {"notify": Keep(int, needed=True, descriptor=True),
             "notify_made": Keep(tuple[int, int] | None), "notify_way": Keep(KeptWay | None)}

    def __init__(self, loop: Loop, worker_of: Callable[[int], int],
                 worker_above: Callable[[int], int], receive: Callable[[Notice], None],
                 mode: int) -> None:
        """`worker_of`: the worker that has a pid, `worker_above`: in whose process tree it is; 0
        if none. `mode`: the permission bits of its file."""
        self.path = ""
        self._mode = mode
        self._made: tuple[int, int] = (0, 0)
        self._loop = loop
        self._worker_of = worker_of
        self._worker_above = worker_above
        self._receive = receive
        self._socket: socket.socket | None = None
        self._by_pidfd = False
        self._ours: socket.socket | None = None
        self._theirs: socket.socket | None = None

    def open(self, path: str) -> None:
        """Bind it at `path`; whatever was said to the one before is read first.

        Raises:
            CannotListen: there can be none.
        """
        before, opened = self._socket, self._bound(path)
        if before is not None:
            self._read(before, self._by_pidfd, READ)
            self._loop.unwatch(before.fileno())
            before.close()
        self._begin(path, opened, binding.identity(path))
        if self._ours is None:
            self._begin_way(*socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))

    def _begin_way(self, ours: socket.socket, theirs: socket.socket) -> None:
        self._ours, self._theirs = ours, theirs
        self._loop.watch(ours.fileno(), READ,
                         partial(self._read, ours, peer.ask_who_sends(ours)))

    @property
    def way(self) -> int:
        """A descriptor for workers; the socket is open."""
        assert self._theirs is not None
        return self._theirs.fileno()

    def _begin(self, path: str, opened: socket.socket, made: tuple[int, int]) -> None:
        self.path, self._socket, self._made = path, opened, made
        self._by_pidfd = peer.ask_who_sends(opened)
        self._loop.watch(opened.fileno(), READ, partial(self._read, opened, self._by_pidfd))

    @property
    def lost(self) -> bool:
        """Whether nobody can reach it by its path."""
        return self._socket is not None and not binding.is_still(self.path, self._made)

    def hand_over(self) -> dict[str, Any]:
        return {"notify": None if self._socket is None else self._socket.fileno(),
                "notify_made": self._made,
                "notify_way": None if self._ours is None or self._theirs is None else {
                    "ours": self._ours.fileno(), "theirs": self._theirs.fileno()}}

    def take_over(self, state: State) -> None:
        fd: int | None = state["notify"]
        if fd is not None:
            path = state["place"].notify_path
            made = state["notify_made"]
            if made is None:  # an earlier version didn't say
                made = binding.identity_or_none(path)
            self._begin(path, socket.socket(fileno=fd), made)
            way: KeptWay | None = state["notify_way"]
            self._begin_way(*(socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) if way is None
                              else (socket.socket(fileno=end) for end in way.descriptors())))

    def _bound(self, path: str) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        made.setblocking(False)
        try:
            binding.clear(path, socket.SOCK_DGRAM)
            binding.bind(made, path, self._mode)
        except OSError as error:
            made.close()
            raise CannotListen(f"cannot bind {path}: {error.strerror}") from None
        return made

    def _read(self, opened: socket.socket, by_pidfd: bool, events: int) -> None:
        room = peer.room_for_sender(by_pidfd)
        for _ in range(MOST_AT_ONCE):
            try:
                data, ancillary, flags, _ = opened.recvmsg(
                    LONGEST, room, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
            except OSError:
                return
            descriptors = peer.descriptors(ancillary)
            try:
                sender = peer.sender(ancillary, by_pidfd)
                if not flags & socket.MSG_TRUNC:
                    self._hear(sender, data.split(b"\n"), descriptors)
            finally:
                for each in descriptors:
                    os.close(each)

    def _hear(self, sender: int, lines: list[bytes], descriptors: list[int]) -> None:
        arbiter = any(line.startswith(_ARBITER) for line in lines)
        worker = self._worker_above(sender) if arbiter else self._worker_of(sender)
        if not worker:
            return
        if arbiter:
            self._receive(Notice(worker, "arbiter"))
            return
        if b"READY=1" in lines:
            self._receive(Notice(worker, "ready"))
        if b"WATCHDOG=1" in lines:
            self._receive(Notice(worker, "alive"))
        if len(descriptors) == 1 and {*lines} >= _PAGE:
            self._receive(Notice(worker, "page", descriptor=descriptors[0]))
        for line in lines:
            name, _, text = line.partition(b"=")
            if name == b"X_EINHORNPY_DUE":
                reason = text.decode(errors="replace")[:200]
                self._receive(Notice(worker, "due", reason or "asked for it"))
            elif name == b"X_EINHORNPY_TRAFFIC":
                self._receive(Notice(worker, "traffic", text=text))

    def close(self) -> None:
        if self._socket is None:
            return
        self._loop.unwatch(self._socket.fileno())
        binding.remove(self.path, self._made)
        self._socket.close()
        for end in (self._ours, self._theirs):
            if end is not None:
                self._loop.unwatch(end.fileno())
                end.close()
