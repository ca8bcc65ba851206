"""Orphans: what workers that are gone have left behind, outside their process groups too (setsid, daemons), still with old code.

The kernel gives every orphan below the master to it (the command line has asked for that), and a worker's environment, which its
children inherit, says whose they are. What a hook leaves behind carries no such mark, and is nobody's business here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container
from dataclasses import dataclass

from .contract import GENERATION, MASTER, SEAT, WORKER
from .processes import children


@dataclass(frozen=True, slots=True)
class Orphan:
    """`worker`: our id of the one that has left it; `index` and `generation`: that one's."""

    pid: int
    worker: int
    index: int
    generation: int


class Orphans:
    """Those among our children that are nobody's we have started."""

    def __init__(self) -> None:
        self._seen: dict[int, Orphan | None] = {}

    def look(self, ours: Container[int], living: Container[int]) -> list[Orphan]:
        """Those that workers have left which are gone. `ours`: pids that need no look; `living`: ids of workers."""
        strangers = [pid for pid in children(os.getpid()) if pid not in ours]
        self._seen = {pid: self._seen.get(pid) or _marked(pid) for pid in strangers}
        return [each for each in self._seen.values() if each is not None and each.worker not in living]


def _marked(pid: int) -> Orphan | None:
    """Whose this process was, if it was a worker's of ours."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            words = dict(word.split(b"=", 1) for word in file.read().split(b"\0") if b"=" in word)
    except OSError:
        return None
    found = [words.get(name.encode(), b"") for name in (MASTER, WORKER, SEAT, GENERATION)]
    if not all(re.fullmatch(rb"[0-9]{1,18}", each) for each in found) or int(found[0]) != os.getpid():
        return None
    return Orphan(pid, int(found[1]), int(found[2]), int(found[3]))
