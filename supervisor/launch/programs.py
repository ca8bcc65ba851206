"""Programs that are no gunicorn, and become the template of their generation by themselves: by
einhornpy.worker.template(), or by a file that is loaded for them (Einhorn's `-p FILE`). It looks at
files, and starts nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from ...shared.frozen import dataclass
from ..core.generation import Preload, Recipe
from ..settings.table import Settings
from .recognition import Refused, first_lines, interpreter_of, is_python

# They start their workers, or serve, by themselves: nobody of theirs calls template().
_SERVERS = ("uvicorn", "hypercorn", "granian", "daphne", "waitress-serve", "uwsgi")
_WORKER_CLASS = {"uvicorn": "gunicorn -k uvicorn_worker.UvicornWorker or -k asgi, or ",
                 "hypercorn": "gunicorn -k asgi, or ", "daphne": "gunicorn -k asgi, or "}


@dataclass(frozen=True, slots=True)
class Program:
    """What is run, as in a recipe. `file`: what is loaded in its place, and whose einhorn_main each
    worker runs."""

    words: tuple[str, ...]
    program: str
    interpreter: str
    file: str | None = None


def program_of(recipe: Recipe) -> Program:
    """The template's program, of a recipe whose command becomes it."""
    return Program(recipe.words or recipe.command, recipe.program, recipe.interpreter,
                   recipe.preload_file)


def preloading(recipe: Recipe, settings: Settings) -> Recipe:
    """A frozen recipe, as the settings want it preloaded; the file by its own path, whatever links
    lead to it.

    Raises:
        Refused: that can't be.
    """
    wanted = _mode(settings)
    if wanted is Preload.OFF:
        return recipe
    _check(settings, recipe.words)
    file = settings.preload_file
    return replace(recipe, preload=wanted, program_forks=True,
                   preload_file=None if file is None else os.path.realpath(file))


def _check(settings: Settings, words: Sequence[str]) -> None:
    """Refuse what can't be preloaded. `words`: the frozen command.

    Raises:
        Refused: one line.
    """
    name = next((os.path.basename(word) for word in words
                 if os.path.basename(word) in _SERVERS), None)
    if settings.preload_file is None and name is not None:
        raise Refused(
            f"--preload: {name} never says that it can fork: expected "
            f"{_WORKER_CLASS.get(name, '')}a program that calls einhornpy.worker.template() when "
            "it has imported the app", bad_input=True)
    if settings.preload_file is None:
        return
    try:
        python = is_python_file(settings.preload_file)
    except OSError as error:
        raise Refused(f"-p: cannot read {settings.preload_file}: {error.strerror}",
                      bad_input=True) from None
    if not python:
        raise Refused(f"-p: {settings.preload_file} is no Python: expected a file whose name ends "
                      "in .py, or whose first line names Python", bad_input=True)
    if not is_python(words[0]):
        raise Refused(f"-p: {words[0]} is no Python, and {settings.preload_file} is to be loaded "
                      "by the one that runs the command", bad_input=True)


def check_gunicorn(settings: Settings) -> None:
    """Raises Refused: what is meant for other programs is given for gunicorn."""
    if settings.preload_file is not None and passed_over(settings) is None:
        raise Refused("-p: gunicorn imports the app by itself: expected --preload, without a file",
                      bad_input=True)


def is_python_file(path: str) -> bool:
    """Whether a file is Python's, by its name or its first line.

    Raises:
        OSError: it can't be read.
    """
    head = first_lines(path)
    return path.endswith(".py") or any(is_python(word) for word in interpreter_of(head))


def passed_over(settings: Settings) -> str | None:
    """Why Einhorn's `-p FILE` does nothing, if so: where it isn't Python, or can't be read, workers
    are the same without, but for what they cost. Einhorn goes on there."""
    if settings.preload_file is None or not settings.einhorn:
        return None
    try:
        return None if is_python_file(settings.preload_file) else "it is no Python"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


def _mode(settings: Settings) -> Preload:
    """Whether and how a command that is no gunicorn is to become a template."""
    if settings.preload_file is not None and passed_over(settings) is None:
        if not settings.given("preload"):
            return Preload.WARN
        if settings.preload is Preload.OFF:
            raise Refused("--preload=off: -p loads a file for all workers: expected one of them",
                          bad_input=True)
    return settings.preload
