"""Clients that want too much, and moments without descriptors: who is still served, what it costs,
and what the log says of it."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import resource
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from einhornpy.control.client import Client
from einhornpy.supervisor.control_socket.crowd import MOST_OF_A_USER, Crowd, Kind, Party
from einhornpy.supervisor.logs import strangers
from einhornpy.supervisor.reporting.events import Entry, Event

from ..harness import (
    APPS,
    DEADLINE,
    EINHORNPY,
    Master,
    base_environment,
    wait_listening,
    wait_until,
)
from .test_control import descriptors

Start = Callable[..., Master]
WORKER = [sys.executable, str(APPS / "worker.py")]
NOBODY = pwd.getpwnam("nobody").pw_uid
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def master(start: Start, place: Path) -> Master:
    """One to which everybody may connect."""
    place.chmod(0o755)
    running = start("-n", "1", "-m", "notify", "-d", f"{place}/x.sock", "--socket-mode", "0666",
                    "--", *WORKER, "notify")
    running.wait_ready()
    return running


@contextlib.contextmanager
def of_user(uid: int, work: Callable[[], None]) -> Iterator[None]:
    """Let a process of this user do something, until the block ends."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            work()
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def connections(path: str, count: int, uid: int) -> list[socket.socket]:
    """Connections made by a process of this user, which is gone."""
    made = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(count)]
    pid = os.fork()
    if pid == 0:
        try:
            os.setresuid(uid, uid, uid)
            for each in made:
                each.connect(path)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    return made


def cpu_seconds(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def rests(master: Master) -> None:
    """See that the master stands still, some time after it has taken in what it can."""
    master.status()
    used = -1.0
    for _ in range(100):
        before, used = used, cpu_seconds(master.pid)
        if used == before:
            return
        select.select([], [], [], 0.3)
    raise AssertionError("the master spins")


# --- who makes room ---


class Member:
    def __init__(self, long_running: bool = False) -> None:
        self.long_running = long_running


def test_who_makes_room() -> None:
    alive = {1, 2}
    crowd: Crowd[Member] = Crowd(400, lambda worker: worker in alive)
    owner, worker, guest, other = Party(Kind.OWNER, 0), Party(Kind.WORKER,
                                                              1), Party(Kind.GUEST,
                                                                        7), Party(Kind.GUEST, 8)

    def come(party: Party, long_running: bool = False,
             short: bool = False) -> tuple[Member, Member | None]:
        made = Member(long_running)
        crowd.enter(made, party)
        gone = crowd.one_too_many(made, short)
        if gone is not None:
            crowd.leave(gone)
        return made, gone

    first = [come(guest)[0] for _ in range(MOST_OF_A_USER)]
    for _ in range(3):
        come(owner)
    acks = [come(worker)[0] for _ in range(8)]
    assert come(guest)[1] is first[0], "a guest's oldest goes for his newest"
    crowd.spoke(first[1])
    assert come(guest)[1] is first[2]
    assert come(worker)[1] is acks[0]
    theirs = [come(other)[0] for _ in range(3)]
    assert come(owner,
                short=True)[1] is first[3], "the largest of the guests makes room for the owner"
    for each in theirs:
        crowd.leave(each)
    # many users with one session each: half of the places is all that they get
    for number in range(100, 300):
        come(Party(Kind.GUEST, number))
    assert come(Party(Kind.GUEST, 99))[1] is not None
    assert come(owner)[1] is None
    few: Crowd[Member] = Crowd(16, lambda worker: worker in alive)
    crowd = few
    lone, gone = come(guest, short=True)
    assert gone is lone, "a guest makes nobody else go"
    followers = [come(owner, long_running=True)[0] for _ in range(2)]
    idle, _ = come(owner)
    assert come(owner, short=True)[1] is idle
    assert come(owner, short=True)[1] is not followers[0]
    only, gone = come(Party(Kind.WORKER, 2), short=True)
    assert gone is not only


def test_what_strangers_make_the_log_say() -> None:
    told: list[Entry] = []
    noted = strangers.Strangers(told.append)
    for _ in range(1000):
        noted.tell(7, Event.WORKERS_WORD_IGNORED, {"reason": "x"})
    noted.tell(8, Event.WORKERS_WORD_IGNORED, {"reason": "y"})
    assert [entry.fields["from_user"] for entry in told] == [7] * strangers.MOST_LINES + [8]
    for uid in range(1000, 1100):
        noted.tell(uid, Event.WORKERS_WORD_IGNORED, {})
    assert len(told) <= (strangers.MOST_USERS + 1) * strangers.MOST_LINES
    del told[:]
    assert noted.deadline is not None
    noted.on_time(noted.deadline + 1.0)
    left_out = {(entry.fields["from_user"], entry.fields["count"]) for entry in told}
    assert left_out == {(7, 1000 - strangers.MOST_LINES), ("others", 81)}
    assert not any(entry.event.remembered for entry in told)
    assert noted.deadline is None


# --- guests ---


@as_root
def test_a_flood_of_connections_costs_the_owner_nothing(master: Master) -> None:
    """More than there are places, and others who go on connecting as fast as they can."""

    def flood() -> None:
        while True:
            held = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(200)]
            for each in held:
                each.setblocking(False)
                with contextlib.suppress(OSError):
                    each.connect(master.path)
            for each in held:
                each.close()

    before = descriptors(master.pid)
    kept = connections(master.path, 400, NOBODY)
    mine = Client(master.path, timeout=DEADLINE)
    mine.ask("ping")
    assert descriptors(master.pid) <= before + MOST_OF_A_USER + 1
    with of_user(NOBODY, flood), of_user(NOBODY - 1, flood):
        for _ in range(3):
            assert master.cli("status").returncode == 0
    assert mine.ask("status")["result"]["gate"] == "ready", "who was there before is still there"
    mine.__exit__()
    for each in kept:
        each.close()


