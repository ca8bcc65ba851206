"""Running workers: what they are given, how they say ready, how they die, and how a master starts
and ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from einhornpy.control.client import Client

from .. import harness
from ..harness import (
    APPS,
    EINHORNPY,
    Master,
    base_environment,
    get,
    process_state,
    wait_gone,
    wait_listening,
    wait_until,
)

Start = Callable[..., Master]
WORKER = [sys.executable, str(APPS / "worker.py")]


def reports(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def attempt(place: Path, *arguments: str,
            environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run einhornpy when it is expected to end by itself."""
    return subprocess.run([EINHORNPY, *arguments],
                          env=base_environment(place) | (environment or {}), cwd=place,
                          capture_output=True, text=True, timeout=60, check=False)


def test_a_worker_is_given_exactly_the_contract(start: Start, place: Path) -> None:
    report = place / "report"
    outer = {
        "NOTIFY_SOCKET": "/outer", "LISTEN_FDS": "9", "LISTEN_PID": "1", "WATCHDOG_USEC": "5",
        "MINE": "kept"}
    with open(os.devnull) as leak:
        os.set_inheritable(leak.fileno(), True)
        master = start("-n", "1", "-b", "127.0.0.1:0", "-b", f"unix:{place}/app", "-m", "notify",
                       "-c", "web", "--env", "EXTRA=a=b", "--release", "r1", "--timeout", "7", "--",
                       *WORKER, "notify", f"report={report}", environment=outer)
        document = master.wait_ready()
    (given,) = reports(report)
    environment = given["environment"]
    pid = str(given["pid"])
    expected = {
        "EINHORN_FD_COUNT": "2", "EINHORN_FD_0": "3", "EINHORN_FD_1": "4",
        "EINHORN_FD_FAMILY_0": "AF_INET", "EINHORN_FD_FAMILY_1": "AF_UNIX", "EINHORN_FDS": "3 4",
        "EINHORN_CHILD_INDEX": "0", "EINHORN_MASTER_PID": str(master.pid),
        "EINHORN_SOCK_PATH": master.path, "LISTEN_FDS": "2", "LISTEN_PID": pid,
        "LISTEN_FDNAMES": "listener0:listener1",
        "NOTIFY_SOCKET": master.path.replace(".sock", ".notify"), "WATCHDOG_USEC": "7000000",
        "WATCHDOG_PID": pid, "EINHORNPY_GENERATION": "1", "EINHORNPY_WORKER": "1", "SPT_NOENV": "1",
        "EINHORNPY_RETIRE_SIGNAL": "SIGTERM", "EINHORNPY_RELEASE": "r1", "MINE": "kept",
        "EXTRA": "a=b", "PWD": str(place),}
    assert {key: environment.get(key) for key in expected} == expected
    ours = {
        key for key in environment
        if key.startswith(("EINHORN", "LISTEN_", "NOTIFY_", "WATCHDOG_"))}
    assert ours <= expected.keys()
    assert sorted(given["descriptors"])[:5] == ["0", "1", "2", "3", "4"]
    sockets = [
        target for fd, target in given["descriptors"].items() if target.startswith("socket:")]
    others = [
        target for fd, target in given["descriptors"].items()
        if int(fd) > 4 and "/proc/" not in target]
    assert (len(sockets), others) == (2, [])
    assert given["pgid"] == given["pid"]
    assert given["ppid"] == master.pid
    assert given["cwd"] == str(place)
    # Python itself ignores SIGPIPE and SIGXFSZ, and 32 and 33 are the C library's own; nothing else
    # may be ignored, but for what a terminal stops those in its background by.
    assert given["signals"]["SigBlk"] == 0
    allowed = sum(1 << number - 1 for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTTIN,
                                                 signal.SIGTTOU, 32, 33))
    assert given["signals"]["SigIgn"] & ~allowed == 0
    assert [listener["fd"] for listener in document["listeners"]] == [3, 4]
    assert document["workers"][0]["pid"] == given["pid"]


@pytest.mark.parametrize(("mode", "word"), [("manual", "ack"), ("notify", "notify"),
                                            ("0.2", "silent")])
