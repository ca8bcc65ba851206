"""What is left in `releases/`: by deploys that were killed, and of releases that are old."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from ...shared import releases
from ...shared.releases import Record, State
from . import removing
from .plan import Plan

# What a killed process leaves: a file that was yet to get its name.
_UNNAMED = re.compile(r"\.(?:.+\.json|turn|current)\.([0-9]+)")


def sweep(plan: Plan) -> list[str]:
    """Remove what deploys that were killed have left; return what can't be removed. For whoever has
    the turn.

    Raises:
        OSError: nobody may look.
    """
    root, left = plan.root, []
    inside = releases.directory(root)
    for entry in os.listdir(inside):
        of_a_deploy = entry.startswith(".") and entry.endswith((".partial", removing.REMOVED))
        if of_a_deploy and not removing.remove(f"{inside}/{entry}"):
            left.append(f"{inside}/{entry}")
    for path in (root, inside):
        for entry in os.listdir(path):
            found = _UNNAMED.fullmatch(entry)
            if found is not None and not os.path.exists(f"/proc/{found[1]}"):
                with contextlib.suppress(OSError):
                    os.unlink(f"{path}/{entry}")
    for entry in os.listdir(inside):
        name = entry.removeprefix(".").removesuffix(".json")
        if f"{inside}/{entry}" == releases.record_file(root, name):
            record = releases.read(root, name)
            if not releases.is_there(root, name):
                releases.forget(root, name)
            # One that runs all the same was to be removed just as somebody upgraded to it.
            elif (record is not None and record.state is State.UNPREPARED
                  and name not in {*plan.live, releases.current(root)}):
                removing.take_away(root, name)
    return left


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


def prune(plan: Plan, live: Callable[[], frozenset[str]]) -> list[str]:
    """Remove old releases, never one that a live generation, `current` or the one before uses;
    return their names. `live`: asks the master which ones its generations use.

    Each is marked first, so that no upgrade to it begins any more, and then it is asked again
    whether one has begun before.

    Raises:
        OSError: nobody may look. Trouble: the master doesn't say.
    """
    records = releases.known(plan.root)
    gone = []
    for name in superfluous(records, plan.keep, _needed(plan, live())):
        before = records[name]
        with contextlib.suppress(OSError):  # a full disk is where there must be room again
            releases.write(plan.root, replace(before, state=State.UNPREPARED))
        if name in _needed(plan, live()):
            releases.write(plan.root, before)
            continue
        removing.take_away(plan.root, name)
        if not releases.is_there(plan.root, name):
            gone.append(name)
    return gone


def _needed(plan: Plan, live: frozenset[str]) -> frozenset[str]:
    current = releases.current(plan.root)
    found = {*live, current, releases.before(releases.known(plan.root), {current})}
    return frozenset(each for each in found if each is not None)