@as_root
def test_a_guest_that_reads_nothing_costs_nothing(master: Master) -> None:
    """Pings after a last word, answers that nobody reads, and half a connection."""
    rude = connections(master.path, 2, NOBODY) + connections(master.path, 30, 0)
    for number, connection in enumerate(rude):
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            # So many that some of the answers find no room, for one or another of them.
            connection.sendall(b'{"command": "state"}\n' * 6 * number)
            connection.sendall(b'{"command": "worker:ack", "pid": 1}\n' +
                               b'{"command": "ping"}\n' * 3000)
        if number % 2:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
    rests(master)
    assert master.cli("reload").returncode == 0
    rests(master)
    for connection in rude:
        connection.close()
    assert master.status()["gate"] == "ready"


@as_root
def test_strangers_neither_fill_the_log_nor_push_events_out(master: Master) -> None:
    for target in (2, 3, 2, 1):
        master.ask("scale", to=target)
    recorder = master.record()
    remembered = [event["event"] for event in recorder.recent]
    size = master.log_path.stat().st_size
    long = "9" * 6000

    def lie() -> None:
        for _ in range(400):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as liar:
                liar.connect(master.path)
                liar.sendall(b'{"command": "worker:ack", "pid": "%s"}\n' % long.encode())
                liar.recv(100)
        select.select([], [], [])

    with of_user(NOBODY, lie):
        recorder.wait_for("worker's-word-ignored", strangers.MOST_LINES)
        # All of them are heard when the last one of somebody else's is.
        kept = connections(master.path, 1, NOBODY - 1)[0]
        kept.sendall(b'{"command": "worker:ack", "pid": 1}\n')
        recorder.wait_for("worker's-word-ignored", from_user=NOBODY - 1)
        kept.close()
    assert master.log_path.stat().st_size < size + 5000
    assert all("9" * 25 not in json.dumps(event) for event in recorder.events)
    assert sum(event["event"] == "worker's-word-ignored"
               for event in recorder.events) == strangers.MOST_LINES + 1
    assert [event["event"] for event in master.record().recent][:len(remembered)] == remembered


