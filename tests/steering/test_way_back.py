"""A next master that passes the check and fails all the same: the one before goes on, from its own
code, with everything it had."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import einhornpy.supervisor
import pytest

from ..airbag import check
from ..harness import EINHORNPY, EXAMPLE, WORKER, Master, wait_gone, wait_until
from ..load import Load

Start = Callable[..., Master]
PACKAGE = Path(einhornpy.supervisor.__file__).parent.parent
ONLY_THEN = "import sys\nif '--take-over' in sys.argv:\n    "


def own_package(place: Path) -> Path:
    """A program that is a copy of this package, so that it can be broken; with what is compiled of
    it, which counts for every file that stays as it was."""
    copy = place / "next-code" / "einhornpy"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("*.pyc.*", "web"))
    program = place / "next"
    program.write_text(f'#!/bin/sh\nexport PYTHONPATH={copy.parent} PYTHONDONTWRITEBYTECODE=1\n'
                       f'exec {sys.executable} -P -m einhornpy.supervisor "$@"\n')
    program.chmod(0o755)
    return copy


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


BREAKS: dict[str, tuple[str, str, str]] = {
    "import": ("core/planner.py", ONLY_THEN + "import no_such_module\n",
               "ModuleNotFoundError: No module named 'no_such_module'"),
    "first-turn": (
        "master.py",
        "\ndef _broken(self):\n    raise RuntimeError('in the first turn')\nMaster._turn = "
        "_broken\n",
        "RuntimeError: in the first turn"),
    "exit": ("master.py", ONLY_THEN + "sys.exit(2)\n", "it left with exit code 2"), "take-over": (
        "logs/output.py",
        "\ndef _broken(self, inherited):\n    raise KeyError('fd')\nOutput.take_over = _broken\n",
        "KeyError"),}


@pytest.mark.parametrize("kind", sorted(BREAKS))
def test_a_next_master_that_fails_at_once_costs_nothing(start: Start, place: Path,
                                                        kind: str) -> None:
    file, text, why = BREAKS[kind]
    copy = own_package(place)
    master = start("-n", "2", "-b", "127.0.0.1:0", "--chdir", str(EXAMPLE), "--reexec-as",
                   str(place / "next"), "--", "gunicorn", "-k", "gthread", "app:wsgi")
    before = master.wait_ready()
    recorder = master.record()
    append(copy / "supervisor" / file, text)
    with Load(master.address, rate=20) as load:
        result = master.cli("reload")
        assert (result.returncode, why in result.stderr) == (1, True), result.stderr + master.log()
        after = master.status()
        assert {each["pid"]
                for each in after["workers"]} == {each["pid"] for each in before["workers"]}
        assert (after["gate"], after["master"]["pid"],
                after["master"]["reloads"]) == ("ready", master.pid, 0)
        assert why in after["master"]["reload_refused"]
        # It goes on as if nothing had happened: a death is seen, an upgrade done.
        victim = after["workers"][0]["pid"]
        os.kill(victim, signal.SIGTERM)
        recorder.wait_for("worker-died", pid=victim)
        assert master.cli("upgrade").returncode == 0
    assert not load.report.failures, load.report.why()
    check(recorder, 1, 2)  # 2 and 1, but for the one that died
    assert 'so="this master goes on"' in master.wait_log("reload refused")


def test_the_package_is_replaced_by_a_broken_one(start: Start, place: Path) -> None:
    """The usual way: the same path, other files. The master before goes on from the copy in its
    memory, twice."""
    copy = own_package(place)
    master = start("-n", "1", "-m", "notify", "--", *WORKER, "notify",
                   environment={"PYTHONPATH": str(copy.parent), "PYTHONDONTWRITEBYTECODE": "1"})
    (worker,) = master.wait_ready()["workers"]
    good = (copy / "supervisor" / "core" / "planner.py").read_text()
    append(copy / "supervisor" / "core" / "planner.py",
           ONLY_THEN + "raise OSError('half installed')\n")
    for _ in range(2):
        result = master.cli("reload")
        assert (result.returncode, "OSError: half installed"
                in result.stderr) == (1, True), result.stderr + master.log()
    assert [each["pid"] for each in master.status()["workers"]] == [worker["pid"]]
    (copy / "supervisor" / "core" / "planner.py").write_text(good)
    assert master.cli("reload").returncode == 0, master.log()
    document = master.status()
    assert (document["master"]["reloads"], document["master"]["reload_refused"]) == (1, None)
    assert master.stop() == 0


HANGS = {
    "site": (
        "sitecustomize.py",
        "import sys, time\nif '--take-over' in sys.orig_argv:\n    open('hangs', 'w').close()\n"
        "    time.sleep(1000)\n"),
    "import": ("einhornpy/supervisor/core/planner.py",
               ONLY_THEN + "import time\n    open('hangs', 'w').close()\n    time.sleep(1000)\n"),
    "turn": ("einhornpy/supervisor/master.py",
             "\ndef _hung(self):\n    open('hangs', 'w').close()\n"
             "    while True:\n        pass\nMaster._turn = _hung\n"),}


@pytest.mark.parametrize("kind", sorted(HANGS))
def test_a_next_master_that_hangs_is_given_up(start: Start, place: Path, kind: str) -> None:
    """Before it knows its own program, in it, and when it should be at work; orders that came
    meanwhile are carried out."""
    file, text = HANGS[kind]
    patience = 6.0 if kind == "site" else 2.5
    copy = own_package(place)
    stage = copy / "supervisor" / "programs" / "stage.py"
    stage.write_text(stage.read_text().replace("PATIENCE, AGAIN = 10.0, 1.0",
                                               f"PATIENCE, AGAIN = {patience}, 1.0"))
    master = start("-n", "1", "-m", "notify", "--", *WORKER, "notify",
                   environment={"PYTHONPATH": str(copy.parent), "PYTHONDONTWRITEBYTECODE": "1"})
    (worker,) = master.wait_ready()["workers"]
    path = copy.parent / file
    path.write_text((path.read_text() if path.exists() else "") + text)
    command = [EINHORNPY, "reload", "-d", master.path]
    with subprocess.Popen(command, env=master.environment, stderr=subprocess.PIPE,
                          text=True) as asked:
        wait_until((place / "hangs").exists, "a next master that hangs", master.log)
        os.kill(master.pid, signal.SIGALRM)
        _, said = asked.communicate(timeout=60)
    assert (asked.returncode, f"it had not settled after {patience:g} s"
            in said) == (1, True), said + master.log()
    after = master.wait_status(lambda each: each["gate"] == "ready" and each["generation"] == 2)
    assert (after["master"]["pid"], after["master"]["reloads"]) == (master.pid, 0)
    wait_gone(worker["pid"])
    if kind == "site":  # a good one has time enough
        path.unlink()
        assert master.cli("reload").returncode == 0, master.log()
    assert master.stop() == 0


def test_a_configuration_that_is_gone_since_the_check_costs_nothing(start: Start,
                                                                    place: Path) -> None:
    configuration, program = place / "shop.toml", place / "next"
    configuration.write_text("number = 2\n")
    program.write_text(
        f"#!/bin/sh\n{sys.executable} -P -m einhornpy.supervisor \"$@\" && rm -f {configuration}\n")
    program.chmod(0o755)
    master = start("--config", str(configuration), "-m", "notify", "--reexec-as", str(program),
                   "--", *WORKER, "notify")
    before = {worker["pid"] for worker in master.wait_ready()["workers"]}
    for _ in range(2):  # the one that is back can come back again
        result = master.cli("reload")
        assert (result.returncode, "cannot read the configuration"
                in result.stderr) == (1, True), result.stderr + master.log()
        after = master.status()
        assert (after["gate"], {worker["pid"] for worker in after["workers"]}) == ("ready", before)
        configuration.write_text("number = 2\n")


def test_a_worker_that_dies_while_the_next_master_fails_is_missed(start: Start,
                                                                  place: Path) -> None:
    copy = own_package(place)
    master = start("-n", "1", "-m", "notify", "--reexec-as", str(place / "next"), "--", *WORKER,
                   "notify")
    (worker,) = master.wait_ready()["workers"]
    # It sees the end of the worker, and can't tell anybody of it.
    append(copy / "supervisor" / "master.py", f"""