def test_every_way_to_say_ready(start: Start, mode: str, word: str) -> None:
    master = start("-n", "2", "-m", mode, "--min-ready-seconds", "0", "--", *WORKER, word)
    document = master.wait_ready()
    assert document["ready"] == 2
    assert "a guess" not in master.log()


def test_an_unknown_command_gets_a_second_and_a_line_that_says_so(start: Start) -> None:
    master = start("-n", "1", "--", *WORKER, "silent")
    document = master.wait_ready()
    assert document["workers"][0]["ready_after_seconds"] >= 1.0
    assert master.log().count("readiness is a guess") == 1


def test_an_ack_counts_only_from_the_process_it_speaks_of(start: Start) -> None:
    master = start("-n", "1", "-m", "manual", "--ready-timeout", "120", "--", *WORKER, "ack-other")
    master.wait_log("worker's word ignored")
    assert master.status()["workers"][0]["state"] == "starting"
    pid = master.status()["workers"][0]["pid"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as liar:
        liar.connect(master.path)
        liar.sendall(json.dumps({"command": "worker:ack", "pid": pid}).encode() + b"\n")
        assert liar.recv(10) == b""
    assert master.status()["workers"][0]["state"] == "starting"


def test_the_command_may_come_from_the_environment_alone(start: Start) -> None:
    master = start(
        environment={
            "EINHORNPY_COMMAND": f"{sys.executable} {APPS / 'worker.py'} notify",
            "EINHORNPY_ACK_MODE": "notify", "EINHORNPY_NUMBER": "1"})
    assert master.wait_ready()["ready"] == 1


def test_a_dead_worker_is_replaced_and_leaves_no_zombie(start: Start) -> None:
    master = start("-n", "2", "-m", "notify", "--", *WORKER, "notify")
    recorder = master.record()
    first = master.wait_ready()["workers"]

    def settled() -> bool:
        worker = master.status()["workers"][0]
        return bool(worker["age_seconds"] - worker["ready_after_seconds"] > 1.1)

    wait_until(settled, "a settled worker")
    os.kill(first[0]["pid"], signal.SIGKILL)
    died = recorder.wait_for("worker-died", pid=first[0]["pid"])
    assert died["level"] == "warning"
    assert died["status"] == -9
    document = master.wait_status(
        lambda each: each["ready"] == 2 and each["workers"][0]["pid"] != first[0]["pid"])
    assert [worker["restarts"] for worker in document["workers"]] == [1, 0]
    assert document["workers"][1]["pid"] == first[1]["pid"]
    assert not any(event["event"] == "start-failed" for event in recorder.events)
    assert not Path(f"/proc/{first[0]['pid']}").exists()


def test_a_worker_that_dies_at_its_start_is_retried_with_growing_delays(start: Start,
                                                                        place: Path) -> None:
    flag = place / "works"
    script = f'test -e {flag} && exec "$0" "$@"; exit 9'
    flag.touch()
    master = start("-n", "1", "-m", "notify", "--", "sh", "-c", script, *WORKER, "notify")
    recorder = master.record()
    pid = master.wait_ready()["workers"][0]["pid"]
    flag.unlink()
    os.kill(pid, signal.SIGKILL)
    recorder.wait_for("start-failed", count=3)
    assert master.status()["gate"] == "degraded"
    delays = [event["next_try_in"] for event in recorder.events if event["event"] == "start-failed"]
    first = delays.index("1.0s")
    assert delays[first : first + 3] == ["1.0s", "1.5s", "2.2s"]
    flag.touch()
    master.wait_ready()


def test_one_that_overstays_is_killed_with_its_group(start: Start, place: Path) -> None:
    report = place / "report"
    master = start("-n", "1", "-m", "notify", "--graceful-timeout", "0.5", "--", *WORKER, "notify",
                   "deaf", "child", f"report={report}")
    master.wait_ready()
    (given,) = reports(report)
    assert master.stop() == 0
    assert "did not leave within 0.5 s" in master.log()
    wait_gone(given["pid"])
    wait_until(lambda: not alive(given["child"]), "the child gone")


def test_one_that_left_its_process_group_is_killed_all_the_same(start: Start, place: Path) -> None:
    code = (
        "import os, signal, socket; signal.signal(15, signal.SIG_IGN); os.setpgid(0, "
        "os.getpgid(os.getppid()))\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
        "s.connect(os.environ['NOTIFY_SOCKET']); s.send(b'READY=1')\n"
        "while True: signal.pause()")
    master = start("-n", "1", "-m", "notify", "--graceful-timeout", "1", "--", sys.executable, "-c",
                   code)
    pid = master.wait_ready()["workers"][0]["pid"]
    assert master.cli("stop").returncode == 0
    assert "did not leave within 1 s" in master.log()
    assert not alive(pid)


IMPORTING = (
    "import os, signal, socket, sys\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "open('importing-' + os.environ['EINHORNPY_GENERATION'], 'w').close()\n"
    "if os.environ['EINHORNPY_GENERATION'] == '1' and 'first' not in sys.argv:\n"
    "    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
    "    s.connect(os.environ['NOTIFY_SOCKET']); s.send(b'READY=1')\n"
    "    signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
    "while True: signal.pause()")
NEVER_READY = "did not leave within 1 s, and was never ready"


@pytest.mark.parametrize("how", ["stop", "abort", "superseded"])
def test_one_that_still_imports_is_not_waited_for(start: Start, place: Path, how: str) -> None:
    """It serves nobody, and doesn't hear while it imports: it is asked, and killed soon after."""
    master = start("-n", "1", "-m", "notify", "--stop-signal", "TERM", "--graceful-timeout", "300",
                   "--", sys.executable, "-c", IMPORTING, *(["first"] if how == "stop" else []),
                   cwd=place)
    if how == "stop":
        wait_until((place / "importing-1").exists, "an import", master.log)
        master.signal(signal.SIGTERM)
        assert master.wait_exit() == 0
        assert NEVER_READY in master.log()
        return
    master.wait_ready()
    recorder = master.record()
    assert master.cli("upgrade", "--no-wait").returncode == 0
    wait_until((place / "importing-2").exists, "an import", master.log)
    if how == "abort":
        assert master.cli("abort").returncode == 0
    else:
        assert master.cli("upgrade", "--no-wait").returncode == 0
    assert recorder.wait_for("worker-killed", generation=2)["reason"] == NEVER_READY


def test_a_master_that_was_stopped_hears_first_what_was_said_in_time(start: Start,
                                                                     place: Path) -> None:
    os.mkfifo(place / "gate")
    script = f'cat {place}/gate; exec "$0" "$@"'
    master = start("-n", "1", "-m", "manual", "--stop-signal", "TERM", "--ready-timeout", "3",
                   "--max-failures", "1", "--", "sh", "-c", script, *WORKER, "ack",
                   f"report={place}/report")
    assert master.path
    recorder = master.record()
    master.wait_status(lambda each: each["workers"], "a worker")
    os.kill(master.pid, signal.SIGSTOP)
    (place / "gate").write_text("go")
    wait_until(lambda: (place / "report").exists(), "the worker's report, just before its ack",
               master.log)
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() - begun > 3.5, "the ready timeout, unseen")
    os.kill(master.pid, signal.SIGCONT)
    recorder.wait_for("worker-ready")
    assert "worker killed" not in master.log()


