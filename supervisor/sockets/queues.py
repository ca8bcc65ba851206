"""What the kernel knows of connections that nobody has accepted yet: how many wait at a listener,
and whether one still does.

Sources: tcp(7) for TCP_INFO, sock_diag(7) for both kinds of question. It changes nothing, and where
the kernel doesn't say, it says so.
"""

from __future__ import annotations

import os
import socket
import struct

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_UDIAG_SHOW_PEER, _UDIAG_SHOW_RQLEN = 0x04, 0x10
_UNIX_DIAG_PEER, _UNIX_DIAG_RQLEN = 2, 4
_UNIX_DIAG_MSG, _INET_DIAG_MSG = 16, 72  # sizes in bytes
_NO_COOKIE = 0xFFFFFFFF


def queue(listener: socket.socket) -> tuple[int | None, int | None]:
    """Return (connections waiting to be accepted, the most that may wait), as the kernel counts
    them.

    None, None where the kernel doesn't say. TCP: `tcpi_unacked` and `tcpi_sacked` of a listening
    socket (tcp(7), inet_diag in the kernel). UNIX: `UNIX_DIAG_RQLEN` of sock_diag(7).
    """
    try:
        if listener.family == socket.AF_UNIX:
            found = _ask_unix(listener, _UDIAG_SHOW_RQLEN, _UNIX_DIAG_RQLEN, "=II")
            return (None, None) if found is None else (found[0], found[1])
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        return struct.unpack_from("=8B24I", info)[12], struct.unpack_from("=8B24I", info)[13]
    except (OSError, struct.error):
        return None, None


def accepted(connection: socket.socket) -> bool | None:
    """Whether somebody on this host has accepted a connection that we made to it; None where the
    kernel doesn't say.

    Until then the other end belongs to no file: the kernel reports inode 0 for it.
    """
    try:
        if connection.family == socket.AF_UNIX:
            found = _ask_unix(connection, _UDIAG_SHOW_PEER, _UNIX_DIAG_PEER, "=I")
            return None if found is None else found[0] != 0
        answer = _ask(_about_the_other_end(connection))
        if answer is None:
            return None
        (inode,) = struct.unpack_from("=I", answer, _HEADER.size + _INET_DIAG_MSG - 4)
        return bool(inode != 0)
    except (OSError, struct.error):
        return None


def _about_the_other_end(connection: socket.socket) -> bytes:
    """struct inet_diag_req_v2 for exactly one socket: the one whose own address is our peer's."""
    theirs, ours = connection.getpeername(), connection.getsockname()
    address = b"".join(
        socket.inet_pton(connection.family, each[0].partition("%")[0]).ljust(16, b"\0")
        for each in (theirs, ours))
    return (struct.pack("=BBBBI", connection.family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF) +
            struct.pack("!HH", theirs[1], ours[1]) + address +
            struct.pack("=III", 0, _NO_COOKIE, _NO_COOKIE))


def _ask_unix(asked: socket.socket, show: int, attribute: int, form: str) -> tuple[int, ...] | None:
    """One attribute of one UNIX socket by its inode: struct unix_diag_req in, unix_diag_msg with
    attributes out."""
    inode = os.fstat(asked.fileno()).st_ino
    answer = _ask(
        struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, inode, show, _NO_COOKIE,
                    _NO_COOKIE))
    position = _HEADER.size + _UNIX_DIAG_MSG
    while answer is not None and position + 4 <= len(answer):
        length, kind = struct.unpack_from("=HH", answer, position)
        if kind == attribute and length >= 4 + struct.calcsize(form):
            return struct.unpack_from(form, answer, position + 4)
        position += max(4, (length + 3) & ~3)
    return None


def _ask(request: bytes) -> bytes | None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(1.0)
        netlink.send(
            _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0) +
            request)
        answer = netlink.recv(8192)
    return answer if _HEADER.unpack_from(answer)[1] == _SOCK_DIAG_BY_FAMILY else None
