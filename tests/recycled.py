"""Pid 1 of a PID namespace in which pids come again: what is left of a process that has gone,
beside a worker that has its pid.

    python -m tests.recycled PLACE [SETTING=VALUE …]    prints what the master made of it, as JSON

Each ghost says something that would count from a worker, or leaves it unread, and ends; the next
process that the master starts gets its pid.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from einhornpy.control.client import Client
from einhornpy.shared import protocol

from .harness import (
    APPS,
    DEADLINE,
    EINHORNPY,
    open_files,
    process_state,
    wait_listening,
    wait_until,
)

NOBODY = 65534
# More than a master takes in before it looks at its signals.
CONNECTIONS, DATAGRAMS, A_SENDER = 500, 6000, 200
# The first is ready, so that what speaks for the others is seen; these say nothing.
COMMAND = (
    f'test $EINHORN_CHILD_INDEX = 0 && exec {sys.executable} {APPS / "worker.py"} notify; exec sleep 1000'
)


def ghost(haunt: Callable[[], None]) -> int:
    """Let a process of nobody's do something, and see it gone; return the pid that it had."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            haunt()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    return pid


def next_pid(pid: int) -> None:
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))


class Haunted:
    """One master, and a client that was there before any ghost."""

    def __init__(self, place: str) -> None:
        self.path = f"{place}/x.sock"
        self.master = subprocess.Popen([
            EINHORNPY, "-d", self.path, "--socket-mode", "0666", "-n", "1", "-m", "manual", "-b",
            "127.0.0.1:0", "--ready-timeout", "600", "--graceful-timeout", "1", "--", "sh", "-c",
            COMMAND], cwd=place, stderr=sys.stderr)
        wait_listening(Path(self.path))
        self.client = Client(self.path, timeout=DEADLINE)
        wait_until(lambda: self.status()["gate"] == "ready", "the first worker")
        os.chmod(f"{place}/x.notify", 0o666)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.ask("status")["result"]
        return found

    def started(self, pid: int, index: int) -> None:
        """Wait for the worker of this seat, which must have that pid."""
        document = wait_until(lambda: len((each := self.status())["workers"]) > index and each,
                              "one worker more")
        assert document["workers"][index]["pid"] == pid, document["workers"]

    def connections_of(self, count: int) -> tuple[int, list[socket.socket]]:
        """Connections that one ghost has made: its pid, and our end of them."""
        left = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(count)]

        def connect() -> None:
            for each in left:
                each.connect(self.path)

        return ghost(connect), left

    def say(self, connection: socket.socket, **words: Any) -> None:
        """Give a worker's word over a ghost's connection, and see it heard."""
        connection.settimeout(DEADLINE)
        connection.sendall(json.dumps(words).encode() + b"\n")
        connection.recv(4096)

    def stopped(self) -> None:
        """Stop the master, and ask it for one worker more, which it will hear first."""
        self.master.send_signal(signal.SIGSTOP)
        wait_until(lambda: process_state(self.master.pid) == "T", "it stands still")
        self.client.send(protocol.request("scale", {"by": 1}))

    def go_on(self, pid: int) -> None:
        """Let the master start that worker, with this pid, before it has heard all that came
        meanwhile."""
        next_pid(pid)
        self.master.send_signal(signal.SIGCONT)
        assert self.client.next_reply()["ok"]


def main() -> None:
    place, *settings = sys.argv[1:]
    Path("/proc/sys/net/unix/max_dgram_qlen").write_text(str(2 * DATAGRAMS))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    haunted = Haunted(place)
    # Connections that were accepted when another process had the pid.
    pid, (ack, failed, upgrade) = haunted.connections_of(3)
    haunted.status()
    next_pid(pid)
    haunted.client.ask("scale", by=1)
    haunted.started(pid, 1)
    haunted.say(failed, command="worker:failed", pid=pid, error="said by a ghost")
    haunted.say(upgrade, command="worker:upgrade", pid=pid, id=1)
    haunted.say(ack, command="worker:ack", pid=pid)
    # Connections that wait to be accepted when another process gets it.
    haunted.stopped()
    before = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(CONNECTIONS)]
    for each in before:
        each.connect(haunted.path)
    pid, (ack,) = haunted.connections_of(1)
    haunted.go_on(pid)
    haunted.started(pid, 2)
    haunted.say(ack, command="worker:ack", pid=pid)
    if "datagrams=no" not in settings:
        haunted.stopped()
        senders = [
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(DATAGRAMS // A_SENDER)]
        for number in range(DATAGRAMS):
            senders[number // A_SENDER].sendto(b"X=1", f"{place}/x.notify")
        last = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


        def lie() -> None:
            last.sendto(b"READY=1", f"{place}/x.notify")
            # Descriptors take the room in which the kernel says who sent it.
            last.connect(f"{place}/x.notify")
            socket.send_fds(last, [b"READY=1"], [os.memfd_create("ghost")] * 2)

        pid = ghost(lie)
        haunted.go_on(pid)
        haunted.started(pid, 3)
    for _ in range(DATAGRAMS // 200):
        document = haunted.status()  # each is a turn, or more, in which what is left is heard
    held = open_files(haunted.master.pid).values()
    print(
        json.dumps({
            "newest": document["newest_generation"],
            "states": [each["state"] for each in document["workers"]],
            "held": sum("ghost" in each for each in held), "last_upgrade": document["upgrade"]}),
        flush=True)
    haunted.client.ask("stop", how="now")
    os._exit(haunted.master.wait(DEADLINE))


if __name__ == "__main__":
    main()
