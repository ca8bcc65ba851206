"""What somebody may ask of the master by a key: the question before it, and the asking itself. What
is asked when is decided here, from the status; the screen (app.py) only shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...shared.frozen import dataclass
from .. import client
from .words import running_upgrade

# How long the master may take for an answer, in seconds.
PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the master said to an action."""

    message: str
    well: bool


@dataclass(frozen=True, slots=True)
class Action:
    """Something to ask of the master, and what will happen then, as a question. `pid`: the worker
    that is meant, if one is."""

    command: str
    arguments: Mapping[str, Any]
    question: str
    pid: int | None = None


class NoUpgrade(Exception):
    """There is none under way that could be steered."""


def upgrade(document: Mapping[str, Any]) -> Action:
    running = running_upgrade(document)
    instead = (f" The upgrade to generation {running['to']}, which is under way, is superseded."
               if running else "")
    return Action("upgrade", {"kind": "rolling", "wait": False}, (
        f"Upgrade {document['name']}?\n\nAll {document['target']} workers are replaced, one after "
        "the other, by new ones of the code that is there now. The new generation has no release "
        f"label.{instead}"))


def pause_or_resume(document: Mapping[str, Any]) -> Action:
    """Raises NoUpgrade."""
    running = _going(document)
    if document["gate"] == "paused" or running["hold_left_seconds"] is not None:
        what = "goes on" if running["paused_by"] else "ends its hold and goes on"
        return Action("resume", {}, f"Resume?\n\nThe upgrade to generation {running['to']} {what}.")
    return Action("pause", {}, (
        f"Pause?\n\nThe upgrade to generation {running['to']} stands still, and nobody is "
        "exchanged, until somebody resumes or aborts it."))


def abort(document: Mapping[str, Any]) -> Action:
    """Raises NoUpgrade."""
    running = _going(document)
    return Action("abort", {"wait": False}, (
        f"Abort?\n\nThe upgrade to generation {running['to']} is refused, and what was replaced "
        f"goes back to generation {running['from']}."))


def scale(document: Mapping[str, Any], step: int) -> Action:
    target = document["target"]
    happens = ("One more is started." if step > 0 else
               "One leaves as soon as it has finished its requests.")
    return Action("scale", {"to": target + step}, (
        f"Change the number of workers from {target} to {target + step}?\n\n{happens}"))


def recycle(worker: Mapping[str, Any]) -> Action:
    return Action("recycle", {"index": worker["index"]}, (
        f"Recycle worker {worker['index']} (pid {worker['pid']}, {worker['state']})?\n\nAnother "
        "one of the same code is started in its place. When that is ready, this one finishes its "
        "requests and leaves."), worker["pid"])


def _going(document: Mapping[str, Any]) -> Mapping[str, Any]:
    running = running_upgrade(document)
    if running is None:
        raise NoUpgrade
    return running


def give(path: str, action: Action) -> Answer:
    """Ask the master at `path`, and wait for what it says."""
    try:
        with client.Client(path, PATIENCE) as master:
            return Answer(master.ask(action.command, **action.arguments)["message"], True)
    except client.TimedOut as error:
        return Answer(f"{action.command}: the master does not answer: {error}", False)
    except (client.NoMaster, client.MasterGone, client.Failed) as error:
        return Answer(f"{action.command}: {error}", False)
