"""The open descriptors of this process, found without trying every number that the limit allows:
that may be a billion, and an older kernel or a filter knows no close_range(2).
"""

from __future__ import annotations

import contextlib
import os

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


def close_inherited() -> list[str]:
    """Close what whoever started this process has left open, but for standard input, output and
    error: descriptors that aren't closed on exec, as all of our own are. Return what they were:
    a number and the kernel's word for it."""
    closed = []
    for fd in open_from(3):
        with contextlib.suppress(OSError):
            if os.get_inheritable(fd):
                closed.append(f"{fd} ({os.readlink(f'/proc/self/fd/{fd}')})")
                os.close(fd)
    return closed


def _close(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.close(fd)
