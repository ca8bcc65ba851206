"""The control socket against everything that clients do: an error to that client, nothing to anyone
else."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from einhornpy.control.client import Client

from ..harness import APPS, DEADLINE, EINHORNPY, Master, wait_listening, wait_until

Start = Callable[..., Master]
WORKER = [sys.executable, str(APPS / "worker.py")]


@pytest.fixture
def master(start: Start) -> Master:
    running = start("-n", "2", "-m", "notify", "-c", "web", "--", *WORKER, "notify")
    running.wait_ready()
    return running


@contextlib.contextmanager
def connected(master: Master) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(master.path)
        yield connection


def answer(connection: socket.socket) -> dict[str, Any]:
    data = b""
    while not data.endswith(b"\n"):
        chunk = connection.recv(1 << 20)
        assert chunk, f"closed after {data!r}"
        data += chunk
    read: dict[str, Any] = json.loads(data)
    return read


@pytest.mark.parametrize(("line", "code"), [
    (b"nonsense", "bad-json"), (b"\xff\xfe\x00", "bad-json"), (b"[" * 100_000, "bad-json"),
    (b"[1]", "bad-request"), (b"{}", "bad-request"), (b'{"command": 3}', "bad-request"),
    (b'{"command": "ping", "args": 3}', "bad-request"),
    (b'{"command": "ping", "args": [3]}', "bad-request"),
    (b'{"command": "status", "args": ["follow"]}', "bad-argument"),
    (b'{"command": "ping", "id": 1.5}', "bad-request"),
    (b'{"command": "ping", "id": 9223372036854775808}', "bad-request"),
    (b"{command: status, args: {1: 2}}", "bad-argument"),
    (b'{"command": "ping", "id": {}}', "bad-request"), (b'{"command": "fly"}', "unknown-command"),
    (b'{"command": "ping", "args": {"x": 1}}', "bad-argument"),
    (b'{"command": "scale"}', "bad-argument"),
    (b'{"command": "scale", "args": {"to": 0}}', "bad-argument"),
    (b'{"command": "scale", "args": {"to": true}}', "bad-argument"),
    (b'{"command": "scale", "args": {"to": 1, "by": 1}}', "bad-argument"),
    (b'{"command": "scale", "args": {"to": 1e3}}', "bad-argument"),
    (b'{"command": "signal", "args": {"signal": "NOPE"}}', "bad-argument"),
    (b'{"command": "signal"}', "bad-argument"),
    (b'{"command": "stop", "args": {"how": "x"}}', "bad-argument"),
    (b'{"command": "status", "args": {"follow": 1}}', "bad-argument"),
    (b'{"command": "upgrade", "args": {"kind": "x"}}', "bad-argument"),
    (b'{"command": "upgrade", "args": {"release": ""}}', "bad-argument"),
    (b'{"command": "upgrade", "args": {"release": "a\\nb"}}', "bad-argument"),])
def test_a_wrong_request_gets_an_error_and_changes_nothing(master: Master, line: bytes,
                                                           code: str) -> None:
    before = master.status()
    with connected(master) as connection:
        connection.sendall(line + b"\n")
        reply = answer(connection)
        assert (reply["ok"], reply["error"]["code"]) == (False, code)
        connection.sendall(b'{"id": 5, "command": "ping"}\n')  # the session goes on
        assert answer(connection)["request_id"] == 5
    after = master.status()
    for key in ("gate", "generation", "target", "newest_generation"):
        assert before[key] == after[key]


def test_halves_and_pairs_of_lines(master: Master) -> None:
    with connected(master) as connection:
        connection.sendall(b'{"id": 1, "comm')
        assert master.status()["gate"] == "ready"
        connection.sendall(b'and": "ping"}\n{"id": 2, "command": "ping"}\n')
        lines = b""
        while lines.count(b"\n") < 2:
            lines += connection.recv(65536)
        assert [json.loads(line)["request_id"] for line in lines.splitlines()] == [1, 2]


def test_a_line_over_a_mebibyte_ends_the_session(master: Master) -> None:
    with connected(master) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(b"x" * (1 << 20) + b"x" * 70_000)
        assert answer(connection)["error"]["code"] == "too-long"
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(10) == b""
    assert master.status()["gate"] == "ready"


def test_a_thousand_idle_clients_cost_nobody_anything(master: Master) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(1000):
                stack.enter_context(connected(master))
            assert master.cli("upgrade").returncode == 0
            assert master.status()["generation"] == 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_full_table_of_descriptors_evicts_the_idle(start: Start, place: Path) -> None:
    limited = ["sh", "-c", f'ulimit -n 128; exec {EINHORNPY} "$@"', "-"]
    environment = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(place), "HOME": str(place)}
    process = subprocess.Popen(
        [*limited, "-n", "1", "-d", f"{place}/x.sock", "-m", "notify", "--", *WORKER, "notify"],
        cwd=place, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_listening(place / "x.sock")
        with contextlib.ExitStack() as stack:
            for _ in range(300):
                idle = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                idle.connect(f"{place}/x.sock")
            with Client(f"{place}/x.sock", timeout=DEADLINE) as client:
                assert client.ask("upgrade")["result"]["outcome"] == "done"
    finally:
        process.terminate()
        assert process.wait(DEADLINE) == 0


def test_a_client_that_never_reads_is_cut_off(master: Master) -> None:
    with connected(master) as events, connected(master) as status:
        events.sendall(b'{"id": 1, "command": "events"}\n')
        status.sendall(b'{"id": 2, "command": "status", "args": {"follow": true}}\n')
        with Client(master.path, timeout=DEADLINE) as client:
            client.ask("scale", to=2)  # accepted after the others
            sessions = descriptors(master.pid)
            for turn in range(40_000):
                client.ask("scale", to=2)
                if turn % 500 == 0 and descriptors(master.pid) < sessions:
                    break
            else:
                raise AssertionError("the client that never reads is never cut off")
        # What a follower of the status gets last is the newest.
        master.ask("scale", to=1)
        master.wait_status(lambda each: each["target"] == len(each["workers"]) == 1)
        data = b""
        while b'"target": 1' not in data:
            data = data[-100_000:] + status.recv(1 << 20)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_followers_that_hang_up_leave_no_descriptor(master: Master) -> None:
    before = descriptors(master.pid)
    for command in (b'{"id": 1, "command": "events"}',
                    b'{"id": 1, "command": "status", "args": {"follow": true}}'):
        for _ in range(50):
            with connected(master) as connection:
                connection.sendall(command + b"\n")
                answer(connection)
    wait_until(lambda: descriptors(master.pid) <= before,
               "their descriptors closed, though nothing happens", master.log)


def test_many_lines_at_once_are_all_answered_and_delay_nobody(master: Master) -> None:
    with connected(master) as connection:
        connection.sendall(b'{"command": "state"}\n' * 300)
        assert master.cli("status").returncode == 0
        with connection.makefile("rb") as answers:
            for _ in range(300):
                assert json.loads(answers.readline())["ok"]


def test_two_upgrades_on_one_connection_are_both_answered(master: Master) -> None:
    with connected(master) as connection:
        connection.sendall(b'{"id": 1, "command": "upgrade"}\n{"id": 2, "command": "upgrade"}\n')
        last: dict[int, dict[str, Any]] = {}
        with connection.makefile("rb") as replies:
            while len(last) < 2:
                reply = json.loads(replies.readline())
                if not reply.get("wait"):
                    last[reply["request_id"]] = reply["result"]
    assert (last[1]["outcome"], last[2]["outcome"]) == ("superseded", "done")


def test_clients_that_come_and_go_leave_no_descriptor(master: Master) -> None:
    with connected(master) as connection:
        connection.sendall(b'{"command": "ping"}\n')
        answer(connection)
    before = descriptors(master.pid)
    for _ in range(200):
        with connected(master) as connection:
            connection.sendall(
                b'{"command": "events"}\n{"command": "status", "args": {"follow": true}}\n')
    master.ask("scale", to=3)  # something to say to those who are gone
    master.wait_ready()
    # the third worker's pipe is one more
    wait_until(lambda: descriptors(master.pid) <= before + 1, "descriptors closed")


def test_an_upgrade_outlives_its_client(start: Start) -> None:
    master = start("-n", "2", "-m", "notify", "--min-ready-seconds", "0.3", "--", *WORKER, "notify")
    master.wait_ready()
    recorder = master.record()
    with subprocess.Popen([EINHORNPY, "upgrade"], env=master.environment,
                          stdout=subprocess.DEVNULL) as client:
        recorder.wait_for("worker-starting")
        client.kill()
    assert recorder.wait_for("upgrade-ended")["outcome"] == "done"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_may_not_ask(start: Start, place: Path) -> None:
    master = start("-n", "1", "-d", f"{place}/x.sock", "-m", "notify", "--", *WORKER, "notify")
    master.wait_ready()
    os.chmod(place, 0o777)
    os.chmod(place / "x.sock", 0o666)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.connect(f"{place}/x.sock")
                connection.sendall(b'{"command": "stop"}\n')
                os.write(writer, connection.recv(4096))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    reply = json.loads(os.read(reader, 4096))
    os.close(reader)
    assert reply["error"]["code"] == "not-allowed"
    assert master.status()["gate"] == "ready"


def test_the_directory_is_private(master: Master, place: Path, start: Start) -> None:
    assert oct((place / "run" / "einhornpy").stat().st_mode & 0o777) == "0o700"
    assert oct(Path(master.path).stat().st_mode & 0o777) == "0o600"
    other = place / "other"
    (other / "run" / "einhornpy").mkdir(parents=True)
    (other / "run" / "einhornpy").chmod(0o777)
    elsewhere = start("-n", "1", "-m", "notify", "--", *WORKER, "notify", directory=other,
                      environment={"TMPDIR": "/nowhere"} if os.geteuid() else {})
    if os.geteuid():
        assert elsewhere.wait_exit() == 1
        assert "not a directory that only user" in elsewhere.log()
    else:
        line = elsewhere.wait_log("master started")
        assert f"{other}/run" not in line  # root goes on to the next place
        elsewhere.signal(signal.SIGTERM)
        assert elsewhere.wait_exit() == 0


def test_every_command_is_listed(master: Master) -> None:
    told = master.ask("help")["result"]
    assert told["arguments"]["scale"] == {"to": "a whole number", "by": "a whole number"}
    listing = told["commands"]
    assert set(listing) == {
        "ping", "help", "status", "upgrade", "rollback", "pause", "resume", "abort", "history",
        "show", "releases", "scale", "signal", "recycle", "tally", "stop", "events", "reload", "upgrade_fleet",
        "ehlo", "state", "inc", "dec", "set_workers", "die", "config", "quieter", "louder"}
    pong = master.ask("ping")
    assert (pong["request_id"], pong["ok"], pong["message"], "wait"
            in pong) == (1, True, "pong", False)
