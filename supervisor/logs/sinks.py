"""Where log lines go: a descriptor, a file, a datagram socket. Nothing here ever waits, and no line
is lost without being counted.

What can't be written at once is kept, up to a limit; beyond it lines are dropped, and a note says
how many as soon as there is room again.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from ...shared.frozen import dataclass
from ..system import files
from ..system.loop import WRITE

MOST_UNWRITTEN = 1 << 20
AT_ONCE = 1 << 16
# What the last lines get at the end of the process.
PATIENCE = 1.0


class Loop(Protocol):
    """What a sink needs of the master's loop."""

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None: ...
    def unwatch(self, fd: int) -> None: ...


class CannotLog(ValueError):
    """One line: where the log can't be written, and why."""


@dataclass(slots=True)
class Counts:
    """`lines` that were to be written, `dropped` of them that were not, `unsaid` of these that no
    line has spoken of yet."""

    lines: int = 0
    dropped: int = 0
    unsaid: int = 0


@dataclass(frozen=True, slots=True)
class KeptUnwritten:
    data: str
    lines: int
    noted: int
    begun: bool


@dataclass(slots=True)
class _Unwritten:
    """Whole lines, or what is left of them. `noted`: it is a note that so many lines were dropped.
    `begun`: a part is written."""

    data: memoryview
    lines: int
    noted: int = 0
    begun: bool = False


def _writable(fd: int, patience: float) -> bool:
    """Whether something can be written within `patience` seconds. By poll(2): select(2) knows no
    descriptor above 1023."""
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return bool(poller.poll(patience * 1000))


class Sink:
    """Takes whole lines (or datagrams) and writes them in their order. `note`: makes the line that
    says how many were dropped. `whole`: each piece is one datagram."""

    whole = False

    def __init__(self, loop: Loop, counts: Counts, note: Callable[[int], bytes]) -> None:
        self._loop = loop
        self._counts = counts
        self._note = note
        self._unwritten: deque[_Unwritten] = deque()
        self._size = 0
        self._cut = False  # the last line that was written has no end
        self._waiting: list[Callable[[], None]] = []

    def put(self, data: bytes, lines: int = 1) -> None:
        """Write `lines` lines, now or later, or drop and count them."""
        self._counts.lines += lines
        if self._unwritten and self._size + len(data) > MOST_UNWRITTEN:
            self._drop(lines)
            return
        if self._counts.unsaid:
            dropped, self._counts.unsaid = self._counts.unsaid, 0
            self._append(_Unwritten(memoryview(self._note(dropped)), 0, dropped))
        self._append(_Unwritten(memoryview(data), lines))
        self.flush()

    def _append(self, piece: _Unwritten) -> None:
        self._unwritten.append(piece)
        self._size += len(piece.data)

    def _drop(self, lines: int) -> None:
        self._counts.dropped += lines
        self._counts.unsaid += lines

    @property
    def room(self) -> bool:
        """Whether as much as is read at once can surely be taken."""
        return self._size <= MOST_UNWRITTEN - AT_ONCE

    def when_there_is_room(self, callback: Callable[[], None]) -> None:
        """Call back once, as soon as nothing is left unwritten."""
        self._waiting.append(callback)

    def flush(self) -> None:
        """Write what can be written without waiting."""
        while self._unwritten:
            piece = self._unwritten[0]
            try:
                if self._cut:
                    self._send(memoryview(b"\n"))
                    self._cut = False
                sent = self._send(piece.data if self.whole else piece.data[:AT_ONCE])
            except BlockingIOError:
                self._loop.watch(self.fileno(), WRITE, lambda events: self.flush())
                return
            except OSError:
                self._give_up(piece)
                continue
            self._size -= sent
            piece.data, piece.begun = piece.data[sent:], True
            if not piece.data or self.whole:
                self._unwritten.popleft()
        self._loop.unwatch(self.fileno())
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()

    def _give_up(self, piece: _Unwritten) -> None:
        self._unwritten.popleft()
        self._size -= len(piece.data)
        self._cut = self._cut or piece.begun
        self._drop(piece.lines)
        self._counts.unsaid += piece.noted  # nobody has read of these

    def hand_over(self) -> list[dict[str, Any]]:
        """What is unwritten, for the next master."""
        self.flush()
        return [{
            "data": bytes(each.data).decode("latin-1"), "lines": each.lines, "noted": each.noted,
            "begun": each.begun} for each in self._unwritten]

    def take_over(self, kept: Iterable[KeptUnwritten]) -> None:
        """Write first what the master before us could not."""
        for each in kept:
            self._append(
                _Unwritten(memoryview(each.data.encode("latin-1")), each.lines, each.noted,
                           each.begun))
        self.flush()

    def close(self) -> None:
        """Write the rest, for a moment."""
        deadline = time.monotonic() + PATIENCE
        while self._unwritten and time.monotonic() < deadline:
            _writable(self.fileno(), max(0.0, deadline - time.monotonic()))
            self.flush()
        self._loop.unwatch(self.fileno())

    def _send(self, data: memoryview) -> int:
        """Write a part of `data` without waiting; return how many bytes.

        Raises:
            BlockingIOError: nothing can be written now. OSError: it never can.
        """
        raise NotImplementedError

    def fileno(self) -> int:
        raise NotImplementedError


