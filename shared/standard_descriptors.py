"""The first three descriptors of a process of ours. It opens nothing else."""

from __future__ import annotations

import os


def fill() -> None:
    """Where somebody started us without standard input, output or error, nothing else of ours may
    land on their numbers."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            os.set_inheritable(fd, True)
