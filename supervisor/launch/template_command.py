"""The command line and the environment of a template: how gunicorn is started in a process that
then holds it in the arbiter's place. Pure; it starts nobody.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from .recognition import Gunicorn

INSTRUCTIONS = "EINHORNPY_ADAPTER"


def template_command(gunicorn: Gunicorn, environment: Mapping[str, str], bundle: int,
                     instructions: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """What to run, and in which environment.

    Args:
        environment: the generation's.
        bundle: the descriptor at which the template has the adapter, a zip.
        instructions: what the adapter is told, as JSON.

    gunicorn by its own name: its Python runs the adapter, with gunicorn's arguments. Where
    something else starts gunicorn in the end, that runs as typed, and each Python on the way
    imports the adapter's `sitecustomize` at its start (see `site` in Python's library).

    What stands in between may stay (dumb-init, `uv run`, a shell) and keeps copies of all
    descriptors: the answer ends with its line, not with the end of the file, and the template is
    the process that the answer names, whether or not it is our own child.
    """
    adapter = f"/proc/self/fd/{bundle}"
    added = {INSTRUCTIONS: instructions}
    if not gunicorn.wrapped:
        return (gunicorn.python, *gunicorn.options, adapter,
                *gunicorn.arguments), {**environment, **added}
    theirs = environment.get("PYTHONPATH", "")
    added["PYTHONPATH"] = f"{adapter}{os.pathsep}{theirs}" if theirs else adapter
    return (gunicorn.python, *gunicorn.arguments), {**environment, **added}