class Descriptor(Sink):
    """An inherited descriptor, such as standard error, which others write to as well and may want
    to be blocking."""

    def __init__(self, fd: int, loop: Loop, counts: Counts, note: Callable[[int], bytes]) -> None:
        super().__init__(loop, counts, note)
        self._fd = fd
        self._socket: socket.socket | None = None
        self._polls = False
        kind = os.fstat(fd).st_mode
        if stat.S_ISSOCK(kind):
            self._socket = socket.socket(fileno=os.dup(fd))
        elif not stat.S_ISREG(kind):
            try:
                # A description of our own: whether it blocks is then nobody else's business.
                self._fd = os.open(f"/proc/self/fd/{fd}",
                                   os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            except OSError:
                self._polls = True

    def _send(self, data: memoryview) -> int:
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        if self._polls:
            # A pipe that polls as writable has room for PIPE_BUF bytes (pipe(7)): so many can't
            # block.
            if not _writable(self._fd, 0.0):
                raise BlockingIOError
            data = data[: select.PIPE_BUF]
        return os.write(self._fd, data)

    def fileno(self) -> int:
        return self._fd if self._socket is None else self._socket.fileno()

    def close(self) -> None:
        super().close()
        if self._socket is not None:
            self._socket.close()
        elif self._fd > 2:
            os.close(self._fd)


class File(Sink):
    """A file that is appended to. `reopen` follows one that was moved away."""

    def __init__(self, path: str, loop: Loop, counts: Counts, note: Callable[[int], bytes]) -> None:
        super().__init__(loop, counts, note)
        self._path = path
        self._fd = self._open()

    def _open(self) -> int:
        try:
            return files.opened(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        except OSError as error:
            reason = "nobody reads this pipe" if error.errno == errno.ENXIO else error.strerror
            raise CannotLog(f"--log-file: cannot write {self._path}: {reason}") from None

    def reopen(self) -> None:
        """Open the path anew.

        Raises:
            CannotLog: it can't be opened; the old file stays open.
        """
        fd = self._open()
        self._loop.unwatch(self._fd)
        os.close(self._fd)
        self._fd = fd
        self.flush()

    def _send(self, data: memoryview) -> int:
        return os.write(self._fd, data)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        super().close()
        os.close(self._fd)


class Datagrams(Sink):
    """A datagram socket at `path`: journald's, or /dev/log. One that was restarted is found
    again."""

    whole = True

    def __init__(self, path: str, loop: Loop, counts: Counts, note: Callable[[int], bytes]) -> None:
        super().__init__(loop, counts, note)
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.connect(path)
        except OSError as error:
            raise CannotLog(f"--log-to: nobody listens at {path}: {error.strerror}") from None

    def _send(self, data: memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                raise
            self._socket.connect(self._path)
            return self._socket.send(data)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        super().close()
        self._socket.close()
