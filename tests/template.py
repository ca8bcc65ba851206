"""A driver of templates: what the master does with one, and nothing else. The test process itself is
in the master's place: it adopts orphans (see harness.py)."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from einhornpy.supervisor.launch import bundle
from einhornpy.supervisor.system.attributes import Attributes
from einhornpy.supervisor.system.own_code import OwnCode
from einhornpy.supervisor.system.processes import Launch, Processes
from einhornpy.worker import template_messages

from .harness import DEADLINE, base_environment

RESERVED = 10
LIFE: dict[str, Any] = {
    "control": 4, "notify": 5, "page": [6, 0], "stderr": None, "workers": 1, "timeout": 30,
    "max_requests": 0, "graceful_timeout": 5.0, "warm_up": [], "outlive_master": False}


class Worker:
    """One that was asked for. `said`: what it says to the master, read until it is closed."""

    def __init__(self, control: socket.socket, stderr: int) -> None:
        self.control = control
        self.stderr = stderr
        self.pid = 0

    def said(self) -> dict[str, Any]:
        """Its first message."""
        self.control.settimeout(DEADLINE)
        line = self.control.makefile("rb").readline()
        message: dict[str, Any] = json.loads(line) if line else {}
        return message

    def ended(self) -> int:
        """Its exit code, or minus a signal."""
        return wait(self.pid)

    def stop(self) -> int:
        os.kill(self.pid, signal.SIGTERM)
        return self.ended()

    def printed(self) -> str:
        return read(self.stderr)


class Template:
    """One, started as the master starts it. `address`: of the listener that its workers serve."""

    def __init__(self, directory: Path, *arguments: str, python: str = sys.executable,
                 options: tuple[str, ...] = (), environment: Mapping[str, str] | None = None,
                 attributes: Attributes | None = None, **instructions: Any) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self.listener.getsockname()
        self.notices, self.notify = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.page = os.memfd_create("page")
        os.truncate(self.page, 4096)
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(DEADLINE)
        self.result, result = os.pipe()
        self.stderr, stderr = os.pipe()
        self.processes = Processes()
        self.master, self.workers = os.getpid(), dict[int, Worker]()
        self.answered: dict[str, Any] | None = None
        own_code = OwnCode()
        code, nothing = bundle.make(own_code), os.open(os.devnull, os.O_RDWR)
        told = {
            "version": 1, "master": self.master, "reserved": RESERVED, "channel": 3 + RESERVED,
            "result": 4 + RESERVED, "bundle": 5 + RESERVED, "reloads": False, "workers": None,
            "frozen": None, **instructions}
        try:
            self.pid = self.processes.start(Launch(
                (python, *options, f"/proc/self/fd/{told['bundle']}", *arguments), str(directory),
                {**base_environment(directory), "SPT_NOENV": "1", **(environment or {}),
                 "EINHORNPY_ADAPTER": json.dumps(told)},
                [*[nothing] * RESERVED, theirs.fileno(), result, code], signal.SIGKILL,
                stderr=stderr, attributes=attributes))
        finally:
            theirs.close()
            for fd in (result, stderr, code, own_code.fd, nothing):
                os.close(fd)

    def answer(self) -> dict[str, Any]:
        """Its answer, waited for."""
        if self.answered is None:
            self.answered = json.loads(read(self.result, "\n") or "{}")
        return self.answered

    def settings(self) -> dict[str, Any]:
        """The settings; fails if there is an error instead."""
        answer = self.answer()
        if "settings" not in answer:
            self.kill()
        assert "settings" in answer, (answer, self.printed())
        found: dict[str, Any] = answer["settings"]
        return found

    def send(self, message: bytes, descriptors: list[int] | None = None) -> None:
        socket.send_fds(self.channel, [message], descriptors or [])

    def ask(self, number: int = 1, life: Mapping[str, Any] | None = None, *, farewell: int = 0,
            core: int | None = None, **environment: str) -> Worker:
        """Ask for a worker."""
        ours, theirs = socket.socketpair()
        stderr, writer = os.pipe()
        worker = self.workers[number] = Worker(ours, stderr)
        variables = {
            "EINHORN_FD_COUNT": "1", "EINHORN_FDS": "3", "EINHORN_CHILD_INDEX": "0",
            "EINHORN_MASTER_PID": str(self.master), "LISTEN_FDS": "1", "WATCHDOG_USEC": "1",
            **environment}
        self.send(
            template_messages.fork(number, 0, variables, 4, False, True, farewell or None, core,
                                   LIFE | dict(life or {})),
            [self.listener.fileno(), theirs.fileno(), self.notify.fileno(), self.page, writer])
        theirs.close()
        os.close(writer)
        return worker

    def hear(self) -> dict[str, Any]:
        """What it says next; {} when nobody is there who could say anything."""
        data = self.channel.recv(template_messages.LARGEST)
        return template_messages.read(data) if data else {}

    def fork(self, number: int = 1, life: Mapping[str, Any] | None = None,
             **environment: Any) -> Worker:
        """Have a worker; fails if there is none."""
        worker = self.ask(number, life, **environment)
        said = self.hear()
        assert (said.get("say"), said.get("worker")) == ("forked", number), said
        worker.pid = said["pid"]
        return worker

    def acked(self, number: int = 1, **options: Any) -> Worker:
        """Have a worker that has said that it is ready."""
        worker = self.fork(number, **options)
        said = worker.said()
        assert said.get("command") == "worker:ack", (said, worker.printed())
        return worker

    def leave(self, on_exit: bool = True) -> int:
        self.send(template_messages.leave(on_exit))
        return wait(self.pid)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def printed(self) -> str:
        """All that it and what it has forked have written to its standard error."""
        return read(self.stderr)

    def close(self) -> None:
        """Leave nothing behind; whoever lives is killed."""
        for pid in {self.pid, *(each.pid for each in self.workers.values() if each.pid)}:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        for worker in self.workers.values():
            worker.control.close()
            os.close(worker.stderr)
        for sock in (self.listener, self.notices, self.notify, self.channel):
            sock.close()
        for fd in (self.page, self.result, self.stderr):
            os.close(fd)
        self.processes.close()


def wait(pid: int) -> int:
    """The exit code of a child of ours, or minus a signal, when it is over; then it is no more."""
    fd = os.pidfd_open(pid)
    try:
        assert select.select([fd], [], [], DEADLINE)[0], f"pid {pid} is still there"
    finally:
        os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def read(fd: int, end: str = "") -> str:
    """What there is to read until it ends so, or the other end is closed by all who have it."""
    data = b""
    while select.select([fd], [], [], DEADLINE)[0]:
        chunk = os.read(fd, 65536)
        data += chunk
        if not chunk or (end and data.endswith(end.encode())):
            return data.decode()
    raise AssertionError(f"never closed; until then: {data!r}")
