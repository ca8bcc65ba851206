"""Listening sockets: bind or adopt them, open again what a worker has shut, remove what was made.

It opens sockets and touches the file system; it decides nothing about workers. Sockets made here
outlive every worker; a worker only ever gets duplicates of their descriptors.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..system import files
from . import binding
from .addresses import Address, Kind
from .given import Given
from .listener import Listener, path_of


class CannotListen(RuntimeError):
    """The address is fine, but it can't be listened on; the message says why and what to do."""


class InUse(CannotListen):
    """Somebody else listens there."""


def open_all(addresses: Sequence[Address], given: Given | None = None,
             again: Callable[[Address], bool] = lambda address: False) -> list[Listener]:
    """Open every address, or none: what was opened before an error is closed and removed again.
    What systemd has given is taken instead of bound, and without any address all of it. `again`:
    whether one that is in use is tried again; it may take its time.

    Raises:
        CannotListen: one of them can't be opened.
    """
    given = Given(()) if given is None else given
    if not addresses:
        return given.take_all()
    opened: list[Listener] = []
    try:
        for position, address in enumerate(addresses):
            opened.append(given.take(address, position) or _opened(address, again))
    except BaseException:
        close_all(opened)
        raise
    return opened


def _opened(address: Address, again: Callable[[Address], bool]) -> Listener:
    while True:
        try:
            return _open(address)
        except InUse as error:
            if not again(address):
                raise InUse(f"{error}{_by_whom(address)}") from None


def close_all(listeners: Sequence[Listener]) -> None:
    """Close them, and remove the UNIX sockets that this process made and nobody has replaced
    since."""
    for listener in listeners:
        if listener.made is not None:
            try:
                found = os.lstat(listener.address.path)
                if (found.st_dev, found.st_ino) == listener.made:
                    files.remove(listener.address.path)
            except OSError:
                pass
        listener.socket.close()


def listen_again(listener: Listener, before: os.stat_result | None) -> Listener:
    """Listen again on the address of one that was shut down. `before`: what its file was, where it
    has one.

    TCP goes on with the same socket, for all who share it. A UNIX socket that was shut stays so:
    the one that is returned is new, and whoever has the old one serves nobody any more.

    Raises:
        CannotListen: it can't be listened on any more.
    """
    path = path_of(listener)
    if path is None:
        try:
            listener.socket.listen(listener.address.backlog)
        except OSError as error:
            raise CannotListen(
                f"cannot listen again on {listener.name}: {error.strerror}") from None
        return listener
    with contextlib.suppress(OSError):  # what is somebody else's by now is not removed
        if before is not None and _same_file(os.lstat(path), before):
            files.remove(path)
    mode = listener.address.mode if before is None else stat.S_IMODE(before.st_mode)
    again = _bind_unix(replace(listener.address, kind=Kind.UNIX, path=path, mode=mode), before)
    if listener.address.nonblocking:
        again.socket.setblocking(False)
    listener.socket.close()
    return replace(again, address=listener.address, label=listener.label,
                   made=again.made if listener.made is not None else None)


