"""Where an app's own metrics live: one directory a generation, in which prometheus_client's
multiprocess mode keeps its files.

The master makes and removes the directories and what lies of dead workers in them; it never reads a
file. What they say together is told by the sidecar (control/web/metrics.py). A generation that is
over keeps its counters until another one is, so that their last values are still seen.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterable, Iterator

from ..system import files

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
# The file that readers and folders lock, see control/web/metrics.py.
LOCK = "lock"
# After so many deaths in a generation their files are folded into one: a process for it costs a
# tenth of a second.
DEATHS_PER_FOLD = 16
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 8
LEAST_ROOM = 8 << 20  # bytes


class AppMetrics:
    """`path`: the directory above those of the generations. `owner`: (uid, gid) of workers, where
    it isn't ours. `fresh`: what lies there is of a master that was killed."""

    def __init__(self, path: str, owner: tuple[int, int] | None, fresh: bool) -> None:
        self.path = path
        self._owner = owner
        self._deaths: dict[int, int] = {}
        self._made: set[int] = set()
        if not files.stays(path):  # and workers, who may be root, write there
            raise OSError(errno.EPERM, f"others may put something else in its place: {path}")
        if fresh:
            self.close()
        with self._above(make=True) as above:
            os.fchmod(above, 0o755)  # whatever the umask is: the sidecar is somebody else

    @contextlib.contextmanager
    def _above(self, make: bool = False) -> Iterator[int]:
        """The directory above those of the generations, open.

        Raises:
            OSError: it isn't there, or not ours.
        """
        try:
            above = files.own_directory(self.path, 0o755 if make else None)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path) from None
        try:
            yield above
        finally:
            os.close(above)

    def directory(self, generation: int) -> str:
        """The directory of a generation, made if it isn't there.

        Raises:
            OSError: it can't be made, or has no room: a process that writes to a file without
                room by mmap is killed by SIGBUS.
        """
        made = f"{self.path}/{generation}"
        # whoever tidies up may have taken it away
        if generation not in self._made or not os.path.isdir(made):
            with self._above(make=True) as above:
                self._make(str(generation), above)
            self._made.add(generation)
        room = os.statvfs(made)
        if room.f_bavail * room.f_frsize < LEAST_ROOM:
            raise OSError(errno.ENOSPC, f"less than {LEAST_ROOM >> 20} MiB are free", made)
        return made

    def _make(self, name: str, above: int) -> None:
        """Make a generation's directory and the lock in it, or take what is there; workers may have
        written there."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=above)
        directory = os.open(name, _DIRECTORY, dir_fd=above)
        try:
            # One that is there already may be anything; its readers look (control/web/metrics.py).
            with contextlib.suppress(FileExistsError):
                lock = os.open(LOCK, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644,
                               dir_fd=directory)
                os.fchmod(lock, 0o644)
                os.close(lock)
            os.fchmod(directory, 0o755)
            if self._owner is not None:
                os.fchown(directory, *self._owner)
        finally:
            os.close(directory)

    def worker_is_gone(self, generation: int, pid: int) -> bool:
        """Remove what only a living process may say; return whether the files of the dead are to be
        folded together."""
        self._remove(generation, rf"gauge_live[a-z]+_{pid}\.db")
        self._deaths[generation] = self._deaths.get(generation, 0) + 1
        return self._deaths[generation] % DEATHS_PER_FOLD == 0

    def generations_left(self, alive: Iterable[int]) -> None:
        """Remove what is left of generations that have no workers and will have none, but for the
        counters of the newest such one."""
        wanted = set(alive)
        over = sorted(number for number in self._numbers() if number not in wanted)
        for number in over[:-1]:
            self._discard(number)
        for number in over[-1:]:
            self._remove(number, r"gauge_.*")

    def _numbers(self) -> list[int]:
        try:
            with self._above() as above:
                return [
                    int(name) for name in os.listdir(above) if re.fullmatch("[0-9]{1,18}", name)]
        except OSError:
            return []

    def _remove(self, generation: int, pattern: str) -> None:
        """Remove files of a generation by name. Workers may write there: nothing is followed."""
        try:
            with self._above() as above:
                directory = os.open(str(generation), _DIRECTORY, dir_fd=above)
        except OSError:
            return
        try:
            for name in os.listdir(directory):
                if re.fullmatch(pattern, name, re.DOTALL):
                    _unlink(name, directory)
        except OSError:
            pass  # out of descriptors: what is left goes another time
        finally:
            os.close(directory)

    def _discard(self, generation: int) -> None:
        """Remove a generation's directory with all that is in it."""
        self._remove(generation, ".*")
        self._deaths.pop(generation, None)
        self._made.discard(generation)
        with contextlib.suppress(OSError), self._above() as above:
            os.rmdir(str(generation), dir_fd=above)

    def close(self) -> None:
        """Remove everything."""
        for number in self._numbers():
            self._discard(number)
        try:
            os.rmdir(self.path)
        except OSError:
            pass


def _unlink(name: str, directory: int, depth: int = 0) -> None:
    """Remove an entry of a directory with all that is below it, as far as that can be done."""
    try:
        os.unlink(name, dir_fd=directory)
        return
    except OSError:
        if depth == _DEEPEST:
            return
    try:
        below = os.open(name, _DIRECTORY, dir_fd=directory)
    except OSError:
        return
    try:
        for each in os.listdir(below):
            _unlink(each, below, depth + 1)
        os.rmdir(name, dir_fd=directory)
    except OSError:
        pass
    finally:
        os.close(below)