def stops_in_its_turn(place: Path) -> Path:
    """A master that stops itself in the middle of a turn, when the file `stop` is there."""
    program = place / "stopping"
    program.write_text(
        f"#!{sys.executable} -P\nimport os, signal, sys\n"
        "from einhornpy.supervisor import __main__\n"
        "from einhornpy.supervisor.logs import strangers\n"
        "def stop(self, now):\n"
        f"    if os.path.exists('{place}/stop'):\n"
        f"        os.unlink('{place}/stop')\n"
        "        os.kill(os.getpid(), signal.SIGSTOP)\n"
        "strangers.Strangers.on_time = stop\nsys.exit(__main__.main())\n")
    program.chmod(0o755)
    return program


def stop_in_turn(master: Master, place: Path) -> None:
    (place / "stop").touch()
    with Client(str(master.path)) as client:
        client.send({"command": "ping"})  # any turn will do
        wait_until(lambda: process_state(master.pid) == "T", "a stop", master.log)


def test_one_that_was_stopped_amid_its_turn_hears_first_too(
        start: Start, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has listened just before it was stopped, and would judge by the clock just after it goes
    on."""
    os.mkfifo(place / "gate")
    flags = {
        "number": "1", "ack_mode": "manual", "stop_signal": "TERM", "ready_timeout": "3",
        "max_failures": "1", "socket_path": str(place / "control.sock")}
    command = [
        "sh", "-c", f'cat {place}/gate; exec "$0" "$@"', *WORKER, "ack", f"report={place}/report"]
    monkeypatch.setattr(harness, "EINHORNPY", str(stops_in_its_turn(place)))
    master = start(json.dumps({"flags": flags, "command": command, "directory": str(place)}))
    monkeypatch.undo()
    recorder = master.record()
    master.wait_status(lambda each: each["workers"], "a worker")
    stop_in_turn(master, place)
    (place / "gate").write_text("go")
    wait_until(lambda: (place / "report").exists(), "the worker's report, just before its ack",
               master.log)
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() - begun > 3.5, "the ready timeout, unseen")
    os.kill(master.pid, signal.SIGCONT)
    recorder.wait_for("worker-ready")
    assert "worker killed" not in master.log()


def test_the_last_words_of_a_worker_are_heard_before_its_end(
        start: Start, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says why it fails and exits, after the master has listened and before it reaps."""
    os.mkfifo(place / "gate")
    worker = place / "failing.py"
    worker.write_text(
        "import json, os, socket\n"
        f"open('{place}/gate').read()\n"
        "way = socket.socket(socket.AF_UNIX)\n"
        "way.connect(os.environ['EINHORN_SOCK_PATH'])\n"
        "said = {'command': 'worker:failed', 'pid': os.getpid(), 'error': 'no such shop'}\n"
        "way.sendall(json.dumps(said).encode() + b'\\n')\n"
        "os._exit(3)\n")
    flags = {"number": "1", "ack_mode": "manual", "max_failures": "1",
             "socket_path": str(place / "control.sock")}
    monkeypatch.setattr(harness, "EINHORNPY", str(stops_in_its_turn(place)))
    master = start(json.dumps({"flags": flags, "command": [sys.executable, str(worker)],
                               "directory": str(place)}))
    monkeypatch.undo()
    pid = master.wait_status(lambda each: each["workers"], "a worker")["workers"][0]["pid"]
    stop_in_turn(master, place)
    (place / "gate").write_text("go")
    wait_until(lambda: process_state(pid) == "Z", "its end, which nobody has seen", master.log)
    os.kill(master.pid, signal.SIGCONT)
    assert master.process.wait(harness.DEADLINE) == 3
    assert 'error="no such shop"' in master.log()


def test_a_month_is_not_too_long_to_wait(start: Start) -> None:
    master = start("-n", "1", "-m", "notify", "--max-lifetime", "60d", "--graceful-timeout", "30d",
                   "--", *WORKER, "notify")
    master.wait_ready()
    assert master.cli("upgrade").returncode == 0
    assert master.status()["gate"] == "ready"


def test_two_masters_of_one_name_even_with_a_lock_elsewhere(start: Start, place: Path) -> None:
    first = start("-n", "1", "-m", "notify", "-d", "x.sock", "-f", "elsewhere", "--", *WORKER,
                  "notify")
    first.wait_ready()
    result = attempt(place, "-d", "x.sock", "--", "true")
    assert (result.returncode, "another master listens there" in result.stderr) == (1, True)
    result = attempt(place, "-d", "y.sock", "-f", "elsewhere", "--", "true")
    assert (result.returncode, f"another master holds {place}/elsewhere (pid {first.pid})"
            in result.stderr) == (1, True)
    assert first.status()["gate"] == "ready"


def test_a_descriptor_of_the_masters_own_is_no_address(place: Path) -> None:
    for fd in range(3, 14):
        result = attempt(place, "-d", "x.sock", "-b", f"fd://{fd}", "--", "true")
        assert (result.returncode, f"descriptor {fd} is no open socket"
                in result.stderr) == (1, True), result.stderr


def test_without_standard_descriptors(start: Start, place: Path) -> None:
    process = subprocess.run([
        "sh", "-c", 'exec "$0" -n 1 -d x.sock -m notify -- "$@" <&- >&- 2>&- & '
        'while ! "$0" status -d x.sock --wait --timeout 60 >&2; do :; done; "$0" stop -d x.sock; '
        'wait $!',
        EINHORNPY, *WORKER, "notify", f"report={place}/report"], cwd=place, text=True,
                             capture_output=True,
                             env={"PATH": os.environ["PATH"], "HOME": str(place)}, timeout=90)
    assert process.returncode == 0, process.stderr
    (report,) = reports(place / "report")
    assert {report["descriptors"][fd] for fd in ("0", "1")} == {"/dev/null"}
    # the master reads it, to tell why a start has failed
    assert report["descriptors"]["2"].startswith("pipe:")


def alive(pid: int) -> bool:
    return process_state(pid) not in ("Z", None)


def test_a_shell_around_the_server_leaves_no_server_behind(start: Start, place: Path) -> None:
    report = place / "report"
    command = f"{sys.executable} {APPS / 'worker.py'} silent report={report}; true"
    master = start("-n", "1", "-m", "0.5", "--min-ready-seconds", "0", "--", "sh", "-c", command)
    master.wait_ready()
    wait_until(lambda: report.exists() and reports(report), "the report")
    (given,) = reports(report)
    assert given["ppid"] != master.pid
    assert master.stop() == 0
    wait_until(lambda: not alive(given["pid"]), "the server gone")


def test_a_silent_watchdog_costs_the_worker(start: Start) -> None:
    master = start("-n", "1", "-m", "notify", "--timeout", "0.5", "--", *WORKER, "notify",
                   "watchdog")
    recorder = master.record()
    hung = recorder.wait_for("worker-hung")
    assert hung["reason"] == "gave no heartbeat for 0.5 s"
    assert recorder.wait_for("worker-gone", pid=hung["pid"])["status"] == -6


@pytest.mark.parametrize("outlive", [False, True])
def test_workers_leave_when_the_master_is_killed_unless_told_otherwise(start: Start,
                                                                       outlive: bool) -> None:
    option = "--keep-children-on-exit" if outlive else "--kill-children-on-exit"
    master = start("-n", "1", option, "-b", "127.0.0.1:0", "-m", "notify", "--", *WORKER, "notify",
                   "serve")
    pid = master.wait_ready()["workers"][0]["pid"]
    address = master.address
    master.signal(signal.SIGKILL)
    master.wait_exit()
    if outlive:
        assert get(address)[0] == 200
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not alive(pid), "the worker gone")
    os.waitpid(pid, 0)