def _same_file(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def _open(address: Address) -> Listener:
    match address.kind:
        case Kind.NAME:
            raise CannotListen(
                f"cannot listen on {address.text}: systemd gave no listening stream socket of this "
                "name"
            )
        case Kind.FD:
            listener = _adopt(address)
        case Kind.UNIX:
            listener = _bind_unix(address)
        case Kind.TCP4 | Kind.TCP6:
            listener = _bind_tcp(address)
    # The flag belongs to the open socket, not to the descriptor: every worker that shares it shares
    # the flag.
    if address.nonblocking:
        listener.socket.setblocking(False)
    return listener


def _adopt(address: Address) -> Listener:
    try:
        # Ours are all closed on exec: one that isn't was given to us.
        if not os.get_inheritable(address.fd):
            raise OSError(errno.EBADF, "it was not inherited")
        adopted = socket.socket(fileno=os.dup(address.fd))
    except OSError as error:
        raise CannotListen(
            f"cannot listen on {address.text}: descriptor {address.fd} is no open socket "
            f"({error.strerror})") from None
    if adopted.type != socket.SOCK_STREAM or not adopted.getsockopt(socket.SOL_SOCKET,
                                                                    socket.SO_ACCEPTCONN):
        try:
            adopted.listen(address.backlog)
        except OSError as error:
            adopted.close()
            raise CannotListen(
                f"cannot listen on {address.text}: {error.strerror} (expected a bound or listening "
                "stream socket)") from None
    os.set_inheritable(address.fd, False)
    return Listener(address, adopted)


def _bind_tcp(address: Address) -> Listener:
    family = socket.AF_INET6 if address.kind is Kind.TCP6 else socket.AF_INET
    try:
        found = socket.getaddrinfo(address.host or "0.0.0.0", address.port, family,
                                   socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # the latter: what no name can be, such as a..b
    except (socket.gaierror, UnicodeError) as error:
        raise CannotListen(
            f"cannot bind {address.text}: {getattr(error, 'strerror', 'it is no name')} "
            f"({address.host!r} is no "
            "address of this host)") from None
    where = found[0][4]
    try:
        if address.port == 0:
            # A port asked for by number stays with the socket when a worker shuts it down; one that
            # the kernel chose would be given away, and listening again would be on another.
            with _bound(family, where) as chosen:
                return Listener(address, _bound(family, chosen.getsockname(), address.backlog))
        return Listener(address, _bound(family, where, address.backlog))
    except OSError as error:
        kind = InUse if error.errno == errno.EADDRINUSE else CannotListen
        raise kind(f"cannot bind {address.text}: {_why(error, address.port)}") from None


def _bound(family: socket.AddressFamily, where: Any, backlog: int | None = None) -> socket.socket:
    """A TCP socket that is bound, and listens if it is given a backlog."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by what is accepted. Servers that are given a descriptor don't always know that
        # it is TCP, and would let a kept-alive client wait for 40 ms (tcp(7), delayed
        # acknowledgements).
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(where)
        if backlog is not None:
            bound.listen(backlog)
    except OSError:
        bound.close()
        raise
    return bound


def _why(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the address is in use"
    if error.errno == errno.EACCES:
        return "permission denied (ports below 1024 need root or CAP_NET_BIND_SERVICE)"
    if error.errno == errno.EADDRNOTAVAIL:
        return "no interface of this host has this address"
    return str(error.strerror)


def _by_whom(address: Address) -> str:
    if address.kind is Kind.UNIX:
        return ""
    port = address.port
    # psutil reads the kernel's socket tables and matches them to processes; only needed on the way
    # out.
    import psutil

    def listens(connection: Any) -> bool:
        return bool(connection.status == psutil.CONN_LISTEN and connection.laddr[1:2] == (port,))

    try:
        pid = next(each.pid for each in psutil.net_connections("tcp") if each.pid and listens(each))
        process = psutil.Process(pid)
        # A server and its workers share the socket; the one to name is the one that started the
        # others.
        with contextlib.suppress(psutil.Error):  # the parent may be somebody else's
            while (parent := process.parent()) is not None and any(
                    map(listens, parent.net_connections("tcp"))):
                process = parent
        return f" by pid {process.pid} ({process.name()})"
    except (psutil.Error, OSError, StopIteration):
        pass
    return ""


def _bind_unix(address: Address, owner: os.stat_result | None = None) -> Listener:
    """`owner`: whose it is to be, where that differs from us."""
    path = address.path
    if len(os.fsencode(path)) > 107:
        raise CannotListen(
            f"cannot bind {address.text}: the path is longer than the 107 bytes that the kernel "
            "allows"
        )
    clear_stale_socket(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        binding.bind(bound, path, address.mode)
        made = os.lstat(path)
        if owner is not None and (owner.st_uid, owner.st_gid) != (made.st_uid, made.st_gid):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
        bound.listen(address.backlog)
    except OSError as error:
        bound.close()
        raise CannotListen(f"cannot bind {address.text}: {error.strerror}") from None
    return Listener(address, bound, made=(made.st_dev, made.st_ino))


def clear_stale_socket(path: str) -> None:
    """Remove a socket that nobody listens on any more.

    Raises:
        CannotListen: somebody does listen there, or it is something else than a socket.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise CannotListen(f"cannot bind unix:{path}: it exists and is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(path)
        raise InUse(f"cannot bind unix:{path}: another process is listening there")
    except FileNotFoundError:
        return
    except BlockingIOError:
        raise InUse(
            f"cannot bind unix:{path}: another process is listening there, with a full queue"
        ) from None
    except ConnectionRefusedError:
        files.remove(path)
    except OSError as error:
        raise CannotListen(f"cannot bind unix:{path}: {error.strerror}") from None
