"""What the master pays for the memory in its status: one reading of a process (proc(5),
`smaps_rollup`), by how much it uses, beside the resident bytes alone.

    python -m bench.readings
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

from einhornpy.supervisor.launch import memory, readings

ROUNDS = 21


def cost(read: Callable[[int], object], pid: int) -> float:
    """Milliseconds, the median."""
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        read(pid)
        found.append(time.perf_counter() - began)
    return statistics.median(found) * 1000


def main() -> None:
    """Fork a process that shares so many MiB with us, and read it."""
    held: list[bytearray] = []
    for mebibytes in (0, 100, 300, 1000):
        while len(held) < mebibytes << 8:
            held.append(bytearray(4000))
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(theirs)
            os.read(ours, 1)
            os._exit(0)
        os.close(ours)
        print(f"{mebibytes:5} MiB shared: {cost(readings.read, pid):6.2f} ms, "
              f"resident bytes alone {cost(memory.memory, pid):.3f} ms")
        os.close(theirs)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
