"""How long to wait before something that has failed is tried again. Pure: who waits, and what
counts as a failure, is the caller's."""

from __future__ import annotations


def delay_after(failures: int, first: float, longest: float, growth: float = 2.0) -> float:
    """Seconds to wait after so many failures in a row: none at first, then `first`, then `growth`
    times as long after each further one, up to `longest`."""
    return min(longest, first * growth**min(failures - 1, 32)) if failures > 0 else 0.0
