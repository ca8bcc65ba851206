"""How a process ended, in words. `status` everywhere: its exit code, or minus the number of the
signal that ended it."""

from __future__ import annotations


def how(status: int) -> str:
    """"exited with code 1" or "was ended by signal 9"."""
    return f"was ended by signal {-status}" if status < 0 else f"exited with code {status}"
