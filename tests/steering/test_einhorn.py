"""What speaks Einhorn works unchanged: the wire, the commands, the flags, and real clients."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from einhornpy.shared import protocol
from hypothesis import given
from hypothesis import strategies as st

from ..airbag import check
from ..harness import (
    APPS,
    BIN,
    DEADLINE,
    EINHORNPY,
    ROOT,
    Master,
    base_environment,
    get,
    wait_until,
)
from ..launch.test_run import attempt
from ..load import Load

Start = Callable[..., Master]
WORKER = [sys.executable, str(APPS / "worker.py")]
RUBY = shutil.which("ruby")
BASEPLATE = ROOT / ".venv-baseplate" / "bin" / "baseplate-serve"


def escaped(text: str, all_of_it: bool = False) -> bytes:
    """A request as Einhorn's clients send it; some escape more than they must."""
    if all_of_it:
        return urllib.parse.quote(text, safe="").encode() + b"\n"
    return text.replace("%", "%25").replace("\n", "%0A").encode() + b"\n"


def conversation(master: Master, data: bytes) -> list[dict[str, Any]]:
    """Every answer up to the last one, each read as JSON and as YAML."""
    found: list[dict[str, Any]] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(master.path)
        connection.sendall(data)
        with connection.makefile("rb") as answers:
            for line in answers:
                found.append(json.loads(line))
                assert yaml.safe_load(line.decode()) == found[-1]
                if not found[-1].get("wait"):
                    break
    return found


# --- the wire ---

texts = st.text(
    st.characters(codec="utf-8") | st.sampled_from("%+ \\\"'\n\t\x7f\x85\u2028\ufeff:#{}[]&*!|>"),
    max_size=40)
documents = st.dictionaries(
    texts,
    st.one_of(texts, st.integers(-2**53, 2**53), st.booleans(), st.none(),
              st.floats(0, 1e9).map(lambda number: round(number, 3)), st.lists(texts, max_size=3)),
    max_size=4)


@given(documents)
def test_a_reply_reads_the_same_as_json_as_yaml_and_unescaped(document: dict[str, Any]) -> None:
    line = protocol.encode(document)
    assert line.count(b"\n") == 1
    assert json.loads(line) == document
    assert yaml.safe_load(line.decode()) == document
    for decoded in (urllib.parse.unquote_plus(line.decode()),
                    line.decode().replace("%25", "%").replace("%0A", "\n")):
        assert json.loads(decoded) == document


@given(texts.filter(bool), texts)
def test_a_request_in_escaped_yaml_is_understood(command: str, word: str) -> None:
    text = yaml.safe_dump({"id": 7, "command": command, "args": [word], "pid": 3})
    for all_of_it in (False, True):
        request = protocol.parse_request(escaped(text, all_of_it).removesuffix(b"\n"))
        assert (request.id, request.command, request.words, request.beside) == (7, command, (word,),
                                                                                {"pid": 3})


@pytest.mark.parametrize("text", [
    "!!python/object/apply:os.system ['touch /tmp/never']", "!ruby/object:Gem::Installer {}",
    "a: &a {b: 1}\nc: {<<: *a}", "command: [", "- 1", "x" * 20_000,
    "command: ping\nargs: {a: &a [*a]}", "command: " + "[" * 5000, "id: 0x" + "f" * 5000,
    "{id: 0x" + "f" * 5000 + ", command: ping}",
    "command: ping\nargs: [[[[[[[[[[[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]]]]]]]]]]",])
def test_yaml_that_makes_objects_or_makes_work_is_refused(text: str) -> None:
    with pytest.raises(protocol.BadRequest):
        protocol.parse_request(escaped(text).removesuffix(b"\n"))


# --- commands ---


@pytest.fixture
def master(start: Start) -> Master:
    running = start("-n", "2", "-m", "manual", "-c", "web", "-b", "127.0.0.1:0", "--stop-signal",
                    "TERM", "--", *WORKER, "ack")
    running.wait_ready()
    return running


