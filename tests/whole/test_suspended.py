"""Time in which nobody ran: a frozen container, a stopped job. It is held against nobody."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..harness import DEADLINE, EINHORNPY, Master, children, process_state, wait_until
from ..steering.test_way_back import ONLY_THEN, append, own_package
from ..worker.test_draining import Connection

Start = Callable[..., Master]
Begin = Callable[[Master], Connection]
FREEZER = Path("/sys/fs/cgroup/freezer")
# The timeouts of these tests, and how long everybody stands still: longer than each of them, and
# than what counts as a suspension.
TIMEOUT, SUSPENDED = 4, 6.5

APP = """import os
if os.environ.get("EINHORNPY_GENERATION") != "1":
    open("import-gate").read()
def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        open("reading", "w").close()
        open("request-gate").read()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


class Stopped:
    """SIGSTOP for the master and everybody below it, as the terminal's ^Z for a whole job."""

    def __init__(self, master: Master) -> None:
        self.pids = [master.pid, *(pid for pid, _ in children(master.pid))]

    def begin(self) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGSTOP)

    def end(self) -> None:
        for pid in self.pids:  # the master first: it is to judge nobody
            os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        pass


class Frozen:
    """The freezer of control groups, as `docker pause` uses it: nobody gets a signal."""

    def __init__(self, master: Master) -> None:
        self.group = FREEZER / f"einhornpy-test-{uuid.uuid4().hex}"
        self.group.mkdir()
        for pid in (master.pid, *(pid for pid, _ in children(master.pid))):
            with contextlib.suppress(ProcessLookupError):  # it has just left
                (self.group / "cgroup.procs").write_text(str(pid))

    def begin(self) -> None:
        (self.group / "freezer.state").write_text("FROZEN")
        wait_until(lambda: (self.group / "freezer.state").read_text() == "FROZEN\n", "a freeze")

    def end(self) -> None:
        (self.group / "freezer.state").write_text("THAWED")

    def close(self) -> None:
        self.end()
        for pid in (self.group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):  # it has just left
                (FREEZER / "cgroup.procs").write_text(pid)
        wait_until(lambda: not (self.group / "cgroup.procs").read_text(), "an empty group")
        self.group.rmdir()


can_freeze = pytest.mark.skipif(not os.access(FREEZER / "cgroup.procs", os.W_OK),
                                reason="needs root and the freezer of control groups")
WAYS = [Stopped, pytest.param(Frozen, marks=can_freeze)]


