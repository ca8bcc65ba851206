"""How much memory processes use, and how much can still be had. What the kernel gives back by
itself when it is needed, pages of files above all, counts as free: a program that reads many files
is not short of memory.

It reads /proc and control groups; what follows from the numbers is the planner's business.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ...shared.frozen import dataclass

# Control group v1 says "no limit" as the largest multiple of a page; nobody has so much.
NO_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True)
class Group:
    """A control group's memory, in bytes. `limit`: what it may use, NO_LIMIT where there is none;
    `reclaimable`: the part of `used` that the kernel can take back."""

    limit: int
    used: int
    reclaimable: int


@dataclass(frozen=True, slots=True)
class Names:
    """What the files and the words in `memory.stat` are called in one version of control groups."""

    limits: tuple[str, ...]
    used: str
    reclaimable: tuple[str, ...]


# Documentation/admin-guide/cgroup-v2.rst: beyond memory.high a group is slowed down until it uses
# less. shmem and what is locked are in none of these lists.
V2 = Names(("memory.max", "memory.high"), "memory.current",
           ("inactive_file", "active_file", "slab_reclaimable"))
# Documentation/admin-guide/cgroup-v1/memory.rst: total_… counts the groups below as well.
V1 = Names(("memory.limit_in_bytes",), "memory.usage_in_bytes",
           ("total_inactive_file", "total_active_file"))


def room(host: int, groups: Iterable[Group]) -> int:
    """Bytes that can still be had: on the host, and within each of the groups in which we are."""
    return min([host, *(max(0, each.limit - max(0, each.used - each.reclaimable))
                        for each in groups)])


def available_memory(proc: Path = Path("/proc")) -> int:
    """Bytes that can still be had without swapping: the host's (proc(5), `MemAvailable`), or less
    where our control group has a limit, or one above it."""
    try:
        meminfo = numbers(_text(proc / "meminfo"))
    except OSError:
        meminfo = {}
    return room(meminfo.get("MemAvailable:", NO_LIMIT >> 10) << 10, _groups(proc))


def _groups(proc: Path) -> Iterator[Group]:
    """Our control group and those above it, as far as they can be seen, in each version that counts
    memory here."""
    for names, mount, root, path in _hierarchies(proc):
        # A container sees its own group as the root, whatever it is called outside.
        below = os.path.relpath(path, root)
        directory = mount if below.startswith("..") else mount / below
        while directory.is_relative_to(mount):
            group = _group(directory, names)
            if group is not None:
                yield group
            directory = directory.parent


def _hierarchies(proc: Path) -> Iterator[tuple[Names, Path, str, str]]:
    """Where control groups are mounted, which of them is the root there, and which is ours
    (proc(5), `mountinfo`; cgroups(7), `/proc/PID/cgroup`)."""
    try:
        mounts = _text(proc / "self/mountinfo").splitlines()
        ours = [line.split(":", 2) for line in _text(proc / "self/cgroup").splitlines()]
    except OSError:
        return
    paths = {name: each[2] for each in ours if len(each) == 3 for name in each[1].split(",")}
    for line in mounts:
        before, _, after = line.partition(" - ")
        kind, _, options = f"{after}  ".split(" ", 2)
        root, mount = before.split(" ")[3:5]
        if kind == "cgroup2" and "" in paths:
            yield V2, Path(mount), root, paths[""]
        elif kind == "cgroup" and "memory" in options.strip().split(",") and "memory" in paths:
            yield V1, Path(mount), root, paths["memory"]


def _group(directory: Path, names: Names) -> Group | None:
    """What a group says; None for one that counts no memory, as the root doesn't."""
    limit = NO_LIMIT
    for name in names.limits:
        limit = min(limit, _number(directory / name))
    try:
        used = int(_text(directory / names.used))
        stat = numbers(_text(directory / "memory.stat"))
    except (OSError, ValueError):
        return None
    return Group(limit, used, sum(stat.get(word, 0) for word in names.reclaimable))


def _number(path: Path) -> int:
    try:
        return int(_text(path))
    except (OSError, ValueError):  # "max"
        return NO_LIMIT


def _text(path: Path) -> str:
    return os.fsdecode(path.read_bytes())


def numbers(text: str) -> Mapping[str, int]:
    """The first word of each line and the number after it, as meminfo, memory.stat and smaps_rollup
    have them; other lines are left out."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[1].isdecimal():
            found[words[0]] = int(words[1])
    return found


def memory(pid: int) -> int | None:
    """Resident bytes of a process (proc(5), `statm`); None if it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None


def own_memory(pid: int) -> int:
    """Bytes of a process that only its end gives back, and that another one like it needs: what it
    has written to, and shares with nobody (proc(5), `smaps_rollup`). What it shares with its
    template and siblings doesn't count: its part of that changes as they come and go. Where we may
    not see that, all but the pages of files (`status`). 0 if it is gone."""
    try:
        return numbers(_text(Path(f"/proc/{pid}/smaps_rollup")))["Private_Dirty:"] << 10
    except (OSError, KeyError):
        pass
    try:
        found = numbers(_text(Path(f"/proc/{pid}/status")))
    except OSError:
        return 0
    return (found.get("RssAnon:", 0) + found.get("RssShmem:", 0)) << 10


def group_memory(groups: Iterable[int], enough: int) -> dict[int, int]:
    """Bytes that each process group has of its own. Resident bytes count shared pages in every
    process that has them, and pages of files; where they come to `enough` or more, `own_memory` is
    asked, which costs more to find; of a group of several processes the proportional set size
    without files, since they share with each other. Empty where /proc can't be read: out of
    descriptors, for instance."""
    wanted = set(groups)
    members: dict[int, list[int]] = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return {}
    for name in names:
        if name.isdecimal():
            group = _group_of(int(name))
            if group in wanted:
                members.setdefault(group, []).append(int(name))
    found = {}
    for group, pids in members.items():
        resident = sum(memory(pid) or 0 for pid in pids)
        if resident < enough:
            found[group] = resident
        elif len(pids) == 1:
            found[group] = own_memory(pids[0])
        else:
            found[group] = sum(map(_proportional_or_all, pids))
    return found


def _group_of(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[2])
    except (OSError, IndexError, ValueError):
        return 0


def _proportional(pid: int) -> int:
    """Raises OSError, KeyError: we may not see it, or it is gone."""
    found = numbers(_text(Path(f"/proc/{pid}/smaps_rollup")))
    return (found["Pss_Anon:"] + found["Pss_Shmem:"]) << 10


def _proportional_or_all(pid: int) -> int:
    try:
        return _proportional(pid)
    except (OSError, KeyError):
        return memory(pid) or 0
