"""The only place that prints: every line of `control/` goes to a terminal, a pipe or a file here.

So nothing that others have said can steer a terminal, whoever forgets what.
tests/shared/test_printable.py keeps everything else from printing.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any, TextIO

from ..shared import printable

# The colours that are ours (show.py). What the master tells holds none any more: see client.py.
_COLOUR = re.compile(r"(\x1b\[(?:0|3[1-3])m)")


def say(line: str, file: TextIO | None = None) -> None:
    """Print one line, whatever is in it; by default to standard output, in colour if it has
    some."""
    to = file or sys.stdout
    text = shown(line, file is None and coloured())
    encoding = to.encoding or "utf-8"
    to.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    to.flush()


def say_block(text: str, file: TextIO | None = None) -> None:
    """Print a text of ours that is several lines; one line end at its own end is enough."""
    for line in text.removesuffix("\n").split("\n"):
        say(line, file)


def say_json(value: Any, indent: int | None = None) -> None:
    """Print a document as JSON, with all its data."""
    say_block(printable.as_json(value, indent))


def coloured() -> bool:
    """Whether standard output is a terminal, and wants colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def shown(line: str, colours: bool) -> str:
    """What `say` would print of a line, for those who have a terminal of their own."""
    parts = _COLOUR.split(line)
    return "".join(part if colours and number % 2 else printable.escaped(part, but="\t")
                   for number, part in enumerate(parts))
