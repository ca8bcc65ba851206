"""Starts real masters and watches them: every wait is for an event, under one generous deadline
that shows the log.

Whatever a test starts is killed and reaped here, orphans included: the test process adopts them
(see `adopt_orphans`).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from einhornpy.control.client import Client, MasterGone, NoMaster, TimedOut
from einhornpy.shared import protocol

DEADLINE = 90.0
ROOT = Path(__file__).resolve().parent.parent
APPS = ROOT / "tests" / "apps"
EXAMPLE = ROOT / "examples" / "wsgi_app"
BIN = Path(sys.executable).parent
EINHORNPY = str(BIN / "einhornpy")
PR_SET_CHILD_SUBREAPER = 36
WORKER = [sys.executable, str(APPS / "worker.py")]
# A worker (-m notify) that can't start while there is a file called `broken` in its directory.
BREAKABLE = [sys.executable, "-c", """
import os, signal, socket, sys
if os.path.exists("broken"):
    sys.exit(3)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
signal.pause()
"""]


def adopt_orphans() -> None:
    """Become the parent of every orphan below us, so that none can hide from a test's end."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def wait_until(true: Callable[[], Any], what: str, log: Callable[[], str] = lambda: "",
               patience: float = DEADLINE) -> Any:
    """Wait for something that no event tells of; looks often, fails with `what` and the log after
    `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        value = true()
        if value:
            return value
        assert time.monotonic() < deadline, f"never came: {what}\n{log()}"
        select.select([], [], [], 0.02)


def wait_listening(path: Path) -> None:
    """Wait until somebody answers at a UNIX socket: its file is there a moment before."""

    def listens() -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            return connection.connect_ex(str(path)) == 0

    wait_until(listens, f"somebody who listens at {path}")


def wait_gone(pid: int, log: Callable[[], str] = lambda: "") -> None:
    """Wait until a process, a child of ours or not, is no more."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # select() would fail of a number beyond 1023, which a test may have used up.
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        assert poller.poll(DEADLINE * 1000), f"pid {pid} is still there\n{log()}"
    finally:
        os.close(fd)


def get(address: tuple[str, int] | str, path: str = "/") -> tuple[int, str]:
    """One HTTP request on a new connection: (status, body)."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(address)
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        data = b""
        while chunk := connection.recv(65536):
            data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


def free_port() -> int:
    """A port that nobody has, of either family."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as free:
        return int(free.getsockname()[1])


class Recorder:
    """Everything that the master tells of, from the event stream, with the counts right after each
    event."""

    def __init__(self, path: str) -> None:
        self._events: list[dict[str, Any]] = []
        self._client = Client(path, timeout=None)
        self._client.send(protocol.request("events", {}, 0))
        first = self._client.next_reply()["result"]
        self.first: dict[str, Any] = first["status"]
        self.recent: list[dict[str, Any]] = first["recent"]
        self._condition = threading.Condition()
        self._ended = False
        self._asked = self._heard = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while True:
                reply = self._client.next_reply()
                with self._condition:
                    if reply["request_id"]:
                        self._heard = reply["request_id"]
                    else:
                        self._events.append(reply["result"]["event"] | {"seen": time.monotonic()})
                    self._condition.notify_all()
        except (MasterGone, TimedOut, OSError, ValueError):
            pass
        with self._condition:
            self._ended = True
            self._condition.notify_all()

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events that the master has told of until now. The answer to a ping comes after them,
        so nobody who asserts something of them is too early."""
        with self._condition:
            self._asked += 1
            with contextlib.suppress(MasterGone, OSError):
                self._client.send(protocol.request("ping", {}, self._asked))
            self._condition.wait_for(lambda: self._heard >= self._asked or self._ended, DEADLINE)
        return self._events

    def wait_for(self, name: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        """Wait until `count` events of this name with these fields were seen; return the last of
        them."""
        found: list[dict[str, Any]] = []

        def seen() -> bool:
            found[:] = [event for event in self._events if event["event"] == name
                        and all(event.get(key) == value for key, value in fields.items())]
            return len(found) >= count or self._ended

        with self._condition:
            assert self._condition.wait_for(seen,
                                            DEADLINE), f"never came: {name} {fields}\n{self.tail()}"
        assert len(found) >= count, f"the master ended without {name} {fields}\n{self.tail()}"
        return found[count - 1]

    def tail(self) -> str:
        return "\n".join(json.dumps(event) for event in self._events[-40:])

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._client._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE)
        self._client._socket.close()


def exit_code(process: subprocess.Popen[Any], what: str, log: Callable[[], str]) -> int:
    """Wait for the end of a process; fail with `what` and its log if it doesn't come."""
    try:
        return process.wait(DEADLINE)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{what} is still there\n{log()}") from None