def say(master: Master, command: str, *args: str, **beside: Any) -> str:
    """One command as einhornsh sends it; the message of its only answer."""
    (answer,) = conversation(
        master, escaped(yaml.safe_dump({"id": 3, "command": command, "args": list(args),
                                        **beside})))
    assert answer["request_id"] == 3
    return str(answer["message"])


def test_every_command_of_einhorns(master: Master) -> None:
    assert say(master, "ehlo", user="gdb").startswith("Welcome, gdb! This is the master web, pid ")
    listed = say(master, "help")
    for command in ("state", "upgrade", "upgrade_fleet", "inc", "dec", "set_workers", "signal",
                    "die", "config", "quieter", "louder", "reload", "ehlo", "help"):
        assert f"\n{command}: " in listed
    assert say(master, "inc") == "number of workers: 2 -> 3"
    assert say(master, "dec") == "number of workers: 3 -> 2"
    assert say(master, "set_workers", "4") == "number of workers: 2 -> 4"
    assert say(master, "config", "{':number':", "1}") == "number of workers: 4 -> 1"
    assert say(master, "config", "config: {number: 2}") == "number of workers: 1 -> 2"
    master.wait_status(lambda each: each["ready"] == 2 == len(each["workers"]))
    assert say(master, "signal", "cont",
               "SIGURG") == "SIGCONT sent to 2 workers\nSIGURG sent to 2 workers"
    assert say(master, "louder") == "logging details too"
    assert say(master, "quieter") == "logging what happens"
    assert "pid" in say(master, "reload")
    assert say(master, "die") == "stopping (graceful)"
    assert master.wait_exit() == 0


@pytest.mark.parametrize(("command", "args", "line"), [
    ("set_workers", ["many"], "set_workers: got 'many', expected a whole number"),
    ("set_workers", [], "got 0 arguments"), ("set_workers", ["0"], "0 workers asked for"),
    ("signal", ["NOPE"], "got 'NOPE'"), ("signal", [], "got 0 arguments"),
    ("die", ["CONT"], "die: got 'CONT', expected one of SIGUSR2"),
    ("config", ["seconds: 3"], "seconds cannot change"),
    ("config", ["[1]"], "expected a YAML mapping"), ("config", ["number: x"], "number: got 'x'"),
    ("fly", [], "no such command"), ("ping", ["x"], "ping takes no words"),])
def test_wrong_words_are_one_line_and_change_nothing(master: Master, command: str, args: list[str],
                                                     line: str) -> None:
    assert line in say(master, command, *args)
    assert master.status()["target"] == 2


@pytest.mark.parametrize(("command", "kind"), [("upgrade", "rolling"), ("upgrade_fleet", "fleet")])
def test_an_upgrade_streams_and_ends_in_upgrade_done(master: Master, command: str,
                                                     kind: str) -> None:
    answers = conversation(master, escaped(f"---\ncommand: {command}\nid: 9\nargs: []\n"))
    assert [answer["request_id"] for answer in answers] == [9] * len(answers)
    assert answers[0]["message"].startswith("upgrade started from=1 to=2")
    assert (answers[-1]["message"], "wait" in answers[-1]) == ("Upgrade done", False)
    assert master.status()["upgrade"]["kind"] == kind
    # Einhorn's oldest clients send no id, and read one answer.
    (only,) = conversation(master, escaped(f"---\ncommand: {command}\n"))
    assert (only["message"], only["request_id"]) == ("upgrade to generation 3 accepted", None)
    master.wait_status(lambda each: each["gate"] == "ready" and each["generation"] == 3)


def test_an_upgrade_that_goes_back_says_so(start: Start, place: Path) -> None:
    broken = place / "broken"
    script = f'test -e {broken} && exit 9; exec "$0" "$@"'
    master = start("-n", "1", "-m", "manual", "--max-failures", "1", "--", "sh", "-c", script,
                   *WORKER, "ack")
    master.wait_ready()
    broken.touch()
    last = conversation(master, escaped("command: upgrade\nid: 1\n"))[-1]
    assert last["message"] == "Upgrade rolled-back: a worker exited with code 9 before it was ready"


