"""Who is at the other end of a UNIX socket, as the kernel knows it (unix(7))."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
from collections.abc import Iterable

# struct ucred of unix(7): pid, uid, gid.
UCRED = struct.Struct("=iII")
# Known to Linux by number only (asm-generic/socket.h, linux/socket.h).
SO_PEERGROUPS, SO_PASSPIDFD, SO_PEERPIDFD, SCM_PIDFD = 59, 76, 77, 4
# No datagram has more (SCM_MAX_FD of unix(7)).
MOST_DESCRIPTORS = 253
# What the kernel says instead of the pidfd of a process that has gone, before 6.16.
_GONE = (errno.ESRCH, errno.EINVAL)


def credentials(connection: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of whoever connected, or, for a client, of whoever began to listen."""
    pid, uid, gid = UCRED.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
    return pid, uid, gid


def other_groups(connection: socket.socket) -> set[int]:
    """The groups of the process at the other end, as it connected, beyond its first; none before
    Linux 4.13 or where there are more than 256."""
    try:
        found = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 1024)
    except OSError:
        return set()
    return {number for number, in struct.iter_unpack("=I", found)}


def is_gone(connection: socket.socket) -> bool:
    """Whether the process that connected is no more, so that its pid may be another's by now.
    False, too, where the kernel can't tell: before Linux 6.5, or without a descriptor."""
    try:
        pidfd = connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as error:
        return error.errno in _GONE
    return _is_gone(pidfd)


def _is_gone(pidfd: int) -> bool:
    """Whether nobody is left with this pidfd, which is closed; or, below zero, what the kernel said
    instead of one."""
    if pidfd < 0:
        return -pidfd in _GONE
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    finally:
        os.close(pidfd)
    return False


def ask_who_sends(datagrams: socket.socket) -> bool:
    """Let the kernel say of each datagram who sent it; return whether it says by pidfd too (from
    Linux 6.5 on)."""
    datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    try:
        datagrams.setsockopt(socket.SOL_SOCKET, SO_PASSPIDFD, 1)
    except OSError:
        return False
    return True


def room_for_sender(by_pidfd: bool) -> int:
    """Bytes of ancillary data that tell who sent a datagram, beside as many descriptors as it may
    have: without room for these the pidfd, which comes after them, would be lost."""
    return (socket.CMSG_SPACE(UCRED.size) + socket.CMSG_SPACE(4 * MOST_DESCRIPTORS)
            + (socket.CMSG_SPACE(4) if by_pidfd else 0))


def sender(ancillary: Iterable[tuple[int, int, bytes]], by_pidfd: bool) -> int:
    """The pid of who sent a datagram; 0 where that isn't known, or is a process that has gone,
    whose pid may be another's by now."""
    pid, gone = 0, by_pidfd
    for level, kind, content in ancillary:
        if level != socket.SOL_SOCKET:
            continue
        if kind == socket.SCM_CREDENTIALS and len(content) >= UCRED.size:
            pid = UCRED.unpack(content[: UCRED.size])[0]
        elif kind == SCM_PIDFD and by_pidfd and len(content) >= 4:
            gone = _is_gone(struct.unpack("=i", content[:4])[0])
    return 0 if gone else pid


def descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that came with a datagram; the caller must close each."""
    return [descriptor for level, kind, content in ancillary
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS
            for descriptor, in struct.iter_unpack("=i", content[: len(content) // 4 * 4])]
