"""System calls that fail and a clock that jumps, in the master alone: a small library that is
preloaded (failing.c), and the file by which it is told."""

from __future__ import annotations

import errno
import mmap
import os
import random
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from .faults import REFUSES, SILENT, Fault

if TYPE_CHECKING:
    from .host import Host

_LAYOUT = struct.Struct("=iiIiIIq")
# In the order of the bits in failing.c, with what each may fail with.
CALLS = {
    "fork": (errno.EAGAIN, errno.ENOMEM),
    "accept4": (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ECONNABORTED, errno.EPERM),
    "epoll_ctl": (errno.ENOSPC, errno.ENOMEM),
    "openat": (errno.EMFILE, errno.ENFILE, errno.EIO),
    "write": (errno.ENOSPC, errno.EIO, errno.EDQUOT),
    "sendto": (errno.ENOBUFS, errno.ENOMEM),
    "execve": (errno.ENOMEM, errno.EAGAIN, errno.EIO),
    "memfd_create": (errno.EMFILE, errno.ENFILE),
    "pipe2": (errno.EMFILE, errno.ENFILE),
    "socketpair": (errno.EMFILE, errno.ENFILE),
}


def compiled(directory: Path) -> Path | None:
    """The library, compiled now; None where there is no compiler."""
    if shutil.which("gcc") is None:
        return None
    library = directory / "failing.so"
    source = Path(__file__).parent / "failing.c"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


class Control:
    """The file that the library looks at."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(mmap.PAGESIZE))
        fd = os.open(path, os.O_RDWR)
        self._map = mmap.mmap(fd, mmap.PAGESIZE)
        os.close(fd)

    def fail(self, pid: int, call: str, number: int, percent: int) -> None:
        """From now on this call fails with this error, so often; execve in the children of `pid`,
        everything else in itself."""
        _LAYOUT.pack_into(self._map, 0, pid, call == "execve", 1 << list(CALLS).index(call), number,
                          percent, self.hits, 0)

    def jump(self, pid: int, seconds: int) -> None:
        """From now on the wall clock of `pid` is so much later."""
        _LAYOUT.pack_into(self._map, 0, pid, 0, 0, 0, 0, self.hits, seconds * 1_000_000_000)

    def heal(self) -> None:
        _LAYOUT.pack_into(self._map, 0, 0, 0, 0, 0, 0, self.hits, 0)

    @property
    def hits(self) -> int:
        """How many calls have failed so far."""
        number: int = _LAYOUT.unpack_from(self._map)[5]
        return number

    def close(self) -> None:
        self._map.close()


@dataclass
class Preloaded(Fault):
    """Something that the library does in the master; it does one thing at a time."""

    @property
    def means(self) -> str:
        return "preloaded"

    @classmethod
    def possible(cls, host: Host) -> str | None:
        return None if host.control is not None else "there is no gcc"


@dataclass
class FailingCall(Preloaded):
    """One system call of the master's fails, always or now and then."""

    kind: ClassVar[str] = "failing-call"
    lawful: ClassVar[frozenset[int]] = REFUSES | SILENT
    # no program can be loaded without system calls
    forbids: ClassVar[frozenset[str]] = frozenset({"reload"})
    call: str = ""
    number: int = 0
    percent: int = 100

    @classmethod
    def drawn(cls, dice: random.Random) -> FailingCall:
        call = dice.choice(list(CALLS))
        return cls(dice.uniform(0.2, 2.0), call, dice.choice(CALLS[call]), dice.choice((20, 100)))

    def inject(self, host: Host) -> None:
        assert host.control is not None
        self._before = host.control.hits
        host.control.fail(host.master.pid, self.call, self.number, self.percent)

    def heal(self, host: Host) -> None:
        assert host.control is not None
        host.control.heal()
        host.story.count("failed system calls", host.control.hits - self._before)

    def __str__(self) -> str:
        return f"{self.kind} {self.call} {errno.errorcode[self.number]} {self.percent} %"


@dataclass
class ClockJump(Preloaded):
    """The master's wall clock is wrong, by an hour or by decades."""

    kind: ClassVar[str] = "clock"
    later: int = 0

    @classmethod
    def drawn(cls, dice: random.Random) -> ClockJump:
        return cls(dice.uniform(0.5, 3.0),
                   dice.choice((3600, -3600, 86400 * 365 * 20, -86400 * 365 * 50)))

    def inject(self, host: Host) -> None:
        assert host.control is not None
        host.control.jump(host.master.pid, self.later)

    def heal(self, host: Host) -> None:
        assert host.control is not None
        host.control.heal()

    def __str__(self) -> str:
        return f"{self.kind} {self.later:+d} s"
