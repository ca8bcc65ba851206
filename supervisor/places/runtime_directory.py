"""Where a master lives: its private directory, the lock on its name, its control socket.

Everything made here is removed when it is closed, by the process that made it, and only while it is
still its own.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ...shared.frozen import dataclass
from ...shared.protocol import SYSTEM_DIRECTORY, places_for_sockets
from ..sockets import binding
from ..system import files
from ..system.part import Keep, Kept, Part, State
from . import name_lock


class NoRuntimeDirectory(RuntimeError):
    """One line: what can't be made, and why."""


@dataclass(slots=True)
class Place:
    """`path`: the control socket; `notify_path`: the one for sd_notify; `listener`: the bound
    control socket; `made`: device and inode of its file; `lock`: the descriptor of the locked file
    at `lock_path`; `for_good`: what holds the name beside that, if it could be had."""

    path: str
    notify_path: str
    lock_path: str
    listener: socket.socket
    made: tuple[int, int]
    lock: int
    for_good: socket.socket | None

    def lost(self) -> list[str]:
        """The files of ours that are gone, or in whose place somebody has put another one."""
        return [path for path, ours in (
            (self.path, binding.is_still(self.path, self.made)),
            (self.lock_path, name_lock.is_at(self.lock, self.lock_path))) if not ours]

    def close(self) -> None:
        binding.remove(self.path, self.made)
        if name_lock.is_at(self.lock, self.lock_path):
            files.remove(self.lock_path)
        self.listener.close()
        os.close(self.lock)
        if self.for_good is not None:
            self.for_good.close()


@dataclass(frozen=True, slots=True)
class KeptPlace(Kept):
    path: str
    notify_path: str
    lock_path: str
    listener: int
    lock: int
    made: tuple[int, int] | None = None
    for_good: int | None = None

    def descriptors(self) -> Iterable[int]:
        return [self.listener, self.lock] + ([] if self.for_good is None else [self.for_good])


class RuntimeDirectory(Part):
    """What a master has there. `master`: its name. `path`: its control socket, "" before there is
    one. `on_open`: takes that, whoever has made it. `socket_path`, `lock_path`: where somebody
    wants them; `rights`: who may connect."""

    name = "runtime directory"
    keeps = {"name": Keep(str, needed=True), "place": Keep(KeptPlace, needed=True)}

    def __init__(self, master: str, socket_path: str | None, lock_path: str | None,
                 environ: Mapping[str, str], rights: Rights) -> None:
        self.master = master
        self._wanted = socket_path, lock_path
        self._environ = environ
        self._rights = rights
        self._place: Place | None = None
        self.on_open: Callable[[socket.socket], None] = lambda listener: None

    def claim(self) -> None:
        """See `claim`."""
        path, lock_path = self._wanted
        self._place = claim(self.master, path, self._environ, self._rights, lock_path)
        self.on_open(self._place.listener)

    @property
    def path(self) -> str:
        return "" if self._place is None else self._place.path

    @property
    def notify_path(self) -> str:
        return "" if self._place is None else self._place.notify_path

    def lost(self) -> list[str]:
        """See `Place`. Whoever has asked for the name meanwhile has his answer."""
        if self._place is None:
            return []
        if self._place.for_good is not None:
            name_lock.turn_away(self._place.for_good)
        return self._place.lost()

    def make_again(self) -> None:
        """Make what is lost once more: where it was or, where that can't be and nobody has named
        the place, where a new master would have it.

        Raises:
            NoRuntimeDirectory: there is no place for it, or it is another master's by now.
        """
        place = self._place
        if place is None or not place.lost():
            return
        path = self._where(place.path)
        if path != place.path and self._wanted[1] is None:
            self._place = claim(self.master, path, self._environ, self._rights)
            self.on_open(self._place.listener)
            place.close()
            return
        if not name_lock.is_at(place.lock, place.lock_path):
            lock = _held(place.lock_path, self.master)
            os.close(place.lock)
            place.lock = lock
        if not binding.is_still(path, place.made):
            old = place.listener
            place.listener, place.made = _listening(path, self._rights)
            place.path, place.notify_path = path, _notify_path(path)
            self.on_open(place.listener)
            old.close()

    def _where(self, path: str) -> str:
        """Where the control socket can be made again, in a directory that is there."""
        directory, file = os.path.split(path)
        if self._wanted[0] is None:
            return f"{_private_directory(self._environ, self._rights.enterable, directory)}/{file}"
        try:
            if not os.path.isdir(directory):
                os.close(_own_directory(directory, 0o755 if self._rights.enterable else 0o700))
        except OSError as error:
            raise NoRuntimeDirectory(f"cannot make {directory} again: {error.strerror}") from None
        return path

    def hand_over(self) -> dict[str, Any]:
        place = self._place
        return {"name": self.master, "place": None if place is None else {
            "path": place.path, "notify_path": place.notify_path, "lock_path": place.lock_path,
            "listener": place.listener.fileno(), "lock": place.lock, "made": place.made,
            "for_good": None if place.for_good is None else place.for_good.fileno()}}

    def take_over(self, state: State) -> None:
        kept: KeptPlace | None = state["place"]
        if kept is not None:
            self.master = state["name"]
            self._place = _taken_over(kept, self.master)
            self.on_open(self._place.listener)

    def close(self) -> None:
        if self._place is not None:
            self._place.close()


