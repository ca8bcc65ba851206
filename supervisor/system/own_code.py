"""A copy of all of this program's own files, in a file in memory, taken at the start: whatever an
upgrade of the package puts in their place on the disk later, what a master starts is of its own
version, and so is what it goes on with if the next one fails (programs/stage.py). Only a reload
asks the disk.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..core.worker_environment import FIRST_FD
from . import archive
from .becoming import Launch

ROOMS = ("shared", "supervisor", "control", "worker")
PACKAGE = "einhornpy"
# What is run of it is named by the first word.
_MAIN = b"""import runpy, sys
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


class OwnCode:
    """`fd`: the copy, an archive from which Python can import."""

    def __init__(self, inherited: int | None = None) -> None:
        """`inherited`: the copy that this very program has been loaded from.

        Raises:
            OSError: the files of this program can't be read.
        """
        if inherited is None:
            self.fd = archive.write("einhornpy-code", _files(), squeezed=True)
        else:
            self.fd = inherited
            os.set_inheritable(inherited, False)

    def read(self, name: str) -> bytes:
        """One file, named from the room on."""
        return archive.read(self.fd, f"{PACKAGE}/{name}")

    def room(self, room: str) -> dict[str, bytes]:
        """The files of a room, by their names."""
        begin = f"{PACKAGE}/{room}/"
        return {name.removeprefix(begin): data for name, data in archive.files(self.fd, begin)}

    def launch(self, module: str, words: Sequence[str], environ: Mapping[str, str],
               descriptors: Sequence[int], farewell: int) -> Launch:
        """What runs one of our own modules. -P: a file of the app's in the current directory must
        not shadow ours. -X utf8: whatever the locale, a text is one and the same for us all."""
        command = [sys.executable, "-X", "utf8", "-P", path(FIRST_FD + len(descriptors)),
                   f"{PACKAGE}.{module}", *words]
        return Launch(command, "/", environ, [*descriptors, self.fd], farewell)

    def way_back(self, environ: Mapping[str, str]) -> dict[str, object]:
        """What the state says of how this program is run again."""
        return {
            "command": interpreter(), "environment": dict(environ), "copy": self.fd,
            "path": [each for each in sys.path if each != path(self.fd)]}


def path(fd: int) -> str:
    """Where Python finds what is in a descriptor."""
    return f"/proc/self/fd/{fd}"


def _files() -> Iterator[tuple[str, bytes]]:
    """One after the other, since a master is small. The package is whole by this: nothing else of
    its name is looked for."""
    yield "__main__.py", _MAIN
    yield f"{PACKAGE}/__init__.py", b""
    rooms = Path(__file__).parents[2]
    for found in (each for room in ROOMS for each in sorted((rooms / room).rglob("*"))):
        if found.is_file() and found.suffix != ".pyc":
            yield f"{PACKAGE}/{found.relative_to(rooms)}", found.read_bytes()


def interpreter() -> list[str]:
    """This Python with the options that it was given, but for those of stage.py."""
    words = sys.orig_argv[1:]
    cut = next((place for place, word in enumerate(words) if word in ("-m", "-c")), 0)
    return [
        sys.executable, *(words[:cut - 1] if words[max(cut - 1, 0):cut] == ["-S"] else words[:cut])]
