"""What bench/preload.py measures: einhornpy's master, with `--preload` and without, and gunicorn's
arbiter, with `--preload` and without, each on an app and in a directory of its own. Whoever is
asked says by the same monotonic clock when its workers were ready."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.harness import Master, base_environment, reap_leftovers

from .servers import ROOT, free_port

Kind = TypeVar("Kind", bound="Contender")
# A worker that has been ready for less than a second is held back as one that may always die so.
SETTLED_SECONDS = 1.1
LONGEST = 120.0
# As an app's own: many small objects. 150 MB are 520,000 of them.
HELD = """
HELD = [{{"number": number, "text": str(number)}} for number in range({count})]
"""
OBJECTS_PER_MB = 520_000 / 150
# Each worker of gunicorn's own arbiter says when it is ready: the arbiter doesn't know.
SAYS_READY = """
import os
import time

def post_worker_init(worker):
    with open({path!r}, "a") as file:
        file.write("%d %r\\n" % (os.getpid(), time.monotonic()))
"""


@dataclass(frozen=True)
class App:
    """`name`: as in a table. `seconds`: how long it takes to import, beside making what it holds.
    `megabytes`: so much it holds."""

    name: str
    seconds: float
    megabytes: int = 0

    def write(self, directory: Path) -> None:
        held = HELD.format(count=int(self.megabytes * OBJECTS_PER_MB)) if self.megabytes else ""
        text = (ROOT / "examples" / "wsgi_app" / "app.py").read_text()
        (directory / "app.py").write_text(held + text)


@dataclass(frozen=True)
class Plan:
    """How each contender is run. `kind`: the worker class."""

    app: App
    workers: int
    kind: str = "gthread"
    preload: bool = True

    def gunicorn(self) -> list[str]:
        threads = ["--threads", "4"] if self.kind == "gthread" else []
        return ["gunicorn", "-k", self.kind, *threads]


@dataclass(frozen=True)
class Death:
    """Seconds from a SIGKILL to its replacement's ready, as seen from outside; `noticed`: until
    the death was told; `told`: from that to ready, by the master's own clock."""

    ready: float
    noticed: float | None = None
    told: float | None = None


@dataclass
class Contender(ABC):
    """A server that runs. `ready`: when each of its workers was ready, by pid."""

    name: str
    plan: Plan
    directory: Path
    ready: dict[int, float] = field(default_factory=dict)

    @property
    @abstractmethod
    def address(self) -> tuple[str, int]:
        """Where it listens."""

    @abstractmethod
    def reload(self) -> float:
        """Bring up new code, as an operator does; return the seconds until all is new."""

    @abstractmethod
    def replaced(self, pid: int, killed: float) -> Death:
        """Wait for the replacement of a worker that was just killed."""

    @abstractmethod
    def close(self) -> None:
        """Stop it, and all that belongs to it."""

    def kill_one(self) -> Death:
        """Kill the worker that has been ready for longest, as soon as it is settled."""
        pid, since = min(self.ready.items(), key=lambda each: each[1])
        time.sleep(max(0.0, since + SETTLED_SECONDS - time.monotonic()))
        del self.ready[pid]
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        return self.replaced(pid, killed)