def _broken(self):
    os.kill({worker['pid']}, 9)
    os.waitpid({worker['pid']}, 0)
    raise RuntimeError
Master._turn = _broken
""")
    assert master.cli("reload").returncode == 1
    master.wait_log("worker died")
    after = master.wait_status(
        lambda each: each["gate"] == "ready" and each["workers"][0]["pid"] != worker["pid"])
    assert len(after["workers"]) == 1


def test_neither_can_go_on(start: Start, place: Path) -> None:
    """Both programs are broken: that is said, and workers are left as by a master that was
    killed."""
    copy = own_package(place)
    append(copy / "supervisor" / "steering" / "trial.py",
           "\nimport sys\nif len(sys.argv) > 3:\n    raise RuntimeError('nor the one before')\n")
    master = start("-n", "1", "-m", "notify", "--", *WORKER, "notify",
                   environment={"PYTHONPATH": str(copy.parent), "PYTHONDONTWRITEBYTECODE": "1"})
    (worker,) = master.wait_ready()["workers"]
    append(copy / "supervisor" / "core" / "planner.py",
           ONLY_THEN + "raise OSError('half installed')\n")
    running = subprocess.Popen([EINHORNPY, "reload", "-d", master.path], env=master.environment,
                               stderr=subprocess.DEVNULL)
    assert master.wait_exit() == 1
    assert "(OSError: half installed), and the one before can't go on: RuntimeError: nor the one before" in master.log(
    )
    assert running.wait(60) != 0
    wait_gone(worker["pid"], master.log)
    shutil.rmtree(place / "run" / "einhornpy")  # a master that was killed leaves it too


def test_a_check_that_is_old_does_not_count(start: Start, place: Path) -> None:
    """While a generation is made the reload waits; the settings that were right when it was asked
    for are wrong then."""
    os.mkfifo(place / "go")
    config = place / "web.toml"
    config.write_text("number = 1\n")
    (place / "slow.py"
     ).write_text(f"import os\nif os.path.exists('{place}/slow'):\n    open('{place}/go').read()\n")
    master = start("--config", str(config), "-b", "127.0.0.1:0", "--chdir", str(EXAMPLE), "--",
                   "gunicorn", "-c", f"{place}/slow.py", "app:wsgi")
    before = master.wait_ready()
    (place / "slow").touch()
    recorder = master.record()
    assert master.cli("upgrade", "--no-wait").returncode == 0
    running = subprocess.Popen([EINHORNPY, "reload", "-d", master.path], env=master.environment,
                               stderr=subprocess.PIPE, text=True)
    recorder.wait_for("reload-requested")
    config.write_text("number = 'many'\n")
    with open(place / "go", "w"):  # as soon as it is read
        (place / "slow").unlink()
    _, said = running.communicate(timeout=90)
    assert (running.returncode, "number: got 'many'" in said) == (1, True), said
    assert master.pid == before["master"]["pid"]
    recorder.wait_for("upgrade-ended")
