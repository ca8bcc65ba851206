"""The open descriptors of a process. Those of this one are found without trying every number that
the limit allows: that may be a billion, and an older kernel or a filter knows no close_range(2).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

# Of so many numbers each is tried where /proc can't be read.
MOST_TRIED = 1 << 16


def open_from(first: int) -> list[int]:
    """Those from `first` on, in order (proc(5)); some may be closed already."""
    try:
        found = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        found = [*range(first, min(os.sysconf("SC_OPEN_MAX"), MOST_TRIED))]
    return sorted(fd for fd in found if fd >= first)


def close_from(first: int) -> None:
    """Close all from `first` on."""
    # Where no descriptor is left, none could be listed.
    _close(first)
    for fd in open_from(first):
        _close(fd)


def inherited() -> dict[int, tuple[int, int]]:
    """What whoever started this process has left open, but for standard input, output and error:
    those that aren't closed on exec, as all of our own are; each with the device and inode of what
    it is. To be asked first of all: a library may open some of the same kind, and needs them."""
    found = {}
    for fd in open_from(3):
        with contextlib.suppress(OSError):
            if os.get_inheritable(fd):
                found[fd] = _identity(fd)
    return found


def close_unclaimed(left_open: Mapping[int, tuple[int, int]]) -> list[str]:
    """Close those of them that nobody has made his own since; return what they were: a number and
    the kernel's word for it."""
    closed = []
    for fd, identity in left_open.items():
        with contextlib.suppress(OSError):
            if os.get_inheritable(fd) and _identity(fd) == identity:
                closed.append(f"{fd} ({os.readlink(f'/proc/self/fd/{fd}')})")
                os.close(fd)
    return closed


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _close(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.close(fd)


def of(pid: int) -> list[str]:
    """What the descriptors of another process are, in the kernel's words (`socket:[INODE]`);
    nothing where it is gone, or may not be looked at (proc(5))."""
    found = []
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found