class Ours(Contender):
    """einhornpy's master, and everything that it has told of since it was ready. Workers are killed
    in one that does nothing else."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        super().__init__("einhornpy --preload" if plan.preload else "einhornpy", plan, directory)
        plan.app.write(directory)
        self.master = Master(directory, [
            "-n", str(plan.workers), "-b", "127.0.0.1:0", "-c", "bench",
            *(["--preload"] if plan.preload else []), "--", *plan.gunicorn(), "app:wsgi"],
            {"IMPORT_SECONDS": str(plan.app.seconds)}, cwd=directory)
        status = self.master.wait_ready()
        now = time.monotonic()
        self.ready = {worker["pid"]: now for worker in status["workers"]}
        self.seats = {worker["pid"]: worker["index"] for worker in status["workers"]}
        self.recorder = self.master.record()
        self.heard = 0  # so many of its events
        self.deaths: Counter[int] = Counter()

    @property
    def address(self) -> tuple[str, int]:
        return self.master.address

    def command(self, *words: str) -> str:
        """Run a client command; return what it printed."""
        done = self.master.cli(*words, timeout=LONGEST)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}\n{self.master.log()}"
        return done.stdout

    def reload(self) -> float:
        begun = time.monotonic()
        self.command("upgrade")
        return time.monotonic() - begun

    def since(self) -> list[dict[str, Any]]:
        """The events since this was last asked."""
        events = self.recorder.events
        new, self.heard = events[self.heard:], len(events)
        return new

    def replaced(self, pid: int, killed: float) -> Death:
        seat = self.seats.pop(pid)
        self.deaths[seat] += 1
        ready = self.recorder.wait_for("worker-ready", self.deaths[seat], index=seat)
        died = self.recorder.wait_for("worker-died", pid=pid)
        self.ready[ready["pid"]] = ready["seen"]
        self.seats[ready["pid"]] = seat
        return Death(ready["seen"] - killed, died["seen"] - killed,
                     ready["unix_time"] - died["unix_time"])

    def close(self) -> None:
        self.master.stop()
        self.master.close()


class Gunicorn(Contender):
    """gunicorn's own arbiter. With its preload_app, HUP would keep the old code: USR2 starts
    another arbiter beside the old one, which is asked to go when the new workers are ready."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        super().__init__("gunicorn --preload, USR2" if plan.preload else "gunicorn, HUP", plan,
                         directory)
        plan.app.write(directory)
        self.said = directory / "ready"
        (directory / "gunicorn.conf.py").write_text(SAYS_READY.format(path=str(self.said)))
        self.port = free_port()
        with open(directory / "log", "wb") as log:
            self.process = subprocess.Popen(
                [*plan.gunicorn(), *(["--preload"] if plan.preload else []), "-w",
                 str(plan.workers), "-b", f"127.0.0.1:{self.port}", "app:wsgi"],
                cwd=directory, stdout=log, stderr=log, env=base_environment(directory) | {
                    "IMPORT_SECONDS": str(plan.app.seconds), "PWD": str(directory)})
        self.arbiter = self.process.pid
        self.count = self.reloads = 0
        self.ready = dict(self.next_ready(plan.workers))

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def next_ready(self, count: int) -> list[tuple[int, float]]:
        """Wait for so many workers more; return when each was ready, by pid."""
        deadline = time.monotonic() + LONGEST
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError):
                lines = self.said.read_text().splitlines(keepends=True)[self.count:]
                if len(lines) >= count and lines[count - 1].endswith("\n"):
                    self.count += count
                    words = [line.split() for line in lines[:count]]
                    return [(int(pid), float(at)) for pid, at in words]
            time.sleep(0.002)
        raise RuntimeError(f"{self.name}: {self.log()[-2000:]}")

    def reload(self) -> float:
        begun, old = time.monotonic(), list(self.ready)
        os.kill(self.arbiter, signal.SIGUSR2 if self.plan.preload else signal.SIGHUP)
        new = dict(self.next_ready(self.plan.workers))
        if self.plan.preload:
            before, self.arbiter = self.arbiter, parent(next(iter(new)))
            os.kill(before, signal.SIGTERM)
            old.append(before)
        while any(alive(pid) for pid in old):
            time.sleep(0.002)
        self.ready, taken = new, time.monotonic() - begun
        if self.plan.preload:
            self.wait_promoted()
        return taken

    def wait_promoted(self) -> None:
        """Until it has noticed that it is the only arbiter, it heeds no USR2."""
        self.reloads += 1
        deadline = time.monotonic() + LONGEST
        while self.log().count("Master has been promoted") < self.reloads:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: {self.log()[-2000:]}")
            time.sleep(0.01)

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def replaced(self, pid: int, killed: float) -> Death:
        (new, at), = self.next_ready(1)
        self.ready[new] = at
        return Death(at - killed)

    def close(self) -> None:
        os.kill(self.arbiter, signal.SIGTERM)
        while alive(self.arbiter):
            time.sleep(0.002)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def alive(pid: int) -> bool:
    """Whether it is there and has not ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def running(kind: Callable[[Plan, Path], Kind], plan: Plan) -> Iterator[Kind]:
    """Run one until the block ends; nothing of it is left then. This process must adopt orphans: a
    second arbiter becomes one."""
    directory = Path(tempfile.mkdtemp(prefix="bench", dir="/tmp"))
    try:
        contender = kind(plan, directory)
        try:
            yield contender
        finally:
            contender.close()
    finally:
        reap_leftovers()
        shutil.rmtree(directory, ignore_errors=True)
