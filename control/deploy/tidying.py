"""What is left in `releases/`: by deploys that were killed, and of releases that are old."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping

from ...shared import releases
from ...shared.releases import Record, State
from . import commands, fetching
from .plan import Plan

# What a killed process leaves: a file that was yet to get its name.
_UNNAMED = re.compile(r"\.(?:.+\.json|turn|current)\.([0-9]+)")


def sweep(root: str) -> None:
    """Remove what deploys that were killed have left. For whoever has the turn.

    Raises:
        OSError: nobody may look.
    """
    inside = releases.directory(root)
    for entry in os.listdir(inside):
        path = f"{inside}/{entry}"
        if entry.startswith(".") and entry.endswith((".partial", ".removed")):
            fetching.remove(root, path)
    for path in (root, inside):
        for entry in os.listdir(path):
            found = _UNNAMED.fullmatch(entry)
            if found is not None and not os.path.exists(f"/proc/{found[1]}"):
                with contextlib.suppress(OSError):
                    os.unlink(f"{path}/{entry}")
    for entry in os.listdir(inside):
        name = entry.removeprefix(".").removesuffix(".json")
        if entry == f".{name}.json":
            record = releases.read(root, name)
            if not releases.is_there(root, name):
                releases.forget(root, name)
            elif record is not None and record.state is State.UNPREPARED:
                commands.end_all(releases.directory(root, name))
                fetching.take_away(root, name)


def superfluous(records: Mapping[str, Record], keep: int, needed: frozenset[str]) -> list[str]:
    """Which releases go: all but the newest `keep` of the proven ones and of those that nobody has
    tried, the last refused one, which is kept for reading, and those that are needed. One of which
    nothing is known is somebody else's. Pure."""
    going = []
    for state, most in ((State.PROVEN, keep), (State.FETCHED, keep), (State.REFUSED, 1)):
        of_state = sorted((each for each in records.values() if each.state is state),
                          key=lambda each: each.order, reverse=True)
        going += [each.release for each in of_state[most:]]
    return [each for each in going if each not in needed]


def prune(plan: Plan, live: frozenset[str]) -> list[str]:
    """Remove old releases, never one that a live generation, `current` or the one before uses;
    return their names.

    Raises:
        OSError: nobody may look.
    """
    records = releases.known(plan.root)
    current = releases.current(plan.root)
    needed = {*live, current, releases.before(records, {current})}
    going = superfluous(records, plan.keep, frozenset(each for each in needed if each is not None))
    for name in going:
        fetching.take_away(plan.root, name)
    return [name for name in going if not releases.is_there(plan.root, name)]
