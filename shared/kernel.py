"""prctl(2) and signalfd(2), which aren't in the standard library. Each call is about the calling
process alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38


def load() -> None:
    """Load what `prctl` needs, for who will soon be a user that may not read this Python's files.
    A child calls it, not the master: it would weigh on that for ever."""
    import ctypes  # noqa: F401


def prctl(option: int, value: int) -> None:
    """Call prctl(2); what an older kernel doesn't know is passed over."""
    import ctypes

    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def signalfd(numbers: Iterable[signal.Signals]) -> int:
    """Return a descriptor from which these signals, which the caller has blocked, can be read
    without waiting.

    Raises:
        OSError: there can be none.
    """
    import ctypes  # 200 kB, in a master with a terminal alone

    wanted = sum(1 << number - 1 for number in numbers).to_bytes(128, "little")  # a sigset_t
    fd: int = ctypes.CDLL(None, use_errno=True).signalfd(-1, wanted, os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd
