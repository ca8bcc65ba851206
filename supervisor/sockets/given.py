"""The sockets that systemd gave to this process: each is taken once, by the address that means it.
Nothing is bound here."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence

from .addresses import Address, Kind
from .listener import Listener


class Given:
    """The sockets that systemd gave (descriptor, name), each to be taken once. Those that a master
    before us had left in the descriptor store are called as `stored_name` says."""

    def __init__(self, sockets: Sequence[tuple[int, str]]) -> None:
        self._left: dict[int, str] = {}
        self._useless: list[int] = []
        seen: set[int] = set()
        for fd, name in sockets:
            try:
                inode = os.fstat(fd).st_ino
            except OSError:
                continue
            os.set_inheritable(fd, False)
            # A socket unit and the descriptor store may both give the same one.
            if _listens(fd) and inode not in seen:
                self._left[fd] = name
                seen.add(inode)
            else:
                self._useless.append(fd)

    def __bool__(self) -> bool:
        return bool(self._left)

    @property
    def descriptors(self) -> list[int]:
        """Those that nobody has taken yet."""
        return list(self._left)

    def take(self, address: Address, position: int) -> Listener | None:
        """The one that is meant by the address with this position among all, if it is there."""
        for fd, name in list(self._left.items()):
            if address.kind is Kind.NAME:
                fits = name == address.name
            elif address.kind in (Kind.UNIX, Kind.TCP4, Kind.TCP6):
                fits = _is_bound_to(fd, address) and (address.port != 0 or address.kind is Kind.UNIX
                                                      or name == stored_name(position))
            else:
                fits = fd == address.fd
            if fits:
                return self._taken(fd, address)
        return None

    def take_all(self) -> list[Listener]:
        """All that are left, in their order, where no address was asked for."""
        return [self._taken(fd, Address(f"fd://{fd}", Kind.FD, fd=fd)) for fd in list(self._left)]

    def close_rest(self) -> list[str]:
        """Close those that nobody took; return their names."""
        names = [name or f"fd://{fd}"
                 for fd, name in self._left.items()] + [f"fd://{fd}" for fd in self._useless]
        for fd in (*self._left, *self._useless):
            os.close(fd)
        self._left.clear()
        self._useless.clear()
        return names

    def _taken(self, fd: int, address: Address) -> Listener:
        name = self._left.pop(fd)
        taken = socket.socket(fileno=fd)
        made = None
        if name.startswith(_STORED) and taken.family == socket.AF_UNIX:
            with contextlib.suppress(OSError):
                found = os.lstat(taken.getsockname())
                made = (found.st_dev, found.st_ino)
        return Listener(address, taken, made, "" if name.startswith(_STORED) else name)


_STORED = "einhornpy-"


def stored_name(position: int) -> str:
    """What a listener is called in systemd's descriptor store."""
    return f"{_STORED}{position}"


def _listens(fd: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(fd)) as probe:
            return probe.type == socket.SOCK_STREAM and bool(
                probe.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False


def _is_bound_to(fd: int, address: Address) -> bool:
    with socket.socket(fileno=os.dup(fd)) as probe:
        bound, family = probe.getsockname(), probe.family
    if address.kind is Kind.UNIX or family == socket.AF_UNIX:
        return bool(address.kind is Kind.UNIX and family == socket.AF_UNIX
                    and bound == address.path)
    wanted = socket.AF_INET6 if address.kind is Kind.TCP6 else socket.AF_INET
    try:
        found = socket.getaddrinfo(address.host or "0.0.0.0", address.port, wanted,
                                   socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        return False
    return family == wanted and any(bound[0] == each[4][0] and address.port in (0, bound[1])
                                    for each in found)
