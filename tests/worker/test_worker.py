"""einhornpy.worker, used by the example of a threaded server, by a probe, and by nobody's child."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from einhornpy.worker import request_upgrade

from ..harness import ROOT, Master, get
from ..load import Load

Start = Callable[..., Master]
SERVER = [sys.executable, str(ROOT / "examples" / "threaded_server" / "server.py")]
PROBE = """
import json, os, signal, sys
from einhornpy import worker

def ask():
    try:
        return worker.request_upgrade()
    except worker.UpgradeRefused as refused:
        return str(refused)

def answers():
    who = worker.info()
    return {"info": who and [who.index, who.generation, who.release, who.timeout],
            "listeners": [listener.getsockname()[1] for listener in worker.listeners()],
            "same": [a is b for a, b in zip(worker.listeners(), worker.listeners())],
            "inheritable": [listener.get_inheritable() for listener in worker.listeners()],
            "retire": worker.on_retire(lambda: left.append(1)), "heartbeat": worker.heartbeat()}

left = []
told = {"parent": answers()}
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, json.dumps(answers() | {"upgrade": worker.request_upgrade()}).encode())
    os._exit(0)
told["child"] = json.loads(os.read(read, 65536))
os.wait()
with open(sys.argv[1] + str(os.getpid()), "w") as file:
    json.dump(told, file)
if told["parent"]["info"] is None:
    sys.exit(worker.ready())
signal.signal(signal.SIGUSR1, lambda *_: open(sys.argv[1] + "asked", "a").write(json.dumps([os.getpid(), ask()]) + "\\n"))
worker.ready()
while not left:
    signal.pause()
"""


def test_the_example_serves_rolls_and_drains(start: Start) -> None:
    master = start("-n", "2", "-b", "127.0.0.1:0", "-m", "notify", "--timeout", "20", "--", *SERVER)
    master.wait_ready()
    recorder = master.record()
    answers: list[tuple[int, str]] = []
    slow = threading.Thread(target=lambda: answers.append(get(master.address, "/slow/2")))
    with Load(master.address, 40, keep_alive=0.0) as load:
        slow.start()
        assert master.cli("upgrade", "--release", "two").returncode == 0
    slow.join()
    assert not load.report.failures, load.report.why()
    assert answers[0][0] == 200
    assert "Info(index=" in get(master.address)[1]
    assert "release='two', timeout=20.0" in get(master.address)[1]
    assert get(master.address, "/upgrade")[1] == "generation 3\n"
    document = master.wait_status(lambda each: each["gate"] == "ready" and each["generation"] == 3)
    assert "worker " in document["upgrade"]["requested_by"]
    assert min(event["ready"] for event in recorder.events) >= 2
    assert "worker killed" not in master.log()


def test_a_missing_heartbeat_is_noticed(start: Start) -> None:
    master = start("-n", "1", "-b", "127.0.0.1:0", "-m", "notify", "--timeout", "3", "--", *SERVER)
    pid = master.wait_ready()["workers"][0]["pid"]
    recorder = master.record()
    os.kill(pid, 19)  # SIGSTOP
    recorder.wait_for("worker-hung", pid=pid)
    # A stopped process can't act on SIGABRT: SIGKILL ends it.
    recorder.wait_for("worker-killed", pid=pid)
    recorder.wait_for("worker-gone", pid=pid)
    master.wait_ready()


def test_what_a_worker_its_child_and_anybody_else_are_told(start: Start, place: Path) -> None:
    (place / "probe.py").write_text(PROBE)
    command = [sys.executable, str(place / "probe.py"), str(place / "told-")]
    master = start("-n", "2", "-b", "127.0.0.1:0", "-m", "notify", "--timeout", "60", "--release",
                   "one", "--stop-signal", "INT", "--", *command)
    document = master.wait_ready()
    nothing: dict[str, object] = {
        "info": None, "listeners": [], "same": [], "inheritable": [], "retire": False,
        "heartbeat": False}
    for worker in document["workers"]:
        told = json.loads((place / f"told-{worker['pid']}").read_text())
        assert told["parent"] == {
            "info": [worker["index"], 1, "one", 60.0], "listeners": [master.address[1]],
            "same": [True], "inheritable": [False], "retire": True, "heartbeat": True}
        assert told["child"] == nothing | {"upgrade": None}
    subprocess.run([*command[:-1], str(place / "alone-")], check=True, timeout=60)
    (alone,) = place.glob("alone-*")
    assert json.loads(alone.read_text())["parent"] == nothing
    assert master.stop() == 0
    assert "worker killed" not in master.log()


@pytest.mark.parametrize("askers", [1, 2])
def test_workers_that_ask_get_one_upgrade(start: Start, place: Path, askers: int) -> None:
    (place / "probe.py").write_text(PROBE)
    master = start("-n", "2", "-m", "notify", "--min-ready-seconds", "1", "--", sys.executable,
                   str(place / "probe.py"), str(place / "told-"))
    document = master.wait_ready()
    recorder = master.record()
    recorder_ready = [worker["pid"] for worker in document["workers"]]
    for pid in recorder_ready[:askers]:
        os.kill(pid, 10)
    recorder.wait_for("upgrade-ended")
    asked = [json.loads(line) for line in (place / "told-asked").read_text().splitlines()]
    assert sorted(asked) == sorted([pid, 2] for pid in recorder_ready[:askers])
    assert master.status()["newest_generation"] == 2


def test_strangers_may_not_ask(start: Start) -> None:
    master = start("-n", "1", "-m", "0.1", "--min-ready-seconds", "0", "--", "sleep", "1000")
    master.wait_ready()
    with pytest.raises(Exception, match="is not a worker of this master"):
        master.ask("worker:upgrade")


def test_somebody_else_at_the_masters_socket_is_not_asked(place: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as false:
        false.bind(f"{place}/x.sock")
        false.listen()
        monkeypatch.setenv("EINHORN_MASTER_PID", str(os.getppid()))
        monkeypatch.setenv("EINHORN_CHILD_INDEX", "0")
        monkeypatch.setenv("EINHORN_SOCK_PATH", f"{place}/x.sock")
        with pytest.raises(ConnectionError, match="is not the master"):
            request_upgrade()
