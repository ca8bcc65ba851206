"""Files in places where others may write too, so that nobody can lead us elsewhere, hold us up, or
be given what isn't theirs.

A directory is *guarded* if not everybody may write there and, where we are root, it is root's. A
symbolic link is followed only in a guarded directory, and only if it belongs to root, to us or to
the directory's owner. Anywhere else a file must be a plain one (or a device) with one name, and
belong to us, to root or to the directory's owner. What is opened here never blocks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from ...shared.frozen import dataclass

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
MOST_LINKS = 40
# Somebody may remove and make a file as often as he likes.
ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Spot:
    """An entry of a directory. `directory`: an open descriptor; `above`: what that is. `magic`: a
    link of the kernel's own, such as /proc/self/fd/1, which means what is open there and not its
    text."""

    directory: int
    above: os.stat_result
    name: str
    magic: bool = False


def _trusted() -> set[int]:
    # Where root's number is not known (user_namespaces(7)), "/" still belongs to whoever is root
    # there.
    return {0, os.geteuid(), os.stat("/").st_uid}


def _guarded(directory: os.stat_result) -> bool:
    return not directory.st_mode & stat.S_IWOTH and (os.geteuid() != 0
                                                     or directory.st_uid in _trusted())


@contextlib.contextmanager
def spot(path: str, follow: bool) -> Iterator[Spot]:
    """Find where a path leads, without following links that somebody else could have laid.
    `follow`: also one at its end.

    Raises:
        OSError: there is no such directory, or such a link lies on the way.
    """
    parts, links = _backwards(path), 0
    here = _where_it_begins(path)
    try:
        while True:
            name = parts.pop() if parts else "."
            if not parts and not follow:
                break
            try:
                found = os.open(name, _LOOK, dir_fd=here)
            except FileNotFoundError:
                if parts:
                    raise
                break
            try:
                kind, above = os.fstat(found), os.fstat(here)
                if not parts and (not stat.S_ISLNK(kind.st_mode)
                                  or above.st_dev == os.stat("/proc").st_dev):
                    break
                if stat.S_ISLNK(kind.st_mode):
                    _refuse_strangers_link(name, kind, above)
                    links += 1
                    if links > MOST_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    target = os.readlink("", dir_fd=found)
                    parts += _backwards(target)
                    if target.startswith("/"):
                        root = _where_it_begins(target)
                        os.close(here)
                        here = root
                elif not stat.S_ISDIR(kind.st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                else:
                    here, found = found, here
            finally:
                os.close(found)
        above = os.fstat(here)
        yield Spot(here, above, name, follow and above.st_dev == os.stat("/proc").st_dev)
    finally:
        os.close(here)


def _backwards(path: str) -> list[str]:
    return [part for part in reversed(path.split("/")) if part]


def _where_it_begins(path: str) -> int:
    return os.open("/" if path.startswith("/") else ".", _LOOK)


def _refuse_strangers_link(name: str, link: os.stat_result, directory: os.stat_result) -> None:
    """Raises OSError if somebody whom we don't trust could have laid this link."""
    if not _guarded(directory) or link.st_uid not in _trusted() | {directory.st_uid}:
        raise OSError(
            errno.EPERM,
            f"the symbolic link {name} on the way is not followed: it is user {link.st_uid}'s, its "
            f"directory user {directory.st_uid}'s, with mode {directory.st_mode & 0o7777:o}")


