"""How what lies in `releases/` is taken away, whatever it is and whoever still writes there."""

from __future__ import annotations

import contextlib
import os
import shutil
import time

from ...shared import releases
from . import commands

REMOVED = ".removed"


def take_away(root: str, name: str) -> None:
    """Remove a release: it has lost its name before anything in it is touched."""
    remove(releases.directory(root, name), name)
    if not os.path.lexists(releases.directory(root, name)):
        releases.forget(root, name)


def remove(path: str, name: str | None = None) -> bool:
    """Remove what lies in `releases/`, and end what still writes there; return whether it is gone.
    It loses its name at once, so what can't be removed is in nobody's way; whoever tidies up next
    tries again."""
    if not os.path.lexists(path):
        return True
    commands.end_all(path)
    inside, entry = os.path.split(path)
    gone = path
    if not entry.endswith(REMOVED):
        gone = f"{inside}/.{name or entry.strip('.')}.{time.time_ns():x}{REMOVED}"
        try:
            os.rename(path, gone)
        except OSError:
            return False
    if os.path.islink(gone) or not os.path.isdir(gone):
        with contextlib.suppress(OSError):
            os.unlink(gone)
    else:
        _let_go(gone)
        shutil.rmtree(gone, ignore_errors=True)
    return not os.path.lexists(gone)


def _let_go(directory: str) -> None:
    """Let what is in directories that nobody may write in be removed: module caches are such."""
    with contextlib.suppress(OSError):
        os.chmod(directory, 0o700)
    for inside, directories, _ in os.walk(directory):
        for each in directories:
            if not os.path.islink(f"{inside}/{each}"):
                with contextlib.suppress(OSError):
                    os.chmod(f"{inside}/{each}", 0o700)
