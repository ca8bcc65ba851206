"""An upgrade that is asked for in Einhorn's way: when it answers, and what it does to the master and
to the environment."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ..einhorn import conversation, escaped, say, state_of
from ..harness import DEADLINE, EINHORNPY, WORKER, Master, wait_until

Start = Callable[..., Master]
UPGRADE = escaped("---\ncommand: upgrade\nid: 1\nargs: []\n")
OURS = b'{"id": 1, "command": "upgrade", "args": {}}\n'


def environments(report: Path) -> list[dict[str, str]]:
    """What each worker was given, the last one last."""
    return [json.loads(line)["environment"] for line in report.read_text().splitlines()]


# --- when it answers ---


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


@pytest.mark.parametrize("command", ["upgrade", "upgrade_fleet"])
def test_it_answers_while_the_old_ones_drain(start: Start, command: str) -> None:
    master = start("-n", "2", "-m", "manual", "-t", "600", "--", *WORKER, "ack", "deaf")
    old = {worker["pid"] for worker in master.wait_ready()["workers"]}
    assert conversation(master, escaped(f"command: {command}\nid: 1\nargs: []\n"))[-1][
        "message"] == "Upgrade done"
    state = state_of(master)
    assert (state[":upgrading"], state[":version"], len(state[":children"])) == (False, 2, 4)
    for pid, child in state[":children"].items():
        assert child[":signaled"] == (["USR2"] if pid in old else [])
        assert isinstance(child[":last_signaled_at"], datetime) == (pid in old)
    assert master.status()["upgrade"]["outcome"] is None, "ours is not over before they have left"
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    master.wait_status(lambda each: each["upgrade"]["outcome"] == "done")
    assert not any(child[":signaled"] for child in state_of(master)[":children"].values())
    master.signal(signal.SIGQUIT)
    assert master.wait_exit() == 0


def test_our_own_upgrade_waits_for_the_last_one(start: Start) -> None:
    master = start("-n", "1", "-m", "manual", "-t", "600", "--", *WORKER, "ack", "deaf")
    (old,) = master.wait_ready()["workers"]
    said: list[str] = []
    with asked(master, OURS) as answers:
        for answer in answers:
            said.append(answer["result"].get("event", {}).get("event", answer["message"]))
            if said[-1] == "worker-retiring":
                os.kill(old["pid"], signal.SIGKILL)
    assert said[-1] == "Upgrade done"
    assert "worker-gone" in said
    master.signal(signal.SIGQUIT)
    assert master.wait_exit() == 0


@contextmanager
def asked(master: Master, request: bytes) -> Iterator[Iterator[dict[str, Any]]]:
    """The answers to a request, one after the other, up to the last one."""

    def answers() -> Iterator[dict[str, Any]]:
        for line in lines:
            answer = json.loads(line)
            yield answer
            if not answer.get("wait"):
                return

    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(master.path)
        connection.sendall(request)
        with connection.makefile("rb") as lines:
            yield answers()


# --- the master is replaced first ---


@pytest.mark.parametrize("how", ["upgrade", "upgrade_fleet", "without an id", "HUP"])
def test_the_environment_of_the_reexec_reaches_the_workers(start: Start, place: Path,
                                                           how: str) -> None:
    report = place / "report"
    master = start("-n", "1", "-m", "manual", "--reexec-as", f"env VAR=b {EINHORNPY}", "--",
                   *WORKER, "ack", f"report={report}", environment={"VAR": "a"})
    master.wait_ready()
    if how == "HUP":
        master.signal(signal.SIGHUP)
    elif how == "without an id":
        assert say_without_id(master) == "upgrade to generation 2 accepted"
    else:
        last = conversation(master, escaped(f"command: {how}\nid: 1\nargs: []\n"))[-1]
        assert last["message"] == "Upgrade done"
    document = master.wait_status(lambda each: each["generation"] == 2 and each["gate"] == "ready")
    assert (document["master"]["reloads"], document["master"]["pid"]) == (1, master.pid)
    assert [each["VAR"] for each in environments(report)] == ["a", "b"]
    assert conversation(master, OURS)[-1]["message"] == "Upgrade done"
    assert master.status()["master"]["reloads"] == 1, "ours replaces the workers alone"


def say_without_id(master: Master) -> str:
    (answer,) = conversation(master, escaped("command: upgrade\n"))
    return str(answer["message"])


def test_a_master_that_cannot_be_replaced_refuses_it(start: Start) -> None:
    master = start("-n", "1", "-m", "manual", "--reexec-as", "/bin/false", "--on-upgrade-start",
                   "true", "--", *WORKER, "ack")
    before = master.wait_ready()["workers"]
    last = conversation(master, UPGRADE)[-1]["message"]
    assert last == ("Upgrade rolled-back: the master could not be replaced: "
                    "/bin/false exited with code 1")
    document = master.status()
    assert (document["workers"][0]["pid"], document["generation"]) == (before[0]["pid"], 1)
    assert conversation(master, OURS)[-1]["message"] == "Upgrade done"


@pytest.fixture
def held(start: Start, place: Path) -> Master:
    """A master whose next one answers when somebody writes to `place / "go"`, and asks for that by
    `place / "asked"`. Asked again, since something was new meanwhile, it answers at once."""
    os.mkfifo(place / "go")
    program = place / "next"
    program.write_text(f"#!/bin/sh\n[ $1 = --check-state ] && [ ! -e {place}/asked ] && "
                       f"{{ touch {place}/asked; read word < {place}/go; }}\nexec {EINHORNPY} \"$@\"\n")
    program.chmod(0o755)
    master = start("-n", "1", "-m", "manual", "--reexec-as", str(program), "--", *WORKER, "ack",
                   "watchdog", f"report={place}/report")
    master.wait_ready()
    return master


def go(place: Path) -> None:
    """Let the next master answer."""
    wait_until((place / "asked").exists, "the next master asked")
    (place / "go").write_text("go\n")


def test_a_worker_that_dies_during_the_reexec(held: Master, place: Path) -> None:
    recorder = held.record()
    (old,) = held.status()["workers"]
    with asked(held, UPGRADE) as answers:
        wait_until((place / "asked").exists, "the next master asked", held.log)
        assert state_of(held)[":reloading_for_upgrade"]
        os.kill(old["pid"], signal.SIGKILL)
        recorder.wait_for("worker-ready")
        go(place)
        assert [*answers][-1]["message"] == "Upgrade done"
    children = state_of(held)[":children"]
    assert old["pid"] not in children
    assert [child[":version"] for child in children.values() if not child[":signaled"]] == [2]


def test_a_newer_upgrade_wins_over_one_that_waits_for_the_master(held: Master, place: Path) -> None:
    with asked(held, UPGRADE) as answers:
        wait_until((place / "asked").exists, "the next master asked", held.log)
        assert conversation(held, OURS)[-1]["message"] == "Upgrade done"
        assert [*answers][-1]["message"] == "Upgrade superseded by generation 3"
    recorder = held.record()
    go(place)
    recorder.wait_for("master-replaced")
    assert (held.status()["generation"], say(held, "ehlo")[:7]) == (3, "Welcome")


@pytest.mark.parametrize("how", ["abort", "stop"])
def test_one_that_waits_for_the_master_can_be_ended(held: Master, place: Path, how: str) -> None:
    with asked(held, UPGRADE) as answers:
        wait_until((place / "asked").exists, "the next master asked", held.log)
        held.ask(how)
        last = [*answers][-1]["message"]
    assert last == {"abort": "Upgrade aborted: aborted by root", "stop": "the master stops"}[
        how].replace("root", who_we_are())
    go(place)
    if how == "stop":
        assert held.wait_exit() == 0


def who_we_are() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


# --- what is dropped from the environment ---


def test_a_dropped_variable_is_not_restored(start: Start, place: Path) -> None:
    report = place / "report"
    master = start("-n", "1", "-m", "manual", "--drop-env-var", "VAR", "--drop-env-var", "OTHER",
                   "--", *WORKER, "ack", f"report={report}", environment={"VAR": "a", "KEPT": "k"})
    master.wait_ready()
    assert conversation(master, UPGRADE)[-1]["message"] == "Upgrade done"
    assert master.cli("reload").returncode == 0
    assert conversation(master, OURS)[-1]["message"] == "Upgrade done"
    assert [each.get("VAR") for each in environments(report)] == ["a", None, None]
    assert {each["KEPT"] for each in environments(report)} == {"k"}


def test_a_dropped_variable_may_be_set_anew(start: Start, place: Path) -> None:
    report = place / "report"
    master = start("-n", "1", "-m", "manual", "--drop-env-var", "ONE", "--drop-env-var", "TWO",
                   "--reexec-as", f"env TWO=b {EINHORNPY}", "--", *WORKER, "ack",
                   f"report={report}", environment={"ONE": "a", "TWO": "a"})
    master.wait_ready()
    for request in (UPGRADE, OURS, UPGRADE):
        assert conversation(master, request)[-1]["message"] == "Upgrade done"
    assert [(each.get("ONE"), each.get("TWO"))
            for each in environments(report)] == [("a", "a"), *[(None, "b")] * 3]
