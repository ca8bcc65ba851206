"""Deploys of one root take turns, in the order in which they came.

Each has a file `ROOT/releases/.turn-N`, locked (flock(2)) for as long as it lives, so that the
kernel ends the turn of whoever is killed. One whose number is the lowest has its turn; the others
wait for its lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

from ...shared import releases
from ...shared.frozen import dataclass

_FILE = re.compile(r"\.turn-([0-9]+)")
LARGEST = 4096


class Taken(RuntimeError):
    """Somebody else has the turn; the message says who."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a turn, or waits for it. `since`: seconds since the epoch."""

    name: str
    pid: int
    since: float
    release: str

    def __str__(self) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(self.since))
        return f"{self.name} (pid {self.pid}), who deploys {self.release} since {clock}"


@contextlib.contextmanager
def turn(directory: str, holder: Holder, queue: bool,
         waits: Callable[[str], None]) -> Iterator[None]:
    """Have a turn, as soon as those before have had theirs.

    Args:
        directory: where the releases are.
        queue: whether to wait.
        waits: told whom we wait for, each time that this changes.

    Raises:
        Taken: it is not our turn, and `queue` is false.
        OSError: there can be no turns here.
    """
    fd, number = _join(directory, holder)
    try:
        told = None
        while (first := _first(directory, number)) is not None:
            found = _holder(directory, first)
            if found != told and found is not None and _is_held(directory, first):
                if not queue:
                    raise Taken(found)
                told = found
                waits(found)
            _outlive(directory, first)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(_path(directory, number))
        os.close(fd)


def _join(directory: str, holder: Holder) -> tuple[int, int]:
    """Stand in line; return the file that is locked, and its number. It has its lock before it has
    its name, for one without is taken for over."""
    name = f"{directory}/.turn.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name)
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        # On a full disk a way back must be possible still: then nobody knows who we are.
        with contextlib.suppress(OSError), open(fd, "w", closefd=False) as file:
            json.dump(asdict(holder), file)
        with _locked(directory):
            # One at a time: who is slow must not get a number that is lower than another's by then.
            taken = filter(None, map(_FILE.fullmatch, os.listdir(directory)))
            number = max((int(each[1]) for each in taken), default=0) + 1
            os.link(name, _path(directory, number), follow_symlinks=False)
        return fd, number
    except BaseException:
        os.close(fd)
        raise
    finally:
        os.unlink(name)


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _first(directory: str, number: int) -> int | None:
    return min((each for each in _numbers(directory) if each < number), default=None)


def _outlive(directory: str, number: int) -> None:
    """Wait for the end of this one, and see that nobody waits for it again."""
    path = _path(directory, number)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.lstat(path)):
                os.unlink(path)
    finally:
        os.close(fd)


def _is_held(directory: str, number: int) -> bool:
    try:
        fd = os.open(_path(directory, number), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def _holder(directory: str, number: int) -> str | None:
    try:
        told = json.loads(releases.read_file(_path(directory, number), LARGEST))
        return str(Holder(str(told["name"]), int(told["pid"]), float(told["since"]),
                          str(told["release"])))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError, RecursionError, OverflowError):
        return "another deploy"


def _numbers(directory: str) -> list[int]:
    """Those who have a turn or wait; what is no file is nobody."""
    with os.scandir(directory) as entries:
        return [int(found[1]) for each in entries if (found := _FILE.fullmatch(each.name))
                and each.is_file(follow_symlinks=False)]


def _path(directory: str, number: int) -> str:
    return f"{directory}/.turn-{number}"
