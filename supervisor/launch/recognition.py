"""Does a command run gunicorn, in which Python, or does something else start it in the end? Answers
from the words, the first line of a script and what wrapped.py finds; starts nothing.

gunicorn's own arbiter would say that it is ready before it has imported the app, and the master
could tell a good release from a bad one no longer: so whatever ends in gunicorn is to be known.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any

from ...shared.frozen import dataclass
from ..settings.parsers import AckMode
from ..system.becoming import find_program
from .wrapped import starts_gunicorn

_PYTHON = re.compile(r"(python|pypy)[0-9.]*$")
# Options of the interpreter (python(1)): a cluster of those that take no value; those that take
# one, in the same word or the next.
_CLUSTER, _WITH_VALUE = re.compile(r"-[bBdEIOPqsSuvx]+"), ("-W", "-X", "--check-hash-based-pycs")
WHAT_TO_TYPE = ("name gunicorn itself as the command (einhornpy -- gunicorn app:wsgi), or say that "
                "the command starts it (-m gunicorn)")


class Refused(RuntimeError):
    """`error`: what the program that was asked said itself, if anything; `lines`: the last ones of
    a traceback. `bad_input`: the settings can't be meant so."""

    def __init__(self, reason: str, error: str | None = None, bad_input: bool = False,
                 lines: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.error = error
        self.lines = lines
        self.bad_input = bad_input


@dataclass(frozen=True, slots=True)
class Gunicorn:
    """gunicorn's settings, as its own Python read them. `given`: those that somebody set. `hooks`:
    the server hooks that somebody wrote. `python`, `options`, `arguments`: how to run the
    adapter. `wrapped`: something else starts gunicorn in the end; `python` is then that program,
    and `arguments` all that it is given."""

    python: str
    arguments: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    wrapped: bool = False

    def given(self, name: str) -> bool:
        return name in self.settings.get("given", ())


@dataclass(frozen=True, slots=True)
class Recognised:
    """`environment`: as the command itself changes it (`env NAME=VALUE gunicorn …`)."""

    gunicorn: Gunicorn
    environment: Mapping[str, str]


def recognise(command: Sequence[str], directory: str, environment: Mapping[str, str],
              mode: AckMode | float = AckMode.AUTO) -> Recognised | None:
    """Tell whether a command runs gunicorn, and how; None if it is something else.

    `gunicorn …` names a script whose first line names its Python; `PYTHON [OPTIONS] -m gunicorn …`
    and `PYTHON [OPTIONS] PATH/gunicorn …` say it themselves; `env [-i] [-u NAME] [NAME=VALUE]
    COMMAND` stands for its command. Anything else may start gunicorn in the end: by the signs of
    wrapped.py where `mode` is auto, surely where it is gunicorn, and not where somebody has said
    how it says that it is ready.

    Raises:
        Refused: there is no such program, or it can't be read.
    """
    whole = tuple(command)
    program = _find(whole[0], directory, environment)
    while os.path.basename(whole[0]) == "env":
        inner = _without_env(whole, environment)
        if inner is None:
            break
        whole, environment = inner
        program = _find(whole[0], directory, environment)
    gunicorn = in_python(whole, program) or _script(whole, program, environment)
    if gunicorn is None and (mode is AckMode.GUNICORN or (
            mode is AckMode.AUTO and starts_gunicorn(whole, program, directory))):
        gunicorn = Gunicorn(program, whole[1:], wrapped=True)
    return None if gunicorn is None else Recognised(gunicorn, environment)


def not_reached(gunicorn: Gunicorn, how: str) -> Refused:
    """Why a command that was to start gunicorn has not. `how`: the rest of a sentence."""
    name = os.path.basename(gunicorn.python)
    return Refused(
        f"{name} was expected to start gunicorn, and {how}: name gunicorn itself as the command "
        "(einhornpy -- gunicorn app:wsgi), without what clears the environment (sudo) or closes "
        "descriptors; or, if it isn't gunicorn, say how it says that it is ready (-m notify, "
        "manual or SECONDS)",
        bad_input=True)


def runs_gunicorn(words: Sequence[str]) -> bool:
    """Whether this is the command line of a Python that runs gunicorn, or the title that gunicorn
    gives its arbiter."""
    if not words:
        return False
    return words[0].startswith("gunicorn: master") or in_python(tuple(words), words[0]) is not None


def is_gunicorn(words: Sequence[str]) -> bool:
    """The same, or the title that gunicorn gives a worker."""
    return runs_gunicorn(words) or "".join(words[:1]).startswith("gunicorn: worker")


def is_python(program: str) -> bool:
    """Whether a program is a Python, by its name."""
    return _PYTHON.match(os.path.basename(program)) is not None


def _find(name: str, directory: str, environment: Mapping[str, str]) -> str:
    try:
        return find_program(name, environment.get("PATH", os.defpath), directory)
    except OSError as error:
        where = "" if name.startswith(
            "/") else f" (looked in {directory if '/' in name else 'PATH'})"
        raise Refused(f"cannot run {name!r}: {error.strerror}{where}") from None


def _without_env(command: tuple[str, ...], environment: Mapping[str, str],
                 ) -> tuple[tuple[str, ...], Mapping[str, str]] | None:
    """What env(1) would run, and where; None where it is asked for more than a changed
    environment."""
    changed = dict(environment)
    words = list(command[1:])
    while words and words[0].startswith("-"):
        option = words.pop(0)
        if option in ("-", "-i", "--ignore-environment"):
            changed.clear()
        elif option in ("-u", "--unset") and words:
            changed.pop(words.pop(0), None)
        elif option.startswith("--unset="):
            changed.pop(option.partition("=")[2], None)
        elif option == "--":
            break
        else:
            return None
    while words and "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        changed[name] = value
    return (tuple(words), changed) if words else None


def in_python(command: tuple[str, ...], program: str) -> Gunicorn | None:
    """`PYTHON [OPTIONS] -m gunicorn …` or `PYTHON [OPTIONS] PATH/gunicorn …`; None if it is
    neither. `program`: what the first word means."""
    if not is_python(program):
        return None
    position = 1
    while position < len(command):
        word = command[position]
        if _CLUSTER.fullmatch(word):
            position += 1
        elif word.startswith(_WITH_VALUE):
            position += 2 if word in _WITH_VALUE else 1
        else:
            break
    options, rest = command[1:position], command[position:]
    if rest[:1] and os.path.basename(rest[0]) == "gunicorn":
        return Gunicorn(program, rest[1:], options=options)
    if len(rest) > 1 and rest[1] == "gunicorn" and re.fullmatch(r"-[bBdEIOPqsSuvx]*m", rest[0]):
        before = (rest[0][:-1],) if rest[0] != "-m" else ()
        return Gunicorn(program, rest[2:], options=(*options, *before))
    return None


def _script(command: tuple[str, ...], program: str,
            environment: Mapping[str, str]) -> Gunicorn | None:
    """`gunicorn …`, a script that an installer made, or one that starts gunicorn in its own way."""
    if os.path.basename(command[0]) != "gunicorn":
        return None
    try:
        head = first_lines(program)
    except OSError as error:
        raise Refused(f"cannot read {program}: {error.strerror}") from None
    python = _python_of(head, environment)
    if python is None:
        return Gunicorn(program, command[1:], wrapped=True)
    return Gunicorn(python[0], command[1:], options=python[1])


def first_lines(path: str) -> list[str]:
    """The first lines of a file.

    Raises:
        OSError: it can't be read.
    """
    with open(path, "rb") as file:
        return file.read(4096).decode(errors="replace").splitlines()


def _python_of(head: list[str],
               environment: Mapping[str, str]) -> tuple[str, tuple[str, ...]] | None:
    """The interpreter that a script's first lines name, and its options."""
    words = interpreter_of(head)
    if words and os.path.basename(words[0]) == "env":
        words = [word for word in words[1:] if not word.startswith("-")]
        try:
            words[:1] = [find_program(each, environment.get("PATH", os.defpath), "/")
                         for each in words[:1]]
        except OSError:
            return None
    if not words or not is_python(words[0]) or not all(
            map(_CLUSTER.fullmatch, words[1:])):
        return None
    return words[0], tuple(words[1:])


def interpreter_of(head: list[str]) -> list[str]:
    """What a script's first lines tell the kernel to run, as words."""
    if not head or not head[0].startswith("#!"):
        return []
    words = head[0][2:].split()
    # Where the path is too long or has blanks, installers write a shell line that execs the Python.
    if words and os.path.basename(words[0]) == "sh" and len(head) > 1:
        match = re.match(r"""'''exec'\s+(?:"([^"]+)"|(\S+))\s""", head[1])
        words = [match[1] or match[2]] if match else []
    return words


def find_arbiter(pids: Iterable[int], command_of: Callable[[int], Sequence[str]]) -> int | None:
    """The first of these processes that is a gunicorn arbiter; None if none is. `command_of`: the
    command line of one, empty where it is gone."""
    return next((pid for pid in pids if runs_gunicorn(command_of(pid))), None)
