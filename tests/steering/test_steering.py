"""Steering an upgrade of real workers: pause, resume, abort, rollback, canaries with holds and
checks, history, show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ..harness import EINHORNPY, ROOT, Master, Recorder, process_state, wait_until
from .test_upgrade import check_airbag, release, start_app

Start = Callable[..., Master]


def begin(master: Master, *arguments: str) -> None:
    result = master.cli("upgrade", "--no-wait", *arguments)
    assert result.returncode == 0, result.stderr


def generations(master: Master) -> list[int]:
    return sorted(worker["generation"] for worker in master.status()["workers"]
                  if worker["state"] == "ready")


def held(master: Master, *arguments: str) -> Recorder:
    """A canary upgrade whose hold has begun."""
    recorder = master.record()
    begin(master, "--canary", "1", *arguments)
    recorder.wait_for("hold-begun")
    return recorder


def test_pause_and_resume(start: Start, place: Path) -> None:
    master, recorder = start_app(start, place)
    release(place, "r2", "notify")
    begin(master, "--canary", "1", "--hold", "until-resume")
    recorder.wait_for("hold-begun")
    assert master.cli("pause").returncode == 0
    document = master.status()
    assert (document["gate"], master.cli("status").returncode) == ("paused", 3)
    assert "paused by" in document["reason"]
    # Nobody is exchanged, but nobody is missed: a crash is mended, from proven code.
    victim = next(worker["pid"] for worker in document["workers"] if worker["generation"] == 1)
    os.kill(victim, 9)
    recorder.wait_for("worker-died", pid=victim)
    master.wait_status(lambda each: each["ready"] >= 3 and each["gate"] == "paused")
    assert master.status()["upgrade"]["outcome"] is None
    assert master.cli("resume").returncode == 0
    assert "held until somebody says resume or abort" in master.status(
    )["reason"], "resume ends the pause, not the hold as well"
    assert master.cli("resume").returncode == 0
    document = master.wait_ready()
    assert (document["generation"], generations(master)) == (2, [2, 2, 2])
    result = master.cli("resume")
    assert (result.returncode, result.stderr) == (1, "einhornpy: no upgrade is under way\n")
    assert master.cli("pause").returncode == 1


def test_abort_goes_back_and_everybody_is_told(start: Start, place: Path) -> None:
    master, _ = start_app(start, place)
    release(place, "r2", "notify")
    recorder = master.record()
    with subprocess.Popen(
        [EINHORNPY, "upgrade", "--canary", "2", "--hold", "until-resume", "-d", master.path],
            env=master.environment, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE) as waiting:
        recorder.wait_for("hold-begun")
        result = master.cli("abort")
        assert result.returncode == 0, result.stderr
        _, error = waiting.communicate(timeout=60)
    assert waiting.returncode == 5
    document = master.status()
    who = document["upgrade"]["requested_by"]
    assert f"aborted by {who}" in error
    assert (document["gate"], document["generation"], generations(master)) == ("rolled-back", 1,
                                                                               [1, 1, 1])
    assert document["upgrade"]["outcome"] == "aborted"
    assert f"aborted by {who}" in document["reason"]
    assert master.cli("status").returncode == 5
    check_airbag(recorder, 3)
    assert master.cli("abort").returncode == 1


def test_abort_while_it_is_being_prepared(start: Start, place: Path) -> None:
    os.mkfifo(place / "gate")
    master, recorder = start_app(start, place, "--on-upgrade-start", f"cat {place}/gate")
    begin(master)
    master.wait_status(lambda each: each["gate"] == "upgrading")
    assert master.cli("abort").returncode == 0
    assert master.status()["gate"] == "rolled-back"
    assert recorder.wait_for("upgrade-ended")["outcome"] == "aborted"
    assert not any(event["event"] == "worker-starting" for event in recorder.events)


def test_rollback_is_an_upgrade_to_an_old_recipe(start: Start, place: Path) -> None:
    master, recorder = start_app(start, place, "--release", "one")
    second = release(place, "r2", "notify")
    assert master.cli("rollback").returncode == 2
    assert master.cli("upgrade", "--release", "two").returncode == 0
    result = master.cli("rollback")
    assert result.returncode == 0, result.stderr
    document = master.status()
    assert (document["generation"], document["release"],
            document["upgrade"]["recipe_of"]) == (3, "one", 1)
    assert {os.readlink(f"/proc/{each['pid']}/cwd")
            for each in document["workers"]} == {str(place / "r1")}
    assert master.cli("rollback", "--to", "two").returncode == 0
    assert {os.readlink(f"/proc/{each['pid']}/cwd")
            for each in master.status()["workers"]} == {str(second)}
    assert master.cli("rollback", "--to", "3").returncode == 0
    assert master.status()["release"] == "one"
    for unknown, line in (
        ("99", "cannot go back to generation 99: it is not remembered"),
        ("nine",
         "cannot go back to release nine: no proven generation has it; expected one of 'one' or "
         "'two'"
         )):
        result = master.cli("rollback", "--to", unknown)
        assert (result.returncode, line in result.stderr) == (2, True), result.stderr
    # A recipe whose directory is gone is refused before anybody is touched.
    for file in second.iterdir():
        file.unlink()
    second.rmdir()
    result = master.cli("rollback", "--to", "two")
    assert result.returncode == 5
    assert "No such file or directory" in result.stderr
    check_airbag(recorder, 3)


@pytest.mark.parametrize("kind", ["rolling", "fleet"])
def test_a_canary_serves_beside_the_old_ones_and_then_all_follow(start: Start, place: Path,
                                                                 kind: str) -> None:
    master, recorder = start_app(start, place)
    release(place, "r2", "notify")
    told = place / "told"
    check = f'echo "$EINHORNPY_GENERATION $EINHORNPY_RELEASE" > {told}; einhornpy status --json >> {told}; ' \
            f'test "$(cat)" = "$EINHORNPY_STATUS"'
    result = master.cli("upgrade", "--canary", "1", "--hold", "0.5", "--check", check, "--release",
                        "two", *(["--fleet"] if kind == "fleet" else []))
    assert result.returncode == 0, result.stdout + result.stderr + master.log()
    first, _, rest = told.read_text().partition("\n")
    assert first == "2 two"
    during = json.loads(rest)
    assert sorted(worker["generation"] for worker in during["workers"]) == [1, 1, 1, 2]
    assert during["gate"] == "upgrading"
    order = [event["event"] for event in recorder.events]
    begun, ended = order.index("hold-begun"), order.index("hold-ended")
    assert begun < order.index("check-passed") < ended
    assert order[:ended].count("worker-retiring") == 0
    check_airbag(recorder, 3, surge=3 if kind == "fleet" else 1)


def test_a_check_that_fails_refuses_the_release(start: Start, place: Path) -> None:
    master, recorder = start_app(start, place)
    before = {worker["pid"] for worker in master.status()["workers"]}
    release(place, "r2", "notify")
    result = master.cli("upgrade", "--canary", "1", "--check",
                        "echo one; echo 'two: 500 from /cart' >&2; exit 3")
    assert result.returncode == 5
    assert "the check exited with code 3: two: 500 from /cart" in result.stderr
    document = master.status()
    assert {worker["pid"] for worker in document["workers"]} == before
    assert "the check exited with code 3" in document["reason"]
    check_airbag(recorder, 3)


@pytest.mark.parametrize("how", ["dies", "hangs", "memory"])
def test_a_canary_that_does_badly_is_a_failure(start: Start, place: Path, how: str) -> None:
    flags = {"dies": [], "hangs": ["--timeout", "3"], "memory": ["--max-memory", "150M"]}[how]
    master, recorder = start_app(start, place, *flags)
    release(place, "r2", {"dies": "notify", "hangs": "notify watchdog",
                          "memory": "notify eat=200"}[how])
    begin(master, "--canary", "1", "--hold", "until-resume", "--max-failures", "0")
    canary = recorder.wait_for("worker-ready", generation=2)["pid"]
    if how == "dies":
        recorder.wait_for("hold-begun")
        os.kill(canary, 9)
    ended = recorder.wait_for("upgrade-ended", generation=2)
    assert ended["outcome"] == "rolled-back"
    assert {
        "dies": "signal 9", "hangs": "no heartbeat for 3 s",
        "memory": "MiB, and is due from 150 MiB on"}[how] in ended["reason"]
    assert generations(master) == [1, 1, 1]
    check_airbag(recorder, 3)


def test_a_lost_canary_is_replaced_and_the_hold_begins_anew(start: Start, place: Path) -> None:
    master, _ = start_app(start, place)
    release(place, "r2", "notify")
    recorder = held(master, "--hold", "until-resume")
    os.kill(recorder.wait_for("worker-ready", generation=2)["pid"], 9)
    recorder.wait_for("hold-begun", count=2)
    assert master.cli("resume").returncode == 0
    assert master.wait_ready()["generation"] == 2


def test_a_canary_of_a_short_life_is_watched_until_its_hold_is_over(start: Start,
                                                                    place: Path) -> None:
    master, recorder = start_app(start, place, "--max-lifetime", "1", number=2)
    release(place, "r2", "notify")
    assert master.cli("upgrade", "--canary", "1", "--hold", "3").returncode == 0
    assert [event["event"] for event in recorder.events].count("hold-begun") == 1
    assert recorder.wait_for("worker-due", generation=2)
    check_airbag(recorder, 2)


def test_more_canaries_than_the_surge_has_room_for(start: Start, place: Path) -> None:
    master, recorder = start_app(start, place)
    release(place, "r2", "notify")
    begin(master, "--canary", "2", "--hold", "until-resume")
    recorder.wait_for("hold-begun")
    master.wait_status(
        lambda each: [worker["generation"] for worker in each["workers"]].count(1) == 2)
    assert generations(master) == [1, 1, 2, 2]
    assert master.cli("resume").returncode == 0
    master.wait_ready()
    check_airbag(recorder, 3)


def test_an_upgrade_without_progress_goes_back(start: Start, place: Path) -> None:
    master, recorder = start_app(start, place, "--progress-timeout", "2", "--ready-timeout", "600")
    release(place, "r2", "silent")
    result = master.cli("upgrade")
    assert result.returncode == 5
    assert "it made no progress for 2 s" in result.stderr
    check_airbag(recorder, 3)


def test_min_ready_seconds_hold_for_every_replaced_worker(start: Start, place: Path) -> None:
    master, recorder = start_app(start, place, "--min-ready-seconds", "1")
    release(place, "r2", "notify")
    assert master.cli("upgrade").returncode == 0
    assert master.status()["upgrade"]["took_seconds"] >= 3.0
    order = [
        event["event"] for event in recorder.events
        if event["event"] in ("worker-ready", "worker-retiring")]
    assert order == ["worker-ready", "worker-retiring"] * 3


def test_history_and_show(start: Start, place: Path) -> None:
    master, _ = start_app(start, place, "--release", "one", "--env", "API_TOKEN=s3cret", "--env",
                          "DATABASE_URL=postgres://shop:s3cret@db/shop")
    release(place, "r2", "crash-before")
    assert master.cli("upgrade", "--release", "bad", "--max-failures", "1").returncode == 5
    release(place, "r3", "notify")
    assert master.cli("upgrade", "--release", "good").returncode == 0
    assert master.cli("rollback").returncode == 0
    entries = json.loads(master.cli("history", "--json").stdout)
    assert [(each["from"], each["to"], each["release"], each["outcome"], each["recipe_of"])
            for each in entries] == [(1, 2, "bad", "rolled-back", None),
                                     (1, 3, "good", "done", None), (3, 4, "one", "done", 1)]
    assert "exited with code 7" in entries[0]["reason"]
    assert all(each["took_seconds"] > 0 and each["requested_by"] == entries[0]["requested_by"]
               for each in entries)
    table = master.cli("history").stdout
    assert "rolled-back" in table
    assert "one (recipe of 1)" in table
    shown = master.cli("show", "3").stdout
    assert "s3cret" not in shown
    assert "API_TOKEN=***" in shown
    assert "postgres://shop:***@db/shop" in shown
    assert f"directory: {place / 'r2'} -> {place / 'r3'}" in shown
    assert "release: bad -> good" in shown
    assert json.loads(master.cli("show", "1", "--json").stdout)["before"] is None
    result = master.cli("show", "77")
    assert (result.returncode, result.stderr) == (
        2, "einhornpy: generation 77 is not remembered; expected one of 1, 2, 3 or 4\n")


def test_bad_terms_are_one_line(start: Start, place: Path) -> None:
    master, _ = start_app(start, place, number=1)
    for arguments, line in [
        (("--hold", "5"), "--hold goes with --canary"),
        (("--check", "true"), "--check goes with --canary"),
        (("--canary", "1", "--hold", "soon"), "--hold: got 'soon', expected a number of seconds"),
        (("--canary", "0"), "--canary"),
        (("--canary", "1", "--check", " "), "--check: got ' ', expected a shell command"),]:
        result = master.cli("upgrade", *arguments)
        assert (result.returncode, line
                in result.stderr, result.stderr.count("\n")) == (2, True, 1), result.stderr
    assert master.status()["upgrade"] is None


def test_hooks_run_outside_and_change_nothing(start: Start, place: Path) -> None:
    hooks = [f"--on-{name}={command}" for name, command in [
        ("upgrade-end", f"cat >> {place}/ends"), ("upgrade-failed", f"cat >> {place}/failures"),
        ("worker-ready", f"cat >> {place}/readies"), ("worker-exit", "echo oops; exit 4")]]
    master, recorder = start_app(start, place, *hooks, number=2)
    release(place, "r2", "notify")
    assert master.cli("upgrade", "--release", "two").returncode == 0
    release(place, "r3", "crash-before")
    assert master.cli("upgrade", "--max-failures", "1").returncode == 5

    def lines(name: str) -> list[dict[str, object]]:
        return [json.loads(line)
                for line in (place / name).read_text().splitlines()] if (place /
                                                                         name).exists() else []

    wait_until(lambda: len(lines("readies")) == 4 and lines("ends") and lines("failures"),
               "the hooks", master.log)
    (end,), (failure,) = lines("ends"), lines("failures")
    assert (end["event"], end["outcome"], end["release"]) == ("upgrade-ended", "done", "two")
    assert (failure["outcome"], failure["generation"]) == ("rolled-back", 3)
    assert {line["event"] for line in lines("readies")} == {"worker-ready"}
    assert "last_line=oops" in master.wait_log("hook failed hook=on_worker_exit")
    check_airbag(recorder, 2)


def test_the_start_hook_may_refuse_and_is_waited_for(start: Start, place: Path) -> None:
    hook = f"test -e {place}/allowed || {{ echo no deploys on fridays; exit 1; }}"
    master, recorder = start_app(start, place, "--on-upgrade-start", hook, number=1)
    release(place, "r2", "notify")
    result = master.cli("upgrade")
    assert result.returncode == 5
    assert "--on-upgrade-start exited with code 1: no deploys on fridays" in result.stderr
    assert not any(event["event"] == "worker-starting" for event in recorder.events)
    (place / "allowed").touch()
    assert master.cli("upgrade").returncode == 0


def test_a_hook_that_hangs_is_killed_with_its_children(start: Start, place: Path) -> None:
    master, _ = start_app(start, place, "--hook-timeout", "1", "--on-worker-ready",
                          f"sleep 1000 & echo $! > {place}/child; wait", number=1)
    assert 'reason="took longer than 1 s"' in master.wait_log("hook failed hook=on_worker_ready")
    child = int((place / "child").read_text())
    # it is ours to bury, so it may stay as a zombie
    wait_until(lambda: process_state(child) in ("Z", None), "the end of the hook's child")


@pytest.mark.parametrize("leavers", [1, 3])
def test_workers_that_leave_for_new_code_get_one_upgrade(start: Start, place: Path,
                                                         leavers: int) -> None:
    release(place, "r1", "notify code=75")
    command = [
        "sh", "-c", 'exec "$0" "$1" $(cat words)', sys.executable,
        str(ROOT / "tests" / "apps" / "worker.py")]
    master = start("-n", "3", "-m", "notify", "--reload-exit-code", "75", "--chdir",
                   str(place / "current"), "--", *command)
    before = master.wait_ready()
    recorder = master.record()
    release(place, "r2", "notify")
    for worker in before["workers"][:leavers]:
        os.kill(worker["pid"], 10)  # SIGUSR1: the worker leaves with 75
    ended = recorder.wait_for("upgrade-ended")
    assert ended["outcome"] == "done"
    document = master.wait_ready()
    assert (document["generation"], document["newest_generation"]) == (2, 2)
    assert document["upgrade"]["requested_by"].endswith("exit code 75)")
    started = [event for event in recorder.events if event["event"] == "worker-starting"]
    assert {event["generation"] for event in started} == {2}
    seats = [event["index"] for event in started]
    assert seats[0] in [worker["index"] for worker in before["workers"][:leavers]]
    assert min(event["ready"] for event in recorder.events) >= 3 - leavers
    assert [worker["restarts"] for worker in document["workers"]] == [0, 0, 0]


def test_leaving_for_broken_code_ends_with_the_old_code(start: Start, place: Path) -> None:
    release(place, "r1", "notify code=75")
    command = [
        "sh", "-c", 'exec "$0" "$1" $(cat words)', sys.executable,
        str(ROOT / "tests" / "apps" / "worker.py")]
    master = start("-n", "2", "-m", "notify", "--reload-exit-code", "75", "--max-failures", "2",
                   "--chdir", str(place / "current"), "--", *command)
    before = master.wait_ready()
    recorder = master.record()
    release(place, "r2", "crash-before")
    os.kill(before["workers"][0]["pid"], 10)
    assert recorder.wait_for("upgrade-ended")["outcome"] == "rolled-back"
    master.wait_status(lambda each: each["ready"] == 2)
    assert generations(master) == [1, 1]
