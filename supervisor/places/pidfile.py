"""The file with our pid, if somebody wants one. It is removed only while it is still ours, and
taken from another process only when that one is dead."""

from __future__ import annotations

import contextlib
import os
import re
from typing import Any

from ...shared.alive import is_alive
from ..system import files
from ..system.part import Keep, Part, State


class NoPidfile(RuntimeError):
    """One line: why it can't be written."""


class Pidfile(Part):
    """The one that was written, if any."""

    name = "pidfile"
    keeps = {"pidfile": Keep(str | None, needed=True)}

    def __init__(self) -> None:
        self._path: str | None = None

    @property
    def path(self) -> str:
        """Where it is; "" where there is none."""
        return self._path or ""

    def write(self, path: str) -> None:
        """See `write_pidfile`."""
        write_pidfile(path)
        self._path = path

    def hand_over(self) -> dict[str, Any]:
        return {"pidfile": self._path}

    def take_over(self, state: State) -> None:
        self._path = state["pidfile"]

    def lost(self) -> str | None:
        """Its path, if it was removed."""
        return None if self._path is None or os.path.lexists(self._path) else self._path

    def make_again(self) -> None:
        """Write it once more.

        Raises:
            NoPidfile: it can't be written.
        """
        if self._path is not None:
            write_pidfile(self._path)

    def close(self) -> None:
        if self._path is not None:
            remove_pidfile(self._path)


def write_pidfile(path: str) -> None:
    """Write our pid, whole or not at all.

    Raises:
        NoPidfile: it can't be written, or names another process that is alive.
    """
    try:
        old = _pid_in(path)
    except FileNotFoundError:
        old = None
    except OSError as error:
        raise NoPidfile(f"cannot read the pidfile {path}: {error.strerror}") from None
    if old is not None and old != os.getpid() and is_alive(old):
        raise NoPidfile(f"cannot write the pidfile {path}: it names pid {old}, which is alive")
    try:
        files.replace(path, f"{os.getpid()}\n".encode(), 0o644)
    except OSError as error:
        raise NoPidfile(f"cannot write the pidfile {path}: {error.strerror}") from None


def _pid_in(path: str) -> int | None:
    """The pid in a file, None if there is something else in it."""
    text = files.read(path, 32).strip()
    return int(text) if re.fullmatch(rb"[0-9]{1,18}", text) else None


def remove_pidfile(path: str) -> None:
    """Remove it if it is still ours."""
    with contextlib.suppress(OSError):
        if _pid_in(path) == os.getpid():
            files.remove(path)
