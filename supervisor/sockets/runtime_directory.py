"""Where a master lives: its private directory, the lock on its name, its control socket and
pidfile.

Everything made here is removed by `Place.close`, by the process that made it, and only while it is
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
from collections.abc import Mapping
from dataclasses import dataclass

from ...shared.protocol import SYSTEM_DIRECTORY, socket_directories
from ..system import files
from . import binding


class NoPlace(RuntimeError):
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
        for path in (self.path, self.lock_path):
            files.remove(path)
        os.close(self.lock)


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
        NoPlace: another master holds the name, or the place can't be made or trusted.
    """
    path = socket_path or f"{_private_directory(environ, rights.enterable)}/{name}.sock"
    base = path.removesuffix(".sock")
    if len(os.fsencode(f"{base}.notify")) > 107:
        raise NoPlace(
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
        raise NoPlace(f"cannot make the control socket {path}: {error.strerror}") from None
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
    raise NoPlace(
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
                raise NoPlace(f"another master {who}{f' (pid {pid})' if pid else ''}: "
                              "stop it, or choose another name with -c NAME") from None
            # Its last holder may have removed the file between our open and our lock.
            if os.path.exists(path) and os.stat(path).st_ino == os.fstat(lock).st_ino:
                break
            os.close(lock)
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
    except OSError as error:
        raise NoPlace(f"cannot make {path}: {error.strerror}") from None
    return lock


def write_pidfile(path: str) -> None:
    """Write our pid, whole or not at all.

    Raises:
        NoPlace: it can't be written, or names another process that is alive.
    """
    try:
        old = _pid_in(path)
    except FileNotFoundError:
        old = None
    except OSError as error:
        raise NoPlace(f"cannot read the pidfile {path}: {error.strerror}") from None
    if old not in (None, os.getpid()) and os.path.exists(f"/proc/{old}"):
        raise NoPlace(f"cannot write the pidfile {path}: it names pid {old}, which is alive")
    try:
        files.replace(path, f"{os.getpid()}\n".encode(), 0o644)
    except OSError as error:
        raise NoPlace(f"cannot write the pidfile {path}: {error.strerror}") from None


def _pid_in(path: str) -> int | None:
    """The pid in a file, None if there is something else in it."""
    text = files.read(path, 32).strip()
    return int(text) if re.fullmatch(rb"[0-9]{1,18}", text) else None


def remove_pidfile(path: str) -> None:
    """Remove it if it is still ours."""
    with contextlib.suppress(OSError):
        if _pid_in(path) == os.getpid():
            files.remove(path)