def test_state_has_einhorns_keys(master: Master) -> None:
    state = yaml.safe_load(say(master, "state"))[":state"]
    children = state[":children"]
    assert set(children) == {worker["pid"] for worker in master.status()["workers"]}
    for child in children.values():
        assert {
            key: child[key]
            for key in (":type", ":version", ":acked", ":signaled", ":pinged_at",
                        ":pinged_request_id")} == {
                            ":type": ":worker", ":version": 1, ":acked": True, ":signaled": [],
                            ":pinged_at": None, ":pinged_request_id": None}
    assert sorted(child[":index"] for child in children.values()) == [0, 1]
    assert (state[":version"], state[":upgrading"], state[":respawn"],
            state[":cmd_name"]) == (1, False, True, "web")
    assert state[":config"][":number"] == 2
    assert state[":ack_mode"] == {":type": ":manual"}
    assert state[":socket_path"] == master.path


# --- clients ---


def test_a_worker_that_acks_and_pings_in_yaml(start: Start, place: Path) -> None:
    code = (
        "import os, signal, socket\n"
        "def say(text):\n"
        "    s = socket.socket(socket.AF_UNIX); s.connect(os.environ['EINHORN_SOCK_PATH'])\n"
        "    s.sendall(text.replace('\\n', '%0A').encode() + b'\\n'); assert s.recv(1) == b'', 'no "
        "reply, and closed'\n"
        "say(f'---\\ncommand: worker:ack\\npid: {os.getpid()}\\n')\n"
        "say(f'---\\ncommand: worker:ping\\npid: {os.getpid()}\\nrequest_id: req-7\\n')\n"
        "signal.pause()")
    master = start("-n", "1", "-m", "manual", "--", sys.executable, "-c", code)
    pid = master.wait_ready()["workers"][0]["pid"]
    child = wait_until(
        lambda: (each := yaml.safe_load(say(master, "state"))[":state"][":children"][pid])[
            ":pinged_at"] and each, "the ping", master.log)
    assert child[":pinged_request_id"] == "req-7"


def test_the_control_socket_as_a_descriptor(start: Start) -> None:
    """As a PHP worker does it: a line of JSON to the descriptor, without a path, and later another
    one."""
    code = (
        "import json, os, signal\n"
        "fd = int(os.environ['EINHORN_SOCK_FD'])\n"
        "os.write(fd, json.dumps({'command': 'worker:ack', 'pid': os.getpid()}).encode() + "
        "b'\\n')\n"
        "os.write(fd, json.dumps({'command': 'worker:ping', 'pid': os.getpid(), 'request_id': "
        "'r'}).encode() + b'\\n')\n"
        "os.write(fd, b'{\"id\": 1, \"command\": \"stop\"}\\n'); print(os.read(fd, "
        "10000).decode(), flush=True)\n"
        "signal.pause()")
    master = start("-n", "2", "-g", "-m", "manual", "-b", "127.0.0.1:0", "--", sys.executable, "-c",
                   code)
    master.wait_ready()
    wait_until(
        lambda: all(each[":pinged_request_id"] == "r" for each in yaml.safe_load(
            say(master, "state"))[":state"][":children"].values()), "both pings", master.log)
    assert "this connection is a worker's own" in master.wait_log("not-allowed")
    assert all(each["state"] == "ready" for each in master.status()["workers"])
    assert master.cli("upgrade").returncode == 0, "the new ones have descriptors of their own"


def test_a_worker_that_floods_its_descriptor_loses_it_and_nothing_else(start: Start) -> None:
    code = (
        "import json, os, signal\n"
        "fd = int(os.environ['EINHORN_SOCK_FD'])\n"
        "os.write(fd, json.dumps({'command': 'worker:ack', 'pid': os.getpid()}).encode() + "
        "b'\\n')\n"
        "try:\n"
        "    while True: os.write(fd, b'x' * 65536)\n"
        "except (BrokenPipeError, ConnectionResetError): print('cut off', flush=True)\n"
        "signal.pause()")
    master = start("-n", "1", "-g", "-m", "manual", "--stop-signal", "TERM", "--", sys.executable,
                   "-c", code)
    master.wait_log("cut off")
    assert master.wait_ready()["workers"][0]["restarts"] == 0