def opened(path: str, flags: int, mode: int = 0o600) -> int:
    """Open a file, as os.open does; with O_CREAT one that is made here is a new one.

    Raises:
        OSError: it can't be opened, or is none that may be; `strerror` says why.
    """
    with spot(path, follow=True) as found:
        if found.magic:
            return os.open(found.name, flags & ~os.O_CREAT | _SAFELY & ~os.O_NOFOLLOW,
                           dir_fd=found.directory)
        for _ in range(ATTEMPTS):
            if flags & os.O_CREAT:
                with contextlib.suppress(FileExistsError):
                    return os.open(found.name, flags | os.O_EXCL | _SAFELY, mode,
                                   dir_fd=found.directory)
            try:
                fd = os.open(found.name, flags & ~os.O_CREAT | _SAFELY, dir_fd=found.directory)
            except FileNotFoundError:
                if flags & os.O_CREAT:
                    continue
                raise
            wrong = None if _guarded(found.above) else _wrong(os.fstat(fd), found.above)
            if wrong is None:
                return fd
            os.close(fd)
            raise OSError(errno.EPERM, f"others may write to its directory, and {wrong}")
        raise OSError(errno.EBUSY, "somebody makes and removes it all the time")


def _wrong(file: os.stat_result, above: os.stat_result) -> str | None:
    """Why a file in a directory that is not guarded is not to be used."""
    if not (stat.S_ISREG(file.st_mode) or stat.S_ISCHR(file.st_mode)):
        return "it is no plain file"
    if file.st_uid not in _trusted() | {above.st_uid}:
        return f"it belongs to user {file.st_uid}"
    return "it has another name elsewhere" if file.st_nlink > 1 else None


def read(path: str, most: int) -> bytes:
    """The first `most` bytes of a file.

    Raises:
        OSError: it can't be read.
    """
    fd = opened(path, os.O_RDONLY)
    try:
        return os.read(fd, most)
    finally:
        os.close(fd)


def replace(path: str, content: bytes, mode: int) -> None:
    """Write a small file, whole or not at all, in place of whatever has this name.

    Raises:
        OSError: it can't be written.
    """
    with spot(path, follow=False) as found:
        partial = f".{found.name[:200]}.{os.urandom(8).hex()}"
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFELY, mode,
                     dir_fd=found.directory)
        try:
            try:
                if os.write(fd, content) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(fd)
            os.replace(partial, found.name, src_dir_fd=found.directory, dst_dir_fd=found.directory)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(partial, dir_fd=found.directory)
            raise


def remove(path: str) -> None:
    """Remove a file, if it is there and that can be done."""
    with contextlib.suppress(OSError), spot(path, follow=False) as found:
        os.unlink(found.name, dir_fd=found.directory)


def own_directory(path: str, mode: int | None) -> int:
    """Open a directory that only we can write to, made with `mode` if it isn't there (None: it must
    be).

    Raises:
        OSError: it can't be made, or what is there is none of ours; `strerror` says so.
    """
    with spot(path, follow=False) as found:
        if mode is not None:
            with contextlib.suppress(FileExistsError):
                os.mkdir(found.name, mode, dir_fd=found.directory)
        fd = os.open(found.name, _DIRECTORY, dir_fd=found.directory)
    kind = os.fstat(fd)
    if kind.st_uid != os.geteuid() or kind.st_mode & 0o022:
        os.close(fd)
        raise OSError(errno.EPERM,
                      f"it is not a directory that only user {os.geteuid()} can write to")
    return fd


def stays(path: str) -> bool:
    """Whether what we make there stays there: nobody else can put something in its place.

    Raises:
        OSError: there is no such directory.
    """
    with spot(path, follow=False) as found:
        closed = not found.above.st_mode & 0o022 or bool(found.above.st_mode & stat.S_ISVTX)
        return closed and (os.geteuid() != 0 or found.above.st_uid in _trusted())


def give_group(path: str, group: int) -> None:
    """Give a socket that we have made to a group.

    Raises:
        OSError: it can't be done, or is no longer ours.
    """
    with spot(path, follow=False) as found:
        fd = os.open(found.name, _LOOK, dir_fd=found.directory)
    try:
        kind = os.fstat(fd)
        if not stat.S_ISSOCK(kind.st_mode) or kind.st_uid != os.geteuid():
            raise OSError(errno.EPERM, "somebody has put something else in its place")
        os.chown(f"/proc/self/fd/{fd}", -1, group)
    finally:
        os.close(fd)
