"""Logs: formats and places, what workers print, sinks that are slow, full or gone, and nothing lost
without being counted."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from einhornpy.supervisor.logs import formats, output, sinks
from einhornpy.supervisor.logs.log import Source
from einhornpy.supervisor.reporting.events import Entry, Event
from einhornpy.supervisor.system import processes
from einhornpy.supervisor.system.guard import Guard
from einhornpy.supervisor.system.loop import Loop
from hypothesis import given
from hypothesis import strategies as st

from ..harness import (
    APPS,
    DEADLINE,
    EINHORNPY,
    EXAMPLE,
    Master,
    base_environment,
    get,
    keepers,
    open_files,
    wait_gone,
    wait_listening,
    wait_until,
    what_they_do,
)

Start = Callable[..., Master]
JOURNALD = "/lib/systemd/systemd-journald"
WORKER = [sys.executable, str(APPS / "worker.py"), "notify"]
# Says ready, prints what it is told to, and stays. Signals wake it by a pipe: one that came just
# before `signal.pause()` would not.
SAY = """
import os, signal, socket, sys
woken, waker = os.pipe()
os.set_blocking(waker, False)
signal.set_wakeup_fd(waker)
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect(os.environ["NOTIFY_SOCKET"])
{}
notify.send(b"READY=1")
while True: os.read(woken, 1)
"""


def saying(code: str) -> list[str]:
    """The command of a worker that runs this code before it says ready."""
    return [sys.executable, "-c", SAY.format(code)]


def records(master: Master) -> list[dict[str, Any]]:
    """The log's JSON objects."""
    return [json.loads(line) for line in master.log().splitlines() if line.startswith("{")]


def let_it_print_alone(master: Master) -> None:
    """Kill the master; tell its one worker, by SIGUSR2, to print and then to make the file
    `printed`; end the worker."""
    (worker,) = master.wait_ready()["workers"]
    master.process.kill()
    master.process.wait()
    os.kill(worker["pid"], signal.SIGUSR2)
    wait_until((master.directory / "printed").exists, "the worker to have printed",
               lambda: master.log() + what_they_do())
    os.kill(worker["pid"], signal.SIGTERM)
    wait_gone(worker["pid"])


# --- formats --------------------------------------------------------------------------------------


