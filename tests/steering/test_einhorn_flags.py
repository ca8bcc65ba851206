"""Einhorn's command line: its flags and its name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ..einhorn import state_of
from ..harness import DEADLINE, EINHORNPY, WORKER, Master, base_environment
from ..launch.test_run import attempt

Start = Callable[..., Master]


def test_einhorns_flags(start: Start, place: Path) -> None:
    report = place / "report"
    master = start("-b", "127.0.0.1:0,r", "-b", "127.0.0.1:0,so_reuseaddr,o_nonblock", "-c", "web",
                   "-d", f"{place}/c.sock", "-e", f"{place}/pid", "-f", f"{place}/lock", "-g", "-k",
                   "-l", "77", "-m", "manual", "-n", "2", "-q", "-v", "-s", "2", "-t", "9",
                   "--drop-env-var", "SECRET", "--max-unacked", "1", "--max-upgrade-additional",
                   "2", "--nice", "1:3", "--reexec-as", EINHORNPY, *WORKER, "ack",
                   f"report={report}", environment={"SECRET": "s"})
    document = master.wait_ready()
    assert [each["backlog"] for each in document["listeners"]] == [77, 77]
    given = json.loads(report.read_text().splitlines()[0])
    assert given["environment"]["SECRET"] == "s", "only an upgrade drops it"
    assert given["environment"]["EINHORN_FDS"] == "3 4"
    assert given["environment"]["EINHORN_FD_FAMILY_1"] == "AF_INET"
    assert "socket" in given["descriptors"][given["environment"]["EINHORN_SOCK_FD"]]
    assert (place / "pid").read_text() == f"{master.pid}\n"
    assert (place / "lock").read_text() == f"{master.pid}\n"
    assert os.getpriority(os.PRIO_PROCESS, master.pid) == 1
    assert {os.getpriority(os.PRIO_PROCESS, worker["pid"]) for worker in document["workers"]} == {3}
    state = state_of(master)
    assert (state[":signal_timeout"], state[":lockfile"],
            state[":config"][":max_unacked"]) == (9.0, f"{place}/lock", 1)
    assert master.cli("reload").returncode == 0


@pytest.mark.parametrize(
    ("flags", "line"), [(("-p", "app.rb"), "-p: cannot read "), (("-p", __file__), "true is no Python"),
                        (("--preload=x",), "--preload: got 'x', expected warn, strict, auto or "),
                        (("--gc-before-fork",), "--gc-before-fork: it tunes Ruby's memory"),
                        (("-n", "0"), "--number: got '0'"),
                        (("-m", "soon"), "--ack-mode: got 'soon'"),
                        (("-l", "0"), "--backlog: got '0'"), (("--nice", "x"), "--nice: got 'x'"),])
def test_flags_that_cannot_be_meant_are_one_line(place: Path, flags: tuple[str, ...],
                                                 line: str) -> None:
    result = attempt(place, *flags, "true")
    assert (result.returncode, result.stderr.count("\n"), line
            in result.stderr) == (2, 1, True), result.stderr


def test_version_and_alarm(start: Start, place: Path) -> None:
    assert attempt(place, "--version").stdout.startswith("einhornpy ")
    master = start("-n", "1", "-m", "notify", "--", *WORKER, "notify")
    master.wait_ready()
    recorder = master.record()
    os.kill(master.pid, signal.SIGALRM)
    assert recorder.wait_for("upgrade-started")["requested_by"] == "signal ALRM"
    recorder.wait_for("upgrade-ended")


def test_no_more_may_be_starting_than_max_unacked(start: Start) -> None:
    master = start("-n", "4", "--max-unacked", "1", "-m", "notify", "--", *WORKER, "notify")
    master.wait_ready()
    recorder = master.record()
    assert master.cli("upgrade", "--fleet").returncode == 0
    order = [
        event["event"] for event in recorder.events
        if event["event"] in ("worker-starting", "worker-ready")]
    assert order == ["worker-starting", "worker-ready"] * 4


# --- Einhorn's name ---


@pytest.fixture
def einhorn(place: Path) -> str:
    """Our program under that name."""
    link = place / "bin" / "einhorn"
    link.parent.mkdir()
    link.symlink_to(EINHORNPY)
    return str(link)


def called(einhorn: str, place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([einhorn, *words], env=base_environment(place), cwd=place,
                          capture_output=True, text=True, timeout=DEADLINE, check=False)


def test_the_name_einhorn_means_einhorns_defaults(start: Start, place: Path, einhorn: str) -> None:
    master = start("--preload", "app.rb", "--gc-before-fork", "-m", "0.1",
                   "--min-ready-seconds", "0", "--", *WORKER, "silent",
                   program=einhorn)
    before = master.wait_ready()
    line = master.wait_log("preload passed over")
    assert "app.rb" in line
    assert 'reason="it cannot be read' in line
    assert (before["target"], state_of(master)[":config"][":number"]) == (1, 1)
    recorder = master.record()
    master.signal(signal.SIGHUP)
    recorder.wait_for("upgrade-ended", outcome="done")
    assert master.status()["master"]["reloads"] == 1, "the master is replaced too"
    assert master.status()["generation"] == 2


def test_the_name_einhorn_without_words_tells_the_usage(place: Path, einhorn: str) -> None:
    result = called(einhorn, place)
    assert (result.returncode, result.stdout.splitlines()[0], result.stderr) == (1, "## Usage", "")
    assert called(einhorn, place, "--version").stdout.startswith("einhornpy ")
    assert "--drop-env-var" in called(einhorn, place, "-h").stdout
    assert called(einhorn, place, "-n", "0", "true").returncode == 2


def test_the_check_of_einhorns_own_master(place: Path, einhorn: str) -> None:
    assert called(einhorn, place, "--upgrade-check").returncode == 0
    assert attempt(place, "--upgrade-check").returncode == 0
    # It would exec us next, and lose its workers.
    asked = called(einhorn, place, "--upgrade-check", "--", "true")
    assert (asked.returncode, "cannot be replaced by this one" in asked.stderr) == (2, True)
    assert called(einhorn, place, "--with-state-fd", "3", "--", "true").returncode == 2
