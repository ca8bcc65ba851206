"""Orphans: what workers that are gone have left behind, outside their process groups too (setsid,
daemons), still with old code.

The kernel gives every orphan below the master to it (the command line has asked for that), and a
worker's environment, which its children inherit, says whose they are. One that has wiped that out,
or whose environment we may not read, is known by its process group, if that was a worker's; or by a
listening socket of ours that it holds: some worker's that was there before it, so it is left behind
when all of those are gone. What a hook leaves behind has none of these, and is nobody's business
here: by elimination, as a child that we haven't started, it would be ended too.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import replace

from ...shared.frozen import dataclass
from ..core.worker_environment import GENERATION, MASTER, PLACEHOLDER, SEAT, WORKER
from . import descriptors
from .processes import children, started


@dataclass(frozen=True, slots=True)
class Orphan:
    """`worker`: our id of the one that has left it; `index` and `generation`: that one's. None
    where that isn't known."""

    pid: int
    worker: int | None
    index: int | None
    generation: int | None


class Orphans:
    """Those among our children that are nobody's we have started."""

    def __init__(self) -> None:
        self._seen: dict[int, Orphan | None] = {}
        # Process groups that workers which are gone have left: who was their leader.
        self.groups: dict[int, Orphan] = {}

    def look(self, ours: Container[int], living: Mapping[int, int], sockets: Collection[int],
             generations: Container[int]) -> list[Orphan]:
        """Those that workers have left which are gone, or templates of generations that are.
        `ours`: pids that need no look; `living`: the pids of workers, by id; `sockets`: the inodes
        of our listening sockets; `generations`: those in use."""
        # As long as somebody is in a group, nobody else gets its number.
        self.groups = {
            group: leader for group, leader in self.groups.items()
            if group not in ours and _is_there(group)}
        strangers = [pid for pid in children(os.getpid()) if pid not in ours]
        self._seen = {
            pid: self._seen.get(pid) or _marked(pid) or self._in_a_group(pid) for pid in strangers}
        left = [
            each for each in self._seen.values() if each is not None and (
                each.generation not in generations if each.worker is None
                else each.worker not in living)]
        unmarked = [
            pid for pid, orphan in self._seen.items() if orphan is None and _holds(pid, sockets)]
        return left + _older_than(unmarked, living.values())


    def _in_a_group(self, pid: int) -> Orphan | None:
        try:
            leader = self.groups.get(os.getpgid(pid))
        except ProcessLookupError:
            return None
        return None if leader is None else replace(leader, pid=pid)


def _is_there(group: int) -> bool:
    """Whether there is anybody in a process group."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user by now
        pass
    return True


def _older_than(pids: Collection[int], workers: Iterable[int]) -> list[Orphan]:
    """Those of `pids` that were there before any of these workers."""
    oldest = min((started(pid) or 0 for pid in workers), default=math.inf) if pids else 0
    return [
        Orphan(pid, None, None, None)
        for pid in pids if (born := started(pid)) is not None and born < oldest]


def _marked(pid: int) -> Orphan | None:
    """Whose this process was, if it was a worker's of ours."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            words = dict(word.split(b"=", 1) for word in file.read().split(b"\0") if b"=" in word)
    except OSError:
        return None
    found = [words.get(name.encode(), b"") for name in (MASTER, WORKER, SEAT, GENERATION)]
    if found[1] == PLACEHOLDER.encode():  # a template's, or of a worker that it is just forking
        of_template = all(re.fullmatch(rb"[0-9]{1,18}", found[place]) for place in (0, 3))
        return (Orphan(pid, None, None, int(found[3]))
                if of_template and int(found[0]) == os.getpid() else None)
    if not all(re.fullmatch(rb"[0-9]{1,18}", each)
               for each in found) or int(found[0]) != os.getpid():
        return None
    return Orphan(pid, int(found[1]), int(found[2]), int(found[3]))


def _holds(pid: int, sockets: Collection[int]) -> bool:
    """Whether one of a process's descriptors is one of these sockets."""
    return not {f"socket:[{inode}]" for inode in sockets}.isdisjoint(descriptors.of(pid))
