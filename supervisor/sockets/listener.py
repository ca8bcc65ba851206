"""A listening socket, and what can be asked of it. `listeners.py` opens them."""

from __future__ import annotations

import os
import select
import socket
from typing import Any

from ...shared.frozen import dataclass
from .addresses import Address


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
                # one without a file has a name that begins with a zero byte: shown as ss(8) does
                name = os.fsdecode(bound)
                return f"unix:@{name[1:]}" if name.startswith("\0") else f"unix:{name}"
            case socket.AF_INET6:
                zone = f"%{_interface(bound[3])}" if bound[3] and "%" not in bound[0] else ""
                return f"[{bound[0]}{zone}]:{bound[1]}"
            case _:
                return f"{bound[0]}:{bound[1]}"


def reachable(listener: Listener) -> Any:
    """Where this host itself can connect to it, as connect() wants it."""
    bound = listener.socket.getsockname()
    if listener.socket.family == socket.AF_UNIX or bound[0] not in ("0.0.0.0", "::"):
        return bound
    if listener.socket.family == socket.AF_INET:
        return ("127.0.0.1", *bound[1:])
    # Where it takes both, by IPv4: a host or container often has no IPv6 address, not even ::1.
    v6only = listener.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    return ("::1" if v6only else "::ffff:127.0.0.1", *bound[1:])


def _interface(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:  # it is gone
        return str(index)


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
