"""Which masters there are, and whom a client believes: where control sockets may lie, and whose
process may answer at them.

Anybody can make a directory in /tmp, and a socket in it that says that all is well. So the file
system says who may have put a socket there, and the kernel who listens at it.
"""

from __future__ import annotations

import json
import os
import select
import socket
import stat
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..shared import peer, printable, protocol
from ..shared.frozen import dataclass

# Whoever is silent for so many seconds is listed without an answer; they are all asked at once.
PATIENCE = 2.0
LONGEST_ANSWER = 1 << 16


class Trouble(RuntimeError):
    """What goes wrong with masters and clients; the message is one printable line, whatever paths
    and answers are in it."""

    def __init__(self, message: str) -> None:
        super().__init__(printable.escaped(message))


class NoMaster(Trouble):
    """Nobody answers there, or nobody who is believed; the message says where we looked."""


class SeveralMasters(NoMaster):
    """More than one could be meant."""


@dataclass(frozen=True, slots=True)
class Found:
    """A master: its name, control socket and pid; pid 0 if it listens but doesn't answer.
    `elsewhere`: in a directory of somebody who is neither we nor root."""

    name: str
    path: str
    pid: int
    elsewhere: bool = False


def find(name: str | None, path: str | None) -> str:
    """Return the path of the control socket that is meant: `path`, the one of master `name`, or the
    only one.

    Raises:
        NoMaster: there is none, or there are several and neither is named.
    """
    if path is not None:
        return path
    passed_over: list[str] = []
    masters = running(passed_over)
    chosen = [master for master in masters if name is None or master.name == name]
    # nobody else can take a name from us, or make it ambiguous
    if name is not None and len(chosen) > 1:
        chosen = [master for master in chosen if not master.elsewhere] or chosen
    if len(chosen) == 1:
        return chosen[0].path
    if chosen:
        where = "".join(f"; {master.name} at {master.path}" for master in chosen)
        raise SeveralMasters(f"several masters run here: choose one with -c NAME or -d PATH{where}")
    raise NoMaster(_none_of(name, masters, passed_over))


def _none_of(name: str | None, masters: Sequence[Found], passed_over: Sequence[str]) -> str:
    """What to say where nobody is the one that is meant."""
    beside = f" (passed over {'; '.join(passed_over)})" if passed_over else ""
    if masters:
        known = ", ".join(f"{master.name} (pid {master.pid})" for master in masters)
        return f"no master named {name} runs here: found {known}{beside}"
    named = f" named {name}" if name else ""
    return (f"no master{named} runs here: looked in {', '.join(_places())}{beside}; "
            "-d PATH names a control socket elsewhere")


def running(passed_over: list[str] | None = None) -> list[Found]:
    """The masters of this user (for root: and of the system) that listen, by name. Each is asked
    once, briefly, all at the same time. `passed_over` is given a line for each place and each
    socket that isn't believed."""
    paths: dict[str, bool] = {}
    doubts = [] if passed_over is None else passed_over
    for directory in _places():
        try:
            why, only = _trust(directory)
            if why is None:
                paths |= {
                    f"{directory}/{file}": only is not None
                    for file in sorted(os.listdir(directory))
                    if file.endswith(".sock") and only in (None, file)}
            else:
                doubts.append(f"{directory}: {why}")
        except OSError:
            continue
    named = os.environ.get("EINHORNPY_SOCKET_PATH")
    return _answering(({named: False} if named and named not in paths else {}) | paths, doubts)


def _places() -> list[str]:
    """Where masters may be: the usual directories, and those that systemd makes in them for its
    services."""
    places = protocol.socket_directories(os.environ, os.geteuid())
    if protocol.SYSTEM_DIRECTORY not in places:
        places.append(protocol.SYSTEM_DIRECTORY)
    below = []
    for place in places:
        try:
            if _trust(place)[0] is None:
                with os.scandir(place) as entries:
                    below += sorted(entry.path for entry in entries
                                    if entry.is_dir(follow_symlinks=False))
        except OSError:
            continue
    return places + below