def test_variables_that_are_no_settings_are_named_once_and_stop_nobody(start: Start) -> None:
    master = start("-n", "1", "-m", "notify", "--", *WORKER, "notify", environment={
        "EINHORNPY_SERVICE_HOST": "10.0.0.1", "EINHORNPY_PORT": "tcp://10.0.0.1:80",
        "EINHORNPY_NUMBR": "9"})
    master.wait_ready()
    assert master.cli("reload").returncode == 0
    (line,) = [each for each in master.log().splitlines() if "stray variables" in each]
    assert line.endswith('variables="EINHORNPY_NUMBR (did you mean EINHORNPY_NUMBER?), '
                         'EINHORNPY_PORT, EINHORNPY_SERVICE_HOST" so="they are ignored"')


# --- signals to the master ---


@pytest.mark.parametrize(("number", "workers_see"), [
    (signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGQUIT, -9),
])
def test_asked_for_stops_end_with_0(start: Start, number: int, workers_see: int) -> None:
    master = start("-n", "2", "-m", "notify", "--", *WORKER, "notify")
    recorder = master.record()
    master.wait_ready()
    master.signal(number)
    gone = recorder.wait_for("worker-gone", count=2)
    assert gone["status"] == workers_see
    assert master.wait_exit() == 0


def test_a_second_signal_hurries(start: Start) -> None:
    master = start("-n", "1", "-m", "notify", "--graceful-timeout", "1000", "--", *WORKER, "notify",
                   "deaf")
    recorder = master.record()
    master.wait_ready()
    master.signal(signal.SIGINT)
    recorder.wait_for("worker-retiring")
    assert master.status()["gate"] == "stopping"
    master.signal(signal.SIGINT)
    assert master.wait_exit() == 0


