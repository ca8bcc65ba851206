"""The command line: exit codes that a script can trust, one line for what is wrong, and what people
see."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import select
import signal
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from einhornpy.control import gate
from einhornpy.control.cli.group import MODULES, commands_of, names
from einhornpy.control.cli.main import ended
from einhornpy.control.client import Client, MasterGone

from ..harness import APPS, DEADLINE, EINHORNPY, ROOT, Master, base_environment, wait_until
from ..terminals import on_terminal

Start = Callable[..., Master]
WORKER = [sys.executable, str(APPS / "worker.py")]


def run(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([EINHORNPY, *arguments], env=base_environment(place), cwd=place,
                          capture_output=True, text=True, timeout=DEADLINE, check=False)


def good(start: Start, *arguments: str, **options: Path) -> Master:
    master = start("-n", "2", "-m", "notify", *arguments, "--", *WORKER, "notify", **options)
    master.wait_ready()
    return master


# --- status ---


def test_ready_is_0_and_the_document_has_the_documented_keys(start: Start) -> None:
    master = good(start, "-b", "127.0.0.1:0")
    assert master.cli("upgrade", "--release", "r").returncode == 0
    result = master.cli("status", "--json")
    assert result.returncode == 0
    document = json.loads(result.stdout)
    page = (ROOT / "docs" / "status.md").read_text()
    shown = json.loads(re.findall(r"```json\n(.*?)```", page, re.DOTALL)[0])
    assert document.keys() == shown.keys()
    for key in ("master", "upgrade"):
        assert document[key].keys() == shown[key].keys()
    for key in ("workers", "listeners"):
        assert document[key][0].keys() == shown[key][0].keys()


def test_wait_gives_a_master_that_starts_some_time(start: Start, place: Path) -> None:
    waiting = subprocess.Popen([EINHORNPY, "status", "--wait", "-d", f"{place}/x.sock"],
                               env=base_environment(place), stdout=subprocess.PIPE, text=True)
    start("-d", "x.sock", "-n", "1", "-m", "notify", "--", *WORKER, "notify")
    out, _ = waiting.communicate(timeout=60)
    assert (waiting.returncode, "ready: 1 of 1" in out) == (0, True)


def test_serving_asks_for_the_present_alone(start: Start, place: Path) -> None:
    flag = place / "broken"
    master = start("-n", "2", "-m", "notify", "--max-failures", "1", "--", "sh", "-c",
                   f'test -e {flag} && exit 9; exec "$0" "$@"', *WORKER, "notify")
    master.wait_ready()
    flag.touch()
    assert master.cli("upgrade").returncode == 5
    assert (master.cli("status").returncode, master.cli("status", "--serving").returncode) == (5, 0)
    for worker in master.status()["workers"]:
        os.kill(worker["pid"], 9)
    master.wait_status(lambda each: each["ready"] == 0)
    result = master.cli("status", "--serving")
    assert (result.returncode, "; 0 of 2 workers ready" in result.stdout) == (5, True)
    flag.unlink()
    master.wait_status(lambda each: each["ready"] == 2)
    assert master.cli("status", "--serving").returncode == 0
    assert master.cli("status", "--serving", "--wait").returncode == 2


def test_whoever_waits_is_told_that_the_master_has_ended(start: Start) -> None:
    master = start("-n", "1", "-m", "manual", "--", *WORKER, "silent")
    master.wait_status(lambda each: each["workers"])
    with Client(master.path, timeout=DEADLINE) as client:
        replies = client.replies("status", follow=True)
        next(replies)
        master.process.kill()
        with pytest.raises(MasterGone, match="the master has ended; its log says why"):
            list(replies)


@pytest.mark.parametrize(("words", "meant"), [
    (["-c", "f2", "status"], "einhornpy status -c f2"),
    (["run", "-d", "x", "upgrade", "--json"], "einhornpy upgrade -d x --json"),
    (["-n", "4", "stop"], "einhornpy stop"), (["run", "list"], "einhornpy list"),])
def test_options_before_a_command(place: Path, words: list[str], meant: str) -> None:
    result = run(place, *words)
    assert (result.returncode, f"did you mean `{meant}`?"
            in " ".join(result.stderr.split())) == (2, True), result.stderr
    separated = run(place, *words[:-1], "-d", "/nowhere/x", "--",
                    "list") if words[-1] == "list" else None
    assert separated is None or "did you mean" not in separated.stderr


def test_how_many_workers_there_may_be(place: Path) -> None:
    result = run(place, "scale", "100000000000")
    assert (result.returncode, "expected 1 to 10000 workers" in result.stderr) == (2, True)


def test_starting_is_3(start: Start) -> None:
    master = start("-n", "1", "-m", "manual", "--", *WORKER, "silent")
    assert master.path
    assert master.cli("status").returncode == 3
    result = master.cli("status", "--wait", "--timeout", "0.3")
    assert result.returncode == 124
    assert result.stderr == "einhornpy: no final answer within 0.3 s: 0 of 1 workers ready\n"


def test_upgrading_is_3_superseded_is_7_and_interrupted_130(start: Start, place: Path) -> None:
    flag = place / "stuck"
    script = f'test -e {flag} && exec sleep 1000; exec "$0" "$@"'
    master = start("-n", "1", "-m", "notify", "--", "sh", "-c", script, *WORKER, "notify")
    master.wait_ready()
    recorder = master.record()
    flag.touch()
    with subprocess.Popen([EINHORNPY, "upgrade"], env=master.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as first, \
            subprocess.Popen([EINHORNPY, "status", "--wait", "--generation", "3"], env=master.environment,
                             stdout=subprocess.DEVNULL) as waiting:
        recorder.wait_for("worker-starting", generation=2)
        assert master.cli("status").returncode == 3
        flag.unlink()
        with subprocess.Popen([EINHORNPY, "upgrade"], env=master.environment,
                              stdout=subprocess.PIPE, text=True) as second:
            assert first.wait(DEADLINE) == 7
            assert first.stderr is not None
            assert first.stderr.read() == "einhornpy: upgrade superseded by generation 3\n"
            assert second.wait(DEADLINE) == 0
        assert waiting.wait(DEADLINE) == 0
    flag.touch()
    with subprocess.Popen([EINHORNPY, "upgrade"], env=master.environment, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as third:
        recorder.wait_for("worker-starting", generation=4)
        third.send_signal(signal.SIGINT)
        assert third.wait(DEADLINE) == 130
        assert third.stderr is not None
        assert "the upgrade goes on without you" in third.stderr.read()
    assert master.status()["gate"] == "upgrading"
    with subprocess.Popen([EINHORNPY, "upgrade", "--json"], env=master.environment,
                          stderr=subprocess.PIPE, text=True) as last:
        recorder.wait_for("upgrade-started", to=5)
        master.signal(signal.SIGTERM)
        assert last.wait(DEADLINE) == 6
    assert master.wait_exit() == 0
    assert master.cli("status").returncode == 69


def test_degraded_is_4_and_rolled_back_5(start: Start, place: Path) -> None:
    flag = place / "broken"
    script = f'test -e {flag} && exit 9; exec "$0" "$@"'
    master = start("-n", "1", "-m", "notify", "--max-failures", "1", "--", "sh", "-c", script,
                   *WORKER, "notify")
    pid = master.wait_ready()["workers"][0]["pid"]
    flag.touch()
    result = master.cli("upgrade", "--json")
    assert result.returncode == 5
    assert json.loads(result.stdout)["outcome"] == "rolled-back"
    result = master.cli("status", "--wait", "--timeout", "60")
    assert result.returncode == 5
    assert "generation 2 was refused: a worker exited with code 9" in result.stdout
    flag.unlink()
    assert master.cli("upgrade").returncode == 0
    flag.touch()
    pid = master.status()["workers"][0]["pid"]
    os.kill(pid, signal.SIGKILL)
    master.wait_status(lambda each: each["gate"] == "degraded")
    assert master.cli("status", "--wait").returncode == 4


def test_stopping_is_6(start: Start) -> None:
    master = start("-n", "1", "-m", "notify", "--graceful-timeout", "1000", "--", *WORKER, "notify",
                   "deaf")
    master.wait_ready()
    recorder = master.record()
    master.signal(signal.SIGTERM)
    recorder.wait_for("stopping")
    assert master.cli("status").returncode == 6
    assert master.cli("upgrade").returncode == 6
    assert master.cli("stop", "--now").returncode == 0
    assert master.wait_exit() == 0


def test_a_stale_answer_cannot_open_the_gate(start: Start) -> None:
    master = good(start)
    assert master.cli("status", "--release", "new").returncode == 3
    assert master.cli("status", "--generation", "2").returncode == 3
    assert master.cli("status", "--release", "new", "--wait", "--timeout", "0.3").returncode == 124
    with subprocess.Popen([EINHORNPY, "status", "--release", "new", "--wait"],
                          env=master.environment, stdout=subprocess.DEVNULL) as waiting:
        assert master.cli("upgrade", "--no-wait", "--release",
                          "new").stdout == "upgrade to generation 2 accepted\n"
        assert waiting.wait(DEADLINE) == 0
    assert master.cli("status", "--generation", "2").returncode == 0
    assert master.cli("status", "--generation", "1", "--wait").returncode == 5


def test_verdicts_of_every_gate() -> None:
    document = {"gate": "", "reason": "r", "generation": 3, "newest_generation": 3, "release": "x"}
    for word, code in gate.CODES.items():
        assert gate.verdict(document | {"gate": word}).code == code
        assert gate.verdict(document | {"gate": word},
                            generation=4).code == (3 if word == "ready" else code)


def test_status_is_cheap(start: Start) -> None:
    """Less than twice a bare `import click`, whole processes, interleaved; in processor time, which
    other tests don't lengthen."""
    master = good(start)
    seconds: dict[str, list[float]] = {"status": [], "click": []}
    for _ in range(10):
        for name, command in (("status", [EINHORNPY, "status"]),
                              ("click", [sys.executable, "-c", "import click"])):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, env=master.environment, stdout=subprocess.DEVNULL, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds[name].append(after.ru_utime + after.ru_stime - before.ru_utime -
                                 before.ru_stime)
    assert statistics.median(seconds["status"]) < 2 * statistics.median(seconds["click"]), seconds


