"""Upgrades of real workers: the airbag, bad releases and the way back, superseding, scaling
meanwhile."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ..harness import APPS, Master, Recorder

Start = Callable[..., Master]
# Each release is a directory with a file `words` that says how its workers behave.
COMMAND = ["sh", "-c", 'exec "$0" "$1" $(cat words)', sys.executable, str(APPS / "worker.py")]


def release(place: Path, name: str, words: str) -> Path:
    """Make a release, and point `current` at it as deploy tools do."""
    directory = place / name
    directory.mkdir()
    (directory / "words").write_text(words)
    os.symlink(directory, place / "next")
    os.replace(place / "next", place / "current")
    return directory


def start_app(start: Start, place: Path, *arguments: str,
              number: int = 3) -> tuple[Master, Recorder]:
    release(place, "r1", "notify")
    master = start("-n", str(number), "-m", "notify", "--chdir", str(place / "current"), *arguments,
                   "--", *COMMAND)
    master.wait_ready()
    return master, master.record()


def check_airbag(recorder: Recorder, target: int, surge: int = 1) -> None:
    """Promise 1, as everybody who follows the events can see it."""
    assert recorder.events
    for event in recorder.events:
        assert event["ready"] >= target, f"the airbag failed at {event}\n{recorder.tail()}"
        assert event["live"] <= target + surge, f"too many workers at {event}\n{recorder.tail()}"


@pytest.mark.parametrize("surge", [1, 2])
def test_rolling_follows_the_symlink_one_at_a_time(start: Start, place: Path, surge: int) -> None:
    master, recorder = start_app(start, place, "--max-surge", str(surge))
    second = release(place, "r2", "notify")
    result = master.cli("upgrade", "--release", "two")
    assert result.returncode == 0, result.stderr
    document = master.status()
    assert (document["gate"], document["generation"], document["release"]) == ("ready", 2, "two")
    assert [(worker["index"], worker["generation"]) for worker in document["workers"]] == [(0, 2),
                                                                                           (1, 2),
                                                                                           (2, 2)]
    assert {os.readlink(f"/proc/{worker['pid']}/cwd")
            for worker in document["workers"]} == {str(second)}
    upgrade = document["upgrade"]
    assert (upgrade["from"], upgrade["to"], upgrade["outcome"], upgrade["replaced"]) == (1, 2,
                                                                                         "done", 3)
    check_airbag(recorder, 3, surge)
    assert "upgrade done: generation 2 is ready" in result.stdout


def test_fleet_starts_all_before_any_goes(start: Start, place: Path) -> None:
    master, recorder = start_app(start, place)
    assert master.cli("upgrade", "--fleet").returncode == 0
    check_airbag(recorder, 3, surge=3)
    order = [
        event["event"] for event in recorder.events
        if event["event"] in ("worker-ready", "worker-retiring")]
    assert order == ["worker-ready"] * 3 + ["worker-retiring"] * 3


@pytest.mark.parametrize(("words", "reason"), [
    ("crash-before", "exited with code 7 before it was ready"),
    ("silent", "was not ready within 3 s"),
    ("notify crash-after", "after it was ready"),
])
@pytest.mark.parametrize("kind", ["rolling", "fleet"])
def test_a_bad_release_costs_no_old_worker(start: Start, place: Path, words: str, reason: str,
                                           kind: str) -> None:
    # One that crashes after it was ready must do so in time on a slow machine too.
    stands = "2" if "crash-after" in words else "0.5"
    master, recorder = start_app(start, place, "--ready-timeout", "3", "--min-ready-seconds",
                                 stands, "--max-failures", "2")
    before = {worker["pid"] for worker in master.status()["workers"]}
    release(place, "r2", words)
    result = master.cli("upgrade", *(["--fleet"] if kind == "fleet" else []))
    assert result.returncode == 5, result.stdout + result.stderr
    assert result.stderr.startswith("einhornpy: upgrade rolled back: a worker ")
    assert reason in result.stderr
    document = master.status()
    assert {worker["pid"] for worker in document["workers"]} == before
    assert (document["gate"], document["generation"]) == ("rolled-back", 1)
    assert reason in document["reason"]
    assert master.cli("status").returncode == 5
    check_airbag(recorder, 3, surge=3 if kind == "fleet" else 1)
    release(place, "r3", "notify")
    assert master.cli("upgrade", "--fleet").returncode == 0
    assert master.cli("status", "--generation", "3").returncode == 0


def test_going_back_after_half_is_replaced(start: Start, place: Path) -> None:
    release(place, "r1", "notify")
    shell = 'exec "$0" "$1" $(sh ./words.sh 2>/dev/null || cat words)'
    master = start("-n", "3", "-m", "notify", "--max-failures", "2", "--chdir",
                   str(place / "current"), "--", "sh", "-c", shell, *COMMAND[3:])
    master.wait_ready()
    recorder = master.record()
    second = release(place, "r2", "notify")
    # The first two workers of this release are good, those after them are not.
    (second /
     "words.sh").write_text("(mkdir one || mkdir two) && echo notify || echo crash-before\n")
    result = master.cli("upgrade")
    assert result.returncode == 5, result.stdout + result.stderr
    document = master.status()
    assert {worker["generation"] for worker in document["workers"]} == {1}
    assert {os.readlink(f"/proc/{worker['pid']}/cwd")
            for worker in document["workers"]} == {str(place / "r1")}
    assert sum(event["event"] == "worker-ready" and event["generation"] == 2
               for event in recorder.events) == 2
    check_airbag(recorder, 3)


def test_a_release_that_is_not_there_is_refused_at_once(start: Start, place: Path) -> None:
    master, recorder = start_app(start, place)
    (place / "current").unlink()
    result = master.cli("upgrade")
    assert result.returncode == 5
    assert (f"cannot start workers in {place / 'current'}: No such file or directory"
            in result.stderr)
    assert master.status()["gate"] == "rolled-back"
    assert not any(event["event"].startswith("worker-") for event in recorder.events)


def test_a_newer_upgrade_supersedes(start: Start, place: Path) -> None:
    master, recorder = start_app(start, place)
    release(place, "r2", "silent")
    master.cli("upgrade", "--no-wait", "--release", "stuck")
    recorder.wait_for("worker-starting", generation=2)
    third = release(place, "r3", "notify")
    assert master.cli("upgrade", "--release", "three").returncode == 0
    ended = recorder.wait_for("upgrade-ended", generation=2)
    assert (ended["outcome"], ended["by"]) == ("superseded", 3)
    document = master.status()
    assert {os.readlink(f"/proc/{worker['pid']}/cwd")
            for worker in document["workers"]} == {str(third)}
    check_airbag(recorder, 3)
    # Nobody was exchanged twice: one start of the stuck release, three of the new one.
    assert sum(event["event"] == "worker-starting" for event in recorder.events) == 4


def test_scaling_during_an_upgrade(start: Start, place: Path) -> None:
    master, recorder = start_app(start, place, "--min-ready-seconds", "0.3")
    release(place, "r2", "notify")
    master.cli("upgrade", "--no-wait")
    recorder.wait_for("worker-ready", generation=2)
    assert master.cli("scale", "+2").returncode == 0
    document = master.wait_status(lambda each: each["gate"] == "ready" and each["generation"] == 2)
    assert [worker["index"] for worker in document["workers"]
            if worker["state"] == "ready"] == [0, 1, 2, 3, 4]
    assert all(event["ready"] >= 3 for event in recorder.events)
    release(place, "r3", "notify")
    master.cli("upgrade", "--no-wait")
    recorder.wait_for("worker-ready", generation=3)
    assert master.cli("scale", "2").returncode == 0
    document = master.wait_status(
        lambda each: each["gate"] == "ready" and len(each["workers"]) == 2)
    assert document["generation"] == 3
    assert all(event["ready"] >= 2 for event in recorder.events)


def test_a_crash_during_an_unproven_upgrade_is_filled_with_proven_code(start: Start,
                                                                       place: Path) -> None:
    master, recorder = start_app(start, place)
    release(place, "r2", "silent")
    master.cli("upgrade", "--no-wait")
    recorder.wait_for("worker-starting", generation=2)
    victim = master.status()["workers"][0]["pid"]
    os.kill(victim, signal.SIGKILL)
    recorder.wait_for("worker-died", pid=victim)
    restored = recorder.wait_for("worker-ready", generation=1)
    assert restored["ready"] == 3


def test_an_upgrade_before_the_first_start_is_through(start: Start, place: Path) -> None:
    release(place, "r1", "silent")
    master = start("-n", "2", "-m", "notify", "--chdir", str(place / "current"), "--", *COMMAND)
    recorder = master.record()
    recorder.wait_for("worker-starting", count=1) if not master.status()["workers"] else None
    release(place, "r2", "notify")
    assert master.cli("upgrade").returncode == 0
    assert master.cli("status").returncode == 0


def test_a_stop_during_an_upgrade(start: Start, place: Path) -> None:
    master, recorder = start_app(start, place)
    release(place, "r2", "silent")
    master.cli("upgrade", "--no-wait")
    recorder.wait_for("worker-starting", generation=2)
    assert master.stop() == 0
