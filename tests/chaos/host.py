"""The host that suffers: one master under load on a socket that outlives it, releases in
directories, a small disk.

It knows nothing of faults; it can only be asked to bring everything back: a master where there is
none, the link `current`, the gunicorn settings, the disk.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from einhornpy.control.client import Client, MasterGone, NoMaster, TimedOut

from ..harness import APPS, EINHORNPY, Master, base_environment, children, wait_until
from .calls import Control, compiled
from .faults import HEARTBEAT
from .story import Story

DISK_BYTES = 32 << 20
SETTINGS = 'loglevel = "warning"\n'


@dataclass(frozen=True)
class Result:
    """One command that a client gave: `name` of the operation, when it ran, how it ended. `code`
    -9: it hung and was killed."""

    name: str
    words: tuple[str, ...]
    code: int
    began: float
    ended: float
    life: int
    out: str
    err: str


class Host:
    """`number`: N. `worker_class`: gunicorn's. `preload`: how the app is preloaded, if it is."""

    def __init__(self, directory: Path, story: Story, number: int, worker_class: str,
                 preload: str) -> None:
        self.preload = preload
        self.directory, self.story, self.number = directory, story, number
        self.worker_class = worker_class
        directory.chmod(0o755)  # strangers may come as far as the control socket
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.address: tuple[str, int] = self.listener.getsockname()
        self.run = directory / "run"
        self.run.mkdir()
        self.on_disk = _mounted(self.run)
        self.releases = directory / "releases"
        self.current = directory / "current"
        self.releases.mkdir()
        self.control: Control | None = None
        library = compiled(directory)
        if library is not None:
            self.control = Control(directory / "control")
        self.library = library
        self.settings = directory / "chaos.toml"
        self.write_settings()
        self.life = 0
        self.codes = 0
        self.good = self.new_release("good")
        self.activate(self.good)
        # One deploy tool at a time moves the link and asks for the upgrade.
        self.deploying = threading.Lock()
        self.hands: dict[int, float] = {}
        self.master: Master
        self.start()

    # --- the master ---

    def start(self) -> None:
        """Start a master, and wait until it is ready."""
        self.life += 1
        environment = {"CHAOS_LIFE": f"life{self.life}"}
        if self.library is not None:
            environment |= {
                "LD_PRELOAD": str(self.library), "CHAOS_CONTROL": str(self.directory / "control")}
        threads = ["--threads", "4"] if self.worker_class == "gthread" else []
        program = "app:asgi" if self.worker_class in (
            "asgi", "uvicorn_worker.UvicornWorker") else "app:wsgi"
        self.master = Master(self.directory, [
            "--config",
            str(self.settings), "-c", "chaos", "-n",
            str(self.number), "-b", f"fd://{self.listener.fileno()}", "--chdir",
            str(self.current), "--socket-mode", "666", "--max-failures", "2", "--ready-timeout",
            "40", "--graceful-timeout", "40", "--timeout",
            str(HEARTBEAT), f"--preload={self.preload}", "--seconds", "0.3", "--warm-up", "/health", "--web",
            f"unix:{self.directory}/web.sock", "--worker-output", "prefix", "--log-file",
            str(self.run / "log"), "--on-upgrade-start", "sleep 0.2", "--on-worker-ready",
            "sleep 0.2", "--on-upgrade-end", "sleep 0.2", "--", "gunicorn", "-c",
            str(self.directory / "gunicorn.conf.py"), "-k", self.worker_class, *threads, program,],
                             environment, pass_fds=[self.listener.fileno()])
        self.story.count("masters started")
        self.story.tell(f"master pid {self.master.pid} started, life {self.life}")
        self.master.wait_ready()

    def alive(self) -> bool:
        return self.master.process.poll() is None

    def restart(self) -> None:
        """Bring a master back where there is none, on code that is good."""
        self.activate(self.good)
        self.write_settings()
        self.master.close()
        self.start()

    def status(self, patience: float = 30.0) -> dict[str, Any]:
        """The status document, asked for until somebody answers."""
        document: dict[str, Any] = wait_until(self.peek, "an answer from the master",
                                              self.master.log, patience)
        return document

    def peek(self) -> dict[str, Any] | None:
        """The status document; None if nobody answers."""
        try:
            with Client(self.master.path, timeout=10) as client:
                found: dict[str, Any] = client.ask("status")["result"]
                return found
        except (NoMaster, MasterGone, TimedOut):
            return None

    def workers(self) -> list[int]:
        """The pids of the workers, without asking the master, who may stand still."""
        return self.others("gunicorn: worker")

    def others(self, *words: str) -> list[int]:
        """The master's children that have one of these words in their command line."""
        return [
            pid for pid, command in children(self.master.pid)
            if any(word in command for word in words)]

    def hold_still(self, pid: int) -> frozenset[int]:
        """SIGSTOP, and wait until it stands; what it has in its hands then, which is returned, may
        be lost with it, nothing else."""
        held: set[int] = set()
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            process = psutil.Process(pid)
            process.suspend()
            wait_until(lambda: process.status() in ("stopped", "zombie", "tracing-stop"),
                       f"pid {pid} stopped")
            now = time.monotonic()
            for each in process.net_connections("tcp"):
                if each.raddr and each.laddr[:2] == self.address:
                    self.hands[each.raddr[1]] = now
                    held.add(each.raddr[1])
        return frozenset(held)

    # --- commands ---

    def ask(self, name: str, *words: str, patience: float = 90.0) -> Result:
        """Run one command as a client does."""
        environment = base_environment(self.directory) | {"EINHORNPY_SOCKET_PATH": self.master.path}
        began, life = time.monotonic(), self.life
        self.story.count(f"operations {name}")
        self.story.tell(f"  {name}: {' '.join(words)}")
        with subprocess.Popen([EINHORNPY, *words], env=environment, cwd=self.directory,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as process:
            try:
                out, err = process.communicate(timeout=patience)
                code = process.returncode
            except subprocess.TimeoutExpired:
                process.kill()
                (out, err), code = process.communicate(), -9
        said = err.strip().splitlines()
        self.story.tell(
            f"  {name}: exit {code} after {time.monotonic() - began:.2f} "
            f"s{': ' + said[-1][:200] if said else ''}"
        )
        return Result(name, words, code, began, time.monotonic(), life, out, err)

    # --- releases, settings, the disk ---

    def new_release(self, how: str) -> str:
        """Write a release; return its code, which is the name of its directory too."""
        self.codes += 1
        code = f"code{self.codes}"
        directory = self.releases / code
        directory.mkdir()
        text = (APPS / "chaos_app.py").read_text().replace("@CODE@", code).replace("@HOW@", how)
        (directory / "app.py").write_text(text)
        return code

    def activate(self, code: str) -> None:
        """Let `current` be this release, in one step."""
        self.point(self.releases / code)

    def point(self, target: Path) -> None:
        """Let `current` be a link to this."""
        following = self.directory / "next"
        following.unlink(missing_ok=True)
        following.symlink_to(target)
        following.rename(self.current)

    def write_settings(self, gunicorn: str = SETTINGS, toml: str = "max-surge = 1\n") -> None:
        (self.directory / "gunicorn.conf.py").write_text(gunicorn)
        self.settings.write_text(toml)

    def close(self) -> None:
        """End it all."""
        self.master.close()
        self.listener.close()
        if self.control is not None:
            self.control.close()
        if self.on_disk:
            subprocess.run(["umount", "-l", str(self.run)], check=False)


def _mounted(directory: Path) -> bool:
    """Make it a small disk of its own; return whether we may."""
    if os.geteuid() != 0:
        return False
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=755", "chaos",
         str(directory)], check=False, capture_output=True)
    return done.returncode == 0
