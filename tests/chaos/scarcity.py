"""Faults of what runs out: the disk, descriptors, processes."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from .faults import REFUSES, SILENT, Fault

if TYPE_CHECKING:
    from .host import Host


@dataclass
class FullDisk(Fault):
    """No byte is left where the control socket, the log and the pages of metrics are."""

    kind: ClassVar[str] = "full-disk"
    lawful: ClassVar[frozenset[int]] = REFUSES

    @classmethod
    def possible(cls, host: Host) -> str | None:
        return None if host.on_disk else "no small disk can be mounted: that needs root"

    def inject(self, host: Host) -> None:
        with contextlib.suppress(OSError), open(host.run / "filler", "wb", buffering=0) as filler:
            while filler.write(bytes(1 << 16)):
                pass

    def heal(self, host: Host) -> None:
        (host.run / "filler").unlink(missing_ok=True)


@dataclass
class NoDescriptors(Fault):
    """The live master's limit of descriptors is lowered to what it has and a few more, and
    strangers take those."""

    kind: ClassVar[str] = "no-descriptors"
    lawful: ClassVar[frozenset[int]] = REFUSES | SILENT
    room: int = 0
    limits: tuple[int, int] = (0, 0)
    strangers: list[socket.socket] = field(default_factory=list)

    @classmethod
    def drawn(cls, dice: random.Random) -> NoDescriptors:
        return cls(dice.uniform(0.5, 3.0), dice.choice((0, 1, 3, 8)))

    def inject(self, host: Host) -> None:
        pid = host.master.pid
        highest = max(map(int, os.listdir(f"/proc/{pid}/fd")))
        self.limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1 + self.room, self.limits[1]))
        for _ in range(self.room + 2):
            stranger = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            stranger.setblocking(False)
            stranger.connect_ex(host.master.path)
            self.strangers.append(stranger)

    def heal(self, host: Host) -> None:
        if self.limits != (0, 0):
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(host.master.pid, resource.RLIMIT_NOFILE, self.limits)
        for stranger in self.strangers:
            stranger.close()

    def __str__(self) -> str:
        return f"{self.kind} but {self.room}"


@dataclass
class NoProcesses(Fault):
    """The master may have no child more: as root by a group of its own (the kernel's pids
    controller), else by the limit of its user's processes. None at all, since one that is born may
    have no thread then, and dies with what it has accepted."""

    kind: ClassVar[str] = "no-processes"
    lawful: ClassVar[frozenset[int]] = REFUSES
    limits: tuple[int, int] = (0, 0)
    group: Path | None = None

    @classmethod
    def possible(cls, host: Host) -> str | None:
        if os.geteuid() != 0 or _our_group() is not None:
            return None
        return (
            "root has no limit of processes, and no group can be made for it: see failing-call fork"
        )

    def inject(self, host: Host) -> None:
        ours = _our_group() if os.geteuid() == 0 else None
        if ours is None:
            self.limits = resource.prlimit(host.master.pid, resource.RLIMIT_NPROC)
            resource.prlimit(host.master.pid, resource.RLIMIT_NPROC, (1, self.limits[1]))
            return
        self.group = ours / f"chaos-{host.master.pid}"
        self.group.mkdir()
        (self.group / "pids.max").write_text("1")
        (self.group / "cgroup.procs").write_text(str(host.master.pid))

    def heal(self, host: Host) -> None:
        if self.group is not None:
            (self.group / "pids.max").write_text("max")
            # Who has come meanwhile goes back too; a process that ends just now can't.
            while (there := (self.group / "cgroup.procs").read_text().split()):
                for pid in there:
                    with contextlib.suppress(OSError):
                        (self.group.parent / "cgroup.procs").write_text(pid)
            self.group.rmdir()
        elif self.limits != (0, 0):
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(host.master.pid, resource.RLIMIT_NPROC, self.limits)


def _our_group() -> Path | None:
    """Our own group of the pids controller, in which we may make others; None where there is no
    such thing."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "pids" in controllers.split(","):
            group = Path("/sys/fs/cgroup/pids") / path.lstrip("/")
        elif not controllers:
            group = Path("/sys/fs/cgroup") / path.lstrip("/")
            with contextlib.suppress(OSError):
                if "pids" in (group / "cgroup.subtree_control").read_text().split() and os.access(
                        group, os.W_OK):
                    return group
            continue
        else:
            continue
        if os.access(group, os.W_OK):
            return group
    return None
