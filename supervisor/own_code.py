"""A copy of this program's own code, in a file in memory: what a master goes on with if the next one fails, whatever an upgrade of
the package has put in its place on the disk meanwhile. Taken at the start, before that can have happened.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path

ROOMS = ("supervisor", "control")


class OwnCode:
    """`fd`: the copy, read by stage.py, whose text is `stage`."""

    def __init__(self, inherited: int | None = None) -> None:
        """`inherited`: the copy that this very program has been loaded from.

        Raises:
            OSError: the files of this program can't be read.
        """
        if inherited is None:
            copy = _copy()
            data = memoryview(zlib.compress(json.dumps(copy).encode(), 1))
            self.fd = os.memfd_create("einhornpy-code", os.MFD_CLOEXEC)
            while data:
                data = data[os.write(self.fd, data):]
        else:
            self.fd = inherited
            os.set_inheritable(inherited, False)
            copy = json.loads(zlib.decompress(os.pread(inherited, os.fstat(inherited).st_size, 0)))
        self.stage: str = copy["einhornpy.supervisor.stage"][1]

    def way_back(self, environ: Mapping[str, str]) -> dict[str, object]:
        """What the state says of how this program is run again."""
        return {"command": interpreter(), "environment": dict(environ), "copy": self.fd}

    def close(self) -> None:
        os.close(self.fd)


def _copy() -> dict[str, tuple[str, str, bool]]:
    rooms = Path(__file__).parent.parent
    found = {"einhornpy": (f"{rooms}/__init__.py", "", True)}
    for room in ROOMS:
        for path in (rooms / room).glob("*.py"):
            package = path.stem == "__init__"
            name = f"einhornpy.{room}" if package else f"einhornpy.{room}.{path.stem}"
            found[name] = (str(path), path.read_text(), package)
    return found


def interpreter() -> list[str]:
    """This Python with the options that it was given."""
    words = sys.orig_argv[1:]
    cut = next((place for place, word in enumerate(words) if word in ("-m", "-c")), 0)
    return [sys.executable, *words[:cut]]