def test_json_and_logfmt(start: Start) -> None:
    labels = ["-c", "web", "--labels", "region=eu west"]
    master = start("-n", "1", "-m", "notify", *labels, "--log-format", "json", "--", *WORKER)
    master.wait_ready()
    assert master.cli("upgrade", "--release", "r2").returncode == 0
    assert master.stop() == 0
    assert all(line.startswith("{") for line in master.log().splitlines())
    told = records(master)
    ready = [each for each in told if each["event"] == "worker-ready"][-1]
    assert (ready["name"], ready["level"], ready["index"], ready["generation"]) == ("web", "info",
                                                                                    0, 2)
    assert ready["labels"] == {"hostname": os.uname().nodename, "region": "eu west"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", ready["time"])
    assert [each["event"] for each in told][-1] == "master-stopped"

    master = start("-n", "1", "-m", "notify", *labels, "--log-format", "logfmt", "--", *WORKER)
    master.wait_ready()
    line = master.wait_log("event=worker-ready")
    assert re.fullmatch(
        r"time=\S+Z name=web level=info event=worker-ready index=0 pid=\d+ generation=1 took=\S+ "
        r"hostname=\S+ region=\"eu west\"", line)


@given(
    st.text(max_size=30),
    st.dictionaries(st.from_regex("[a-z_]{1,8}", fullmatch=True), st.text(max_size=30), max_size=4))
def test_any_text_is_one_line(text: str, fields: dict[str, str]) -> None:
    entry = Entry(Event.WORKER_FAILED, {"error": text, **fields})
    for line in (formats.text_line(entry, "web", 0.0), formats.json_line(entry, "web", fields, 0.0),
                 formats.logfmt_line(entry, "web", fields, 0.0)):
        assert len(line.splitlines()) == 1
    assert json.loads(formats.json_line(entry, "web", {}, 0.0))["labels"] == {}


def test_yes_and_no_are_said_alike_in_each_form() -> None:
    entry = Entry(Event.WORKER_READY, {"index": 0, "guessed": True})
    assert " guessed=true" in formats.text_line(entry, "web", 0.0)
    assert " guessed=true" in formats.logfmt_line(entry, "web", {}, 0.0)
    assert '"guessed": true' in formats.json_line(entry, "web", {}, 0.0)


def journal_fields(data: bytes) -> dict[str, str]:
    """What a reader of journald's protocol makes of a datagram."""
    fields = {}
    while data:
        line, _, rest = data.partition(b"\n")
        key, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(rest[:8], "little")
            value, rest = rest[8:8 + length], rest[9 + length:]
        fields[key.decode()] = value.decode()
        data = rest
    return fields


def test_journald_datagrams_keep_newlines() -> None:
    fields = journal_fields(
        formats.journal_datagram("one\ntwo", 6, "web", {"index": 3, "nothing": None}))
    assert fields == {
        "MESSAGE": "one\ntwo", "PRIORITY": "6", "SYSLOG_IDENTIFIER": "web", "SYSLOG_FACILITY": "3",
        "EINHORNPY_INDEX": "3"}


# --- places ---------------------------------------------------------------------------------------


def test_a_file_that_is_moved_away_is_opened_anew(start: Start, place: Path) -> None:
    master = start("-n", "1", "-m", "notify", "--log-file", "einhornpy.log", "--", *WORKER,
                   f"usr1={place}/usr1")
    master.wait_ready()
    log = place / "einhornpy.log"
    wait_until(lambda: "worker ready" in log.read_text(), "the log")
    assert master.log() == ""
    log.rename(place / "old.log")
    master.signal(signal.SIGUSR1)
    wait_until(log.exists, "a new log")
    master.cli("scale", "2")
    wait_until(lambda: "scaled" in log.read_text(), "the new log")
    assert "scaled" not in (place / "old.log").read_text()
    # Workers that know the signal open theirs anew as well.
    wait_until(lambda: (place / "usr1").exists(), "the worker's handler")
    # One that can't be opened costs nothing: the old one goes on.
    log.rename(place / "older.log")
    log.mkdir()
    master.signal(signal.SIGUSR1)
    wait_until(lambda: "log file not opened anew" in (place / "older.log").read_text(),
               "the reason")


def test_usr1_ends_no_worker_that_does_not_know_it(start: Start) -> None:
    master = start("-n", "1", "-m", "notify", "--", *WORKER)
    (worker,) = master.wait_ready()["workers"]
    master.signal(signal.SIGUSR1)
    master.cli("scale", "2")
    master.wait_status(lambda document: document["ready"] == 2)
    assert [each["restarts"] for each in master.status()["workers"]] == [0, 0]
    assert master.status()["workers"][0]["pid"] == worker["pid"]


@pytest.mark.parametrize(("arguments", "line"), [
    (["--log-file", "/nowhere/x"
      ], "--log-file: cannot write /nowhere/x: No such file or directory"),
    (["--log-file", "x", "--log-to", "journal"
      ], "--log-file: the log goes to journal (--log-to): expected one of them"),
    (["--log-to", "mars"], "--log-to: got 'mars', expected stderr, journal or syslog"),
    (["--worker-output", "both"
      ], "--worker-output: got 'both', expected inherit, prefix or json"),])
def test_a_log_that_cannot_be_is_one_line(start: Start, arguments: list[str], line: str) -> None:
    master = start(*arguments, "--", *WORKER)
    assert master.wait_exit() == 2
    assert master.log() == f"einhornpy: {line}\n"


@contextlib.contextmanager
def journald() -> Iterator[Callable[[], None]]:
    """A real systemd-journald that keeps its journal in memory; yields a function that starts it
    anew."""
    directories = [Path("/run/systemd/journal"), Path("/run/log/journal")]
    missing = [
        each for directory in directories for each in reversed((directory, *directory.parents))
        if not each.exists()]
    for directory in directories:
        directory.mkdir(parents=True, exist_ok=True)
    running: list[subprocess.Popen[bytes]] = []

    def end() -> None:
        for process in running:
            process.terminate()
            process.wait()
        running.clear()
        (directories[0] / "socket").unlink(missing_ok=True)

    def start_it() -> None:
        end()
        running.append(
            subprocess.Popen([JOURNALD], env={"SYSTEMD_LOG_TARGET": "console"},
                             stderr=subprocess.DEVNULL))
        wait_until((directories[0] / "socket").exists, "journald's socket")

    try:
        start_it()
        yield start_it
    finally:
        end()
        for each in missing:
            shutil.rmtree(each, ignore_errors=True)


def journal(name: str, event: str) -> list[dict[str, str]]:
    """What journalctl finds."""
    out = subprocess.run(["journalctl", "-t", name, f"EINHORNPY_EVENT={event}", "-o", "json"],
                         capture_output=True, text=True).stdout
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.skipif(os.geteuid() != 0 or os.path.exists("/run/systemd/journal/socket"),
                    reason="starts a journald of its own")
def test_the_journal_gets_native_fields(start: Start) -> None:
    name = f"web{os.getpid()}"
    with journald() as start_it_anew:
        master = start("-n", "1", "-m", "notify", "-c", name, "--log-to", "journal",
                       "--worker-output", "prefix", "--release", "r1", "--labels", "region=eu",
                       "--", *saying("print('from a worker', file=sys.stderr, flush=True)"))
        (ready,) = wait_until(lambda: journal(name, "worker-ready"), "the journal")
        assert (ready["PRIORITY"], ready["EINHORNPY_INDEX"], ready["EINHORNPY_GENERATION"],
                ready["EINHORNPY_REGION"]) == ("6", "0", "1", "eu")
        assert ready["MESSAGE"].startswith("worker ready index=0 ")
        assert ready["_PID"] == str(master.pid)
        (said,) = wait_until(lambda: journal(name, "worker-output"), "the worker's line")
        assert (said["MESSAGE"], said["EINHORNPY_STREAM"],
                said["EINHORNPY_RELEASE"]) == ("from a worker", "stderr", "r1")
        assert master.log() == ""
        # One that is started again is found again.
        start_it_anew()
        master.cli("scale", "2")
        wait_until(lambda: journal(name, "scaled"), "the journal after its restart")
        assert master.stop() == 0


# --- workers' output ------------------------------------------------------------------------------


def test_prefix_says_who(start: Start) -> None:
    code = ("print('out here', flush=True); print('err here', file=sys.stderr); "
            "sys.stderr.write('half'); sys.stderr.flush()")
    master = start("-n", "1", "-m", "notify", "-c", "web", "--release", "r1", "--labels",
                   "region=eu", "--worker-output", "prefix", "--", *saying(code))
    (worker,) = master.wait_ready()["workers"]
    head = f"web region=eu index=0 pid={worker['pid']} generation=1 release=r1"
    assert master.wait_log("out here") == f"{head} stdout| out here"
    assert master.wait_log("err here") == f"{head} stderr| err here"
    assert master.wait_status(
        lambda document: document["workers"][0]["last_lines"])["workers"][0]["last_lines"] == [
            "err here"]
    master.stop()
    assert f"{head} stderr| half\n" in master.log()  # at its end it is a line


def test_json_lines_hold_anything(start: Start) -> None:
    code = r"""
sys.stdout.buffer.write(b'bytes \xff\x00\x1b[31m \xe2\x82\xac\n')
sys.stdout.buffer.write(b'x' * 40000 + b'\n')
sys.stdout.buffer.write(b'{"level": "info"}\r\n\n')
sys.stdout.flush()
"""
    master = start("-n", "1", "-m", "notify", "--worker-output", "json", "--labels", "region=eu",
                   "--", *saying(code))
    master.wait_ready()
    wait_until(
        lambda: len([each for each in records(master) if each["event"] == "worker-output"]) == 6,
        "six records", master.log)
    said = [each for each in records(master) if each["event"] == "worker-output"]
    assert said[0]["message"] == "bytes \\xff\x00\x1b[31m €"
    assert [(len(each["message"]), each.get("partial", False)) for each in said[1:4]] == [
        (16384, True), (16384, True), (7232, False)]
    assert said[4]["message"] == '{"level": "info"}\r'
    assert said[5]["message"] == ""
    assert (said[0]["stream"], said[0]["index"], said[0]["generation"]) == ("stdout", 0, 1)
    assert said[0]["labels"] == {"hostname": os.uname().nodename, "region": "eu"}


@pytest.mark.parametrize("mode", ["inherit", "prefix", "json"])
def test_the_last_lines_of_a_start_that_fails_are_told(start: Start, mode: str) -> None:
    flag = ("if os.path.exists('broken'):\n    for i in range(30): "
            "print('line', i, file=sys.stderr)\n    sys.exit(3)")
    master = start("-n", "1", "-m", "notify", "--max-failures", "1", "--worker-output", mode, "--",
                   *saying(flag))
    assert master.wait_ready()["failed_start"] is None
    (master.directory / "broken").touch()
    done = master.cli("upgrade", "--json")
    assert done.returncode == 5
    lines = [f"line {number}" for number in range(10, 30)]
    assert json.loads(done.stdout)["upgrade"]["last_lines"] == lines
    document = master.status()
    assert document["upgrade"]["last_lines"] == lines
    assert document["failed_start"] == {
        "generation": 2, "error": "line 29", "last_lines": lines}
    assert document["upgrade"]["reason"] == "a worker exited with code 3 before it was ready"
    refused = master.cli("upgrade")
    assert refused.returncode == 5
    assert "line 29" in refused.stderr
    assert "line 29" in master.cli("status").stdout
    assert "line 0" in master.log()  # it went where it would have gone without us


def test_a_first_start_that_fails_and_one_that_hangs_are_explained(start: Start) -> None:
    master = start(
        "-n", "1", "-m", "notify", "--ready-timeout", "0.5", "--max-failures", "2", "-s", "30",
        "--", sys.executable, "-c",
        "import sys, signal; print('waiting for the database', file=sys.stderr, flush=True); "
        "signal.pause()"
    )
    document = master.wait_status(lambda document: document["failed_start"])
    assert document["failed_start"]["last_lines"] == ["waiting for the database"]
    assert document["failed_start"]["error"] == "was not ready within 0.5 s"


def test_gunicorn_takes_the_real_standard_error_when_it_is_ready(start: Start) -> None:
    master = start("-n", "1", "-b", "127.0.0.1:0", "--chdir", str(EXAMPLE), "--", "gunicorn",
                   "app:wsgi")
    (worker,) = master.wait_ready()["workers"]
    assert os.readlink(f"/proc/{worker['pid']}/fd/2") == str(master.log_path)
    assert not [
        name for name in os.listdir(f"/proc/{worker['pid']}/fd")
        if "pipe:" in os.readlink(f"/proc/{worker['pid']}/fd/{name}") and name in ("1", "2")]
    assert "Booting worker" in master.log()
    assert not [command for command in _below(master.pid) if "keeper" in command]


def _below(pid: int) -> list[str]:
    """The command lines of a process's children."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found.append(Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def test_a_broken_import_in_gunicorn_brings_its_traceback(start: Start, place: Path) -> None:
    (place / "app.py").write_text(
        "def wsgi(environ, start_response):\n    start_response('200 OK', [])\n    return [b'']\n")
    master = start("-n", "1", "-b", "127.0.0.1:0", "--max-failures", "1", "--", "gunicorn",
                   "app:wsgi", cwd=place)
    master.wait_ready()
    (place / "app.py").write_text("import nothing_like_that\n")
    assert master.cli("upgrade").returncode == 5
    lines = master.status()["upgrade"]["last_lines"]
    assert len(lines) == 20
    assert "ModuleNotFoundError: No module named 'nothing_like_that'" in lines


@pytest.mark.parametrize("mode", ["inherit", "prefix"])
def test_workers_whose_master_is_killed_still_have_a_reader(start: Start, mode: str) -> None:
    """They go on without it, and whatever they print neither ends nor blocks them."""
    code = """
def more(number, frame):
    sys.stderr.write('\\x1b[31m\\x9b1m\\u202e ende f\\xfcr \\u20ac after its death '
                     + 'x' * 200000 + '\\n')
    sys.stderr.flush()
    open('printed', 'w').close()
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
signal.signal(signal.SIGUSR2, more)
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
"""
    master = start("-n", "1", "-m", "notify", "--keep-children-on-exit", "--worker-output", mode,
                   "--", *saying(code))
    let_it_print_alone(master)
    told = master.wait_log("after its death").partition(" after")[0]
    raw = "\x1b[31m\x9b1m\u202e ende f\xfcr \u20ac"
    escaped = "\\x1b[31m\\x9b1m\\u202e ende f\xfcr \u20ac"
    assert told.endswith(raw if mode == "inherit" else escaped)


@pytest.mark.parametrize("lines", [2_000, 40_000])
def test_workers_whose_master_is_killed_wait_for_no_log(start: Start, lines: int) -> None:
    """What nobody reads for the time being waits, up to 1 MiB; what is more is counted."""
    code = f"""
def more(number, frame):
    for number in range({lines}):
        print('%099d' % number, file=sys.stderr)
    open('printed', 'w').close()
signal.signal(signal.SIGUSR2, more)
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
"""
    reader, writer = os.pipe()
    master = start("-n", "1", "-m", "notify", "--keep-children-on-exit", "--", *saying(code),
                   stderr=writer)
    os.close(writer)
    let_it_print_alone(master)
    with open(reader, "rb") as log:
        read = log.read().splitlines()
    whole = [int(line) for line in read if line.isdigit() and len(line) == 99]
    dropped = sum(
        int(line.rpartition(b"lines=")[2]) for line in read
        if line.startswith(b"einhornpy keeper: log lines dropped"))
    assert whole == sorted(whole)
    if lines * 100 < 1 << 20:
        assert (len(whole), dropped) == (lines, 0)
    else:
        # A dropped piece may begin and end in the middle of a line.
        assert dropped > 0
        assert len(whole) <= lines - dropped
        assert len([line for line in read
                    if line.strip(b"0123456789") == b"" and line]) >= lines - dropped


def test_a_keeper_that_dies_is_replaced(start: Start) -> None:
    master = start("-n", "1", "-m", "notify", "--worker-output", "prefix", "--", *WORKER)
    master.wait_ready()
    (old,) = wait_until(lambda: keepers(master.pid), "a keeper")
    os.kill(old, signal.SIGKILL)
    master.wait_log("keeper died")
    (new,) = wait_until(lambda: [pid for pid in keepers(master.pid) if pid != old],
                        "another keeper")
    # The new one holds the pipes of the worker that was there before it.
    pipes = {os.readlink(f"/proc/{master.status()['workers'][0]['pid']}/fd/{fd}") for fd in (1, 2)}
    wait_until(lambda: pipes <= {*open_files(new).values()}, "the pipes held")


def test_output_goes_on_through_a_reload(start: Start, place: Path) -> None:
    code = """
sys.stdout.write('first '); sys.stdout.flush()
def more(number, frame):
    print('second', flush=True)
signal.signal(signal.SIGUSR2, more)
"""
    master = start("-n", "1", "-m", "notify", "--worker-output", "prefix", "--", *saying(code))
    (worker,) = master.wait_ready()["workers"]
    assert master.cli("reload").returncode == 0
    os.kill(worker["pid"], signal.SIGUSR2)
    assert master.wait_log("second").endswith("stdout| first second")


def test_a_closed_stream_and_one_left_to_others(start: Start) -> None:
    code = """
import subprocess
subprocess.Popen(['sh', '-c', 'trap "" TERM; while [ ! -e go ]; do sleep 0.05; done; '
                  'echo from the child'], start_new_session=True)
os.close(1)
os.close(2)
"""
    master = start("-n", "1", "-m", "notify", "--worker-output", "prefix", "--", *saying(code))
    (worker,) = master.wait_ready()["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    master.wait_log("worker died")
    (master.directory / "go").touch()
    assert master.wait_log("from the child").partition(" stdout| ")[0].endswith(
        f"pid={worker['pid']} generation=1")


# --- slow, full, gone -----------------------------------------------------------------------------

FLOOD = "import threading\nthreading.Thread(target=lambda: [print('flood', i, 'x' * 80) " \
        "for i in range(200000)] and print('over', flush=True), daemon=True).start()"


def test_a_flood_that_nobody_reads_stops_nothing_and_is_counted(place: Path) -> None:
    reader, writer = os.pipe()
    process = subprocess.Popen([
        EINHORNPY, "-n", "1", "-d", f"{place}/x.sock", "-m", "notify", "--web", "127.0.0.1:0",
        "--worker-output", "prefix", "--", *saying(FLOOD + "\n")], cwd=place,
                               env=base_environment(place), stdout=subprocess.DEVNULL,
                               stderr=writer)
    os.close(writer)
    try:
        from einhornpy.control.client import Client

        wait_listening(place / "x.sock")

        def tally() -> dict[str, int]:
            with Client(f"{place}/x.sock", timeout=DEADLINE) as client:
                found: dict[str, int] = client.ask("tally")["result"]["log"]
                return found

        # The worker gets rid of all of it, the master goes on answering, and says how much nobody
        # has read.
        wait_until(lambda: tally()["lines"] > 200000, "the flood")
        with Client(f"{place}/x.sock", timeout=DEADLINE) as client:
            assert client.ask("upgrade")["result"]["outcome"] == "done"
        counted = tally()
        assert counted["dropped"] > 100000
        os.set_blocking(reader, False)
        said = bytearray()
        with Client(f"{place}/x.sock", timeout=DEADLINE) as client:
            client.ask("stop", how="now")
        while process.poll() is None or select.select([reader], [], [], 0)[0]:
            if select.select([reader], [], [], 0.05)[0]:
                chunk = os.read(reader, 1 << 20)
                if not chunk:
                    break
                said += chunk
        lines = said.decode().splitlines()
        noted = sum(
            int(line.partition("lines=")[2].split()[0]) for line in lines
            if " log lines dropped " in line)
        assert noted > 100000
    finally:
        process.kill()
        process.wait()
        os.close(reader)


@pytest.mark.parametrize("mode", ["prefix", "json"])
def test_a_flood_that_is_read_arrives_whole(start: Start, mode: str) -> None:
    master = start("-n", "1", "-m", "notify", "--worker-output", mode, "--log-file", "all.log",
                   "--", *saying(FLOOD))
    master.wait_ready()
    log = master.directory / "all.log"
    wait_until(lambda: b"over" in log.read_bytes()[-4000:], "the end of the flood", master.log)
    numbers = re.findall(rb"flood (\d+) x{80}", log.read_bytes())
    assert [int(number) for number in numbers] == list(range(200000))
    assert master.ask("tally")["result"]["log"]["dropped"] == 0


def test_a_full_disk_is_counted_and_costs_nothing(start: Start, place: Path) -> None:
    """/dev/full is one that always is."""
    master = start("-n", "1", "-m", "notify", "--log-file", "/dev/full", "--", *WORKER)
    master.wait_ready()
    assert master.cli("upgrade").returncode == 0
    counted = master.ask("tally")["result"]["log"]
    assert counted["dropped"] == counted["lines"] > 5


def test_inherit_waits_as_a_worker_would_that_wrote_itself(place: Path) -> None:
    """Nothing of what comes through us is dropped, however slow its reader is."""
    reader, writer = os.pipe()
    code = "import threading\nthreading.Thread(target=lambda: [print('err', i, 'x' * 80, " \
           "file=sys.stderr) for i in range(50000)], daemon=True).start()"
    process = subprocess.Popen(
        [EINHORNPY, "-n", "1", "-d", f"{place}/x.sock", "-m", "notify", "--", *saying(code)],
        cwd=place, env=base_environment(place), stdout=subprocess.DEVNULL, stderr=writer)
    os.close(writer)
    try:
        ready = subprocess.run(
            [EINHORNPY, "status", "-d", f"{place}/x.sock", "--wait", "--timeout", "60"],
            capture_output=True, timeout=DEADLINE, cwd=place, env=base_environment(place))
        assert ready.returncode == 0, ready.stderr
        said = bytearray()
        while b"err 49999 " not in said[-5000:]:
            assert select.select([reader], [], [], DEADLINE)[0]
            said += os.read(reader, 1 << 16)
        # The master's own lines may stand between any two bytes of others', as with any log that
        # several write to.
        others = re.sub(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ python3 [^\n]*\n", b"", said)
        numbers = [int(number) for number in re.findall(rb"err (\d+) x{80}\n", others)]
        assert numbers == list(range(50000))
        process.terminate()
        while os.read(reader, 1 << 16):
            pass
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(reader)


@given(st.lists(st.binary(max_size=50), max_size=8))
def test_no_byte_is_lost_in_cutting(chunks: list[bytes]) -> None:
    pipe = output.Pipe(-1, 1, Source(0, 1, 1, None))
    longest, output.LONGEST = output.LONGEST, 7
    try:
        pieces = [piece for chunk in chunks for piece in output.cut(pipe, chunk)]
    finally:
        output.LONGEST = longest
    said = b"".join(text + (b"" if goes_on else b"\n") for text, _, goes_on in pieces) + pipe.rest
    assert said == b"".join(chunks)
    assert all(len(text) <= 7 for text, _, _ in pieces)
    # A piece goes on where the one before it did not end.
    for (_, _, goes_on), (_, continues, _) in itertools.pairwise(pieces):
        assert goes_on == continues


def test_requests_are_served_meanwhile(start: Start) -> None:
    master = start("-n", "2", "-b", "127.0.0.1:0", "--worker-output", "json", "--chdir",
                   str(EXAMPLE), "--", "gunicorn", "--access-logfile", "-", "app:wsgi")
    master.wait_ready()
    for _ in range(20):
        assert get(master.address)[0] == 200
    wait_until(
        lambda: sum('"GET / HTTP/1.0' in each.get("message", "") for each in records(master)) == 20,
        "the access log", master.log)


class Narrow(sinks.Sink):
    """Takes so many bytes, then nothing more until `more`; or has no room on its disk at all."""

    def __init__(self) -> None:
        self.taken = bytearray()
        self.left = 0
        self.full = False

        class Loop:
            def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None: ...
            def unwatch(self, fd: int) -> None: ...

        super().__init__(Loop(), sinks.Counts(), lambda dropped: b"%d dropped\n" % dropped)

    def _send(self, data: memoryview) -> int:
        if self.full:
            raise OSError("no space left on device")
        if not self.left:
            raise BlockingIOError
        part = data[:self.left]
        self.taken += part
        self.left -= len(part)
        return len(part)

    def fileno(self) -> int:
        return -1

    def more(self, count: int) -> None:
        self.left += count
        self.flush()


def test_notes_say_how_many_were_lost_and_no_line_stands_behind_half_a_line() -> None:
    sink = Narrow()
    sink.more(8)
    sink.put(b"one whole line\n")
    sink.full = True
    for _ in range(5):
        sink.put(b"lost\n")
    sink.full = False
    sink.more(1000)
    sink.put(b"the last\n")
    # What was lost: the line that was cut, five, and no note of any of them.
    assert sink.taken == b"one whol\n6 dropped\nthe last\n"
    assert (sink._counts.lines, sink._counts.dropped, sink._counts.unsaid) == (7, 6, 0)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), max_size=30))
def test_a_reload_cuts_no_line_whatever_is_unwritten(steps: list[tuple[int, int]]) -> None:
    sink, taken, put = Narrow(), bytearray(), 0
    for room, lines in steps:
        for _ in range(lines):
            sink.put(b"line %d of many\n" % put)
            put += 1
        sink.more(room)
        handed_over = json.loads(json.dumps(sink.hand_over()))
        taken += sink.taken
        sink = Narrow()
        sink.take_over([sinks.KeptUnwritten(**each) for each in handed_over])
    sink.more(1 << 20)
    assert (taken + sink.taken).decode().splitlines() == [
        f"line {number} of many" for number in range(put)]


def test_a_keeper_holds_the_pipes_of_many(start: Start) -> None:
    """More than fit into one message, or into the socket at once."""
    master = start("-n", "200", "-m", "0.2", "--min-ready-seconds", "0",
                   "--worker-output", "prefix", "--log-file", "/dev/null", "--", "sleep", "1000")
    master.wait_status(lambda document: document["ready"] == 200)

    (old,) = keepers(master.pid)
    wait_until(lambda: len(os.listdir(f"/proc/{old}/fd")) == 404, "all pipes held")
    os.kill(old, signal.SIGKILL)
    (new,) = wait_until(lambda: [pid for pid in keepers(master.pid) if pid != old],
                        "another keeper")
    wait_until(lambda: len(os.listdir(f"/proc/{new}/fd")) == 404, "all pipes held by the new one")


def test_a_flood_of_empty_lines_delays_nobody_for_long(start: Start) -> None:
    """What is compared is how many lines pass in a turn of the loop: no turn may take them all."""
    code = "import threading\nthreading.Thread(target=lambda: [os.write(1, b'\\n' * 65536) " \
           "for _ in range(60)], daemon=True).start()"
    master = start("-n", "4", "-m", "notify", "--worker-output", "json", "--log-file", "/dev/null",
                   "--", *saying(code))
    master.wait_ready()
    counts = [0]
    while counts[-1] < 4 * 60 * 65536:
        counts.append(master.ask("tally")["result"]["log"]["lines"])
    # Each answer lies between two turns; a client may miss some of them.
    assert len(counts) > 60


def test_with_very_many_descriptors_open(place: Path) -> None:
    """A reload beside a thousand workers opens its log behind their pipes, and ends a sidecar;
    select(2) would know neither."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
    opened: list[int] = []
    try:
        while not opened or opened[-1] < 1100:
            opened.append(os.open(os.devnull, os.O_RDONLY))
        reader, writer = os.pipe()
        opened += [reader, writer]
        loop = Loop([], Guard(lambda entry: None, lambda: None))
        log = sinks.Descriptor(writer, loop, sinks.Counts(), lambda dropped: b"")
        while not log._unwritten:  # until the pipe is full
            log.put(b"x" * 65536 + b"\n")
        log.close()
        running = processes.Processes()
        pid = running.start(processes.Launch(["sleep", "1000"], "/", {"PATH": os.environ["PATH"]}))
        assert running.end(pid)
        assert not Path(f"/proc/{pid}").exists()
        running.close()
        loop.close()
    finally:
        for fd in opened:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_datagram_stays_whole_however_long_it_is(place: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader:
        reader.bind(str(place / "log"))
        reader.settimeout(DEADLINE)
        loop = Loop([], Guard(lambda entry: None, lambda: None))
        sink = sinks.Datagrams(str(place / "log"), loop, sinks.Counts(), lambda dropped: b"")
        sink.put(b"x" * 100_000)
        assert len(reader.recv(1 << 20)) == 100_000
        sink.close()
        loop.close()


def test_a_reload_survives_a_log_that_nobody_reads_any_more(start: Start, place: Path) -> None:
    fifo = str(place / "log.fifo")
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDWR)
    master = start("-n", "1", "-m", "notify", "--log-file", fifo, "--", *WORKER)
    worker = master.wait_ready()["workers"][0]["pid"]
    # it leaves when the old master's end is closed
    with subprocess.Popen(["cat", fifo], stdout=subprocess.DEVNULL) as reader:
        wait_until(lambda: fifo in open_files(reader.pid).values(), "the reader")
        os.close(held)
        assert master.cli("reload").returncode == 0
    assert [each["pid"] for each in master.status()["workers"]] == [worker]


def test_a_keeper_that_died_before_a_reload_is_there_after_it(start: Start) -> None:
    master = start("-n", "1", "-m", "notify", "--worker-output", "prefix", "--", *WORKER)
    master.wait_ready()

    (first,) = wait_until(lambda: keepers(master.pid), "the keeper", master.log)
    os.kill(first, signal.SIGKILL)
    assert master.cli("reload").returncode == 0
    wait_until(lambda: [each for each in keepers(master.pid) if each != first], "another keeper",
               master.log)
