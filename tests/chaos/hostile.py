"""Hostile clients of the control socket and of the sidecar: each is a connection or a hundred, held
until healed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from .faults import Fault

if TYPE_CHECKING:
    from .host import Host

# A liveness probe would have given up long ago; but this host is busy, and a sidecar may have to be
# started anew.
PROBE_SECONDS = 20
# What a stranger tries, as somebody else than the master's user; it says what it was told.
STRANGER = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for command in ("upgrade", "stop", "reload", "scale", "status"):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        try:
            connection.connect(sys.argv[1])
            connection.sendall(b'{"id": 1, "command": "%s", "args": {}}\\n' % command.encode())
            print(connection.recv(65536).decode())
        except OSError as error:
            print(error)
"""


@dataclass
class Hostile(Fault):
    """Some connections that behave in one way: see `behave`."""

    kind: ClassVar[str] = "hostile"
    way: str = "garbage"
    lot: float = 0.0
    held: list[socket.socket] = field(default_factory=list)

    @classmethod
    def drawn(cls, dice: random.Random) -> Hostile:
        return cls(
            dice.uniform(0.3, 2.0),
            dice.choice(("garbage", "half", "flood", "silent", "slow-reader", "nests", "events")),
            dice.random())

    def inject(self, host: Host) -> None:
        many = {"flood": 150, "silent": 200, "slow-reader": 20, "events": 20}.get(self.way, 30)
        dice = random.Random(self.lot)
        for _ in range(many):
            one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            one.setblocking(False)
            # It is cut off, or finds no room: both are as it should be.
            with contextlib.suppress(OSError):
                one.connect(host.master.path)
                self.behave(one, dice)
            self.held.append(one)

    def behave(self, one: socket.socket, dice: random.Random) -> None:
        """Say what this kind of client says; none of them reads."""
        match self.way:
            case "garbage":
                one.send(
                    dice.randbytes(dice.choice((1, 100, 5000))) +
                    dice.choice((b"", b"\n", b"\n\n\0")))
            case "half":
                one.send(
                    json.dumps({"id": 1, "command": "upgrade"}).encode()[:-dice.randrange(1, 20)])
            case "flood":
                one.send(b'{"id": 1, "command": "ping"}\n' * 2000)
            case "slow-reader":
                one.send(
                    b'{"id": 1, "command": "status", "args": {"follow": true}}\n{"id": 2, '
                    b'"command": "help"}\n'
                    * 50)
            case "events":
                one.send(b'{"id": 1, "command": "events"}\n' * 5)
            case "nests":
                one.send(
                    dice.choice((b"[" * 50000, b'{"a":' * 9000, b"- " * 3000,
                                 b"&a [*a, *a]\n--- !!python/x {}\n")) + b"\n")

    def heal(self, host: Host) -> None:
        for one in self.held:
            one.close()

    def __str__(self) -> str:
        return f"{self.kind} {self.way}"


@dataclass
class Stranger(Fault):
    """Somebody who is neither root nor the master's user gives commands; none is obeyed."""

    kind: ClassVar[str] = "stranger"

    @classmethod
    def possible(cls, host: Host) -> str | None:
        return None if os.geteuid() == 0 else "only root can be somebody else"

    def inject(self, host: Host) -> None:
        told = subprocess.run([sys.executable, "-c", STRANGER, host.master.path], cwd="/",
                              check=False, capture_output=True, text=True)
        for line in told.stdout.splitlines():
            with contextlib.suppress(ValueError):
                if json.loads(line).get("ok"):
                    host.story.wrong(f"a stranger was obeyed: {line[:300]}")
        if told.returncode:
            host.story.wrong(f"the stranger failed by itself: {told.stderr[-300:]}")


@dataclass
class HostileWeb(Fault):
    """Half requests and streams that nobody reads, at the sidecar; probes are answered all the
    same."""

    kind: ClassVar[str] = "hostile-web"
    held: list[socket.socket] = field(default_factory=list)

    def inject(self, host: Host) -> None:
        for number in range(40):
            one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            one.setblocking(False)
            with contextlib.suppress(OSError):
                one.connect(str(host.directory / "web.sock"))
                one.send(b"GET /healthz HT" if number %
                         2 else b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.held.append(one)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(PROBE_SECONDS)
            # Where the sidecar has just been killed by another fault, it is hung up on.
            with contextlib.suppress(ConnectionError, FileNotFoundError):
                probe.connect(str(host.directory / "web.sock"))
                probe.sendall(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
                try:
                    probe.recv(100)
                except TimeoutError:
                    host.story.wrong(f"a probe was not answered within {PROBE_SECONDS} s")

    def heal(self, host: Host) -> None:
        for one in self.held:
            one.close()
