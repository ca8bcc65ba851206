"""What the master notices by itself: heartbeats on the shared page, and memory.

The page is one in-memory file with a slot a worker; a worker writes its own slot, the master reads when it looks.

    slot of 64 bytes    0..7  float64, native order: CLOCK_MONOTONIC seconds of the last heartbeat, 0.0 before it
                        8..63 reserved, zero
"""

from __future__ import annotations

import os
import struct

SLOT_SIZE = 64


class Page:
    """The shared page. Slots are reused; a slot is zeroed when it is handed out."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("einhornpy-workers", os.MFD_CLOEXEC)
        self._free: list[int] = []
        self._size = 0
        self._slots: dict[int, int] = {}

    def take(self, worker: int) -> int:
        """Give `worker` a slot; return its offset in bytes."""
        if not self._free:
            self._free.append(self._size)
            self._size += SLOT_SIZE
            os.ftruncate(self.fd, self._size)
        offset = self._free.pop()
        os.pwrite(self.fd, bytes(SLOT_SIZE), offset)
        self._slots[worker] = offset
        return offset

    def heartbeat(self, worker: int) -> float | None:
        """When `worker` last gave a sign of life, in monotonic seconds; None if it never did."""
        offset = self._slots.get(worker)
        if offset is None:
            return None
        at: float = struct.unpack("=d", os.pread(self.fd, 8, offset))[0]
        return at if at > 0.0 else None

    def give_back(self, worker: int) -> None:
        """Free the slot of a worker that is gone."""
        offset = self._slots.pop(worker, None)
        if offset is not None:
            self._free.append(offset)

    def close(self) -> None:
        os.close(self.fd)


def memory(pid: int) -> int | None:
    """Resident bytes of a process (proc(5), `statm`); None if it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None
