"""Whether a process, any at all, is alive, as proc(5) tells. Whether it still is the one that was
meant is not known here: pids are used again."""

from __future__ import annotations

import os


def is_alive(pid: int) -> bool:
    """Whether a process still runs: one that is dead and that nobody has reaped doesn't."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state = file.read().rpartition(b")")[2].split()[0]
        # Of a process whose first thread alone has ended the others go on.
        return state not in (b"Z", b"X") or len(os.listdir(f"/proc/{pid}/task")) > 1
    except (OSError, IndexError):
        return False
