"""An open-loop HTTP/1.1 load client: requests start at fixed times whatever the server does, and
nothing is retried.

It runs as a process of its own (`python tests/load.py JSON`), so that a busy test can't disturb the
clock of the load; `Load` starts it and `Report` reads what it measured. Times are CLOCK_MONOTONIC,
the same in every process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

# Servers close connections that idle for 2 s (gunicorn's default); a sane client stops reusing them
# well before that.
LONGEST_REUSE_IDLE = 0.9


@dataclass
class Failure:
    """`at`: when the request was due. `reused`: whether on a connection that had carried a request
    before. `port`: its own end's, 0 where there was no TCP connection. `ended`: when it was known
    to have failed."""

    at: float
    path: str
    reused: bool
    error: str
    port: int = 0
    ended: float = 0.0


@dataclass
class Report:
    """What one run measured. `answers`: (due, finished) of every good answer, in seconds. `words`:
    the first word of each."""

    sent: int
    reused: int
    answers: list[tuple[float, float]]
    failures: list[Failure] = field(default_factory=list)
    bodies: dict[str, int] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)

    @property
    def ok(self) -> int:
        return len(self.answers)

    def percentile(self, percent: float, since: float = 0.0, until: float = float("inf")) -> float:
        """The latency in seconds, counted from when the request was due, of requests due in the
        window."""
        taken = sorted(finished - due for due, finished in self.answers if since <= due < until)
        return taken[min(len(taken) - 1, int(len(taken) * percent /
                                             100))] if taken else float("inf")

    def longest_gap(self, since: float = 0.0, until: float = float("inf")) -> float:
        """The longest time in the window in which no request was answered well, in seconds."""
        ends = sorted(finished for _, finished in self.answers if since <= finished < until)
        edges = [since, *ends, until] if since > 0 and until < float("inf") else ends
        return max((later - earlier for earlier, later in pairwise(edges)), default=float("inf"))

    def why(self) -> str:
        """The failures in words."""
        return "\n".join(
            f"{failure.at:.3f} {failure.path} {'reused' if failure.reused else 'new'}: "
            f"{failure.error}"
            for failure in self.failures[:20])


class Load:
    """A load on `address` (host and port, or the path of a UNIX socket) while the block runs.

    `rate`: requests a second. `slow`: the share that asks for `slow_path`. `keep_alive`: the share
    of requests that may use a connection again.
    """

    def __init__(self, address: tuple[str, int] | str, rate: float = 100.0, *, path: str = "/",
                 slow_path: str = "/slow/0.2", slow: float = 0.1, keep_alive: float = 0.5,
                 seed: int = 1) -> None:
        self._settings = {
            "address": address, "rate": rate, "path": path, "slow_path": slow_path, "slow": slow,
            "keep_alive": keep_alive, "seed": seed}
        self.report: Report
        self._process: subprocess.Popen[str] | None = None
        self._began = 0.0

    def __enter__(self) -> Load:
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(self._settings)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it says when the first request is answered
        self._began = time.monotonic()
        return self

    @property
    def pids(self) -> set[int]:
        """The load process, as a set for whoever counts children."""
        return set() if self._process is None else {self._process.pid}

    def elapsed(self) -> float:
        """Seconds since the first request was answered."""
        return time.monotonic() - self._began

    def __exit__(self, *exception: object) -> None:
        assert self._process is not None
        if exception[0] is not None:
            self._process.kill()
        out, _ = self._process.communicate("", timeout=120)
        if exception[0] is None:
            read = json.loads(out)
            read["failures"] = [Failure(**failure) for failure in read["failures"]]
            self.report = Report(**read)


class Client:
    """The load process."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.random = random.Random(settings["seed"])
        self.idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.sent = self.reused = 0
        self.answers: list[tuple[float, float]] = []
        self.failures: list[dict[str, Any]] = []
        self.bodies: dict[str, int] = {}
        self.words: list[str] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = self.settings["address"]
        if isinstance(address, str):
            return await asyncio.open_unix_connection(address)
        return await asyncio.open_connection(*address)

    def take_idle(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection used before: the freshest or the stalest, so that reuse comes at every
        age."""
        while self.idle:
            since, reader, writer = self.idle.pop(self.random.choice((0, -1)))
            # One that the server has closed meanwhile is not used again: its end has arrived before
            # our request.
            if time.monotonic() - since < LONGEST_REUSE_IDLE and not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    async def request(self, due: float, path: str, keep_alive: bool) -> None:
        self.sent += 1
        connection = self.take_idle() if keep_alive else None
        reused = connection is not None
        self.reused += reused
        try:
            async with asyncio.timeout(30):
                reader, writer = connection or await self.connect()
                header = "keep-alive" if keep_alive else "close"
                writer.write(
                    f"GET {path} HTTP/1.1\r\nHost: load\r\nConnection: {header}\r\n\r\n".encode())
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                status = int(head.split(None, 2)[1])
                length = int(head.partition("content-length:")[2].split("\r\n", 1)[0])
                body = await reader.readexactly(length)
            if not 200 <= status < 300:
                raise ConnectionError(f"status {status}")
        except (OSError, EOFError, TimeoutError, ValueError, IndexError) as error:
            # The end is the answer to nothing: a request lost on a reused connection is lost.
            port = 0
            if "writer" in locals():
                name = writer.get_extra_info("sockname")
                port = name[1] if isinstance(name, tuple) else 0
                writer.close()
            self.failures.append({
                "at": due, "path": path, "reused": reused,
                "error": f"{type(error).__name__}: {error}", "port": port,
                "ended": time.monotonic()})
            return
        finished = time.monotonic()
        self.answers.append((due, finished))
        word = body.split(None, 1)[0].decode(errors="replace")[:40] if body.strip() else ""
        self.bodies[word] = self.bodies.get(word, 0) + 1
        self.words.append(word)
        if keep_alive and head.startswith("http/1.1 ") and "connection: close" not in head:
            self.idle.append((finished, reader, writer))
        else:
            writer.close()

    async def run(self) -> None:
        settings = self.settings
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(0, stop.set)
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        tasks: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while not stop.is_set():
            path = settings["slow_path"] if self.random.random(
            ) < settings["slow"] else settings["path"]
            task = asyncio.create_task(
                self.request(due, path,
                             self.random.random() < settings["keep_alive"]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            if self.sent == 0:
                await task
                print("running", flush=True)
                due = time.monotonic()
            due += 1 / settings["rate"]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), max(0.0, due - time.monotonic()))
        if tasks:
            await asyncio.wait(tasks)
        for _, _, writer in self.idle:
            writer.close()
        print(
            json.dumps({
                "sent": self.sent, "reused": self.reused, "answers": self.answers,
                "failures": self.failures, "bodies": self.bodies, "words": self.words}))


if __name__ == "__main__":
    asyncio.run(Client(json.loads(sys.argv[1])).run())
