"""What a command means when its generation is made, in words that mean the same later, whatever
links have moved by then: program, arguments, environment. It looks at files, and starts nothing.

A link that a release is reached through (`current`) is followed once, here. Whatever the program
finds by its own name stays: a Python in a virtual environment its link (getpath.py looks for
pyvenv.cfg beside it), a program of many names the one that it was called by.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...shared.frozen import dataclass
from ..core.generation import Recipe
from ..system.becoming import find_program
from .recognition import Gunicorn, Refused, in_python, interpreter_of, is_python

# Of an environment only these are resolved: where programs and code are found.
_SEARCHED = ("PATH", "PYTHONPATH", "VIRTUAL_ENV")
# Links here are the system's own: they don't move from release to release.
_SYSTEM = frozenset({"/bin", "/sbin", "/usr/bin", "/usr/sbin"})
_MOST_LINKS = 40  # as the kernel has it, path_resolution(7)


@dataclass(frozen=True, slots=True)
class Frozen:
    """`program`: what the command names, absolute. `interpreter`: what is run in its place, which
    `words` then begins with; empty where the kernel may find it. `words`: the whole command
    line."""

    program: str
    interpreter: str
    words: tuple[str, ...]


def links_of(command: Sequence[str], named: str, directory: str,
             environment: Mapping[str, str]) -> frozenset[str]:
    """The links that a generation is reached through: on the way to its directory, its program, and
    the first argument that is a file (`python current/web.py`).

    `named`: the directory as somebody typed it, `directory`: what it is.

    Raises:
        OSError: there is no such program.
    """
    program = find_program(command[0], environment.get("PATH", os.defpath), directory)
    script = next((path for path in (os.path.join(directory, word) for word in command[1:]
                                     if "/" in word) if os.path.isfile(path)), "/")
    links = {*_links_on(named), *_links_on(program), *_links_on(os.path.dirname(script))}
    return frozenset(links - _SYSTEM)


def freeze(command: Sequence[str], directory: str, environment: Mapping[str, str],
           links: frozenset[str]) -> Frozen:
    """Resolve a command, found in `directory` and `environment`. Its arguments are resolved only
    where they are paths that lead through one of `links`.

    Raises:
        OSError: there is no such program.
    """
    search_path = environment.get("PATH", os.defpath)
    found = find_program(command[0], search_path, directory)
    arguments = [_argument(word, directory, links) for word in command[1:]]
    script = _script(found)
    if script is None:
        own_name = _own_name(found)
        keeps_name = "/" in command[0] or is_python(own_name)
        return Frozen(_target(own_name), "", (own_name if keeps_name else command[0], *arguments))
    program = os.path.realpath(found)
    interpreter, *options = _interpreter(script, search_path, directory) or [""]
    before = (interpreter, *options) if interpreter else ()
    return Frozen(program, interpreter and _target(interpreter), (*before, program, *arguments))


def freeze_gunicorn(gunicorn: Gunicorn, directory: str, environment: Mapping[str, str],
                    links: frozenset[str]) -> tuple[Gunicorn, Frozen]:
    """The same for gunicorn, as its Python is to run it: the script that an installer made isn't
    needed any more. What starts it in some other way is a command like any other; where that is
    given gunicorn's script, its Python is resolved too.

    Raises:
        OSError: there is no such program.
    """
    if gunicorn.wrapped:
        frozen = freeze((gunicorn.python, *gunicorn.arguments), directory, environment, links)
        program, *given = frozen.words
        arguments = tuple(each for word in given
                          for each in _in_its_python(word, directory, environment))
        return (replace(gunicorn, python=program, arguments=arguments),
                replace(frozen, words=(program, *arguments)))
    python = _own_name(os.path.join(directory, gunicorn.python))
    arguments = tuple(_argument(word, directory, links) for word in gunicorn.arguments)
    words = (python, *gunicorn.options, "-m", "gunicorn", *arguments)
    return replace(gunicorn, python=python, arguments=arguments), Frozen(python, "", words)


def _in_its_python(word: str, directory: str, environment: Mapping[str, str]) -> list[str]:
    """gunicorn's script, behind the Python that its first line means now; as it is where that can't
    move, or it is no such script."""
    if os.path.basename(word) != "gunicorn":
        return [word]
    search_path = environment.get("PATH", os.defpath)
    try:
        found = find_program(word, search_path, directory)
    except OSError:
        return [word]
    interpreter = _interpreter(_script(found) or [], search_path, directory)
    return [*interpreter, os.path.realpath(found)] if interpreter else [word]


def gunicorn_of(recipe: Recipe) -> Gunicorn | None:
    """The gunicorn that a frozen recipe starts; None if that is something else."""
    program, *arguments = recipe.words
    found = in_python(recipe.words, program)
    if found is None and recipe.files is not None:
        return Gunicorn(program, tuple(arguments), wrapped=True)
    return found


def check(frozen: Frozen, typed: Sequence[str]) -> None:
    """Refuse a command whose files were removed since it was frozen. `typed`: as it was before.

    Raises:
        Refused: one line that names the path.
    """
    for path in filter(None, (frozen.program, frozen.interpreter)):
        try:
            os.stat(path)
        except OSError as error:
            raise Refused(f"cannot run {path}: {error.strerror}") from None
    for word in {*frozen.words} - {*typed}:
        # An argument may be what the program makes itself, but not where it makes it.
        if word.startswith("/") and not os.path.lexists(os.path.dirname(word)):
            raise Refused(f"cannot run {typed[0]}: {word} is gone")


def environment(environ: Mapping[str, str], directory: str,
                links: frozenset[str]) -> dict[str, str]:
    """An environment in which programs and code are found where they are now, as far as they lie
    beyond one of `links`."""
    return dict(environ) | {
        name: os.pathsep.join(_through(entry, directory, links) if entry else entry
                              for entry in environ[name].split(os.pathsep))
        for name in _SEARCHED if name in environ}


def without_gone(frozen: Mapping[str, str], typed: Mapping[str, str]) -> dict[str, str]:
    """A frozen environment for whoever must not depend on a release that may be gone: what isn't
    there any more is looked for by the names that somebody typed."""
    def gone(name: str) -> bool:
        resolved = {*frozen[name].split(os.pathsep)}
        return not all(map(os.path.exists, resolved.difference(typed[name].split(os.pathsep))))

    both = frozen.keys() & typed.keys() & {*_SEARCHED}
    return {**frozen, **{name: typed[name] for name in both if gone(name)}}


def _own_name(path: str) -> str:
    """The path by which a program is to find itself: directories are resolved, and its link is
    followed as long as the name stays the same."""
    while True:
        above, name = os.path.split(path)
        path = os.path.join(os.path.realpath(above), name)
        if is_python(path) and _in_venv(path):
            return path
        try:
            target = os.readlink(path)
        except OSError:
            return path
        if os.path.basename(target) != name:
            return path
        path = os.path.join(os.path.dirname(path), target)


def _target(own_name: str) -> str:
    """What is to be run where a program has this name: a link to a Python is its name in `ps`, too,
    and nothing that a release would move."""
    return own_name if is_python(own_name) else os.path.realpath(own_name)


def _in_venv(path: str) -> bool:
    above = os.path.dirname(path)
    return any(os.path.exists(os.path.join(each, "pyvenv.cfg"))
               for each in (above, os.path.dirname(above)))


def _script(program: str) -> list[str] | None:
    """The first lines of a script; None where it is none, or we may not read it."""
    try:
        with open(program, "rb") as file:
            head = file.read(4096)
    except OSError:
        return None
    return head.decode(errors="surrogateescape").splitlines() if head.startswith(b"#!") else None


def _interpreter(head: list[str], search_path: str, directory: str) -> list[str]:
    """The words to put before a script so that it runs in what its first lines mean now. Nothing
    where that can't move, or isn't understood: then it stays with the kernel, which names the
    process after the script."""
    words = interpreter_of(head)
    by_env = bool(words) and os.path.basename(words[0]) == "env"
    if by_env:
        words = words[2:] if words[1:2] == ["-S"] else words[1:]
    if not words or words[0].startswith("-") or "=" in words[0]:
        return []
    try:
        found = find_program(words[0], search_path, directory)
    except OSError:
        return []
    own_name = _own_name(found)
    if not by_env and (os.path.dirname(found) in _SYSTEM or _target(own_name) == words[0]):
        return []
    return [own_name, *words[1:]]


def _argument(word: str, directory: str, links: frozenset[str]) -> str:
    name, equals, value = word.partition("=")
    if not equals or "/" in name:  # no --option=PATH, nor NAME=PATH
        name, equals, value = "", "", word
    return f"{name}{equals}{_through(value, directory, links)}" if "/" in value else word


def _through(path: str, directory: str, links: frozenset[str]) -> str:
    """The path from where the last of these links leads; as it is if it leads through none."""
    whole = os.path.join(directory, path)
    known = links.intersection(_links_on(whole))
    if not known:
        return path
    parts = whole.split("/")
    ends = range(1, len(parts) + 1)
    end = next(end for end in ends if known <= _links_on("/".join(parts[:end])))
    return os.path.join(os.path.realpath("/".join(parts[:end])), *parts[end:])


def _links_on(path: str) -> set[str]:
    """Every link that an absolute path leads through, by its own place, which leads through
    none."""
    links: list[str] = []
    here, left = "/", path.split("/")[::-1]
    while left and len(links) < _MOST_LINKS:
        part = left.pop()
        if part in ("", "."):
            continue
        if part == "..":
            here = os.path.dirname(here)
            continue
        try:
            target = os.readlink(os.path.join(here, part))
        except OSError:
            here = os.path.join(here, part)
            continue
        links.append(os.path.join(here, part))
        here = "/" if target.startswith("/") else here
        left += target.split("/")[::-1]
    return set(links)
