"""Listening sockets: parse addresses, bind or adopt them, open again what a worker has shut, remove
what was made.

It opens sockets and touches the file system; it decides nothing about workers. Sockets made here
outlive every worker; a worker only ever gets duplicates of their descriptors.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..system import files
from . import binding

DEFAULT_BACKLOG = 2048


class BadAddress(ValueError):
    """The text is no address; the message says what was expected."""


class CannotListen(RuntimeError):
    """The address is fine, but it can't be listened on; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Address:
    """`kind`: tcp4, tcp6, unix, fd or name. `name`: of a socket that systemd gives. `backlog`:
    connections. `mode`: permission bits of a UNIX socket."""

    text: str
    kind: str
    host: str = ""
    port: int = 0
    path: str = ""
    fd: int = -1
    name: str = ""
    nonblocking: bool = False
    backlog: int = DEFAULT_BACKLOG
    mode: int | None = None


@dataclass(frozen=True, slots=True)
class Listener:
    """`made`: (device, inode) of a UNIX socket that this process made and will remove; None for
    anything else. `label`: the name by which systemd gave it, if it did."""

    address: Address
    socket: socket.socket
    made: tuple[int, int] | None = None
    label: str = ""

    @property
    def name(self) -> str:
        """The address that a client would use, with the real port."""
        bound = self.socket.getsockname()
        match self.socket.family:
            case socket.AF_UNIX:
                return f"unix:{bound}"
            case socket.AF_INET6:
                return f"[{bound[0]}]:{bound[1]}"
            case _:
                return f"{bound[0]}:{bound[1]}"


