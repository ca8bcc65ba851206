"""What a process uses, as cheaply as it can be read: for whoever looks at all workers every second.
"""

from __future__ import annotations

import os
import time

_PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """What a process has used of the processors since its start, in seconds; 0 if it is gone. By
    its clock, which counts nanoseconds (clock_getcpuclockid(3)): /proc/PID/stat counts ticks."""
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0


def anonymous_memory(pid: int) -> int:
    """Bytes of a process that no file stands behind, 0 if it is gone (proc(5), `statm`). What it
    shares with the process that it was forked from counts, and stays as it is when it is copied:
    so a difference is what was allocated meanwhile."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            words = file.read().split()
        return (int(words[1]) - int(words[2])) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0