def test_hup_upgrades_and_tt_scales(start: Start) -> None:
    master = start("-n", "2", "-m", "notify", "--", *WORKER, "notify")
    master.wait_ready()
    master.signal(signal.SIGHUP)
    document = master.wait_status(lambda each: each["gate"] == "ready" and each["generation"] == 2)
    assert document["upgrade"]["requested_by"] == "signal HUP"
    master.signal(signal.SIGTTIN)
    master.wait_status(lambda each: each["ready"] == 3 == each["target"])
    master.signal(signal.SIGTTOU)
    master.wait_status(lambda each: len(each["workers"]) == each["target"] == 2)
    master.signal(signal.SIGTTOU)
    master.wait_status(lambda each: len(each["workers"]) == each["target"] == 1)
    master.signal(signal.SIGTTOU)
    master.wait_log("signal ignored signal=TTOU")
    assert master.status()["target"] == 1


def test_usr2_stops_einhorns_users_master_and_upgrades_everybody_elses(start: Start) -> None:
    master = start("-n", "1", "-m", "manual", "-c", "theirs", "--", *WORKER, "ack")
    master.wait_ready()
    master.signal(signal.SIGUSR2)
    assert master.wait_exit() == 0
    master = start("-n", "1", "-m", "notify", "-c", "ours", "--", *WORKER, "notify")
    master.wait_ready()
    master.signal(signal.SIGUSR2)
    document = master.wait_status(lambda each: each["gate"] == "ready" and each["generation"] == 2)
    assert document["upgrade"]["requested_by"] == "signal USR2"


