"""Before there are workers: who asks is answered from the first moment on, and the start hook may
refuse; and how waiting ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from einhornpy.supervisor.sockets.addresses import parse_address
from einhornpy.supervisor.sockets.leftovers import of_dead_masters

from ..harness import (
    BREAKABLE,
    EINHORNPY,
    EXAMPLE,
    Master,
    process_state,
    wait_gone,
    wait_until,
)

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
    assert result.stdout.splitlines()[1:] == [
        f"worker 1 (pid {before[1]}) is replaced and gone",
        f"{master.status()['name']}: ready: 2 of 2 workers ready on generation 1"]
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


def test_why_a_release_was_refused_is_not_why_a_worker_is_gone(start: Start, place: Path) -> None:
    master = start("-n", "1", "-m", "notify", "--max-failures", "1", "--", *WORKER)
    (worker,) = master.wait_ready()["workers"]
    (place / "broken").touch()
    assert master.cli("upgrade").returncode == 5
    (place / "broken").unlink()
    result = master.cli("recycle", "0", "--wait")
    assert result.returncode == 0
    gone, host = result.stdout.splitlines()[1:]
    assert gone == f"worker 0 (pid {worker['pid']}) is replaced and gone"
    assert host.startswith(f"{master.status()['name']}: rolled-back: generation 2 was refused: ")


def test_a_worker_that_is_wanted_no_more_is_gone_and_not_replaced(start: Start) -> None:
    master = start("-n", "2", "-m", "notify", "--", *WORKER)
    pid = master.wait_ready()["workers"][1]["pid"]
    os.kill(pid, signal.SIGSTOP)
    waiting = subprocess.Popen([EINHORNPY, "recycle", "1", "--wait", "-d", master.path],
                               stdout=subprocess.PIPE, text=True)
    assert waiting.stdout is not None
    assert waiting.stdout.readline().startswith("worker 1 ")
    assert master.cli("scale", "1").returncode == 0
    os.kill(pid, signal.SIGCONT)
    assert waiting.communicate(timeout=60)[0].splitlines()[0] == f"worker 1 (pid {pid}) is gone"


# --- what a killed master has left ---

# Takes its time to leave: until there is a file `leave`.
DRAINING = [sys.executable, "-c", """
import os, signal, socket
signal.signal(signal.SIGTERM, lambda *_: None)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
while not os.path.exists("leave"):
    signal.sigtimedwait([], 0.05)
"""]


def killed(master: Master, reap: bool = True) -> int:
    """Kill a master whose worker drains; return that worker's pid."""
    pid = int(master.wait_ready()["workers"][0]["pid"])
    os.kill(master.pid, signal.SIGKILL)
    if reap:
        master.process.wait()
    else:
        wait_until(lambda: process_state(master.pid) == "Z", "it dead")
    return pid


def test_the_workers_of_a_killed_master_are_waited_for(start: Start, place: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ("-n", "1", "-c", "web", "-b", f"127.0.0.1:{port}", "-b", f"unix:{place}/app",
             "-m", "notify", "-e", str(place / "pid"), "--")
    pid = killed(start(*flags, *DRAINING))
    second = start(*flags, *WORKER)
    line = second.wait_log("waiting for leftovers")
    assert f"address=127.0.0.1:{port}" in line
    assert f"pid {pid} (" in line
    assert second.status()["gate"] == "starting"
    (place / "leave").touch()
    assert second.wait_ready()["ready"] == 1
    assert second.log().count("waiting for leftovers") == 1


def test_unix_sockets_are_waited_for_too_and_a_stop_is_heard(start: Start, place: Path) -> None:
    flags = ("-n", "1", "-c", "web", "-b", f"unix:{place}/app", "-m", "notify", "--")
    pid = killed(start(*flags, *DRAINING))
    second = start(*flags, *WORKER)
    assert f"pid {pid} (" in second.wait_log("waiting for leftovers")
    assert second.stop() == 0
    third = start(*flags, *WORKER)
    third.wait_log("waiting for leftovers")
    (place / "leave").touch()
    assert third.wait_ready()["ready"] == 1


def test_they_are_waited_for_no_longer_than_they_may_take(start: Start, place: Path) -> None:
    flags = ("-n", "1", "-c", "web", "-b", f"unix:{place}/app", "-m", "notify")
    pid = killed(start(*flags, "--", *DRAINING))
    second = start(*flags, "--graceful-timeout", "0.1", "--", *WORKER)
    assert second.wait_exit() == 1
    assert "waiting for leftovers" in second.log()
    assert "another process is listening there" in second.log()
    third = start(*flags, "--keep-children-on-exit", "--", *WORKER)
    assert third.wait_exit() == 1
    assert "waiting for leftovers" not in third.log()
    (place / "leave").touch()
    wait_gone(pid)


def test_only_what_dead_masters_have_left_is_waited_for(place: Path) -> None:
    path = f"{place}/app"
    for family, where, text in ((socket.AF_INET, ("127.0.0.1", 0), "127.0.0.1:{}"),
                                (socket.AF_UNIX, path, f"unix:{path}")):
        with socket.socket(family) as ours:
            ours.bind(where)
            ours.listen()
            address = parse_address(text.format(ours.getsockname()[1]))
            assert of_dead_masters(address) == []
        assert of_dead_masters(address) is None


def test_a_master_that_is_dead_but_not_reaped_holds_nothing(start: Start, place: Path) -> None:
    (place / "leave").touch()
    flags = ("-n", "1", "-c", "web", "-e", str(place / "pid"), "-m", "notify", "--", *WORKER)
    first = start(*flags)
    killed(first, reap=False)
    assert process_state(first.pid) == "Z"
    listed = first.cli("list")
    assert f"{first.pid}" not in listed.stdout
    second = start(*flags)
    assert second.wait_ready()["ready"] == 1
    assert (place / "pid").read_text() == f"{second.pid}\n"
    assert process_state(first.pid) == "Z"
