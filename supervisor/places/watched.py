"""Directories whose changes wake the master. What has changed, and what follows, is others' to see.

By fcntl(2), F_NOTIFY: inotify(7) would cost a master ctypes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterable

# By it the kernel wakes us; nobody dies of it who doesn't know it.
STIRRED = signal.SIGURG
_CHANGES = fcntl.DN_DELETE | fcntl.DN_CREATE | fcntl.DN_RENAME


class Watched:
    """`paths`: the directories that were asked for. `all_told`: whether the kernel tells of each
    one's files."""

    def __init__(self) -> None:
        self.paths: frozenset[str] = frozenset()
        self.all_told = True
        self._open: list[int] = []

    def watch(self, paths: Iterable[str]) -> None:
        """Be woken once by the next change to any of these, which may be others than before."""
        self.close()
        self.paths, self.all_told = frozenset(paths), True
        for path in self.paths:
            try:
                # anew each time: another directory may have taken the place of this one
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                self._open.append(fd)
                fcntl.fcntl(fd, fcntl.F_SETSIG, STIRRED)
                fcntl.fcntl(fd, fcntl.F_NOTIFY, _CHANGES)
            except OSError:
                self.all_told = False

    def close(self) -> None:
        for fd in self._open:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._open = []
