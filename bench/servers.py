"""Starts the example app under einhornpy and under what people would use instead, and stops it
again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
GTHREAD = ["gunicorn", "-k", "gthread", "--threads", "4", "app:wsgi"]
SYNC = ["gunicorn", "-k", "sync", "app:wsgi"]
ASGI = ["gunicorn", "-k", "asgi", "asgi_app:asgi"]


@dataclass
class Server:
    """A running server. `ours`: it is einhornpy's master."""

    name: str
    process: subprocess.Popen[bytes]
    address: tuple[str, int]
    directory: Path
    ours: bool
    environment: dict[str, str] = field(default_factory=dict)

    def reload(self) -> subprocess.Popen[str] | None:
        """Ask for one graceful reload; for einhornpy return the command, which ends with it."""
        if not self.ours:
            self.process.send_signal(signal.SIGHUP)
            return None
        return subprocess.Popen([BIN / "einhornpy", "upgrade", "-d", self.socket],
                                env=self.environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def einhornpy(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([BIN / "einhornpy", *arguments, "-d", self.socket],
                              env=self.environment, text=True, capture_output=True, check=False)

    @property
    def socket(self) -> str:
        """Where our master listens; others may run on this host."""
        return f"{self.directory}/einhornpy/gunicorn.sock"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def commands(workers: int, port: int) -> dict[str, list[str]]:
    """Every contender, by name."""
    ours = ["einhornpy", "-n", str(workers), "-b", f"127.0.0.1:{port}", "--"]
    theirs = ["-b", f"127.0.0.1:{port}", "-w", str(workers)]
    return {
        "einhornpy, gunicorn gthread": [*ours, *GTHREAD],
        "einhornpy, gunicorn sync": [*ours, *SYNC], "einhornpy, gunicorn asgi": [*ours, *ASGI],
        "gunicorn gthread, HUP": [*GTHREAD[:-1], *theirs, GTHREAD[-1]],
        "gunicorn sync, HUP": [*SYNC[:-1], *theirs, SYNC[-1]], "granian, HUP": [
            "granian", "--interface", "wsgi", "--workers",
            str(workers), "--host", "127.0.0.1", "--port",
            str(port), "app:wsgi"], "uvicorn, HUP": [
                "uvicorn", "--workers",
                str(workers), "--host", "127.0.0.1", "--port",
                str(port), "asgi_app:asgi"],}


@contextlib.contextmanager
def running(name: str, workers: int, import_seconds: float, code: str = "") -> Iterator[Server]:
    """Run a contender on a copy of the example app until the block ends; everything it started is
    gone afterwards. `code`: a directory whose modules come before those that are installed."""
    directory = Path(tempfile.mkdtemp(prefix="bench", dir="/tmp"))
    for file in ("app.py", "asgi_app.py"):
        shutil.copy(ROOT / "examples" / "wsgi_app" / file, directory)
    port = free_port()
    environment = {
        "PATH": f"{BIN}:{os.environ['PATH']}", "XDG_RUNTIME_DIR": str(directory),
        "IMPORT_SECONDS": str(import_seconds), "HOME": str(directory), "PWD": str(directory),
        "PYTHONPATH": f"{code}:{directory}" if code else str(directory)}
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(
            commands(workers, port)[name], cwd=directory, env=environment, stdout=log, stderr=log,
            start_new_session=True)
    try:
        server = Server(name, process, ("127.0.0.1", port), directory, name.startswith("einhornpy"),
                        environment)
        wait_serving(server, import_seconds)
        yield server
    finally:
        stop(process)
        shutil.rmtree(directory, ignore_errors=True)


def wait_serving(server: Server, import_seconds: float) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(server.address,
                                                                    5) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            if connection.recv(12).endswith(b"200"):
                time.sleep(import_seconds + 0.5)  # the other workers, too
                return
        time.sleep(0.05)
    raise RuntimeError(
        f"{server.name} does not answer: {(server.directory / 'log').read_text()[-2000:]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop it with everything below it."""
    below = children(process.pid)
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in below:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """The pids of all descendants."""
    try:
        direct = [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return direct + [below for child in direct for below in children(child)]