def test_usr1_goes_to_the_workers(start: Start, place: Path) -> None:
    seen = place / "seen"
    master = start("-n", "2", "-m", "notify", "--", *WORKER, "notify", f"usr1={seen}")
    pids = {worker["pid"] for worker in master.wait_ready()["workers"]}
    master.signal(signal.SIGUSR1)
    wait_until(lambda: seen.exists() and {int(line) for line in seen.read_text().split()} == pids,
               "USR1 in every worker")


# --- starting ---


def test_a_first_start_that_fails_gives_up_with_3(place: Path) -> None:
    result = attempt(place, "-n", "1", "-m", "notify", "--max-failures", "2", "--", *WORKER,
                     "crash-before")
    assert result.returncode == 3
    assert "no worker became ready in 2 starts" in result.stderr
    assert "exited with code 7 before it was ready" in result.stderr


def test_start_errors_are_one_line(start: Start, place: Path) -> None:
    master = start("-n", "1", "-b", "127.0.0.1:0", "-b", f"unix:{place}/app", "-m", "notify", "-c",
                   "web", "--", *WORKER, "notify")
    master.wait_ready()
    port = master.address[1]
    (place / "file").write_text("x")
    sleeping = ["--", "sleep", "1000"]
    for arguments, code, line in [
        (["-c", "other", "-b", f"127.0.0.1:{port}", *sleeping], 1,
         f"einhornpy: cannot bind 127.0.0.1:{port}: the address is in use by pid {master.pid}"),
        (["-c", "web",
          *sleeping], 1, f"einhornpy: another master named web is running (pid {master.pid})"),
        (["-b", f"unix:{place}/app", *sleeping], 1, "another process is listening there"),
        (["-b", f"unix:{place}/file", *sleeping], 1, "it exists and is no socket"),
        (["-b", "198.51.100.7:0", *sleeping], 1, "no interface of this host has this address"),
        (["--", "no-such-command"], 1,
         "cannot run 'no-such-command': command not found (looked in PATH)"),
        (["--chdir", "/nowhere",
          *sleeping], 1, "cannot start workers in /nowhere: No such file or directory"),
        (["-e", "/nowhere/pid",
          *sleeping], 1, "cannot write the pidfile /nowhere/pid: No such file or directory"),
        (["-d", "/nowhere/x.sock",
          *sleeping], 1, "cannot make /nowhere/x.lock: No such file or directory"),
        (["-b", "nonsense", *sleeping], 2, "--bind: 'nonsense' is no address: expected HOST:PORT"),
        (["-n", "0", *sleeping], 2, "--number: got '0', expected a whole number of at least 1"),
        (["-n", "2"], 2, "no command: expected one to run as a worker"),
        (["--nonsense", *sleeping], 2, "No such option"),
        (["--ready-timeout", "1", *sleeping], 2,
         "--ready-timeout: 1 s is not longer than the 1 s after which a worker is guessed"),
        (["--warm-up", "/",
          *sleeping], 2, "--warm-up: only gunicorn's workers can be warmed up from inside"),
        (["-m", "soon", *sleeping], 2,
         "--ack-mode: got 'soon', expected auto, manual, notify, gunicorn or a number of seconds"),]:
        result = attempt(place, *arguments)
        assert (result.returncode, line in result.stderr,
                result.stderr.count("\n")) == (code, True, 1), (arguments, result.returncode,
                                                                result.stderr)
    assert master.status()["ready"] == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up a capability")
