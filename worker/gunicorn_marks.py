"""By which others know a worker that was forked: its environment as proc(5) shows it, which is that
of its template, where placeholders were left for it. What it starts without exec shows the same.

Plain standard library from Python 3.9 on.
"""

import os
from typing import Mapping

try:  # imported before any worker is another user, who may not read it
    import ctypes
except ImportError:  # a Python that was built without
    ctypes = None  # type: ignore[assignment]

# Variables whose placeholders hold as many digits as a number may have.
MARKS = ("EINHORNPY_WORKER", "EINHORN_CHILD_INDEX")
# The field of the address in /proc/PID/stat, counted from the one behind the name.
_ENV_START = 50 - 3


def forget() -> None:
    """Take the placeholders out of our own variables, before anybody is started with them."""
    for name in MARKS:
        os.environ.pop(name, None)


def write(variables: Mapping[str, str]) -> None:
    """Write a worker's own numbers into the placeholders; without any, nothing happens."""
    try:
        with open("/proc/self/environ", "rb") as file:
            shown = file.read()
        with open("/proc/self/stat", "rb") as file:
            start = int(file.read().rpartition(b")")[2].split()[_ENV_START])
    except (OSError, ValueError, IndexError):
        return
    for name in MARKS:
        before, found, after = shown.partition(b"%s=-" % name.encode())
        room = len(after) - len(after.lstrip(b"-")) + 1
        number = variables.get(name, "").zfill(room).encode()
        if (found and len(number) == room and before[-1:] in (b"", b"\0")
                and ctypes is not None):
            ctypes.memmove(start + len(before) + len(name) + 1, number, room)
