"""The course of an upgrade, for somebody who waits for its end: a line a change, and on a terminal
a bar below them. rich is imported for that alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from . import terminal
from .show import sentence, wrapped

# What is told each event.
Display = Callable[[Mapping[str, Any]], None]
# What means something for somebody who waits for an upgrade.
OF_UPGRADES = {
    "upgrade-started", "upgrade-paused", "upgrade-resumed", "upgrade-aborted", "upgrade-refused",
    "upgrade-judged", "hold-begun", "hold-ended", "check-passed", "check-failed", "start-failed",
    "worker-starting", "worker-ready", "worker-retiring", "worker-gone", "worker-failed",
    "worker-died", "worker-killed", "worker-hung", "template-died", "template-killed",
    "not-safe-to-fork", "release-fetching", "release-fetch-says", "current-moved",
    "current-not-moved"}
# What means something if it has this key: who waits, waits for an import.
OF_IMPORTS = {"generation-prepared": "so", "template-ready": "imported"}


def line(document: Mapping[str, Any]) -> str | None:
    """An event for somebody who waits for an upgrade; None where it means nothing to them."""
    event = document["event"]
    if event not in OF_UPGRADES and not document.get(OF_IMPORTS.get(event, "")):
        return None
    counts = event == "worker-ready" and "replaced" in document
    done = f" - {document['replaced']} of {document['target']} replaced" if counts else ""
    return f"{sentence(document)}{done}"


def plain(document: Mapping[str, Any]) -> None:
    """One line a change: for pipes, logs and dumb terminals."""
    text = line(document)
    if text is not None:
        terminal.say_block("\n".join(wrapped(text, 4, "")))


@contextlib.contextmanager
def moving() -> Iterator[Display]:
    """The same lines above a bar that shows how many workers are replaced."""
    # rich draws well on every terminal and knows when not to.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                  TimeElapsedColumn(), console=Console(highlight=False), transient=True) as bar:
        task = bar.add_task("upgrading", total=None)

        def step(document: Mapping[str, Any]) -> None:
            text = line(document)
            for part in () if text is None else wrapped(text, 4, ""):
                bar.console.print(terminal.shown(part, False), markup=False, soft_wrap=True)
            bar.update(task, total=document["target"], completed=document.get("replaced", 0))

        yield step


def display() -> AbstractContextManager[Display]:
    """What suits standard output."""
    if terminal.coloured() and os.environ.get("TERM", "dumb") != "dumb":
        return moving()
    return contextlib.nullcontext(plain)