def test_a_client_that_undoes_query_encoding(master: Master) -> None:
    """As a Go client does it with url.QueryUnescape: a plus must survive."""
    assert master.cli("upgrade", "--release", "1.0+b 50%25").returncode == 0
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(master.path)
        connection.sendall(
            urllib.parse.quote(json.dumps({"id": 1, "command": "status"})).encode() + b"\n")
        with connection.makefile() as answers:
            answer = json.loads(urllib.parse.unquote_plus(answers.readline()))
    assert answer["result"]["release"] == "1.0+b 50%25"


@pytest.mark.skipif(RUBY is None, reason="ruby is not installed (Debian's package ruby)")
def test_ruby_speaks_its_own_yaml(master: Master) -> None:
    requests: list[dict[str,
                        Any]] = [{"command": "ehlo", "user": "gdb"}, {"id": 1, "command": "state"},
                                 {"id": 2, "command": "upgrade",
                                  "args": []}, {"id": 3, "command": "signal", "args": ["SIGCONT"]},
                                 {"id": 4, "command": "set_workers", "args": ["50%\n+é😀"]},
                                 {"command": "worker:ack", "pid": os.getpid()},]
    ran = subprocess.run([str(RUBY), str(APPS / "einhorn_client.rb"), master.path],
                         capture_output=True, text=True, timeout=DEADLINE,
                         input="".join(json.dumps(request) + "\n" for request in requests),
                         env={**os.environ, "LANG": "C.UTF-8"})
    assert ran.returncode == 0, ran.stderr
    *answers, last = ran.stdout.splitlines()
    assert last == "closed", "an ack gets no reply, and the connection is closed"
    read = [json.loads(answer) for answer in answers]
    assert read[0]["message"].startswith("Welcome, gdb!")
    child = next(iter(read[1]["state"]["state"]["children"].values()))
    assert (child["type"], child["acked"], child["signaled"]) == ("worker", True,
                                                                  []), "symbols, to Ruby"
    assert (read[-3]["message"], read[-3]["request_id"]) == ("Upgrade done", 2)
    assert len(read) > 8, "a long reply"
    assert read[-2]["message"] == "SIGCONT sent to 2 workers"
    assert read[-1]["message"] == "set_workers: got '50%\\n+é😀', expected a whole number"


@pytest.mark.skipif(not BASEPLATE.exists(), reason="baseplate is not installed (make test does it)")
def test_baseplate_serve_runs_unchanged(start: Start, place: Path) -> None:
    (place / "shop.py").write_text(
        "def make_app(config):\n"
        "    def app(environ, start_response):\n"
        "        start_response('200 OK', [('Content-Length', '3')])\n"
        "        return [b'hi\\n']\n"
        "    return app\n")
    (place / "shop.ini").write_text(
        "[app:main]\nfactory = shop\n[server:main]\nfactory = baseplate.server.wsgi\n"
        "drain_time = 1 second\nstop_timeout = 10 seconds\n")
    master = start("-n", "2", "-m", "manual", "-b", "127.0.0.1:0", "--chdir", str(place), "--",
                   str(BASEPLATE), "shop.ini",
                   environment={"PROMETHEUS_MULTIPROC_DIR": str(place)})  # it won't start without
    master.wait_ready()
    recorder = master.record()
    assert get(master.address) == (200, "hi\n")
    with Load(master.address, rate=40, slow=0.0) as load:
        result = master.cli("upgrade")
        assert result.returncode == 0, result.stdout + result.stderr + master.log()
    assert not load.report.failures, load.report.why()
    check(recorder, 2)
    assert "worker killed" not in master.log()


