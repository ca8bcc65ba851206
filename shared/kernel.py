"""prctl(2), which isn't in the standard library. Each call is about the calling process alone."""

from __future__ import annotations

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38


def load() -> None:
    """Load what `prctl` needs, for who will soon be a user that may not read this Python's files.
    A child calls it, not the master: it would weigh on that for ever."""
    import ctypes  # noqa: F401


def prctl(option: int, value: int) -> None:
    """Call prctl(2); what an older kernel doesn't know is passed over."""
    import ctypes

    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
