"""Where a master lives: its private directory, the lock on its name, its control socket and
pidfile.

Everything made here is removed when it is closed, by the process that made it, and only while it is
still its own.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...shared.protocol import SYSTEM_DIRECTORY, socket_directories
from ..system import files
from ..system.part import Keep, Kept, Part, State
from . import binding


class NoRuntimeDirectory(RuntimeError):
    """One line: what can't be made, and why."""


@dataclass(slots=True)
class Place:
    """`path`: the control socket; `notify_path`: the one for sd_notify; `listener`: the bound
    control socket; `lock`: the descriptor of the locked file at `lock_path`."""

    path: str
    notify_path: str
    lock_path: str
    listener: socket.socket
    lock: int

    def close(self) -> None:
        self.listener.close()
        for path in (self.path, self.lock_path):
            files.remove(path)
        os.close(self.lock)


@dataclass(frozen=True, slots=True)
class KeptPlace(Kept):
    path: str
    notify_path: str
    lock_path: str
    listener: int
    lock: int

    def descriptors(self) -> Iterable[int]:
        return self.listener, self.lock


class RuntimeDirectory(Part):
    """What a master has there. `master`: its name. `path`: its control socket, "" before there is
    one. `on_open`: takes that, whoever has made it."""

    name = "runtime directory"
    keeps = {"name": Keep(str, needed=True), "place": Keep(KeptPlace, needed=True)}

    def __init__(self, master: str) -> None:
        self.master = master
        self._place: Place | None = None
        self.on_open: Callable[[socket.socket], None] = lambda listener: None

    def claim(self, socket_path: str | None, environ: Mapping[str, str], rights: Rights,
              lock_path: str | None) -> None:
        """See `claim`."""
        self._place = claim(self.master, socket_path, environ, rights, lock_path)
        self.on_open(self._place.listener)

    @property
    def path(self) -> str:
        return "" if self._place is None else self._place.path

    @property
    def notify_path(self) -> str:
        return "" if self._place is None else self._place.notify_path

    def hand_over(self) -> dict[str, Any]:
        place = self._place
        return {"name": self.master, "place": None if place is None else {
            "path": place.path, "notify_path": place.notify_path, "lock_path": place.lock_path,
            "listener": place.listener.fileno(), "lock": place.lock}}

    def take_over(self, state: State) -> None:
        kept: KeptPlace | None = state["place"]
        if kept is not None:
            self.master = state["name"]
            self._place = Place(kept.path, kept.notify_path, kept.lock_path,
                                socket.socket(fileno=kept.listener), kept.lock)
            self.on_open(self._place.listener)

    def close(self) -> None:
        if self._place is not None:
            self._place.close()


class Pidfile(Part):
    """The file with our pid, if somebody wants one."""

    name = "pidfile"
    keeps = {"pidfile": Keep(str | None, needed=True)}

    def __init__(self) -> None:
        self._path: str | None = None

    def write(self, path: str) -> None:
        """See `write_pidfile`."""
        write_pidfile(path)
        self._path = path

    def hand_over(self) -> dict[str, Any]:
        return {"pidfile": self._path}

    def take_over(self, state: State) -> None:
        self._path = state["pidfile"]

    def close(self) -> None:
        if self._path is not None:
            remove_pidfile(self._path)


@dataclass(frozen=True, slots=True)
class Rights:
    """Who may connect, by the file system. `mode`: permission bits of the control socket. `group`:
    its group, None for ours. `enterable`: others may pass through the directory, to sockets that
    they may connect to."""

    mode: int = 0o600
    group: int | None = None
    enterable: bool = False


def claim(name: str, socket_path: str | None, environ: Mapping[str, str], rights: Rights,
          lock_path: str | None = None) -> Place:
    """Take the name: make the directory, lock, and bind the control socket.

    Raises:
        NoRuntimeDirectory: another master holds the name, or the place can't be made or trusted.
    """
    path = socket_path or f"{_private_directory(environ, rights.enterable)}/{name}.sock"
    base = path.removesuffix(".sock")
    if len(os.fsencode(f"{base}.notify")) > 107:
        raise NoRuntimeDirectory(
            f"cannot make the control socket {path}: the path is longer than the 100 bytes that fit"
        )
    lock_path = lock_path or f"{base}.lock"
    lock = _lock(lock_path, name)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if binding.is_there(path) and _somebody_listens(path):  # with a lock elsewhere (--lockfile)
            raise OSError(errno.EADDRINUSE, "another master listens there")
        binding.clear(path)
        binding.bind(listener, path, rights.mode)
        if rights.group is not None:
            files.give_group(path, rights.group)
        listener.listen(1024)
    except OSError as error:
        os.close(lock)
        raise NoRuntimeDirectory(
            f"cannot make the control socket {path}: {error.strerror}") from None
    return Place(path, f"{base}.notify", lock_path, listener, lock)


def _somebody_listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return True  # its queue is full
        except OSError:
            return False
    return True


def _others_may_pass(directory: str) -> bool:
    """Whether every directory above may be passed through by everybody."""
    above = os.path.dirname(directory)
    while above != "/":
        if not os.stat(above).st_mode & 0o001:
            return False
        above = os.path.dirname(above)
    return True


def _private_directory(environ: Mapping[str, str], enterable: bool) -> str:
    uid = os.geteuid()
    tried = []
    for directory in socket_directories(environ, uid):
        if enterable and not _others_may_pass(directory):
            tried.append(f"{directory} (others can't get there)")
            continue
        try:
            # Who may enter matters little, every request is checked; who may write there could put
            # a socket of his own there. systemd makes directories of other users' services in
            # there.
            made = files.own_directory(directory, 0o755 if directory == SYSTEM_DIRECTORY else 0o700)
        except OSError as error:
            tried.append(f"{directory} ({error.strerror})")
            continue
        try:
            if not os.access(directory, os.W_OK):
                tried.append(f"{directory} (read-only)")
                continue
            if enterable or directory == SYSTEM_DIRECTORY:
                os.fchmod(made, stat.S_IMODE(os.fstat(made).st_mode) | 0o055)
        finally:
            os.close(made)
        return directory
    raise NoRuntimeDirectory(
        f"no place for the control socket: tried {', '.join(tried)}; --socket-path names another")


def _lock(path: str, name: str) -> int:
    try:
        while True:
            lock = files.opened(path, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.read(lock, 20).decode(errors="replace").strip()
                os.close(lock)
                who = f"named {name} is running" if path.endswith(
                    f"/{name}.lock") else f"holds {path}"
                raise NoRuntimeDirectory(f"another master {who}{f' (pid {pid})' if pid else ''}: "
                              "stop it, or choose another name with -c NAME") from None
            # Its last holder may have removed the file between our open and our lock.
            if os.path.exists(path) and os.stat(path).st_ino == os.fstat(lock).st_ino:
                break
            os.close(lock)
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
    except OSError as error:
        raise NoRuntimeDirectory(f"cannot make {path}: {error.strerror}") from None
    return lock


def write_pidfile(path: str) -> None:
    """Write our pid, whole or not at all.

    Raises:
        NoRuntimeDirectory: it can't be written, or names another process that is alive.
    """
    try:
        old = _pid_in(path)
    except FileNotFoundError:
        old = None
    except OSError as error:
        raise NoRuntimeDirectory(f"cannot read the pidfile {path}: {error.strerror}") from None
    if old not in (None, os.getpid()) and os.path.exists(f"/proc/{old}"):
        raise NoRuntimeDirectory(
            f"cannot write the pidfile {path}: it names pid {old}, which is alive")
    try:
        files.replace(path, f"{os.getpid()}\n".encode(), 0o644)
    except OSError as error:
        raise NoRuntimeDirectory(f"cannot write the pidfile {path}: {error.strerror}") from None


def _pid_in(path: str) -> int | None:
    """The pid in a file, None if there is something else in it."""
    text = files.read(path, 32).strip()
    return int(text) if re.fullmatch(rb"[0-9]{1,18}", text) else None


def remove_pidfile(path: str) -> None:
    """Remove it if it is still ours."""
    with contextlib.suppress(OSError):
        if _pid_in(path) == os.getpid():
            files.remove(path)