def _taken_over(kept: KeptPlace, name: str) -> Place:
    """What the master before us had; an earlier version knew less."""
    made, for_good = kept.made, None
    if kept.for_good is not None:
        for_good = socket.socket(fileno=kept.for_good)
    else:
        with contextlib.suppress(name_lock.NameTaken):
            for_good = name_lock.hold_for_good(kept.lock_path, name)
    if made is None:
        made = binding.identity_or_none(kept.path)
    return Place(kept.path, kept.notify_path, kept.lock_path,
                 socket.socket(fileno=kept.listener), made, kept.lock, for_good)


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
    notify_path = _notify_path(path)
    if len(os.fsencode(notify_path)) > 107:
        raise NoRuntimeDirectory(
            f"cannot make the control socket {path}: the path is longer than the 100 bytes that fit"
        )
    lock_path = lock_path or f"{path.removesuffix('.sock')}.lock"
    with contextlib.ExitStack() as undoing:
        try:
            for_good = name_lock.hold_for_good(lock_path, name)
        except name_lock.NameTaken as error:
            raise NoRuntimeDirectory(str(error)) from None
        if for_good is not None:
            undoing.callback(for_good.close)
        lock = _held(lock_path, name)
        undoing.callback(os.close, lock)
        listener, made = _listening(path, rights)
        undoing.pop_all()
    return Place(path, notify_path, lock_path, listener, made, lock, for_good)


def _notify_path(path: str) -> str:
    return f"{path.removesuffix('.sock')}.notify"


def _held(lock_path: str, name: str) -> int:
    try:
        return name_lock.hold_file(lock_path, name)
    except name_lock.NameTaken as error:
        raise NoRuntimeDirectory(str(error)) from None


def _listening(path: str, rights: Rights) -> tuple[socket.socket, tuple[int, int]]:
    """A control socket at `path`; device and inode of its file."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        binding.clear(path, socket.SOCK_STREAM)
        binding.bind(listener, path, rights.mode)
        if rights.group is not None:
            files.give_group(path, rights.group)
        listener.listen(1024)
        return listener, binding.identity(path)
    except OSError as error:
        listener.close()
        raise NoRuntimeDirectory(
            f"cannot make the control socket {path}: {error.strerror}") from None


def _others_may_pass(directory: str) -> bool:
    """Whether every directory above may be passed through by everybody."""
    above = os.path.dirname(directory)
    while above != "/":
        if not os.stat(above).st_mode & 0o001:
            return False
        above = os.path.dirname(above)
    return True


def _own_directory(path: str, mode: int) -> int:
    """One of our own, open; what is missing above it is made too."""
    above = os.path.dirname(path)
    if not os.path.lexists(above):
        os.close(_own_directory(above, mode))
    return files.own_directory(path, mode)


def _private_directory(environ: Mapping[str, str], enterable: bool,
                       before: str | None = None) -> str:
    """The first usual directory that can be had. `before`: where it was until now; if it is a usual
    one, it comes first, and is made again with all that is missing above it."""
    uid = os.geteuid()
    tried = []
    usual = places_for_sockets(environ, uid)
    for directory in ([before] if before in usual else []) + usual:
        if enterable and not _others_may_pass(directory):
            tried.append(f"{directory} (others can't get there)")
            continue
        try:
            # Who may enter matters little, every request is checked; who may write there could put
            # a socket of his own there. systemd makes directories of other users' services in
            # there.
            made = (_own_directory if directory == before else files.own_directory)(
                directory, 0o755 if directory == SYSTEM_DIRECTORY else 0o700)
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
