"""A copy of this program's own code, in a file in memory: what a master goes on with if the next
one fails, whatever an upgrade of the package has put in its place on the disk meanwhile. Taken at
the start, before that can have happened.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path

ROOMS = ("shared", "supervisor")
STAGE = "einhornpy.supervisor.programs.stage"


class OwnCode:
    """`fd`: the copy, read by stage.py, whose text is `stage`."""

    fd: int
    stage: str

    def __init__(self, inherited: int | None = None) -> None:
        """`inherited`: the copy that this very program has been loaded from.

        Raises:
            OSError: the files of this program can't be read.
        """
        if inherited is None:
            self.fd, self.stage = _copied()
            return
        os.set_inheritable(inherited, False)
        self.fd = inherited
        copy = json.loads(zlib.decompress(os.pread(inherited, os.fstat(inherited).st_size, 0)))
        self.stage = copy[STAGE][1]

    def way_back(self, environ: Mapping[str, str]) -> dict[str, object]:
        """What the state says of how this program is run again."""
        return {
            "command": interpreter(), "environment": dict(environ), "copy": self.fd,
            "path": sys.path}


def _copied() -> tuple[int, str]:
    """Copy one file after the other, since a master is small; return the descriptor of the copy and
    the text of stage.py."""
    rooms = Path(__file__).parents[2]
    stage = ""
    squeeze = zlib.compressobj(1)
    fd = os.memfd_create("einhornpy-code", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(
            squeeze.compress(b'{"einhornpy": ' +
                             json.dumps([f"{rooms}/__init__.py", "", True]).encode()))
        for path in (path for room in ROOMS for path in (rooms / room).rglob("*.py")):
            package = path.stem == "__init__"
            rooms_between = path.relative_to(rooms).parent.parts
            name = ".".join(["einhornpy", *rooms_between, *([] if package else [path.stem])])
            text = path.read_text("utf-8")
            file.write(
                squeeze.compress(
                    f", {json.dumps(name)}: {json.dumps([str(path), text, package])}".encode()))
            stage = text if name == STAGE else stage
        file.write(squeeze.compress(b"}") + squeeze.flush())
    return fd, stage


def interpreter() -> list[str]:
    """This Python with the options that it was given, but for those of stage.py."""
    words = sys.orig_argv[1:]
    cut = next((place for place, word in enumerate(words) if word in ("-m", "-c")), 0)
    return [
        sys.executable, *(words[:cut - 1] if words[max(cut - 1, 0):cut] == ["-S"] else words[:cut])]
