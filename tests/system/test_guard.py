"""An exception anywhere in the master ends what it happened in, and nothing else: it is told,
counted, and the master goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from einhornpy.control.client import Client, Failed, MasterGone, NoMaster, TimedOut
from einhornpy.supervisor.reporting.events import Entry
from einhornpy.supervisor.system import guard as guards
from einhornpy.supervisor.system.guard import Guard
from einhornpy.supervisor.system.loop import READ, Loop

from .. import harness
from ..harness import APPS, DEADLINE, Master, children, wait_until

WORKER = [sys.executable, str(APPS / "worker.py"), "notify"]
Start = Callable[..., Master]


# --- the guard by itself ---


@pytest.fixture
def told() -> list[Entry]:
    return []


@pytest.fixture
def guard(told: list[Entry]) -> Guard:
    made = Guard(told.append, lambda: None)
    made.strict = False
    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("einhornpy.supervisor.system.guard.time.monotonic", lambda: now[0])
    return now


def fail(*arguments: Any) -> Any:
    raise KeyError(7)


def test_a_fault_is_told_once_then_once_a_minute_with_how_often(guard: Guard, told: list[Entry],
                                                                clock: list[float]) -> None:
    for _ in range(1000):
        assert guard.run("a part", fail) is None
    assert [(each.name, each.fields["in"], each.fields["error"], each.fields["times"])
            for each in told] == [("internal error", "a part", "KeyError: 7", None)]
    assert told[0].fields["traceback"].endswith("test_guard.py:56 fail".replace(
        "56", str(fail.__code__.co_firstlineno + 1)))
    assert guard.deadline == 160.0
    clock[0] = 160.0
    guard.on_time(160.0)
    assert told[-1].fields["times"] == 999
    guard.run("another part", fail)
    assert len(told) == 3


def test_so_many_different_faults_cost_no_memory(guard: Guard, told: list[Entry]) -> None:
    for number in range(1000):
        guard.run(f"part {number}", fail)
    assert len(guard._faults) == guards.MOST_FAULTS


def test_a_part_that_fails_is_held_back_longer_each_time(guard: Guard, clock: list[float]) -> None:
    calls: list[float] = []

    def part() -> None:
        calls.append(clock[0])
        fail()

    for tenth in range(1000):
        clock[0] = 100.0 + tenth / 10
        guard.part("part", part)
    assert 18 < len(calls) < 30, calls
    assert guard.due("part", 0.0) == pytest.approx(calls[-1] + guards.LONGEST_HOLD, abs=0.01)
    clock[0] += 10
    guard.part("part", lambda: None)
    assert guard.due("part", 0.0) == 0.0


def test_while_a_master_has_yet_to_settle_everything_ends_it(told: list[Entry]) -> None:
    with pytest.raises(KeyError):
        Guard(told.append, lambda: None).run("a part", fail)


def test_telling_that_fails_is_no_endless_loop() -> None:
    made: list[Guard] = []
    made.append(Guard(lambda entry: made[0].run("telling", fail), lambda: None))
    made[0].strict = False
    made[0].run("a part", fail)


@pytest.fixture
def loop(guard: Guard) -> Iterator[Loop]:
    made = Loop([], guard)
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def test_a_callback_that_always_fails_is_no_hot_loop(
        loop: Loop, pair: tuple[socket.socket, socket.socket], told: list[Entry]) -> None:
    calls: list[float] = []

    def callback(events: int) -> None:
        calls.append(time.monotonic())
        fail()

    loop.watch(pair[0].fileno(), READ, callback)
    pair[1].send(b"x")
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        loop.wait(max(0.0, end - time.monotonic()))
    assert 2 <= len(calls) <= 5
    assert len(told) == 1
    loop.unwatch(pair[0].fileno())
    assert not loop._held


def test_one_that_has_dropped_what_it_watched_is_not_called_again(
        loop: Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    def drop(events: int) -> None:
        loop.unwatch(pair[0].fileno())
        fail()

    loop.watch(pair[0].fileno(), READ, drop)
    pair[1].send(b"x")
    loop.wait(0.0)
    assert not loop._held


def test_what_the_kernel_has_no_room_to_watch_is_tried_again(
        loop: Loop, pair: tuple[socket.socket,
                                socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    register, refusals = loop._selector.register, [1, 2, 3]

    def scarce(*arguments: Any) -> Any:
        if refusals:
            raise OSError(28, f"no room: {refusals.pop()}")
        return register(*arguments)

    monkeypatch.setattr(loop._selector, "register", scarce)
    heard: list[int] = []
    loop.watch(pair[0].fileno(), READ, heard.append)
    pair[1].send(b"x")
    end = time.monotonic() + DEADLINE
    while not heard and time.monotonic() < end:
        loop.wait(1.0)
    assert heard
    assert not refusals


# --- a real master, with a fault planted in whatever it calls ---


def poke(master: Master, place: Path) -> None:
    """Ask, tell and do to it whatever there is, and expect nothing of it."""
    asked: list[tuple[str, dict[str, Any]]] = [
        ("status", {}), ("tally", {}), ("history", {}), ("help", {}), ("ping", {}),
        ("show", {"generation": 1}), ("events", {}), ("scale", {"by": 1}), ("scale", {"to": 2}),
        ("recycle", {"index": 0}), ("signal", {"signal": "CONT"}), ("state", {}),
        ("upgrade", {"wait": False, "canary": 1, "hold": 0.05, "check": "true"}), ("pause", {}),
        ("resume", {}), ("abort", {"wait": False}), ("rollback", {"wait": False}), ("nonsense", {}),
        ("reload", {}),]
    for command, arguments in asked:
        with contextlib.suppress(NoMaster, MasterGone, TimedOut, Failed, OSError):  # noqa: SIM117
            with Client(str(place / "control.sock"), timeout=0.3) as client:
                client.ask(command, **arguments)
    for number in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1, signal.SIGHUP):
        master.signal(number)
    with contextlib.suppress(Exception):
        os.kill(master.status()["workers"][0]["pid"], signal.SIGKILL)


def test_every_function_of_the_master_may_fail_once(place: Path, start: Start,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """Each raises at its first call (RuntimeError, MemoryError, OSError or KeyError, by turns),
    while everything is asked for again and again; in the end it knows its workers, rolls and
    answers."""
    program = place / "faulty"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -P {APPS / "faulty_master.py"} "$@"\n')
    program.chmod(0o755)
    flags = {
        "number": "2", "ack_mode": "notify", "bind": ["127.0.0.1:0"], "max_failures": "100",
        "on_worker_ready": "true", "on_upgrade_start": "true", "worker_output": "prefix",
        "reexec_as": "/bin/false", "socket_path": str(place / "control.sock"),
        "statsd": ["127.0.0.1:9"], "ready_timeout": "20", "web": "127.0.0.1:0"}
    monkeypatch.setattr(harness, "EINHORNPY", str(program))
    master = start(json.dumps({"flags": flags, "command": WORKER, "directory": str(place)}))
    monkeypatch.undo()
    before = master.wait_ready()
    (place / "armed").touch()
    fired: set[str] = set()
    for _ in range(12):
        poke(master, place)
        now = set((place / "failed").read_text().split()) if (place / "failed").exists() else set()
        if len(now) > 100 and now == fired:
            break
        fired = now
    (place / "armed").unlink()
    assert len(fired) > 100, sorted(fired)
    assert master.process.poll() is None, master.log()
    master.wait_status(
        lambda each: each["gate"] not in
        ("upgrading", "paused") and each["ready"] >= each["target"], "rest")
    # A signal whose part has failed several times is kept, and heard when that part is tried again:
    # it may take over from ours.
    codes = (master.cli("upgrade").returncode for _ in range(5))
    assert next(code for code in codes if code != 7) == 0, master.log()
    after = master.wait_status(lambda each: each["gate"] == "ready" and each["left_behind"] == [],
                               "rest again")
    assert after["master"]["pid"] == before["master"]["pid"] == master.pid
    workers = {pid for pid, command in children(master.pid) if "worker.py" in command}
    assert workers == {each["pid"] for each in after["workers"]}, master.log()
    assert master.ask("tally")["result"]["errors"] > 20
    assert 'so="the master goes on"' in master.wait_log("internal error")
    victim = after["workers"][0]["pid"]
    os.kill(victim, signal.SIGKILL)
    master.wait_status(
        lambda each: each["gate"] == "ready" and victim not in {
            one["pid"] for one in each["workers"]}, "mended")

    # An errand whose end a fault has hidden is waited for no longer by a master that is told twice;
    # the second word may come when it no longer listens.
    master.signal(signal.SIGTERM)
    wait_until(lambda: not any("worker.py" in command for _, command in children(master.pid)),
               "the workers gone", master.log)
    master.signal(signal.SIGTERM)
    assert master.wait_exit() in (0, -signal.SIGTERM), master.log()


# --- named instances ---


def test_a_rollback_to_what_is_forgotten_meanwhile_is_refused(place: Path, start: Start) -> None:
    """A slow start hook runs; others push the generation out that it was asked to go back to."""
    os.mkfifo(place / "gate")
    hook = f"test ! -e {place}/slow || cat {place}/gate"
    program = place / "forgetful"
    program.write_text(
        f"#!{sys.executable} -P\nimport sys\nfrom einhornpy.supervisor import __main__\n"
        "from einhornpy.supervisor.steering import upgrades\n"
        "import os\nknown = upgrades.generations.known\n"
        f"upgrades.generations.known = lambda pool: {{}} if os.path.exists('{place}/forgets') else "
        "known(pool)\n"
        "sys.exit(__main__.main())\n")
    program.chmod(0o755)
    flags = {
        "number": "1", "ack_mode": "notify", "on_upgrade_start": hook,
        "socket_path": str(place / "control.sock")}
    old, harness.EINHORNPY = harness.EINHORNPY, str(program)
    try:
        master = start(json.dumps({"flags": flags, "command": WORKER, "directory": str(place)}))
    finally:
        harness.EINHORNPY = old
    master.wait_ready()
    assert master.cli("upgrade").returncode == 0
    (place / "slow").touch()
    running = subprocess.Popen([harness.EINHORNPY, "rollback", "-d",
                                str(place / "control.sock")], env=master.environment,
                               stderr=subprocess.PIPE, text=True)
    with open(place / "gate", "w"):
        (place / "forgets").touch()
    _, said = running.communicate(timeout=DEADLINE)
    assert (running.returncode, "generation 1 is not remembered any more"
            in said) == (5, True), said + master.log()
    (place / "forgets").unlink()
    (place / "slow").unlink()
    assert master.cli("upgrade").returncode == 0