def parse_address(text: str, usual_backlog: int = DEFAULT_BACKLOG) -> Address:
    """Parse `HOST:PORT`, `[V6]:PORT`, `:PORT`, `unix:PATH`, `fd://N` or `fd://NAME`, with options
    after commas.

    `usual_backlog`: where the address doesn't say.

    Raises:
        BadAddress: it is none of these, or an option is unknown or out of range.
    """
    base, *options = text.split(",")
    if "\0" in base:
        raise BadAddress(f"{text!r} is no address: no name holds a zero byte")
    fields: dict[str, bool | int] = {}
    for option in options:
        key, _, value = option.partition("=")
        if option.lower() in ("r", "so_reuseaddr", ""):
            continue
        if option.lower() in ("n", "o_nonblock"):
            fields["nonblocking"] = True
        elif key == "backlog" and re.fullmatch("[0-9]{1,5}", value) and 1 <= int(value) <= 65535:
            fields["backlog"] = int(value)
        elif key == "mode" and re.fullmatch("0?[0-7]{3}", value) and base.startswith("unix:"):
            fields["mode"] = int(value, 8)
        else:
            raise BadAddress(
                f"{text!r}: {option!r} is none of the options r, n, backlog=1…65535, mode=OCTAL "
                "(for "
                "UNIX sockets)")
    nonblocking, backlog = bool(fields.get("nonblocking")), int(fields.get(
        "backlog", usual_backlog))
    if base.startswith("unix:") and len(base) > 5:
        mode = int(fields["mode"]) if "mode" in fields else None
        return Address(text, "unix", path=base[5:], nonblocking=nonblocking, backlog=backlog,
                       mode=mode)
    if match := re.fullmatch(r"fd://([0-9]{1,6})", base):
        return Address(text, "fd", fd=int(match[1]), nonblocking=nonblocking, backlog=backlog)
    if match := re.fullmatch(r"fd://([A-Za-z][A-Za-z0-9_.@-]*)", base):
        return Address(text, "name", name=match[1], nonblocking=nonblocking, backlog=backlog)
    if (match := re.fullmatch(r"(?:\[([0-9A-Fa-f:.%a-z]+)\]|([^\s:\[\]/]*)):([0-9]{1,5})",
                              base)) and int(match[3]) < 65536:
        kind = "tcp6" if match[1] else "tcp4"
        return Address(text, kind, host=match[1] or match[2], port=int(match[3]),
                       nonblocking=nonblocking, backlog=backlog)
    raise BadAddress(
        f"{text!r} is no address: expected HOST:PORT, [V6]:PORT, :PORT, unix:PATH, fd://N or "
        "fd://NAME"
    )


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

    def take(self, address: Address, position: int) -> Listener | None:
        """The one that is meant by the address with this position among all, if it is there."""
        for fd, name in list(self._left.items()):
            if address.kind == "name":
                fits = name == address.name
            elif address.kind in ("unix", "tcp4", "tcp6"):
                fits = _is_bound_to(fd, address) and (address.port != 0 or address.kind == "unix"
                                                      or name == stored_name(position))
            else:
                fits = fd == address.fd
            if fits:
                return self._taken(fd, address)
        return None

    def take_all(self) -> list[Listener]:
        """All that are left, in their order, where no address was asked for."""
        return [self._taken(fd, Address(f"fd://{fd}", "fd", fd=fd)) for fd in list(self._left)]

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
    if address.kind == "unix" or family == socket.AF_UNIX:
        return bool(address.kind == "unix" and family == socket.AF_UNIX and bound == address.path)
    wanted = socket.AF_INET6 if address.kind == "tcp6" else socket.AF_INET
    try:
        found = socket.getaddrinfo(address.host or "0.0.0.0", address.port, wanted,
                                   socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        return False
    return family == wanted and any(bound[0] == each[4][0] and address.port in (0, bound[1])
                                    for each in found)


def open_all(addresses: Sequence[Address], given: Given | None = None) -> list[Listener]:
    """Open every address, or none: what was opened before an error is closed and removed again.
    What systemd has given is taken instead of bound, and without any address all of it.

    Raises:
        CannotListen: one of them can't be opened.
    """
    given = Given(()) if given is None else given
    if not addresses:
        return given.take_all()
    opened: list[Listener] = []
    try:
        for position, address in enumerate(addresses):
            opened.append(given.take(address, position) or _open(address))
    except CannotListen:
        close_all(opened)
        raise
    return opened


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


def reachable(listener: Listener) -> Any:
    """Where this host itself can connect to it, as connect() wants it."""
    bound = listener.socket.getsockname()
    if listener.socket.family == socket.AF_UNIX or bound[0] not in ("0.0.0.0", "::"):
        return bound
    return ("127.0.0.1" if listener.socket.family == socket.AF_INET else "::1", *bound[1:])


def is_shut(listener: Listener) -> bool:
    """Whether somebody who shares it has shut it down: no connection reaches it any more
    (shutdown(2), poll(2))."""
    poller = select.poll()
    poller.register(listener.socket.fileno(), select.POLLRDHUP)
    return any(events & (select.POLLRDHUP | select.POLLHUP) for _, events in poller.poll(0))


def path_of(listener: Listener) -> str | None:
    """The file of a UNIX socket; None for one of another kind, or without a file."""
    bound = listener.socket.getsockname() if listener.socket.family == socket.AF_UNIX else None
    return bound if isinstance(bound, str) and bound else None


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
    again = _bind_unix(replace(listener.address, kind="unix", path=path, mode=mode), before)
    if listener.address.nonblocking:
        again.socket.setblocking(False)
    listener.socket.close()
    return replace(again, address=listener.address, label=listener.label,
                   made=again.made if listener.made is not None else None)


def _same_file(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def _open(address: Address) -> Listener:
    match address.kind:
        case "name":
            raise CannotListen(
                f"cannot listen on {address.text}: systemd gave no listening stream socket of this "
                "name"
            )
        case "fd":
            listener = _adopt(address)
        case "unix":
            listener = _bind_unix(address)
        case _:
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
    family = socket.AF_INET6 if address.kind == "tcp6" else socket.AF_INET
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
        raise CannotListen(f"cannot bind {address.text}: {_why(error, address.port)}") from None


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
        return f"the address is in use{_by_whom(port)}"
    if error.errno == errno.EACCES:
        return "permission denied (ports below 1024 need root or CAP_NET_BIND_SERVICE)"
    if error.errno == errno.EADDRNOTAVAIL:
        return "no interface of this host has this address"
    return str(error.strerror)


def _by_whom(port: int) -> str:
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
        raise CannotListen(f"cannot bind unix:{path}: another process is listening there")
    except FileNotFoundError:
        return
    except BlockingIOError:
        raise CannotListen(
            f"cannot bind unix:{path}: another process is listening there, with a full queue"
        ) from None
    except ConnectionRefusedError:
        files.remove(path)
    except OSError as error:
        raise CannotListen(f"cannot bind unix:{path}: {error.strerror}") from None