def test_a_worker_that_fails_for_ever_is_told_of_once(start: Start) -> None:
    code = (
        "import json, os, signal, socket\n"
        "for number in range(300):\n"
        "    with socket.socket(socket.AF_UNIX) as s:\n"
        "        s.connect(os.environ['EINHORN_SOCK_PATH'])\n"
        "        word = {'command': 'worker:failed', 'pid': os.getpid(), 'error': str(number)}\n"
        "        s.sendall(json.dumps(word).encode() + b'\\n')\n"
        "        s.recv(1)\n"
        "with socket.socket(socket.AF_UNIX) as s:\n"
        "    s.connect(os.environ['EINHORN_SOCK_PATH'])\n"
        "    s.sendall(json.dumps({'command': 'worker:ack', 'pid': os.getpid()}).encode() + "
        "b'\\n')\n"
        "signal.pause()")
    master = start("-n", "1", "-m", "manual", "--stop-signal", "TERM", "--", sys.executable, "-c",
                   code)
    master.wait_ready()
    assert master.log().count("worker failed") == 1


# --- descriptors ---


@contextlib.contextmanager
def with_few_descriptors(place: Path, *arguments: str) -> Iterator[tuple[int, Path]]:
    """A master whose limit of descriptors can be lowered: its pid and control socket."""
    path = place / "x.sock"
    command = [
        EINHORNPY, "-n", "1", "-d",
        str(path), "-m", "notify", *arguments, "--", *WORKER, "notify"]
    process = subprocess.Popen(command, cwd=place, env=base_environment(place),
                               stderr=subprocess.DEVNULL)
    try:
        wait_listening(path)
        yield process.pid, path
    finally:
        process.terminate()
        assert process.wait(DEADLINE) == 0


def no_more_descriptors(pid: int) -> tuple[int, int]:
    """Let a process have none beyond those that it has; return what it might have had."""
    open_now = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
    free = set(range(open_now)) - {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    assert not free
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_now + 1, before[1]))
    return before


def ask(path: Path, command: str = "status") -> dict[str, Any]:
    with Client(str(path), timeout=DEADLINE) as client:
        result: dict[str, Any] = client.ask(command)["result"]
        return result


def full(path: Path, pid: int) -> tuple[list[socket.socket], tuple[int, int]]:
    """Fill the gaps between a master's descriptors with connections of its own user, then leave it
    no more."""
    wait_until(lambda: ask(path)["gate"] == "ready", "ready")
    held: list[socket.socket] = []

    def gaps() -> int:
        names = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
        return max(names) + 1 - len(names)

    while len(held) < 3 or gaps():  # those that have asked before are seen gone by then
        held.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        held[-1].connect(str(path))
        held[-1].sendall(b'{"command": "status", "args": {"follow": true}}\n')
        held[-1].recv(1)
    return held, no_more_descriptors(pid)


def test_a_moment_without_descriptors_does_not_deafen_it(place: Path) -> None:
    """Without any session whose end could wake it."""
    with with_few_descriptors(place) as (pid, path):
        held, limits = full(path, pid)
        with contextlib.ExitStack() as stack:
            waiting = [
                stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                for _ in range(3)]
            for each in waiting:
                each.setblocking(False)
                each.connect(str(path))
            # The first is let in by the reserve, or somebody makes room: the master's own user is
            # always served.
            assert ask(path)["gate"] == "ready"
        before = cpu_seconds(pid)
        select.select([], [], [], 0.5)
        assert cpu_seconds(pid) - before < 0.3, "it doesn't spin"
        for each in held:
            each.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        assert ask(path)["gate"] == "ready"


@as_root
def test_without_descriptors_strangers_are_turned_away_and_the_owner_is_served(place: Path) -> None:
    place.chmod(0o755)
    with with_few_descriptors(place, "--socket-mode", "0666") as (pid, path):
        held, limits = full(path, pid)
        turned_away = connections(str(path), 3, NOBODY)
        assert ask(path, "ping")["pid"] == pid, "behind them in the queue"
        for stranger in turned_away:
            stranger.settimeout(DEADLINE)
            assert stranger.recv(10) == b"", "closed"
            stranger.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        for each in held:
            each.close()
        assert ask(path)["gate"] == "ready"
