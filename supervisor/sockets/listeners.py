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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from ..system import files
from . import binding
from .addresses import Address, Kind, told_apart
from .given import Given
from .listener import Listener, path_of


class CannotListen(RuntimeError):
    """The address is fine, but it can't be listened on; the message says why and what to do."""


_OF_BOTH = " (by its IPv4 or IPv6: add ,v6only where somebody else is to have the port's IPv4)"


class InUse(CannotListen):
    """Somebody else listens there. `advice`: what may be done about that, to be told last."""

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


def open_all(addresses: Sequence[Address], given: Given | None = None,
             ipv4_ports: Iterable[int] = (),
             again: Callable[[Address], bool] = lambda address: False) -> list[Listener]:
    """Open every address, or none: what was opened before an error is closed and removed again.
    What systemd has given is taken instead of bound, and without any address all of it.
    `ipv4_ports`: whose IPv4 is somebody else's of ours. `again`: whether one that is in use is
    tried again; it may take its time.

    Raises:
        CannotListen: one of them can't be opened.
        attributes.Refused: it is to belong to somebody who doesn't exist.
    """
    given = Given(()) if given is None else given
    if not addresses:
        return given.take_all()
    inherited = [each.fd for each in addresses if each.kind is Kind.FD]
    known = {*ipv4_ports, *filter(None, map(_ipv4_port, [*inherited, *given.descriptors]))}
    opened: list[Listener] = []
    try:
        for position, address in enumerate(told_apart(addresses, known)):
            taken = given.take(address, position)
            opened.append(_opened(address, again) if taken is None else _as_asked(taken))
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
                raise InUse(f"{error}{_by_whom(address)}{error.advice}") from None


def _as_asked(taken: Listener) -> Listener:
    """One that an earlier master of ours had left with systemd: its file is as the address says
    now."""
    address = taken.address
    if taken.made is not None and address.kind is Kind.UNIX:
        try:
            if address.mode is not None:
                os.chmod(address.path, address.mode)
            binding.own(address.path, address)
        except OSError as error:
            raise CannotListen(_not_owned(address, error)) from None
    return taken


def _not_owned(address: Address, error: OSError) -> str:
    why = " (only root may give it to another user)" if error.errno == errno.EPERM else ""
    return f"cannot bind {address.text}: {error.strerror}{why}"


def _ipv4_port(fd: int) -> int | None:
    """The port of a descriptor, if it is an IPv4 socket's."""
    try:
        with socket.socket(fileno=os.dup(fd)) as probe:
            return int(probe.getsockname()[1]) if probe.family == socket.AF_INET else None
    except OSError:
        return None


def close_all(listeners: Sequence[Listener]) -> None:
    """Close them, and remove the UNIX sockets that this process made and nobody has replaced
    since."""
    for listener in listeners:
        if listener.made is not None:
            with contextlib.suppress(OSError):
                binding.remove(listener.address.path, listener.made)
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
        if before is not None and os.path.samestat(os.lstat(path), before):
            files.remove(path)
    address = replace(listener.address, kind=Kind.UNIX, path=path)
    if before is not None:
        address = replace(address, mode=stat.S_IMODE(before.st_mode), user=str(before.st_uid),
                          group=str(before.st_gid))
    again = _bind_unix(address)
    if listener.address.nonblocking:
        again.socket.setblocking(False)
    listener.socket.close()
    return replace(again, address=listener.address, label=listener.label,
                   made=again.made if listener.made is not None else None)


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
            with _bound(address, family, where) as chosen:
                where = chosen.getsockname()
                return Listener(address, _bound(address, family, where, address.backlog))
        return Listener(address, _bound(address, family, where, address.backlog))
    except OSError as error:
        told = f"cannot bind {address.text}: {_why(error, address.port)}"
        if error.errno != errno.EADDRINUSE:
            raise CannotListen(told) from None
        both = where[0] == "::" and not address.v6only
        raise InUse(told, _OF_BOTH if both else "") from None


def _bound(address: Address, family: socket.AddressFamily, where: Any,
           backlog: int | None = None) -> socket.socket:
    """A TCP socket that is bound, and listens if it is given a backlog."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by what is accepted. Servers that are given a descriptor don't always know that
        # it is TCP, and would let a kept-alive client wait for 40 ms (tcp(7), delayed
        # acknowledgements).
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            # whatever net.ipv6.bindv6only says
            v6only = address.v6only and where[0] == "::"
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
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


def _bind_unix(address: Address) -> Listener:
    path = address.path
    binding.owner_of(address)  # nobody of that name: nothing is made
    if len(os.fsencode(path)) > 107:
        raise CannotListen(
            f"cannot bind {address.text}: the path is longer than the 107 bytes that the kernel "
            "allows"
        )
    clear_stale_socket(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        binding.bind(bound, path, address.mode)
    except OSError as error:
        bound.close()
        raise CannotListen(f"cannot bind {address.text}: {error.strerror}") from None
    listener = Listener(address, bound, made=binding.identity(path))
    try:
        binding.own(path, address)
        bound.listen(address.backlog)
    except OSError as error:
        close_all([listener])
        raise CannotListen(_not_owned(address, error)) from None
    return listener


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
