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
# Fields of /proc/PID/stat, counted from the one behind the name: where the command line begins and
# ends, and where the environment begins.
_ARG_START, _ARG_END, _ENV_START = 48 - 3, 49 - 3, 50 - 3


def forget() -> None:
    """Take the placeholders out of our own variables, before anybody is started with them."""
    for name in MARKS:
        os.environ.pop(name, None)


def write(variables: Mapping[str, str]) -> None:
    """Write a worker's own numbers into the placeholders; without any, nothing happens."""
    start = _field(_ENV_START)
    try:
        with open("/proc/self/environ", "rb") as file:
            shown = file.read()
    except OSError:
        return
    for name in MARKS:
        before, found, after = shown.partition(b"%s=-" % name.encode())
        room = len(after) - len(after.lstrip(b"-")) + 1
        number = variables.get(name, "").zfill(room).encode()
        if found and start and len(number) == room and before[-1:] in (b"", b"\0"):
            ctypes.memmove(start + len(before) + len(name) + 1, number, room)


def show(title: str) -> None:
    """Show a title in `ps`, as long as our command line at most, where nothing better is there."""
    start, end = _field(_ARG_START), _field(_ARG_END)
    room = end - start - 1
    if start and room > 0:
        ctypes.memmove(start, title.encode()[:room].ljust(room) + b"\0", room + 1)


def _field(position: int) -> int:
    """An address in this process; 0 where it can't be known, or not be written to."""
    try:
        with open("/proc/self/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[position]) if ctypes else 0
    except (OSError, ValueError, IndexError):
        return 0
