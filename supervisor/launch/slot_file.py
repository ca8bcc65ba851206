"""A file in memory that the master shares with its workers, in slots of one size: which are taken,
and how a slot is read while its worker writes. What stands in a slot is its owner's business
(shared_page.py, traffic_pages.py).
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterable, Iterator

# No file of slots is larger than this.
LARGEST_FILE = 1 << 30
# What a worker may say at most, since its app can write anything there; whole numbers are exact up
# to it.
LARGEST = float(1 << 53)
# Each slot has its sequence in word 1: odd while somebody writes, changed by each write.
_SEQUENCE_AT = 8
_SEQUENCE = struct.Struct("=d")


class SlotFile:
    """Slots are reused; one is zeroed when it is handed out. `name`: what the kernel shows."""

    def __init__(self, name: str, slot_size: int) -> None:
        self.slot_size = slot_size
        self.size = 0
        self._free: list[int] = []
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # Whoever maps a file that has shrunk is killed by it: no worker may do that to all others.
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)

    def take_over(self, fd: int, size: int, taken: Iterable[int]) -> None:
        """Go on with the file of the master before. `taken`: offsets of slots in use."""
        self.close()
        self.fd, self.size = fd, size
        used = set(taken)
        self._free = [offset for offset in range(0, size, self.slot_size) if offset not in used]

    def take(self) -> int:
        """Hand a slot out; return its offset in bytes."""
        if not self._free:
            self._free.append(self.size)
            self.size += self.slot_size
            os.ftruncate(self.fd, self.size)
        offset = self._free.pop()
        os.pwrite(self.fd, bytes(self.slot_size), offset)
        return offset

    def give_back(self, offset: int) -> None:
        self._free.append(offset)

    def close(self) -> None:
        os.close(self.fd)


def doubts(size: int, slot_size: int, offsets: Iterable[int]) -> Iterator[str]:
    """What can't be true of a file that an earlier master has handed over."""
    if size % slot_size or not 0 <= size <= LARGEST_FILE:
        yield f"a page of {size} bytes"
    taken = [*offsets]
    if any(offset % slot_size or not 0 <= offset < size for offset in taken):
        yield f"slots at {taken} in a page of {size} bytes"


def settled(copy: bytes, again: bytes) -> bool:
    """Whether two copies of a slot, taken one after the other, show that nobody wrote meanwhile."""
    return copy == again and _SEQUENCE.unpack_from(copy, _SEQUENCE_AT)[0] % 2 == 0
