"""The same deployment under gunicorn itself and under einhornpy, for tests that compare them. What
the server hooks are called with is recorded by tests/apps/recording.py."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from .harness import APPS, BIN, Master, base_environment, exit_code, wait_until

Start = Callable[..., Master]
# What a worker does besides answering.
REQUESTS = ("pre_request", "post_request")


class Gunicorn:
    """gunicorn itself, arbiter and all, in a directory of its own."""

    def __init__(self, directory: Path, arguments: Sequence[str],
                 environment: Mapping[str, str], before: Sequence[str] = ()) -> None:
        self.directory = directory
        self.log_path = directory / "log"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*before, str(BIN / "gunicorn"), *arguments], cwd=directory,
                env={**base_environment(directory), **environment}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, as soon as it does: what a hook opens comes later."""

        def listening() -> list[tuple[int, tuple[str, int]]]:
            found = psutil.Process(self.process.pid).net_connections("inet")
            return [(each.fd, each.laddr) for each in found if each.status == psutil.CONN_LISTEN]

        host, port = min(wait_until(listening, "gunicorn's listener", self.log))[1]
        return host, port

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait_exit(self) -> int:
        return exit_code(self.process, "gunicorn", self.log)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a hook, as it was recorded."""

    phase: str
    role: str
    pid: int
    hook: str
    arguments: list[Any] = field(hash=False)

    @property
    def line(self) -> str:
        return json.dumps([self.hook, self.arguments], sort_keys=True)


class Side:
    """One of the two. `phase`: what is done to it just now; a call belongs to the phase in which it
    was recorded."""

    def __init__(self, name: str, directory: Path, server: Gunicorn | Master,
                 record: str = "record") -> None:
        self.name, self.directory, self.server = name, directory, server
        self._record = directory / record
        self._phases: list[tuple[int, str]] = [(0, "start")]

    @property
    def is_ours(self) -> bool:
        return isinstance(self.server, Master)

    def lines(self) -> list[str]:
        try:
            return self._record.read_text().splitlines()
        except FileNotFoundError:
            return []

    def begin(self, phase: str) -> None:
        self._phases.append((len(self.lines()), phase))

    def calls(self) -> list[Call]:
        found = []
        for number, line in enumerate(self.lines()):
            phase = [name for first, name in self._phases if number >= first][-1]
            found.append(Call(phase, *json.loads(line)))
        return found

    def count(self, hook: str) -> int:
        return sum(call.hook == hook for call in self.calls())

    def wait_for(self, hook: str, times: int) -> None:
        """Wait until a hook was called so often since the start."""

        def called() -> bool:
            assert self.server.process.poll() is None, f"it has ended\n{self.server.log()}"
            return self.count(hook) >= times

        wait_until(called, f"{hook} {times} times on {self.name}",
                   lambda: "\n".join([*self.lines(), self.server.log()]))

    def oldest(self) -> int:
        """The pid of the worker that was forked first, of those that serve."""
        booted = {call.pid: call.arguments[0]["age"] for call in self.calls()
                  if call.hook == "post_worker_init"}
        return min(booted, key=lambda pid: booted[pid])

    def upgrade(self) -> None:
        """New code by the way of each: HUP, `einhornpy upgrade`."""
        if isinstance(self.server, Master):
            result = self.server.cli("upgrade")
            assert result.returncode == 0, result.stderr + self.server.log()
        else:
            self.server.signal(signal.SIGHUP)


def sequences(calls: Sequence[Call], role: str) -> dict[int, list[Call]]:
    """What each process of a role did, in its order, but for requests."""
    found: dict[int, list[Call]] = {}
    for call in calls:
        if call.role == role and call.hook not in REQUESTS:
            found.setdefault(call.pid, []).append(call)
    return found


def counts(calls: Sequence[Call]) -> Counter[str]:
    return Counter(call.line for call in calls)


def lay_out(directory: Path, conf: Path, *others: Path) -> None:
    """A site of its own: configuration with every hook recorded, and apps."""
    directory.mkdir()
    text = conf.read_text()
    (directory / "gunicorn.conf.py").write_text(
        f"{text}\nimport recording\n\nrecording.of(globals())\n")
    for each in (APPS / "recording.py", *others):
        shutil.copy(each, directory)


def environ_of(directory: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` with `{here}` for the directory."""
    return {key: value.format(here=directory) for key, value in environment.items()}

