"""Who is at the other end of a UNIX socket, as the kernel knows it (unix(7))."""

from __future__ import annotations

import socket
import struct

# struct ucred of unix(7): pid, uid, gid.
_UCRED = struct.Struct("=iII")
# Known to socket(7) by number only.
SO_PEERGROUPS = 59


def credentials(connection: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of whoever connected, or, for a client, of whoever began to listen."""
    pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid, gid


def other_groups(connection: socket.socket) -> set[int]:
    """The groups of the process at the other end, as it connected, beyond its first; none before Linux 4.13 or where there are
    more than 256."""
    try:
        found = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 1024)
    except OSError:
        return set()
    return {number for number, in struct.iter_unpack("=I", found)}