class Master:
    """A real `einhornpy` process in a directory of its own."""

    def __init__(self, directory: Path, arguments: list[str],
                 environment: dict[str, str] | None = None, cwd: Path | None = None,
                 stdout: int | None = None, stderr: int | None = None,
                 pass_fds: Sequence[int] = (), program: str | None = None) -> None:
        self.directory = directory
        self.log_path = directory / f"log-{time.monotonic_ns()}"
        self.environment = base_environment(directory) | (environment or {})
        if cwd is not None:
            self.environment["PWD"] = str(cwd)
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [program or EINHORNPY, *arguments], env=self.environment, stdin=subprocess.DEVNULL,
                stdout=log if stdout is None else stdout, stderr=log if stderr is None else stderr,
                cwd=cwd or directory, start_new_session=True, pass_fds=pass_fds,
            )
        self.pid = self.process.pid
        self._recorders: list[Recorder] = []
        self._path: str | None = None

    @property
    def path(self) -> str:
        """The control socket, as soon as there is one."""
        if self._path is None:
            self._path = wait_until(self._find_path, "a control socket", self.log)
        return self._path

    def _find_path(self) -> str | None:
        assert self.process.poll(
        ) is None, f"the master exited with {self.process.returncode}\n{self.log()}"
        for path in [*self.directory.glob("run/einhornpy/*.sock"), *self.directory.glob("*.sock")]:
            try:
                with Client(str(path), timeout=5) as client:
                    if client.ask("ping")["result"]["pid"] == self.pid:
                        return str(path)
            except (NoMaster, MasterGone, TimedOut):
                continue
        return None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def status(self) -> dict[str, Any]:
        with Client(self.path, timeout=DEADLINE) as client:
            result: dict[str, Any] = client.ask("status")["result"]
            return result

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        with Client(self.path, timeout=DEADLINE) as client:
            return client.ask(command, **arguments)

    def wait_status(self, true: Callable[[dict[str, Any]], Any],
                    what: str = "the status") -> dict[str, Any]:
        """Follow the status until `true` of it."""
        document: dict[str, Any] = {}
        try:
            with Client(self.path, timeout=DEADLINE) as client:
                for reply in client.replies("status", follow=True):
                    document = reply["result"]
                    if true(document):
                        return document
        except (TimedOut, MasterGone) as error:
            raise AssertionError(
                f"never came: {what}: {error}\n{json.dumps(document, indent=1)}\n{self.log()}"
            ) from None
        raise AssertionError("the status stream ended")

    def wait_ready(self) -> dict[str, Any]:
        return self.wait_status(lambda document: document["gate"] == "ready", "the gate ready")

    def wait_log(self, text: str) -> str:
        """Wait for a line with `text` in the log; return the line."""

        def line() -> str | None:
            return next((each for each in self.log().splitlines() if text in each), None)

        found: str = wait_until(line, f"{text!r} in the log", self.log)
        return found

    def record(self) -> Recorder:
        recorder = Recorder(self.path)
        self._recorders.append(recorder)
        return recorder

    @property
    def address(self) -> tuple[str, int]:
        """Where the first TCP listener listens."""
        host, _, port = self.status()["listeners"][0]["address"].rpartition(":")
        return host, int(port)

    @property
    def web_address(self) -> tuple[str, int]:
        """Where the sidecar listens, over TCP."""
        host, _, port = self.wait_log(" web started ").partition(" listen=")[2].strip().rpartition(
            ":")
        return host, int(port)

    @property
    def web(self) -> str:
        """Where the sidecar serves, `http://HOST:PORT`, as soon as it has been started."""
        return "http://{}:{}".format(*self.web_address)

    def cli(self, *arguments: str, timeout: float = DEADLINE,
            environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a client command against this master, whatever others run on this host."""
        if self._path is not None:
            environment = {"EINHORNPY_SOCKET_PATH": self._path} | (environment or {})
        return subprocess.run([EINHORNPY, *arguments], env=self.environment | (environment or {}),
                              timeout=timeout, capture_output=True, text=True, cwd=self.directory,
                              check=False)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait_exit(self) -> int:
        return exit_code(self.process, "the master", self.log)

    def stop(self) -> int:
        """Stop gracefully; return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait_exit()

    def close(self) -> None:
        for recorder in self._recorders:
            recorder.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def base_environment(directory: Path) -> dict[str, str]:
    """A quiet environment in which masters of this test find only each other."""
    runtime = directory / "run"
    runtime.mkdir(exist_ok=True)
    return {
        "PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(directory),
        "XDG_RUNTIME_DIR": str(runtime), "PWD": str(directory), "LANG": "C.UTF-8",
        "TMPDIR": str(directory), "IMPORT_SECONDS": "0",}


def child_pids(parent: int | str = "self") -> Iterator[int]:
    """The pids of the children of a process (default: ours), adopted orphans included."""
    for entry in Path(f"/proc/{parent}/task").iterdir():
        # A thread that has just ended has left its children to another one.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield from map(int, (entry / "children").read_text().split())


def children(parent: int | str = "self") -> list[tuple[int, str]]:
    """The pid and command line of every child of a process (default: ours) that lives."""
    found = []
    for pid in child_pids(parent):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(
                b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if command:  # one that is dead has none
            found.append((pid, command))
    return found


def keepers(parent: int | str = "self") -> list[int]:
    """The pids of the keepers among the children of a process: a master's, or, orphaned, ours."""
    return [pid for pid, command in children(parent) if "keeper_process" in command]


def open_files(pid: int) -> dict[int, str]:
    """What each descriptor of another process leads to; one that it closes meanwhile is left
    out."""
    found = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[int(link.name)] = os.readlink(link)
    return found


def what_they_do() -> str:
    """One line for each child of ours: what it is, its state, what it waits for, and which
    signals."""
    lines = []
    for pid, command in children():
        with contextlib.suppress(OSError):
            status = dict(
                line.split(":\t", 1)
                for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
            told = " ".join(f"{key}={status[key].strip()}"
                            for key in ("State", "PPid", "SigPnd", "ShdPnd", "SigCgt"))
            lines.append(
                f"{pid} {told} waits={Path(f'/proc/{pid}/wchan').read_text()} {command[-100:]!r}")
    return "\n".join(lines)


def process_state(pid: int) -> str | None:
    """The letter that proc(5) has for it: `T` stopped, `Z` ended and not reaped yet …; None: it is
    no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def reap_leftovers() -> list[str]:
    """Kill and reap every child that is left; return what they were."""
    left = []
    while pids := list(child_pids()):
        for pid in pids:
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(
                    b"\0", b" ").decode(errors="replace")
                if process_state(pid) not in ("Z", None):
                    if command:  # one without has ended, but for its last instructions
                        left.append(f"{pid}: {command}")
                    os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError, FileNotFoundError):
                continue
    return left
