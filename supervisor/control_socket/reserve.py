"""One descriptor that is kept for the moment when no other is left, so that somebody can still be
let in."""

from __future__ import annotations

import os


class Reserve:
    """It is held from the start; whoever needs it spends it, and `keep` takes it back as soon as
    there is one."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self.keep()

    def keep(self) -> None:
        """Hold one again, if one can be had."""
        if self._fd is None:
            try:
                self._fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                pass

    def spend(self) -> bool:
        """Let it go; return whether there is room for one descriptor now."""
        self.keep()
        if self._fd is None:
            return False
        os.close(self._fd)
        self._fd = None
        return True
