"""Before there are workers: who asks is answered from the first moment on, and the start hook may
refuse; and how waiting ends."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ..harness import BREAKABLE, EINHORNPY, EXAMPLE, Master, wait_gone, wait_until

Start = Callable[..., Master]
WORKER = BREAKABLE


SLOW = """import os, time
while not os.path.exists("go"):
    time.sleep(0.05)
"""


@pytest.fixture
def slow(start: Start, place: Path) -> Master:
    """A master whose gunicorn reads its settings until there is a file called `go`."""
    (place / "slow.py").write_text(f"{SLOW}workers = 2\n")
    return start("-c", "shop", "-b", "127.0.0.1:0", "--chdir", str(place), "--", "gunicorn", "-c",
                 "slow.py", "--pythonpath", str(EXAMPLE), "app:wsgi")


def test_it_answers_while_settings_are_read(slow: Master, place: Path) -> None:
    status = slow.status()
    assert (status["gate"], status["reason"],
            status["name"]) == ("starting", "generation 1 is being prepared", "shop")
    assert (status["ready"], status["workers"]) == (0, [])
    assert slow.cli("status").returncode == 3
    refused = slow.cli("upgrade")
    assert refused.returncode == 3
    assert "the first generation is being made" in refused.stderr
    late = slow.cli("status", "--wait", "--timeout", "0.2")
    assert (late.returncode, "generation 1 is being prepared" in late.stdout) == (124, True)
    waiting = subprocess.Popen([EINHORNPY, "status", "--wait", "--timeout", "60"],
                               env=slow.environment, stdout=subprocess.DEVNULL)
    (place / "go").touch()
    assert waiting.wait(60) == 0
    assert slow.status()["target"] == 2


def test_it_may_be_stopped_while_settings_are_read(slow: Master, place: Path) -> None:
    assert slow.path
    stopped = slow.cli("stop")
    assert (stopped.returncode, stopped.stdout) == (0, "stopped\n")
    assert slow.wait_exit() == 0


def test_a_given_timeout_is_what_a_missing_master_gets(start: Start, place: Path) -> None:
    """Its name comes from gunicorn's settings, so nobody can find it before these are read."""
    (place / "slow.py").write_text(f"{SLOW}proc_name = 'shop'\n")
    master = start("-b", "127.0.0.1:0", "--chdir", str(place), "--", "gunicorn", "-c", "slow.py",
                   "--pythonpath", str(EXAMPLE), "app:wsgi")
    waiting = subprocess.Popen([EINHORNPY, "status", "--wait", "--timeout", "60"],
                               env=master.environment, stdout=subprocess.DEVNULL)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(6)
    (place / "go").touch()
    assert waiting.wait(60) == 0
    assert master.status()["name"] == "shop"
    elsewhere = master.cli("status", "--wait", "--timeout", "0.3", "-d", "nowhere.sock",
                           environment={"EINHORNPY_SOCKET_PATH": ""})
    assert elsewhere.returncode == 69


def test_the_start_hook_may_refuse_the_first_start(start: Start, place: Path) -> None:
    hook = (
        f"cat > {place}/told; test -e {place}/allowed || {{ echo no deploys on fridays; exit 1; }}")
    arguments = ("-n", "1", "-m", "notify", "--on-upgrade-start", hook)
    master = start(*arguments, "--on-upgrade-start-first", "--", *WORKER)
    assert master.wait_exit() == 3
    assert master.log(
    ) == "einhornpy: --on-upgrade-start exited with code 1: no deploys on fridays\n"
    assert '"kind": "first"' in (place / "told").read_text()
    (place / "told").unlink()
    asked_only_for_upgrades = start(*arguments, "--", *WORKER)
    asked_only_for_upgrades.wait_ready()
    assert not (place / "told").exists()
    assert asked_only_for_upgrades.stop() == 0
    (place / "allowed").touch()
    allowed = start(*arguments, "--on-upgrade-start-first", "--", *WORKER)
    allowed.wait_ready()
    assert (place / "told").exists()


def test_a_start_may_be_stopped_while_its_hook_runs(start: Start, place: Path) -> None:
    master = start("-n", "1", "-c", "x", "-m", "notify", "--on-upgrade-start",
                   f"touch {place}/runs; sleep 1000", "--on-upgrade-start-first", "--", *WORKER)
    wait_until((place / "runs").exists, "the hook", master.log)
    assert master.status()["reason"] == "generation 1 is being prepared"
    assert master.stop() == 0


def test_a_killed_master_was_not_stopped(start: Start) -> None:
    """Its workers may live: here one that ignores what asks it to leave."""
    master = start("-n", "1", "-m", "0.1", "--graceful-timeout", "300", "--", "sh", "-c",
                   "trap '' TERM; exec sleep 1000")
    pid = master.wait_ready()["workers"][0]["pid"]
    recorder = master.record()
    stopping = subprocess.Popen([EINHORNPY, "stop", "-d", master.path], stderr=subprocess.PIPE,
                                stdout=subprocess.PIPE, text=True)
    recorder.wait_for("stopping")
    master.process.kill()
    out, error = stopping.communicate(timeout=60)
    assert (stopping.returncode, out) == (1, "")
    assert "not stopped cleanly: the master ended without its last word" in " ".join(error.split())
    assert str(pid) in error
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)


def test_abort_of_what_a_newer_upgrade_replaces_exits_7(start: Start, place: Path) -> None:
    """Whoever aborts hears that another one came before it was back."""
    code = BREAKABLE[2].replace(
        "sys.exit(3)",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); open('stuck', 'w')\n    while 1:\n"
        "        signal.pause()")
    master = start("-n", "1", "-m", "notify", "--graceful-timeout", "300", "--", *BREAKABLE[:2],
                   code)
    master.wait_ready()
    (place / "broken").touch()
    recorder = master.record()
    assert master.cli("upgrade", "--no-wait").returncode == 0
    wait_until((place / "stuck").exists, "a worker that won't leave", master.log)
    aborting = subprocess.Popen([EINHORNPY, "abort", "-d", master.path], stderr=subprocess.PIPE,
                                text=True)
    recorder.wait_for("worker-retiring", generation=2)
    (place / "broken").unlink()
    assert master.cli("upgrade", "--no-wait").returncode == 0
    assert "upgrade superseded by generation 3" in aborting.communicate(timeout=60)[1]
    assert aborting.returncode == 7
    assert master.cli("stop", "--now").returncode == 0


def test_recycle_waits_until_the_worker_is_replaced_and_gone(start: Start, place: Path) -> None:
    master = start("-n", "2", "-m", "notify", "--", *WORKER)
    before = {worker["index"]: worker["pid"] for worker in master.wait_ready()["workers"]}
    result = master.cli("recycle", "1", "--wait")
    assert result.returncode == 0
    assert (f"worker 1 (pid {before[1]}) is gone: 2 of 2 workers ready on generation 1"
            in result.stdout)
    after = {worker["index"]: worker["pid"] for worker in master.status()["workers"]}
    assert (after[0], len(after)) == (before[0], 2)
    assert after[1] != before[1]
    (place / "broken").touch()
    late = master.cli("recycle", "0", "--wait", "--timeout", "0.5")
    assert late.returncode == 124
    assert f"worker 0 (pid {before[0]}) is not replaced within 0.5 s" in late.stderr
    assert master.cli("recycle", "0", "--wait").returncode == 1  # it is due already
    assert master.cli("recycle", "0", "--timeout", "1").returncode == 2
    (place / "broken").unlink()
