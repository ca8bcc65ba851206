"""The files of UNIX sockets: made with the permission bits and the owner that they are to have,
told from another's, and cleared away."""

from __future__ import annotations

import errno
import os
import socket
import stat

from ..system import attributes, files
from .addresses import Address


def bind(bound: socket.socket, path: str, mode: int | None) -> None:
    """Bind a socket to a path. `mode`: the permission bits of its file, from the first moment on;
    None: what our umask leaves.

    Raises:
        OSError: it can't be bound.
    """
    umask = None if mode is None else os.umask(0o777 & ~mode)
    try:
        bound.bind(path)
    finally:
        if umask is not None:
            os.umask(umask)


def identity(path: str) -> tuple[int, int]:
    """Device and inode of what is there. As long as a socket is open, no other file can have those
    of its own.

    Raises:
        OSError: nothing is.
    """
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def identity_or_none(path: str) -> tuple[int, int]:
    """The same; (0, 0), which no file has, where nothing is."""
    try:
        return identity(path)
    except OSError:
        return 0, 0


def is_still(path: str, made: tuple[int, int]) -> bool:
    """Whether what is there is what was `made`."""
    return identity_or_none(path) == made


def remove(path: str, made: tuple[int, int]) -> None:
    """Remove the file that was `made`, unless somebody else's is there by now."""
    if is_still(path, made):
        files.remove(path)


def own(path: str, address: Address) -> None:
    """Give a socket's file to the user and group that an address asks for.

    Raises:
        OSError: it can't be given away.
        attributes.Refused: there is none of this name.
    """
    owner = owner_of(address)
    found = os.lstat(path)
    if any(wanted not in (-1, is_) for wanted, is_ in zip(owner, (found.st_uid, found.st_gid),
                                                         strict=True)):
        os.chown(path, *owner, follow_symlinks=False)


def owner_of(address: Address) -> tuple[int, int]:
    """The user and group that an address asks for; -1: it doesn't.

    Raises:
        attributes.Refused: there is none of this name.
    """
    return (attributes.user_id(address.user, address.text) if address.user else -1,
            attributes.group_id(address.group, address.text) if address.group else -1)


def is_there(path: str) -> bool:
    """Whether a socket's file is there.

    Raises:
        OSError: something else is.
    """
    if not os.path.lexists(path):
        return False
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise OSError(errno.EEXIST, "it exists and is no socket")
    return True


def clear(path: str, kind: socket.SocketKind) -> None:
    """Remove a socket's file, if there is one and nobody has that socket any more.

    Raises:
        OSError: it is something else, or can't be removed, or another master's whose lock is
            elsewhere (--lockfile).
    """
    if not is_there(path):
        return
    if _somebody_listens(path, kind):
        raise OSError(errno.EADDRINUSE, "another master listens there")
    files.remove(path)


def _somebody_listens(path: str, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return True  # its queue is full
        except OSError:
            return False
    return True
