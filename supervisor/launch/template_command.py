"""The command line and the environment of a template: how gunicorn is started in a process that
then holds it in the arbiter's place, or a program that becomes the template by itself. Pure; it
starts nobody.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ...shared.frozen import dataclass
from .programs import Program
from .recognition import Gunicorn

INSTRUCTIONS = "EINHORNPY_ADAPTER"


@dataclass(frozen=True, slots=True)
class Run:
    """What to run. `program`, `interpreter`: as in a recipe; empty where the words say it."""

    words: tuple[str, ...]
    environment: Mapping[str, str]
    program: str = ""
    interpreter: str = ""


def by_itself(start: Gunicorn | Program) -> dict[str, Any]:
    """What a template is told that is no gunicorn: the file that it is to load, and the arguments
    that each worker finds in sys.argv then; or that it becomes the template by its own word."""
    if isinstance(start, Gunicorn):
        return {}
    if start.file is None:
        return {"by_itself": True}
    return {"file": start.file, "arguments": [*start.words[1:]] or [start.words[0]]}


def template_command(start: Gunicorn | Program, environment: Mapping[str, str], bundle: int,
                     instructions: str) -> Run:
    """What to run, and in which environment.

    Args:
        environment: the generation's.
        bundle: the descriptor at which the template has the adapter, a zip.
        instructions: what the adapter is told, as JSON.

    gunicorn by its own name: its Python runs the adapter, with gunicorn's arguments. Where
    something else starts gunicorn in the end, that runs as typed, and each Python on the way
    imports the adapter's `sitecustomize` at its start (see `site` in Python's library). A program
    of its own kind runs as typed too, or the adapter in its Python, which then loads a file.

    What stands in between may stay (dumb-init, `uv run`, a shell) and keeps copies of all
    descriptors: the answer ends with its line, not with the end of the file, and the template is
    the process that the answer names, whether or not it is our own child.
    """
    adapter = f"/proc/self/fd/{bundle}"
    told = {**environment, INSTRUCTIONS: instructions}
    if isinstance(start, Program):
        if start.file is not None:
            return Run((start.words[0], adapter), told)
        return Run(start.words, told, start.program, start.interpreter)
    if not start.wrapped:
        return Run((start.python, *start.options, adapter, *start.arguments), told)
    theirs = environment.get("PYTHONPATH", "")
    told["PYTHONPATH"] = f"{adapter}{os.pathsep}{theirs}" if theirs else adapter
    return Run((start.python, *start.arguments), told)