# --- flags ---


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
    assert "SECRET" not in given["environment"]
    assert given["environment"]["EINHORN_FDS"] == "3 4"
    assert given["environment"]["EINHORN_FD_FAMILY_1"] == "AF_INET"
    assert "socket" in given["descriptors"][given["environment"]["EINHORN_SOCK_FD"]]
    assert (place / "pid").read_text() == f"{master.pid}\n"
    assert (place / "lock").read_text() == f"{master.pid}\n"
    assert os.getpriority(os.PRIO_PROCESS, master.pid) == 1
    assert {os.getpriority(os.PRIO_PROCESS, worker["pid"]) for worker in document["workers"]} == {3}
    state = yaml.safe_load(say(master, "state"))[":state"]
    assert (state[":signal_timeout"], state[":lockfile"],
            state[":config"][":max_unacked"]) == (9.0, f"{place}/lock", 1)
    assert master.cli("reload").returncode == 0


@pytest.mark.parametrize(
    ("flags", "line"), [(("-p", "app.rb"), "--preload: it loads Ruby code"),
                        (("--preload", "x"), "--preload: it loads Ruby code"),
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


# --- the shell ---


def test_the_shell_for_scripts(master: Master) -> None:
    result = master.cli("shell", "-e", "set_workers 1; upgrade", "-e", "status")
    assert result.returncode == 0, result.stderr
    assert "number of workers: 2 -> 1" in result.stdout
    assert "\nUpgrade done\nready: 1 of 1 workers ready on generation 2" in result.stdout
    result = master.cli("shell", "-e", "fly; status")
    assert (result.returncode, result.stdout) == (1, "")
    assert "no such command: 'fly'" in result.stderr
    result = master.cli("shell", "-e", "scale to=2; upgrade release=r2 wait=false; signal 'CONT")
    assert "cannot read" in result.stderr
    piped = subprocess.run([EINHORNPY, "shell", "-d", master.path], input="ehlo\n\nhelp\n",
                           text=True, capture_output=True, env=master.environment, timeout=DEADLINE)
    assert piped.returncode == 0
    assert "Welcome" in piped.stdout


def test_the_shell_on_a_terminal(master: Master, place: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        environment = master.environment | {
            "TERM": "vt100", "XDG_STATE_HOME": str(place / "state"), "USER": "gdb"}
        os.execve(EINHORNPY, [EINHORNPY, "shell", "-d", master.path], environment)
    seen = b""

    def read_until(text: bytes) -> None:
        nonlocal seen
        while text not in seen:
            assert select.select([terminal], [], [], DEADLINE)[0], seen
            seen += os.read(terminal, 65536)
        seen = seen[seen.index(text) + len(text):]

    try:
        read_until(b"Welcome, gdb!")
        read_until(b"> ")
        os.write(terminal, b"upg\t_fl\t\n")  # completed twice
        read_until(b"Upgrade done")
        read_until(b"> ")
        os.write(terminal, b"\x1b[A\n")  # the line before, from the history
        read_until(b"Upgrade done")
        read_until(b"> ")
        os.write(terminal, b"exit\n")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)
    assert (place / "state" / "einhornpy_history").read_text().splitlines()[0] == "upgrade_fleet"


def test_the_shell_reads_on_after_what_it_cannot_read(master: Master) -> None:
    for text, code, seen in (('"unclosed\nehlo\n', 1, "Welcome"), ("exit\nehlo\n", 0, ""),
                             ("scale by=--5\n", 1, ""), ("history\nshow generation=1\n", 0,
                                                         '"generation": 1')):
        ran = subprocess.run([EINHORNPY, "shell", "-d", master.path], input=text, text=True,
                             capture_output=True, env=master.environment, timeout=DEADLINE)
        assert (ran.returncode, seen in ran.stdout, "Traceback"
                in ran.stderr) == (code, True, False), ran.stderr
    assert master.cli("shell", "-e", "'unclosed").returncode == 1


def test_the_shell_without_a_master(place: Path) -> None:
    result = subprocess.run([str(BIN / "einhornpy"), "shell", "-d", f"{place}/none.sock"],
                            env=base_environment(place), text=True, capture_output=True,
                            timeout=DEADLINE)
    assert (result.returncode, "no master at" in result.stderr) == (69, True)
