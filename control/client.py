"""The blocking client of the control socket, and how to find the masters of this host.

No event loop and nothing beyond the standard library's cheapest modules: a deploy tool may start this every second.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from . import peer, protocol


class NoMaster(RuntimeError):
    """Nobody answers there; the message says where we looked."""


class SeveralMasters(NoMaster):
    """More than one could be meant."""


class MasterGone(RuntimeError):
    """The master closed the connection before the last reply."""


class TimedOut(RuntimeError):
    """The deadline passed before the next reply."""


class Failed(RuntimeError):
    """The master's answer was no. `code` as in `protocol.BadRequest`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Found:
    """A master: its name, control socket and pid; pid 0 if it listens but doesn't answer."""

    name: str
    path: str
    pid: int


class Client:
    """One connection to one master. A context manager."""

    def __init__(self, path: str, timeout: float | None = 10.0) -> None:
        """Connect to the control socket at `path`. `timeout`: seconds for everything that follows; None: no limit.

        Raises:
            NoMaster: nobody listens there.
        """
        self._use(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), timeout)
        self.path = path
        try:
            self._limit()
            self._socket.connect(path)
        except TimedOut:
            self._socket.close()
            raise
        except TimeoutError:
            self._socket.close()
            raise NoMaster(f"no answer from the master at {path}: its queue is full") from None
        except OSError as error:
            self._socket.close()
            raise NoMaster(f"no master at {path}: {error.strerror or error}") from None

    @classmethod
    def over(cls, connection: socket.socket, timeout: float | None = 10.0) -> Client:
        """Speak over a connection that is there already."""
        client = cls.__new__(cls)
        client._use(connection, timeout)
        client.path = ""
        return client

    def _use(self, connection: socket.socket, timeout: float | None) -> None:
        self._socket = connection
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._framer = protocol.Framer(longest=None)
        self._lines: list[bytes] = []

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    def hang_up(self) -> None:
        """End the connection, from another thread too: whoever waits for a reply gets MasterGone."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def process(self) -> int | None:
        """A pidfd of the master; None where its pid isn't one of ours to name: another PID namespace, or somebody else who made
        the socket. Raises as `replies` does."""
        pid, _, _ = peer.credentials(self._socket)
        try:
            return os.pidfd_open(pid) if pid == self.ask("ping")["result"]["pid"] else None
        except OSError:
            return None

    def wait_for_ever(self) -> None:
        """From now on no reply is too late: the master has answered once, and what follows takes its time."""
        self._deadline = None

    def allow(self, seconds: float) -> None:
        """From now on a reply is too late after so many seconds."""
        self._deadline = time.monotonic() + seconds

    def _limit(self) -> None:
        left = None if self._deadline is None else self._deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimedOut("no answer in time")
        self._socket.settimeout(left)

    def replies(self, command: str, **args: Any) -> Iterator[dict[str, Any]]:
        """Send a command; yield each reply, the last one without `wait`.

        Raises:
            Failed: the master refused; MasterGone: it hung up; TimedOut: the deadline passed.
        """
        return self.converse(protocol.request(command, args))

    def converse(self, request: Mapping[str, Any], number: Any = None) -> Iterator[dict[str, Any]]:
        """Send a request as it is; yield each reply. `number`: pass over what still answers another request. Raises as
        `replies` does."""
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
            raise MasterGone("the master closed the connection") from None

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """Return the next reply, whichever request it answers; None if none comes within so many seconds.

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
                raise MasterGone("the master closed the connection")
            self._lines.extend(self._framer.feed(data))
        try:
            reply = json.loads(self._lines.pop(0))
        except ValueError:
            reply = None
        if not isinstance(reply, dict) or not isinstance(reply.get("result", {}), dict):
            raise MasterGone("whoever answers there is no master: it doesn't speak as one")
        return reply


def connect(name: str | None, path: str | None, timeout: float | None = 10.0) -> Client:
    """Connect to the master that is meant; what the environment says counts where neither is given. Raises as `find` and `Client`
    do."""
    if name is None and path is None:
        name, path = os.environ.get("EINHORNPY_COMMAND_NAME"), os.environ.get("EINHORNPY_SOCKET_PATH")
    return Client(find(name, path), timeout)


def find(name: str | None, path: str | None) -> str:
    """Return the path of the control socket that is meant: `path`, the one of master `name`, or the only one.

    Raises:
        NoMaster: there is none, or there are several and neither is named.
    """
    if path is not None:
        return path
    masters = running()
    chosen = [master for master in masters if name is None or master.name == name]
    if len(chosen) == 1:
        return chosen[0].path
    known = ", ".join(f"{master.name} (pid {master.pid})" for master in masters)
    if not masters:
        places = ", ".join(_places())
        raise NoMaster(f"no master{f' named {name}' if name else ''} runs here: looked in {places}; "
                       "-d PATH names a control socket elsewhere")
    if not chosen:
        raise NoMaster(f"no master named {name} runs here: found {known}")
    where = "".join(f"; {master.name} at {master.path}" for master in chosen)
    raise SeveralMasters(f"several masters run here: choose one with -c NAME or -d PATH{where}")


def _places() -> list[str]:
    """Where masters may be: the usual directories, and those that systemd makes in them for its services."""
    places = protocol.socket_directories(os.environ, os.geteuid())
    if protocol.SYSTEM_DIRECTORY not in places:
        places.append(protocol.SYSTEM_DIRECTORY)
    below = []
    for place in places:
        try:
            with os.scandir(place) as entries:
                below += sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
        except OSError:
            continue
    return places + below


def running() -> list[Found]:
    """The masters of this user (for root: and of the system) that listen, by name. Each is asked once, briefly."""
    paths = []
    for directory in _places():
        try:
            names = sorted(os.listdir(directory))
            if stat.S_ISDIR(os.lstat(directory).st_mode):
                paths += [f"{directory}/{file}" for file in names if file.endswith(".sock")]
        except OSError:
            continue
    named = os.environ.get("EINHORNPY_SOCKET_PATH")
    found = []
    for path in [*([named] if named and named not in paths else []), *paths]:
        try:
            with Client(path, timeout=2.0) as client:
                result = client.ask("ping")["result"]
        except TimedOut:
            result = {"name": os.path.basename(path).removesuffix(".sock"), "pid": 0}
        except (NoMaster, MasterGone, Failed):
            continue
        found.append(Found(result["name"], path, result["pid"]))
    return found
