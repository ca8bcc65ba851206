"""The only place that prints: every line of `control/` goes to a terminal, a pipe or a file here.

So nothing that others have said can steer a terminal, whoever forgets what.
tests/shared/test_printable.py keeps everything else from printing.
"""

from __future__ import annotations

import errno
import io
import os
import re
import select
import stat
import sys
from typing import Any, TextIO

from ..shared import printable, standard_descriptors

# The colours that are ours (show.py). What the master tells holds none any more: see client.py.
_COLOUR = re.compile(r"(\x1b\[(?:0|3[1-3])m)")


class Stream(io.FileIO):
    """Standard output or error, whatever it is: a write never fails. What can't be written is
    lost, and so is all that comes after it. `lost`: why, if it is. `patience`: how many seconds a
    pipe that nobody reads is waited for, None: as long as it takes."""

    lost: OSError | None = None
    patience: float | None = None

    def write(self, data: Any) -> int:
        some = memoryview(data).cast("B")
        if self.lost is not None:
            return len(some)
        try:
            self._wait()
            # A pipe that is writable has room for as much (pipe(7)).
            return super().write(some[:select.PIPE_BUF]) or 0
        except OSError as error:
            self.lost = error
            return len(some)

    def _wait(self) -> None:
        """Raises TimeoutError: nobody has read for so long."""
        poller = select.poll()
        poller.register(self.fileno(), select.POLLOUT)
        kind = os.fstat(self.fileno()).st_mode
        # A terminal may be held by somebody who reads.
        limited = self.patience is not None and (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind))
        if not poller.poll((self.patience or 0) * 1000 if limited else None):
            raise TimeoutError(errno.ETIMEDOUT, "nobody reads it")


def take_streams() -> Stream:
    """Have everything that is printed from now on, by whomever, go through `Stream`; return that of
    standard output. What its encoding doesn't know is escaped."""
    standard_descriptors.fill()
    out, err = (Stream(fd, "wb", closefd=False) for fd in (1, 2))
    for name, stream in (("stdout", out), ("stderr", err)):
        given: TextIO | None = getattr(sys, name)
        if given is None or given is getattr(sys, f"__{name}__"):  # else somebody listens to us
            setattr(sys, name, io.TextIOWrapper(
                io.BufferedWriter(stream), given.encoding if given else "utf-8",
                "backslashreplace", line_buffering=True))
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    return out


def heard() -> bool:
    """Whether standard output still takes what is printed."""
    stream = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return not isinstance(stream, Stream) or stream.lost is None


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
