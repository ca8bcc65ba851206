"""Signs that a command starts gunicorn in the end, though its first word is something else: in its
words, in a text that a shell or Python is given with them, in a script. It reads at most one file,
and starts nothing.

A sign that misleads costs one line at the start, which says how to say otherwise; one that is
missed is found when gunicorn's own arbiter runs (guesses.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

# So much of a script is read.
_MOST = 1 << 16
_COMMENT = re.compile(r"(?m)(?:^|\s)#.*$")
# Between two commands of a shell; and those that only speak of what stands after them.
_BETWEEN = re.compile(r"[;&|\n()`]+")
_SPEAKS = ("echo", "printf", "logger", "kill", "pkill", "killall", "pip", "pip3", "apt-get")
_PROGRAM = re.compile(r"(?:\S*(?:bin|\})/)?gunicorn")
# The library itself, or a program of that name as the argument of a call or an item of a list.
_IN_PYTHON = re.compile(
    r"""(?mx) ^ [ \t]* (?: from | import ) [ \t]+ gunicorn\.app \b
    | [\[(,] \s* (?<! getLogger\( ) (["']) (?: [^"'\s]* bin/ )? gunicorn (?: \1 | \s )""")
_MODULES = ("gunicorn", "gunicorn.app.wsgiapp", "gunicorn.app.pasterapp")


def starts_gunicorn(command: Sequence[str], program: str, directory: str) -> bool:
    """Whether there is such a sign. `program`: what the first word means, as a path."""
    words = command[1:]
    texts = [word for word in words if any(map(str.isspace, word))]
    if any(os.path.basename(word) == "gunicorn" or word in _MODULES
           for word in words if word not in texts):
        return True
    in_python = "python" in os.path.basename(program)
    if any(_runs(text, in_python) for text in texts):
        return True
    files = (program, *(os.path.join(directory, word) for word in words))
    path, text = next(((path, text) for path in files if (text := _script(path))), ("", ""))
    return _runs(text, path.endswith(".py") or "python" in text.partition("\n")[0])


def _runs(text: str, in_python: bool) -> bool:
    """Whether a text runs gunicorn, as Python or a shell would understand it."""
    said = _COMMENT.sub("", text)
    if in_python:
        return _IN_PYTHON.search(said) is not None
    return any(map(_runs_in_shell, _BETWEEN.split(said)))


def _runs_in_shell(command: str) -> bool:
    """Whether one command runs it, or gives it to another program, with arguments."""
    words = [word.strip("\"'") for word in command.split()]
    return words[:1] != [] and words[0] not in _SPEAKS and any(
        map(_PROGRAM.fullmatch, words[:-1]))


def _script(path: str) -> str:
    """The text of a script; empty for anything else, and where we may not read it."""
    try:
        # Whatever else has a path may block whoever opens it.
        if not os.path.isfile(path):
            return ""
        with open(path, "rb") as file:
            head = file.read(_MOST)
    except (OSError, ValueError):
        return ""
    is_script = head.startswith(b"#!") or path.endswith((".sh", ".py"))
    return head.decode(errors="replace") if is_script else ""