@pytest.fixture(params=WAYS, ids=["stopped", "frozen"])
def suspend(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """Let the master and its workers stand still for a while."""
    made: list[Stopped | Frozen] = []

    def standing(master: Master, seconds: float = SUSPENDED) -> None:
        way: Stopped | Frozen = request.param(master)
        made.append(way)
        way.begin()
        begun = time.monotonic()
        wait_until(lambda: time.monotonic() - begun > seconds, "a time in which nobody runs")
        way.end()

    yield standing
    for way in made:
        way.close()


@pytest.fixture
def app(place: Path) -> Path:
    (place / "app.py").write_text(APP)
    for gate in ("import-gate", "request-gate"):
        os.mkfifo(place / gate)
    return place


def gunicorn(start: Start, app: Path, *options: str) -> Master:
    master = start("-n", "2", "--ready-timeout", str(TIMEOUT), "--progress-timeout", str(TIMEOUT),
                   *options, "--", "gunicorn", "--timeout", str(TIMEOUT), "--graceful-timeout",
                   str(TIMEOUT), "--bind", "127.0.0.1:0", "app:wsgi", cwd=app)
    master.wait_ready()
    return master


@pytest.fixture
def begin_request(app: Path) -> Iterator[Begin]:
    """Have a request in flight until its gate is opened."""
    made: list[Connection] = []

    def begun(master: Master) -> Connection:
        made.append(Connection(master.address))
        made[-1].request("/slow")
        wait_until(lambda: (app / "reading").exists(), "a request in flight", master.log)
        return made[-1]

    yield begun
    for each in made:
        each.close()


def let_through(gate: Path) -> None:
    gate.write_text("go")


def test_at_rest_nobody_is_taken_for_hung(start: Start, app: Path, begin_request: Begin,
                                          suspend: Callable[[Master], None]) -> None:
    master = gunicorn(start, app)
    before = [worker["pid"] for worker in master.status()["workers"]]
    recorder = master.record()
    connection = begin_request(master)
    suspend(master)
    recorder.wait_for("master-suspended")
    let_through(app / "request-gate")
    assert connection.answer()[0] == 200
    assert [worker["pid"] for worker in master.status()["workers"]] == before
    assert "hung" not in master.log()


def test_one_that_is_over_before_the_deadline_counts_too(
        start: Start, app: Path, begin_request: Begin, suspend: Callable[..., None]) -> None:
    """A master that sleeps meanwhile sees it when it wakes: its kernel has counted it."""
    master = gunicorn(start, app)
    recorder = master.record()
    connection = begin_request(master)
    suspend(master, 2.5)
    recorder.wait_for("master-suspended")
    let_through(app / "request-gate")
    assert connection.answer()[0] == 200
    assert "hung" not in master.log()


def test_who_is_only_told_to_continue_was_not_suspended(start: Start, app: Path,
                                                        begin_request: Begin) -> None:
    master = gunicorn(start, app)
    recorder = master.record()
    begin_request(master)
    while not any(event["event"] == "worker-hung" for event in recorder.events):
        master.signal(signal.SIGCONT)
        master.status()
    assert "master suspended" not in master.log()


STOPS_ITSELF = ONLY_THEN + "import os, signal\n    os.kill(os.getpid(), signal.SIGSTOP)\n"


def test_one_that_comes_while_the_master_is_replaced_counts_too(
        start: Start, app: Path, begin_request: Begin, place: Path) -> None:
    """Nobody is there who could measure it."""
    append(own_package(place) / "supervisor" / "core" / "planner.py", STOPS_ITSELF)
    master = gunicorn(start, app, "--reexec-as", str(place / "next"))
    recorder = master.record()
    connection = begin_request(master)
    with subprocess.Popen([EINHORNPY, "reload", "-d", master.path],
                          env=master.environment) as running:
        wait_until(lambda: process_state(master.pid) == "T", "a stop", master.log)
        everybody = Stopped(master)
        everybody.begin()
        begun = time.monotonic()
        wait_until(lambda: time.monotonic() - begun > TIMEOUT + 1, "a time in which nobody runs")
        everybody.end()
        recorder.wait_for("master-suspended")
        let_through(app / "request-gate")
        assert connection.answer()[0] == 200
        assert running.wait(DEADLINE) == 0
    assert "hung" not in master.log()


def test_an_upgrade_goes_on_where_it_was(start: Start, app: Path, begin_request: Begin,
                                         suspend: Callable[[Master], None]) -> None:
    """A start is under way, and a hook too: each has its whole time again."""
    os.mkfifo(app / "hook-gate")
    master = gunicorn(start, app, "--on-upgrade-start", "cat hook-gate", "--hook-timeout",
                      str(TIMEOUT))
    recorder = master.record()
    assert master.cli("upgrade", "--no-wait").returncode == 0
    wait_until(lambda: any("cat hook-gate" in line for _, line in children(master.pid)),
               "the hook", master.log)
    suspend(master)
    recorder.wait_for("master-suspended")
    let_through(app / "hook-gate")
    recorder.wait_for("worker-starting", generation=2)
    suspend(master)
    recorder.wait_for("master-suspended", 2)
    for index in (0, 1):
        let_through(app / "import-gate")
        recorder.wait_for("worker-ready", generation=2, index=index)
    assert recorder.wait_for("upgrade-ended")["outcome"] == "done"
    assert "hung" not in master.log()
    assert "killed" not in master.log()


def test_one_that_stops_has_its_whole_time(start: Start, app: Path, begin_request: Begin,
                                           suspend: Callable[[Master], None]) -> None:
    master = gunicorn(start, app)
    recorder = master.record()
    connection = begin_request(master)
    master.signal(signal.SIGTERM)
    recorder.wait_for("worker-retiring", 2)
    suspend(master)
    recorder.wait_for("master-suspended")
    let_through(app / "request-gate")
    assert connection.answer()[0] == 200
    assert master.wait_exit() == 0
    assert "killed" not in master.log()


def test_whoever_runs_alone_is_still_judged(start: Start, app: Path, begin_request: Begin) -> None:
    """A worker that hangs while the master runs is none that was suspended with it."""
    master = gunicorn(start, app)
    recorder = master.record()
    begin_request(master)
    assert recorder.wait_for("worker-hung")["reason"] == f"gave no heartbeat for {TIMEOUT} s"
