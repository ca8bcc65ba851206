"""The blocking client of the control socket.

No event loop and nothing beyond the standard library's cheapest modules: a deploy tool may start
this every second.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ..shared import peer, printable, protocol
from .finding import NoMaster as NoMaster
from .finding import SeveralMasters as SeveralMasters
from .finding import Trouble, doubt, find

# struct timeval, for socket(7).
_TIMEVAL = struct.Struct("@ll")


class MasterGone(Trouble):
    """The master closed the connection before the last reply."""


class TimedOut(Trouble):
    """The deadline passed before the next reply."""


class Failed(Trouble):
    """The master's answer was no. `code` as in `protocol.Code`, where its version
    is ours."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Client:
    """One connection to one master. A context manager. What it tells can be printed: texts hold
    escapes in place of what would steer a terminal or break a line. `verbatim`: they are as they
    were said, for JSON."""

    def __init__(self, path: str, timeout: float | None = 10.0, verbatim: bool = False) -> None:
        """Connect to the control socket at `path`. `timeout`: seconds for everything that follows;
        None: no limit.

        Raises:
            NoMaster: nobody listens there, or nobody who is believed; TimedOut: too many others
                wait to be heard.
        """
        self._use(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), timeout, verbatim)
        self.path = path
        try:
            self._connect(path)
            why = doubt(self._socket, path)
            if why is not None:
                raise NoMaster(f"no master at {path} that can be believed: {why}")
        except BaseException:
            self._socket.close()
            raise

    def _connect(self, path: str) -> None:
        left = self._left()
        # The kernel lets a connection that may block wait in line while the queue is full, and
        # refuses any other one at once.
        self._socket.settimeout(None)
        if left is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO,
                                    _TIMEVAL.pack(*divmod(int(left * 1e6) + 1, 10**6)))
        try:
            self._socket.connect(path)
        except BlockingIOError:
            raise TimedOut(f"no answer in time from {path}, where too many wait") from None
        except OSError as error:
            raise NoMaster(f"no master at {path}: {error.strerror or error}") from None
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(0, 0))

    @classmethod
    def over(cls, connection: socket.socket, timeout: float | None = 10.0,
             verbatim: bool = False) -> Client:
        """Speak over a connection that is there already."""
        client = cls.__new__(cls)
        client._use(connection, timeout, verbatim)
        client.path = ""
        return client

    def _use(self, connection: socket.socket, timeout: float | None, verbatim: bool) -> None:
        self._socket = connection
        self._verbatim = verbatim
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._framer = protocol.Framer(longest=None)
        self._lines: list[bytes] = []

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    def hang_up(self) -> None:
        """End the connection, from another thread too: whoever waits for a reply gets
        MasterGone."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def process(self) -> int | None:
        """A pidfd of the master; None where its pid isn't one of ours to name: another PID
        namespace, or somebody else who made the socket. Raises as `replies` does."""
        pid, _, _ = peer.credentials(self._socket)
        try:
            return os.pidfd_open(pid) if pid == self.ask("ping")["result"]["pid"] else None
        except OSError:
            return None

    def wait_for_ever(self) -> None:
        """From now on no reply is too late: the master has answered once, and what follows takes
        its time."""
        self._deadline = None

    def allow(self, seconds: float) -> None:
        """From now on a reply is too late after so many seconds."""
        self._deadline = time.monotonic() + seconds

    def _left(self) -> float | None:
        left = None if self._deadline is None else self._deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimedOut("no answer in time")
        return left

    def _limit(self) -> None:
        self._socket.settimeout(self._left())

    def replies(self, command: str, **args: Any) -> Iterator[dict[str, Any]]:
        """Send a command; yield each reply, the last one without `wait`.

        Raises:
            Failed: the master refused; MasterGone: it hung up; TimedOut: the deadline passed.
        """
        return self.converse(protocol.request(command, args))

    def converse(self, request: Mapping[str, Any], number: Any = None) -> Iterator[dict[str, Any]]:
        """Send a request as it is; yield each reply. `number`: pass over what still answers another
        request. Raises as `replies` does."""
        self.send(request)
        while True:
            reply = self.next_reply()
            if number is not None and reply.get("request_id") not in (number, None):
                continue
            if not reply.get("ok") and "error" in reply:
                raise Failed(reply["error"].get("code", "failed"), reply["message"])
            yield reply
            if not reply.get("wait"):
                return

    def ask(self, command: str, **args: Any) -> dict[str, Any]:
        """Send a command and return its last reply. Raises as `replies` does."""
        last: dict[str, Any] = {}
        for last in self.replies(command, **args):
            pass
        return last

    def send(self, request: Mapping[str, Any]) -> None:
        """Send a request whose answers come by `next_reply` or `receive`.

        Raises:
            MasterGone: it hung up; TimedOut: it doesn't read.
        """
        try:
            self._limit()
            self._socket.sendall(protocol.encode(request))
        except TimeoutError:
            raise TimedOut("no answer in time") from None
        except (BrokenPipeError, ConnectionResetError):
            raise self._gone() from None

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """Return the next reply, whichever request it answers; None if none comes within so many
        seconds.

        Raises:
            MasterGone: the master hung up.
        """
        before, self._deadline = self._deadline, time.monotonic() + seconds
        try:
            return self.next_reply()
        except TimedOut:
            return None
        finally:
            self._deadline = before

    def next_reply(self) -> dict[str, Any]:
        """The next reply, whatever it answers.

        Raises:
            MasterGone: it hung up; TimedOut: the deadline passed.
        """
        import json

        while not self._lines:
            self._limit()
            try:
                data = self._socket.recv(1 << 18)
            except TimeoutError:
                raise TimedOut("no answer in time") from None
            except ConnectionResetError:
                data = b""
            if not data:
                raise self._gone()
            self._lines.extend(self._framer.feed(data))
        try:
            reply = json.loads(self._lines.pop(0))
            reply = reply if self._verbatim else printable.document(reply)
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict) or not isinstance(reply.get("result", {}), dict):
            raise MasterGone("whoever answers there is no master: it doesn't speak as one")
        return reply

    def _gone(self) -> MasterGone:
        """What to say of a connection that is closed: its master has ended, or only doesn't want
        this one."""
        # one that was killed may lose its connections before its listener
        for _ in range(5 if self.path else 0):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as another:
                another.setblocking(False)
                try:
                    another.connect(self.path)
                except (FileNotFoundError, ConnectionRefusedError):
                    return MasterGone("the master has ended; its log says why")
                except OSError:
                    break
            select.select([], [], [], 0.05)
        return MasterGone("the master closed the connection")


def connect(name: str | None, path: str | None, timeout: float | None = 10.0,
            verbatim: bool = False) -> Client:
    """Connect to the master that is meant; what the environment says counts where neither is given.
    Raises as `find` and `Client` do."""
    if name is None and path is None:
        name, path = os.environ.get("EINHORNPY_COMMAND_NAME"), os.environ.get(
            "EINHORNPY_SOCKET_PATH")
    return Client(find(name, path), timeout, verbatim)