def _trust(directory: str) -> tuple[str | None, str | None]:
    """(why no socket in there is believed, None if they are; the name of the only one that is, None
    if all are). Whoever may write there could have put one of his own there."""
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode):
        return "it is no directory, or a link to one", None
    if found.st_mode & 0o022:
        return "others may write there", None
    if found.st_uid in (os.geteuid(), 0):
        return None, None
    # systemd makes one for a service of somebody else's, after whom it is called; he speaks for no
    # other service.
    if os.path.dirname(directory) == protocol.SYSTEM_DIRECTORY and os.lstat(
            protocol.SYSTEM_DIRECTORY).st_uid == 0:
        return None, f"{os.path.basename(directory)}.sock"
    return f"it belongs to user {found.st_uid}", None


def doubt(connection: socket.socket, path: str) -> str | None:
    """Why whoever listens at `path`, to which this connection leads, is not to be believed; None if
    he is: our own user or root, or the owner of the directory where nobody else can have made
    that."""
    _, uid, _ = peer.credentials(connection)
    if uid in (os.geteuid(), 0):
        return None
    directory = os.path.dirname(os.path.abspath(path))
    try:
        if os.stat(directory).st_uid == uid and (os.path.basename(directory)
                                                 == protocol.TEMPORARY.format(uid)
                                                 or not _anybody_could_have_made(directory)):
            return None
    except OSError:
        pass
    return (f"user {uid} listens there, who is neither you nor root, nor surely the owner of "
            f"{directory}")


def _anybody_could_have_made(directory: str) -> bool:
    """Whether the way to a directory leads through one where everybody may make another, or a link
    (/tmp, for instance), and through none of root's or ours after it."""
    for each in {directory, os.path.realpath(directory)}:
        while each != "/":
            each = os.path.dirname(each)
            found = os.stat(each)
            if found.st_mode & 0o002:
                return True
            if found.st_uid in (os.geteuid(), 0):
                break
    return False


def _answering(paths: Mapping[str, bool], doubts: list[str]) -> list[Found]:
    """Ask whoever listens at these paths for his name, all at once; those who say nothing in time
    have that of their socket, and those elsewhere (see Found; true in `paths`) are passed over if
    they say another one."""
    found: dict[str, Found | None] = {}
    connection: socket.socket | None
    waiting: dict[int, tuple[str, socket.socket, bytearray]] = {}
    poller = select.poll()
    try:
        for path, elsewhere in paths.items():
            try:
                connection = _asked(path, doubts)
            except BlockingIOError:  # his queue is full: he is there
                connection = None
            except OSError:
                continue
            found[path] = Found(os.path.basename(path).removesuffix(".sock"), path, 0, elsewhere)
            if connection is not None:
                waiting[connection.fileno()] = path, connection, bytearray()
                poller.register(connection, select.POLLIN)
        deadline = time.monotonic() + PATIENCE
        while waiting and (left := deadline - time.monotonic()) > 0:
            for fd, _ in poller.poll(left * 1000):
                path, connection, said = waiting[fd]
                data = _received(connection)
                said += data
                if not data or b"\n" in said or len(said) > LONGEST_ANSWER:
                    found[path] = _read(path, bytes(said), paths[path], doubts)
                    poller.unregister(fd)
                    waiting.pop(fd)[1].close()
    finally:
        for _, connection, _ in waiting.values():
            connection.close()
    return [each for each in found.values() if each is not None]


def _asked(path: str, doubts: list[str]) -> socket.socket:
    """A connection on which whoever listens at `path` has been asked for his name.

    Raises:
        OSError: nobody does, or nobody who is believed.
        BlockingIOError: too many others wait there.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        connection.connect(path)
        why = doubt(connection, path)
        if why is not None:
            doubts.append(f"{path}: {why}")
            raise PermissionError(why)
        connection.send(protocol.encode(protocol.request("ping", {})))
    except OSError:
        connection.close()
        raise
    return connection


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(LONGEST_ANSWER)
    except OSError:
        return b""


def _read(path: str, answer: bytes, elsewhere: bool, doubts: list[str]) -> Found | None:
    """What an answer to a ping says; None if it is none of a master's to us."""
    try:
        result: Any = json.loads(answer.partition(b"\n")[0])["result"]
        name, pid = result["name"], result["pid"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(name, str) or not isinstance(pid, int):
        return None
    if elsewhere and name != os.path.basename(path).removesuffix(".sock"):
        doubts.append(f"{path}: it says that its name is {name!r}")
        return None
    return Found(printable.escaped(name), path, pid, elsewhere)