def test_people_see_80_columns_and_colour_only_where_they_want_it(start: Start) -> None:
    master = good(start, "-b", "127.0.0.1:0")
    out = master.cli("status").stdout
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out
    for environment, coloured in [({}, True), ({"NO_COLOR": "1"}, False)]:
        code, seen = on_terminal([EINHORNPY, "status"], master.environment | environment)
        assert code == 0
        assert ("\x1b[32mready" in seen) == coloured


def test_an_upgrade_on_a_terminal_shows_progress(start: Start) -> None:
    master = good(start)
    code, seen = on_terminal([EINHORNPY, "upgrade"], master.environment)
    assert code == 0
    assert "2/2" in seen
    assert "upgrade done: generation 2" in seen


# --- the other commands ---


def test_scale_signal_stop_events_list_version(start: Start, place: Path) -> None:
    master = good(start, "-c", "web")
    with subprocess.Popen([EINHORNPY, "events", "--json"], env=master.environment,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as events:
        assert events.stdout is not None
        follower = events.stdout.fileno()
        # It follows once it has seen something.
        wait_until(lambda: master.ask("scale", to=2) and select.select([follower], [], [], 0)[0],
                   "the first event")
        assert master.cli("scale", "3").stdout == "number of workers: 2 -> 3\n"
        assert master.cli("scale", "-1").stdout == "number of workers: 3 -> 2\n"
        assert master.cli("scale", "+1").stdout == "number of workers: 2 -> 3\n"
        master.wait_ready()
        assert master.cli("signal", "WINCH").stdout.startswith("SIGWINCH sent to ")
        assert master.cli("list").stdout.split() == ["web", "pid", str(master.pid), master.path]
        assert json.loads(master.cli("list", "--json").stdout) == [{
            "name": "web", "pid": master.pid, "socket": master.path}]
        assert master.cli("version").stdout == master.cli("--version").stdout == "einhornpy 0.1.0\n"
        assert master.cli("stop").stdout == "stopped\n"
        assert master.wait_exit() == 0
        out, err = events.communicate(timeout=DEADLINE)
        assert events.returncode == 6
        assert err == "einhornpy: the master is gone\n"
    documents = [json.loads(line) for line in out.splitlines()]
    names = [each["event"] for each in documents]
    assert {each["level"] for each in documents} == {"info"}, "nothing went wrong"
    assert names.count("scaled") >= 4
    assert names[-1] == "master-stopped"


def test_a_master_that_does_not_answer_is_not_taken_for_none(start: Start) -> None:
    master = good(start, "-c", "web")
    master.signal(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor() as pool:  # each waits its ten seconds
            status, listed, *others = pool.map(master.cli,
                                               ("status", "list", "upgrade", "stop", "events"))
        assert (status.returncode,
                status.stderr) == (124,
                                   "einhornpy: the master does not answer: no answer in time\n")
        assert "no answer" in listed.stdout
        assert [each.returncode for each in others] == [124] * 3
    finally:
        master.signal(signal.SIGCONT)


@pytest.mark.parametrize("answer", [
    '{"ok": true, "result": {}}', '{"ok": true, "result": []}', '{"ok": false, "error": 7}', "[]",
    "hello"])
def test_who_answers_nonsense_is_one_line(place: Path, answer: str) -> None:
    with socket.socket(socket.AF_UNIX) as liar:
        liar.bind(f"{place}/liar.sock")
        liar.listen()
        with subprocess.Popen([EINHORNPY, "status", "-d", f"{place}/liar.sock"],
                              env=base_environment(place), text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as asking:
            liar.settimeout(DEADLINE)
            with liar.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(f"{answer}\n".encode())
                out, err = asking.communicate(timeout=DEADLINE)
    assert (out, err.count("\n")) == ("", 1), err
    assert asking.returncode in (1, 6)


@pytest.mark.parametrize("timeout", ["nan", "inf", "1e400", "1e9", "-1", "0", "9" * 400])
def test_a_time_that_no_clock_can_wait_for_is_wrong_usage(place: Path, timeout: str) -> None:
    result = run(place, "status", "--wait", "--timeout", timeout)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr


def test_a_mistyped_command_starts_nothing(place: Path) -> None:
    result = run(place, "upgarde", "--release", "r2")
    assert (result.returncode, result.stderr) == (
        2,
        "einhornpy: no such command: 'upgarde', did you mean 'upgrade'? To run a program of this "
        "name: einhornpy -- upgarde\n"
    )
    assert run(
        place, "--",
        "upgarde").stderr == "einhornpy: cannot run 'upgarde': command not found (looked in PATH)\n"
    (place / "upgarde").write_text("#!/bin/sh\nexit 9\n")
    (place / "upgarde").chmod(0o755)
    environment = base_environment(place) | {"PATH": f"{place}:{os.environ['PATH']}"}
    ran = subprocess.run([EINHORNPY, "upgarde"], env=environment, capture_output=True, text=True)
    assert "exited with code 9" in ran.stderr


def test_stop_returns_when_the_process_is_gone(start: Start) -> None:
    master = start("-n", "1", "-m", "notify", "--", *WORKER, "notify")
    master.wait_ready()
    assert master.cli("stop").returncode == 0
    assert master.process.poll() == 0


def test_several_masters_are_listed(start: Start, place: Path) -> None:
    first, second = good(start, "-c", "one"), good(start, "-c", "two")
    result = run(place, "status")
    assert result.returncode == 69
    assert result.stderr.count("\n") == 1
    assert "choose one with -c NAME or -d PATH; one at " in result.stderr
    assert first.path in result.stderr
    assert run(place, "status", "-c", "two").returncode == 0
    assert run(place, "status", "-d", second.path).returncode == 0
    assert run(place, "status", "-c", "three").returncode == 69
    environment = base_environment(place) | {"EINHORNPY_SOCKET_PATH": first.path}
    out = subprocess.run([EINHORNPY, "status"], env=environment, capture_output=True, text=True,
                         check=True).stdout
    assert out.startswith("one: ")


def test_after_two_dashes_a_subcommand_is_a_command(start: Start, place: Path) -> None:
    script = place / "status"
    script.write_text(f"#!/bin/sh\nexec {' '.join(WORKER)} notify\n")
    script.chmod(0o755)
    for arguments in (["-m", "notify", "-n", "1", "--",
                       "status"], ["run", "-m", "notify", "-n", "1", "--", "status"]):
        master = start(*arguments, environment={"PATH": f"{place}:{os.environ['PATH']}"})
        assert master.wait_ready()["name"] == "status"
        assert master.stop() == 0
    result = run(place, "--", "status")
    assert (result.returncode, result.stderr) == (
        1, "einhornpy: cannot run 'status': command not found (looked in PATH)\n")


def test_a_python_that_cannot_be_run_again_is_named(place: Path) -> None:
    """As where somebody became a user who may not enter its directory."""
    python = place / "python"
    python.touch(0o644)
    text = ("import sys; sys.executable = sys.argv.pop(1)\n"
            "from einhornpy.control.cli.main import main; main()")
    for words in (["--", "true"], ["--take-over", "{}"]):
        result = subprocess.run([sys.executable, "-c", text, str(python), *words], cwd=place,
                                env=base_environment(place), capture_output=True, text=True,
                                timeout=DEADLINE)
        assert (result.returncode, result.stderr) == (
            1, "einhornpy: cannot run the master in einhornpy's own Python, "
            f"{python}: Permission denied\n")


def test_an_error_of_the_system_names_its_path_or_its_place() -> None:
    denied = (errno.EACCES, "Permission denied")
    for error, line in ((PermissionError(*denied, "/x/y"), r"cannot go on: /x/y: Permission denied"),
                        (PermissionError(*denied), r"unforeseen PermissionError in test_cli\.py, "
                         r"line [0-9]+: \[Errno 13\] Permission denied")):
        with pytest.raises(OSError) as raised:
            raise error
        code, message = ended(raised.value)
        assert code == 1
        assert re.fullmatch(line, message or "")


@pytest.mark.parametrize(
    "arguments",
    [["status", "--nonsense"], ["status", "--timeout", "5"], ["status", "--wait", "--timeout", "0"],
     ["status", "--wait", "--timeout", "x"], ["status", "--generation", "0"], ["status", "extra"],
     ["scale"], ["scale", "x"], ["scale", "++1"], ["signal"], ["upgrade", "--release"],
     ["completion"], ["-n"], ["-n", "x", "--", "true"], ["--max-failures", "-1", "--", "true"],])
def test_wrong_usage_is_one_line_and_2(place: Path, arguments: list[str]) -> None:
    result = run(place, *arguments)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "",
                                                                             1), result.stderr
    assert result.stderr.startswith("einhornpy: ")


def test_bad_values_that_only_the_master_knows_are_2(start: Start) -> None:
    master = good(start)
    for arguments in (["scale", "0"], ["scale",
                                       "-2"], ["signal",
                                               "NOPE"], ["upgrade", "--release", "x" * 300]):
        result = master.cli(*arguments)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr


def test_each_command_is_found_where_it_is_declared() -> None:
    assert {module: {*held} for module, held in MODULES.items()} == {
        module: commands_of(module).keys() for module in MODULES}
    assert {*MODULES} == {path.stem for path in (ROOT / "control" / "cli").glob("*.py")
                          if "@click.command" in path.read_text() or path.stem == "run"}


@pytest.mark.parametrize("command", ["", *names()])
def test_every_command_explains_itself(place: Path, command: str) -> None:
    result = run(place, *([command] if command else []), "--help")
    assert result.returncode == 0
    assert result.stdout.startswith("Usage: einhornpy")


@pytest.mark.parametrize("command", [["status"], ["upgrade"], ["scale", "1"], ["stop"], ["events"],
                                     ["list"], ["signal", "HUP"]])
def test_nobody_there_is_69(place: Path, command: list[str]) -> None:
    result = run(place, *command)
    assert (result.returncode, result.stderr.count("\n")) == (69, 1)
    if command[0] != "list":
        result = run(place, *command, "-d", f"{place}/none.sock")
        assert (result.returncode, result.stderr) == (
            69, f"einhornpy: no master at {place}/none.sock: No such file or directory\n")
