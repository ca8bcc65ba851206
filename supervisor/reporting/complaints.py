"""Which of the last lines of a program's standard error says why it has failed. Pure.

It is seldom the last one: Node prints its stack and version below it, uvicorn says once more that
it leaves. So the lines are read from the end, and the first one that tells something is taken: the
exception below a Python traceback, or a line that speaks of an error by name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# What Python puts before the lines of a traceback, in exception groups too.
_MARGIN = re.compile(r"[\s|]*")
_FRAME = re.compile(r'[\s|]*File ".*", line \d+')
_ERROR = re.compile(
    r"(?i:\b(?:error|fatal|critical|panic|panicked)\b)|\b[A-Z]\w*(?:Error|Exception)\b")
# Said after the reason, without a reason.
_EMPTY = re.compile(
    r"\W*$|.*Application startup failed\. Exiting|Emitted 'error' event|Node\.js v\d|\(Use `node ")


def complaint(lines: Sequence[str], or_last: bool = False) -> str | None:
    """The telling line; None if there is none. `or_last`: the last one, then, that says
    anything."""
    said = [number for number, line in enumerate(lines) if not _EMPTY.match(line)]
    telling = (number for number in reversed(said) if _ends_traceback(lines, number)
               or (not lines[number][:1].isspace() and _ERROR.search(lines[number])))
    number = next(telling, said[-1] if said and or_last else None)
    return None if number is None else " ".join(lines[number].strip(" \t|").split())


def _ends_traceback(lines: Sequence[str], number: int) -> bool:
    """Whether everything right above is deeper, up to the last frame."""
    depth = _depth(lines[number])
    for line in reversed(lines[:number]):
        if _depth(line) <= depth:
            return False
        if _FRAME.match(line):
            return True
    return False


def _depth(line: str) -> int:
    found = _MARGIN.match(line)
    return len(found[0]) if found is not None and found[0] != line else 0