@pytest.mark.skipif(
    int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80,
    reason="80 is free")
def test_a_port_without_the_right_to_it(place: Path) -> None:
    result = subprocess.run([
        "setpriv", "--bounding-set=-net_bind_service", EINHORNPY, "-b", "127.0.0.1:80", "--",
        "sleep", "1000"], cwd=place, text=True, capture_output=True, env=base_environment(place),
                            timeout=60, check=False)
    assert result.returncode == 1
    assert "permission denied (ports below 1024 need root or CAP_NET_BIND_SERVICE)" in result.stderr


def test_an_old_kernel_is_refused(place: Path) -> None:
    result = subprocess.run(["setarch", "--uname-2.6", EINHORNPY, "--", "sleep", "1000"], cwd=place,
                            text=True, timeout=60, capture_output=True, env=base_environment(place),
                            check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("einhornpy: cannot run on Linux 2.6.")
    assert result.stderr.endswith("expected Linux, kernel 5.4 or newer\n")


def test_unix_sockets_are_made_safely_and_removed(start: Start, place: Path) -> None:
    path = place / "app.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(path))
    master = start("-n", "1", "-b", f"unix:{path},mode=600", "-m", "notify", "--", *WORKER,
                   "notify", "serve")
    master.wait_ready()
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    assert get(str(path))[0] == 200
    os.kill(master.status()["workers"][0]["pid"], signal.SIGKILL)
    assert path.exists()
    master.wait_status(lambda each: each["ready"] == 1 and each["workers"][0]["restarts"] == 1)
    assert get(str(path))[0] == 200
    assert master.stop() == 0
    assert not path.exists()


def test_an_inherited_descriptor_is_adopted(start: Start, place: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        os.set_inheritable(listening.fileno(), True)
        fd = listening.fileno()
        process = subprocess.Popen([
            EINHORNPY, "-n", "1", "-b", f"fd://{fd}", "-m", "notify", "--", *WORKER, "notify",
            "serve"], cwd=place, env=base_environment(place), pass_fds=[fd], stderr=subprocess.PIPE,
                                   text=True)
        try:
            assert get(listening.getsockname())[0] == 200
        finally:
            process.terminate()
            _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log


def test_pidfile_is_written_and_removed(start: Start, place: Path) -> None:
    pidfile = place / "pid"
    pidfile.write_text("999999999\n")  # stale
    master = start("-n", "1", "-m", "notify", "-e", str(pidfile), "--", *WORKER, "notify")
    master.wait_ready()
    assert pidfile.read_text() == f"{master.pid}\n"
    assert master.stop() == 0
    assert not pidfile.exists()


def test_settings_from_file_environment_and_flags(start: Start, place: Path) -> None:
    config = place / "web.toml"
    config.write_text(
        'number = 3\nack-mode = "notify"\ncommand-name = "filed"\nmax-surge = 2\n'
        f"command = {json.dumps([*WORKER, 'notify', f'report={place}/report'])}\n[env]\nFROM = "
        "\"file\"\n"
    )
    master = start("--config", str(config), "-n", "1",
                   environment={"EINHORNPY_NUMBER": "2", "EINHORNPY_COMMAND_NAME": "e"})
    document = master.wait_ready()
    assert (document["target"], document["name"]) == (1, "e")
    assert reports(place / "report")[0]["environment"]["FROM"] == "file"
    config.write_text("max-surge = 0\ncommand = ['sleep', '9']\n")
    result = attempt(place, "--config", "web.toml")
    assert result.returncode == 2
    assert (result.stderr ==
            "einhornpy: web.toml: max-surge: got 0, expected a whole number of at least 1\n")
    config.write_text("nonsense = 0\n")
    assert "web.toml: nonsense: no such setting" in attempt(place, "--config", "web.toml").stderr
    result = attempt(place, "--", "sleep", "9", environment={"EINHORNPY_MAX_SURGE": "x"})
    assert (result.returncode, result.stderr) == (
        2, "einhornpy: EINHORNPY_MAX_SURGE: got 'x', expected a whole number of at least 1\n")


def test_a_stale_master_makes_room(start: Start, place: Path) -> None:
    first = start("-n", "1", "-c", "web", "-m", "notify", "--", *WORKER, "notify")
    first.wait_ready()
    first.signal(signal.SIGKILL)
    first.wait_exit()
    second = start("-n", "1", "-c", "web", "-m", "notify", "--", *WORKER, "notify")
    second.wait_ready()
    assert second.stop() == 0
    assert not list(place.glob("run/einhornpy/*"))


def test_a_log_that_nobody_reads_stops_nothing(place: Path) -> None:
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [EINHORNPY, "-n", "1", "-d", f"{place}/x.sock", "-m", "notify", "--", *WORKER, "notify"],
        cwd=place, env=base_environment(place), stdout=subprocess.DEVNULL, stderr=writer)
    os.set_blocking(writer, False)
    try:
        wait_listening(place / "x.sock")
        with Client(f"{place}/x.sock", timeout=60) as client:
            while fill(writer):
                pass
            os.set_blocking(writer, True)
            assert client.ask("upgrade")["result"]["outcome"] == "done"
        os.set_blocking(reader, False)
        while drain(reader):
            pass
        os.set_blocking(reader, True)
        with Client(f"{place}/x.sock", timeout=60) as client:
            client.ask("scale", to=2)
        os.close(writer)
        writer = -1
        process.terminate()
        assert process.wait(60) == 0
        with open(reader, errors="replace", closefd=False) as log:
            said = log.read()
        # The master has kept for later what could not be written, and told it as soon as somebody
        # read again.
        assert "upgrade ended" in said
        assert "scaled" in said
    finally:
        process.kill()
        process.wait()
        os.close(reader)
        if writer >= 0:
            os.close(writer)


def fill(fd: int) -> bool:
    try:
        os.write(fd, b"x" * 4096)
    except BlockingIOError:
        return False
    return True


def drain(fd: int) -> bool:
    try:
        return bool(os.read(fd, 65536))
    except BlockingIOError:
        return False


def test_files_of_the_app_do_not_shadow_the_masters_modules(start: Start, place: Path) -> None:
    for name in ("json", "signal", "selectors", "settings", "click", "queue"):
        (place / f"{name}.py").write_text("raise RuntimeError('the wrong module')\n")
    master = start("-n", "1", "-m", "notify", "--", sys.executable, "-P", str(APPS / "worker.py"),
                   "notify")
    assert master.wait_ready()["ready"] == 1
