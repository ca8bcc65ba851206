"""A page of a worker's own, for one that no adapter has given slots of the master's: both slots in
a file in memory, which the master is handed once and reads from then on.

Plain standard library from Python 3.9 on.
"""

import fcntl
import os
from typing import Callable, Optional, Sequence

from . import busy_slot, traffic_slot

# The busy slot stands at its beginning, the other one after it.
SIZE = 2 * traffic_slot.SLOT_SIZE
# As sd_notify(3) hands a descriptor over.
MESSAGE = b"FDSTORE=1\nFDNAME=einhornpy-traffic"
_page: Optional["OwnPage"] = None


class OwnPage:
    """`busy`, `traffic`: its slots."""

    def __init__(self, fd: int) -> None:
        self.busy = busy_slot.Slot(fd, 0, 0, lambda reason: True)
        self.traffic = traffic_slot.TrafficSlot((fd, traffic_slot.SLOT_SIZE))
        self.busy.beat()
        self.traffic.counts()

    def let_go(self) -> None:
        """Count nowhere from now on."""
        self.busy.let_go()
        self.traffic.let_go()


def open_page(notify: Callable[[bytes, Sequence[int]], bool], busy: bool) -> Optional[OwnPage]:
    """This process's page, the same one each time; None where there can be none. `notify`: sends
    the master a datagram with descriptors. `busy`: the beginnings of requests will be known too."""
    global _page
    if _page is None:
        try:
            fd = os.memfd_create("einhornpy-worker", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except (AttributeError, OSError):  # a Python that was built without it
            return None
        try:
            os.ftruncate(fd, SIZE)
            # The master takes no other: whoever maps or reads it can rely on its size.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS,
                        fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            page = OwnPage(fd)
            if not busy:
                page.busy.does_not_count()
            if not notify(MESSAGE, [fd]):
                return None
        except (OSError, ValueError):
            return None
        finally:
            os.close(fd)
        # What the worker forks is none: it counts nothing in its name.
        os.register_at_fork(after_in_child=page.let_go)
        _page = page
    return _page
