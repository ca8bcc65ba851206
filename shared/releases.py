"""Releases on this host, as the master and `deploy` both see them: `ROOT/releases/NAME` is one,
`ROOT/current` a link to the one that a start would run (the layout of Capistrano, ansistrano and
Ansible's deploy_helper), and `ROOT/releases/.NAME.json` what is known of it.

Each file is replaced whole, so whoever is killed meanwhile leaves the old one or the new one.
Nothing here waits for the disk.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import json
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace

from .frozen import dataclass

RELEASES, CURRENT = "releases", "current"
LARGEST_RECORD = 1 << 16


class State(enum.StrEnum):
    """What has become of a release, by its last try."""

    UNPREPARED = "unprepared"  # it is being prepared, or whoever did that was killed
    FETCHED = "fetched"  # it can be run, and nobody has tried
    PROVEN = "proven"  # all workers were ready with it
    REFUSED = "refused"  # its last upgrade went back: nothing goes back to it by itself


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one release. `order`: larger than that of all that was recorded before, for
    clocks may jump. `at`: seconds since the epoch. `by`: who asked for it. `reason`: why it was
    refused. `proven_at`: when it was last proven, if it ever was. `size`: bytes on the disk, where
    somebody has counted."""

    release: str
    state: State
    order: int = 0
    at: float = 0.0
    by: str = ""
    reason: str | None = None
    proven_at: float | None = None
    size: int | None = None


def is_name(name: str) -> bool:
    """Whether a release's directory may be called so: dots begin what is none."""
    return bool(name) and not name.startswith(".") and not {"/", "\0"} & {*name}


def directory(root: str, name: str = "") -> str:
    """Where a release lies; without a name, where all do."""
    return f"{root}/{RELEASES}/{name}" if name else f"{root}/{RELEASES}"


def is_there(root: str, name: str) -> bool:
    """Whether there is a directory of this release: a link to one elsewhere is none, since nobody
    could tell from `current` which release it is."""
    place = directory(root, name)
    return is_name(name) and os.path.isdir(place) and not os.path.islink(place)


def is_complete(root: str, name: str) -> bool:
    """Whether a release is there, and can be run: nobody is preparing it, or was killed while he
    did."""
    record = read(root, name)
    return is_there(root, name) and (record is None or record.state is not State.UNPREPARED)


def linked(root: str) -> str | None:
    """The release that `current` leads to, by its name; None where it leads to none.

    Raises:
        OSError: it leads nowhere.
    """
    found = os.path.realpath(f"{root}/{CURRENT}", strict=True)
    inside, name = os.path.split(found)
    with contextlib.suppress(OSError):
        if os.path.samefile(inside, directory(root)) and is_name(name):
            return name
    return None


def current(root: str) -> str | None:
    """The same, and None where it leads nowhere."""
    try:
        return linked(root)
    except OSError:
        return None


def link(root: str, name: str) -> None:
    """Let `current` lead to a release, in one step.

    Raises:
        OSError: it can't.
    """
    fresh = f"{root}/.{CURRENT}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)
    os.symlink(f"{RELEASES}/{name}", fresh)
    try:
        os.rename(fresh, f"{root}/{CURRENT}")
    except OSError:
        os.unlink(fresh)
        raise


def known(root: str) -> dict[str, Record]:
    """What is known of every release that has a directory; what can't be read is not known.

    Raises:
        OSError: there are no releases, or nobody may look.
    """
    found = {}
    for entry in os.listdir(directory(root)):
        if is_there(root, entry):
            record = read(root, entry)
            if record is not None:
                found[entry] = record
    return found


def read(root: str, name: str) -> Record | None:
    """What is known of one release; None where nothing is."""
    try:
        told = json.loads(read_file(record_file(root, name), LARGEST_RECORD))
        record = Record(**told)
        record = replace(record, state=State(record.state))
        numbers = (record.order, record.at, record.proven_at or 0, record.size or 0)
        if all(isinstance(each, int | float) for each in numbers) and record.release == name:
            return record
    except (OSError, ValueError, TypeError, RecursionError):
        pass
    return None


def read_file(path: str, most: int) -> bytes:
    """What a file holds, up to so many bytes. It doesn't wait, whatever has been put there.

    Raises:
        OSError: it can't be read, or is no regular file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", path)
        return os.read(fd, most)
    finally:
        os.close(fd)


def note(root: str, name: str, state: State, by: str, at: float, *, reason: str | None = None,
         size: int | None = None, new: bool = False) -> None:
    """Record what has become of a release. `new`: what was known of one of that name is over.

    Raises:
        OSError: it can't; what was known before is known still.
    """
    others = known(root)
    before = None if new else others.get(name)
    proven = at if state is State.PROVEN else None if before is None else before.proven_at
    if size is None and before is not None:
        size = before.size
    write(root, Record(name, state, max((each.order for each in others.values()), default=0) + 1,
                       at, by, reason, proven, size))


def write(root: str, record: Record) -> None:
    """Replace what is known of a release. Raises as `note` does."""
    path = record_file(root, record.release)
    fresh = f"{path}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
                     0o644)
        with open(fd, "w") as file:
            json.dump(asdict(record), file)
        os.rename(fresh, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise


def forget(root: str, name: str) -> None:
    """Nothing is known of a release any more."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(record_file(root, name))


def proven(records: Mapping[str, Record]) -> list[Record]:
    """Those that were proven by their last try, the newest first."""
    found = [each for each in records.values() if each.state is State.PROVEN]
    return sorted(found, key=lambda each: each.order, reverse=True)


def before(records: Mapping[str, Record], serving: Iterable[str | None]) -> str | None:
    """The release that was proven last before those that serve; None where there is none."""
    others = {*serving}
    return next((each.release for each in proven(records) if each.release not in others), None)


def record_file(root: str, name: str) -> str:
    """Where what is known of a release stands."""
    return f"{directory(root)}/.{name}.json"
