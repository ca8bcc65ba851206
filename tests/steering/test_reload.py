"""The master replaces itself: same pid, same workers, same sockets, same clients, and nobody
notices."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from einhornpy.supervisor.core.generation import Generation, Recipe
from einhornpy.supervisor.core.pool import LeftBehind, Policy, Pool, State, Worker
from einhornpy.supervisor.core.upgrade import Terms, Upgrade
from einhornpy.supervisor.system import plain_data
from hypothesis import given, settings
from hypothesis import strategies as st

from ..airbag import check
from ..harness import (
    DEADLINE,
    EINHORNPY,
    EXAMPLE,
    ROOT,
    WORKER,
    Master,
    get,
    open_files,
    wait_until,
)
from ..load import Load
from .test_upgrade import check_airbag, release, start_app

Start = Callable[..., Master]
STATES = sorted((ROOT / "tests" / "states").glob("*.json"))


def reload(master: Master) -> None:
    result = master.cli("reload")
    assert result.returncode == 0, result.stderr + master.log()
    assert result.stdout.endswith(f"goes on, pid {master.pid}\n")


def check_state(path: Path) -> subprocess.CompletedProcess[str]:
    """Ask this program whether it could take over from the state in a file."""
    return subprocess.run([EINHORNPY, "--check-state"], input=path.read_text(), capture_output=True,
                          text=True, timeout=DEADLINE)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def pids(master: Master) -> set[int]:
    return {worker["pid"] for worker in master.status()["workers"]}


def test_same_pid_workers_sockets_and_clients(start: Start, place: Path) -> None:
    master = start("-n", "2", "-b", "127.0.0.1:0", "-b", f"unix:{place}/app", "-m", "notify", "-e",
                   f"{place}/pid", "-g", "--", *WORKER, "notify", "serve")
    before = master.wait_ready()
    recorder = master.record()
    inode = os.stat(place / "app").st_ino
    reload(master)
    used = descriptors(master.pid)
    for _ in range(3):
        reload(master)
    wait_until(lambda: descriptors(master.pid) <= used, "no more descriptors than before",
               master.log)
    after = master.status()
    assert after["master"] == before["master"] | {
        "reloads": 4, "memory_bytes": after["master"]["memory_bytes"]}
    for key in ("gate", "generation", "target", "name"):
        assert after[key] == before[key]
    assert [each["address"]
            for each in after["listeners"]] == [each["address"] for each in before["listeners"]]
    assert {worker["pid"]
            for worker in after["workers"]} == {worker["pid"] for worker in before["workers"]}
    assert after["uptime_seconds"] > before["uptime_seconds"]
    assert get(master.address)[0] == 200
    # Who follows the events goes on hearing them, and a death after it is mended.
    victim = after["workers"][0]["pid"]
    os.kill(victim, signal.SIGKILL)
    recorder.wait_for("worker-died", pid=victim)
    master.wait_ready()
    assert os.stat(place / "app").st_ino == inode
    assert master.stop() == 0
    assert not (place / "app").exists()
    assert not (place / "pid").exists()


def test_an_upgrade_its_hook_its_canary_and_its_check_go_on(start: Start, place: Path) -> None:
    os.mkfifo(place / "hook")
    os.mkfifo(place / "check")
    master, recorder = start_app(start, place, "--on-upgrade-start", f"cat {place}/hook")
    release(place, "r2", "notify")
    answers: list[dict[str, Any]] = []
    asked = threading.Thread(target=lambda: answers.append(master.ask(
        "upgrade", canary=1, hold="until-resume", check=f"cat {place}/check", release="two")))
    asked.start()
    recorder.wait_for("upgrade-started")
    reload(master)
    (place / "hook").write_text("yes")
    recorder.wait_for("hold-begun")
    reload(master)
    assert master.status()["upgrade"]["check"] == "running"
    (place / "check").write_text("yes")
    recorder.wait_for("check-passed")
    reload(master)
    assert master.cli("pause").returncode == 0
    reload(master)
    assert master.status()["gate"] == "paused"
    assert master.cli("resume").returncode == 0
    assert master.cli("resume").returncode == 0
    recorder.wait_for("worker-ready", count=2, generation=2)
    reload(master)
    asked.join(60)
    assert answers[0][
        "message"] == "Upgrade done", (
        "who waited for the upgrade heard of its end, through five masters")
    check_airbag(recorder, 3)
    assert master.status()["release"] == "two"
    assert json.loads(master.cli("history", "--json").stdout)[0]["outcome"] == "done"


def test_workers_that_die_or_leave_in_the_gap_are_not_missed(start: Start, place: Path) -> None:
    # So many deaths soon after ready would be held against the release.
    master, recorder = start_app(start, place, "-s", "0.1", "--max-failures", "20")
    for number in range(4):
        victim = min(pids(master))
        running = subprocess.Popen([EINHORNPY, "reload", "-d", master.path], env=master.environment,
                                   stdout=subprocess.DEVNULL)
        recorder.wait_for("reload-requested", count=number + 1)
        os.kill(victim, signal.SIGKILL)
        assert running.wait(60) == 0
        recorder.wait_for("worker-died", pid=victim)
        master.wait_ready()
    # Retiring ones: asked to go before, gone after.
    release(place, "r2", "notify")
    begin = master.cli("upgrade", "--no-wait")
    assert begin.returncode == 0
    recorder.wait_for("worker-retiring")
    reload(master)
    recorder.wait_for("upgrade-ended")
    children = subprocess.run(["ps", "--ppid", str(master.pid), "-o", "stat="], text=True,
                              capture_output=True).stdout.split()
    assert not any(state.startswith("Z") for state in children)


def under_load(start: Start, count: int, upgrades: int) -> tuple[int, int]:
    """Reload again and again under load, with upgrades, canaries and retiring workers in
    between."""
    master = start("-n", "3", "-b", "127.0.0.1:0", "--chdir", str(EXAMPLE), "--", "gunicorn", "-k",
                   "gthread", "--threads", "4", "app:wsgi", environment={"IMPORT_SECONDS": "0.2"})
    master.wait_ready()
    recorder = master.record()
    dice = random.Random(1)
    with Load(master.address, rate=80) as load:
        done = 0
        for number in range(upgrades):
            canary = ["--canary", "1", "--hold", "0.5"] if number % 2 else []
            running = subprocess.Popen([EINHORNPY, "upgrade", "-d", master.path, *canary],
                                       env=master.environment, stdout=subprocess.DEVNULL)
            while running.poll() is None and done < count:
                reload(master)
                done += 1
                if dice.random() < 0.3:
                    recorder.wait_for("worker-ready", count=1)
            assert running.wait(120) == 0, master.log()
        while done < count:
            reload(master)
            done += 1
    assert not load.report.failures, load.report.why()
    check(recorder, 3)
    assert master.status()["master"]["reloads"] == count
    return load.report.sent, count


def test_reloads_under_load_lose_no_request(start: Start) -> None:
    sent, _ = under_load(start, 6, 2)
    assert sent > 100


@pytest.mark.soak
def test_soak_of_reloads(start: Start) -> None:
    sent, count = under_load(start, 50, 6)
    print(f"\n{count} reloads in a row, 6 upgrades meanwhile, {sent} requests, 0 failed")


def test_new_settings_count_and_broken_ones_are_refused(start: Start, place: Path) -> None:
    config = place / "web.toml"
    config.write_text("max-surge = 1\nnumber = 1\n")
    master = start("--config", str(config), "-m", "notify", "--", *WORKER, "notify")
    master.wait_ready()
    config.write_text("max-surge = 'many'\nnumber = 1\n")
    result = master.cli("reload")
    assert (result.returncode, "max-surge: got 'many', expected a whole number"
            in result.stderr) == (1, True)
    assert "so=\"this master goes on\"" in master.wait_log("reload refused")
    assert master.status()["master"]["reloads"] == 0
    config.write_text("max-surge = 2\nnumber = 1\n")
    reload(master)
    assert ":max_upgrade_additional: 2" in master.ask("state")["message"]


@pytest.mark.parametrize(("line", "why"),
                         [('user = "nosuchuser"', "--user: there is no user 'nosuchuser'"),
                          ('observers = "nosuchgroup"', "--observers: there is no group"),
                          ('cpu_affinity = "4090"', "--cpu-affinity: core 4090"),
                          ('rlimit = ["nofile=99999999999"]', "--rlimit: cannot set nofile"),
                          ("reexec_as = \"'\"", "reexec_as: got"),
                          ("progress-timeout = 'x'", "progress-timeout: got 'x'"),])
def test_settings_that_name_nobody_are_refused_too(start: Start, place: Path, line: str,
                                                   why: str) -> None:
    config = place / "web.toml"
    config.write_text("number = 1\n")
    master = start("--config", str(config), "-m", "notify", "--", *WORKER, "notify")
    before = master.wait_ready()
    config.write_text(f"number = 1\n{line}\n")
    result = master.cli("reload")
    assert (result.returncode, why in result.stderr) == (1, True), result.stderr
    assert pids(master) == {worker["pid"] for worker in before["workers"]}


def test_what_a_reload_cannot_change_is_named(start: Start, place: Path) -> None:
    config = place / "web.toml"
    config.write_text("number = 1\n")
    master = start("--config", str(config), "-m", "notify", "--", *WORKER, "notify")
    master.wait_ready()
    config.write_text('number = 2\nbind = [":0"]\n')
    reload(master)
    assert 'settings="number bind"' in master.wait_log("settings that stay as they were")
    assert master.status()["target"] == 1


def test_lines_that_wait_for_their_turn_are_answered_by_the_next_master(start: Start) -> None:
    master = start("-n", "1", "-m", "notify", "--", *WORKER, "notify")
    master.wait_ready()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(master.path)
        connection.sendall(b'{"command": "state"}\n' * 1500 + b'{"id": 7, "comm')
        reload(master)
        connection.sendall(b'and": "ping"}\n')
        with connection.makefile("rb") as answers:
            for _ in range(1500):
                assert json.loads(answers.readline())["ok"]
            assert json.loads(answers.readline())["request_id"] == 7


def test_no_signal_is_lost(start: Start) -> None:
    """Two at any moments of each reload, from its request to the end of its first second."""
    master = start("-n", "2", "-m", "notify", "--", *WORKER, "notify")
    master.wait_ready()
    recorder = master.record()
    dice = random.Random(2)
    for number in range(1, 7):
        running = subprocess.Popen([EINHORNPY, "reload", "-d", master.path], env=master.environment,
                                   stdout=subprocess.DEVNULL)
        for way in (signal.SIGTTIN, signal.SIGTTOU):
            select.select([], [], [], dice.random() * 0.4)
            os.kill(master.pid, way)
        assert running.wait(60) == 0
        recorder.wait_for("scaled", count=2 * number)


@pytest.mark.parametrize(("script", "why"), [
    ("exit 0", "did not say that it can take over"),
    ("echo usage", "did not say that it can take over, but: usage"),
    ("echo 'cannot take over: no' >&2; exit 1", "exited with code 1: cannot take over: no"),
    ("kill -9 $$", "was ended by signal 9"), ("rm \"$0\"", "command not found"),])
def test_a_next_program_that_cannot_go_on_is_refused(start: Start, place: Path, script: str,
                                                     why: str) -> None:
    program = place / "next"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    master = start("-n", "1", "-m", "notify", "--reexec-as", str(program), "--", *WORKER, "notify")
    before = master.wait_ready()
    used = descriptors(master.pid)
    for _ in range(2):
        result = master.cli("reload")
        assert result.returncode == 1
        if "rm" not in script:
            assert why in result.stderr
    assert why in master.log()
    assert pids(master) == {worker["pid"] for worker in before["workers"]}
    wait_until(lambda: descriptors(master.pid) <= used, "descriptors closed again", master.log)
    # Workers of the old master get nothing of what was meant for the next one.
    assert master.cli("upgrade").returncode == 0
    (worker,) = master.status()["workers"]
    assert sorted(os.listdir(f"/proc/{worker['pid']}/fd"))[:3] == ["0", "1", "2"]
    assert not [path for path in open_files(worker["pid"]).values() if "state" in path]


def test_reexec_as_and_upgrade_with_reload(start: Start, place: Path) -> None:
    state, program = place / "state.json", place / "next"
    program.write_text(
        f"#!/bin/sh\necho $1 >> {place}/asked\n[ $1 = --check-state ] && "
        f"{{ tee {state} | {EINHORNPY} --check-state; exit; }}\nexec {EINHORNPY} \"$@\"\n")
    program.chmod(0o755)
    master = start("-n", "1", "-m", "notify", "--reexec-as", str(program), "--", *WORKER, "notify")
    master.wait_ready()
    result = master.cli("upgrade", "--reload", "--release", "two")
    assert result.returncode == 0, result.stderr
    assert (place / "asked").read_text().split() == [
        "--check-state"], "the Python that it turned out to be is run at once"
    document = master.status()
    assert (document["master"]["reloads"], document["release"]) == (1, "two")
    checked = check_state(state)
    assert (checked.returncode,
            checked.stdout.splitlines()[-1]) == (0, "einhornpy 0.1.0 can take over")


def test_reexec_as_counts_as_the_file_says_it_now(start: Start, place: Path) -> None:
    file = place / "master.toml"

    def say(program: str) -> None:
        file.write_text(f'reexec-as = "{program}"\n')

    say("/nonexistent")
    master = start("--config", str(file), "-n", "1", "-m", "notify", "--", *WORKER, "notify")
    master.wait_ready()
    for program, code in (("/nonexistent", 1), (EINHORNPY, 0), ("/nonexistent", 1),
                          ("'", 1), (f"env A=b {EINHORNPY}", 0)):
        say(program)
        result = master.cli("reload")
        assert (result.returncode, program in result.stderr) == (code, code == 1), result.stderr
    assert master.status()["master"]["reloads"] == 2


def test_a_reload_while_it_stops_is_refused(start: Start, place: Path) -> None:
    master = start("-n", "1", "-m", "notify", "--graceful-timeout", "3", "--", *WORKER, "notify",
                   "deaf")
    master.wait_ready()
    assert master.cli("stop", "--no-wait").returncode == 0
    result = master.cli("reload")
    assert (result.returncode, result.stderr) == (6, "einhornpy: the master stops\n")
    assert master.wait_exit() == 0


# --- the state document ---


@pytest.mark.parametrize("path", STATES, ids=lambda path: path.stem)
def test_the_state_of_every_released_version_is_read(path: Path) -> None:
    checked = check_state(path)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_there_is_a_state_of_this_version() -> None:
    from einhornpy.supervisor.master import VERSION

    assert VERSION in {path.stem for path in STATES}


@pytest.mark.parametrize(("change", "line"), [
    (lambda state: state.update(format=2), "the state has format 2, this program reads 1"),
    (lambda state: state.pop("pool"), "the state has no pool"),
    (lambda state: state["pool"].update(target="x"), "'x' is no int"),
    (lambda state: state["pool"].pop("policy"), "expected Pool"),
    (lambda state: state["given"]["flags"].update(number="0"), "got '0'"),
    (lambda state: state.clear(), "it is no state"),])
def test_a_state_that_cannot_be_read_is_one_line(place: Path, change: Callable[[Any], None],
                                                 line: str) -> None:
    state = json.loads(STATES[-1].read_text())
    change(state)
    (place / "state").write_text(json.dumps(state))
    checked = check_state(place / "state")
    assert checked.returncode in (1, 2)
    assert (checked.stderr.count("\n"), line in checked.stderr) == (1, True), checked.stderr


def test_what_a_neighbouring_version_adds_or_lacks_is_no_obstacle() -> None:
    plain = plain_data.to_plain(Worker(1, 0, 1, 100, 5.0))
    plain["invented_later"] = 3
    del plain["memory"]
    assert plain_data.from_plain(Worker, plain) == Worker(1, 0, 1, 100, 5.0)


workers = st.builds(Worker, id=st.integers(1, 9), index=st.integers(0, 3),
                    generation=st.integers(1, 3), pid=st.just(7), spawned_at=st.floats(0, 1e6),
                    state=st.sampled_from(State), recycled_for=st.none() | st.text())
recipes = st.builds(
    Recipe, command=st.tuples(st.text()), directory=st.text(),
    environment=st.dictionaries(st.text(), st.text(st.characters(exclude_categories=[]))))
generations = st.builds(Generation, number=st.integers(1, 9), recipe=recipes)
upgrades = st.builds(Upgrade, from_generation=st.just(1), to_generation=st.just(2),
                     terms=st.builds(Terms), requested_by=st.text(), started_at=st.just(0.0),
                     started_wall=st.just(0.0), progress_at=st.just(0.0),
                     vacant=st.frozensets(st.integers(0, 5)), reason=st.none() | st.text())
orphans = st.builds(LeftBehind, pid=st.integers(2, 9), index=st.just(0),
                    generation=st.integers(1, 3), found_at=st.floats(0, 1e6),
                    kill_at=st.floats(0, 1e6), killed=st.booleans())
pools = st.builds(Pool, policy=st.builds(Policy), target=st.integers(1, 9),
                  current=st.just(1), generations=st.dictionaries(st.integers(1, 9), generations),
                  workers=st.dictionaries(st.integers(1, 9), workers), upgrade=st.none() | upgrades,
                  stopping=st.none(), restarts=st.dictionaries(st.integers(0, 3), st.integers(0,
                                                                                              9)),
                  history=st.tuples(upgrades), remembered=st.just({}),
                  left_behind=st.dictionaries(st.integers(2, 9), orphans))


@settings(deadline=None)  # a loaded machine takes its time
@given(pools)
def test_every_pool_survives_the_way_through_a_sealed_file(pool: Pool) -> None:
    fd = plain_data.sealed({"pool": plain_data.to_plain(pool)})
    try:
        with pytest.raises(OSError):
            os.write(fd, b"x")
        assert plain_data.from_plain(Pool, plain_data.read(fd)["pool"]) == pool
    finally:
        os.close(fd)


def test_a_relative_program_and_two_requests_on_one_connection(start: Start, place: Path) -> None:
    (place / "next").write_text(f"#!/bin/sh\nexec {EINHORNPY} \"$@\"\n")
    (place / "next").chmod(0o755)
    master = start("-n", "1", "-m", "notify", "--reexec-as", "./next", "--", *WORKER, "notify")
    master.wait_ready()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(master.path)
        connection.sendall(b'{"id": 1, "command": "reload"}\n{"id": 2, "command": "reload"}\n')
        with connection.makefile("rb") as answers:
            read = [json.loads(answers.readline()) for _ in range(2)]
    assert [(each["request_id"], each["ok"]) for each in read] == [(1, True), (2, True)]


def test_hooks_that_wait_in_line_hold_up_no_reload(start: Start, place: Path) -> None:
    os.mkfifo(place / "gate")
    hook = f"test -e {place}/open || cat {place}/gate"
    master = start("-n", "12", "-m", "notify", "--on-worker-ready", hook, "--", *WORKER, "notify")
    master.wait_ready()
    reload(master)
    assert master.status()["master"]["reloads"] == 1
    assert "hook failed" not in master.log(), "the hooks still wait"
    (place / "open").touch()
    (place / "gate").write_text("")


def test_ask_again_while_one_is_under_way(start: Start, place: Path) -> None:
    master = start("-n", "1", "-m", "notify", "--", *WORKER, "notify")
    master.wait_ready()
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.append(master.cli("reload").returncode))
        for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [0] * 5
    wait_until(lambda: master.status()["gate"] == "ready", "ready", master.log)
