"""The directory that a master was started in, or its workers, is removed beneath them, as a deploy
tool does with an old release."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .. import harness
from ..harness import BIN, EINHORNPY, WORKER, Master
from .test_upgrade import check_airbag, release, start_app
from .test_way_back import append, own_package

Start = Callable[..., Master]
SERVICE = ["-n", "1", "-m", "notify", "--chdir", "/", "--", *WORKER, "notify"]


def start_in_a_release(start: Start, place: Path, *arguments: str,
                       environment: dict[str, str] | None = None) -> Master:
    """A master whose directory is gone."""
    directory = place / "r1"
    directory.mkdir()
    master = start(*arguments, *SERVICE, cwd=directory, environment=environment)
    master.wait_ready()
    shutil.rmtree(directory)
    return master


@pytest.mark.parametrize("how", ["plain", "relative-python", "relative-path"])
def test_a_reload_needs_no_directory(start: Start, place: Path, how: str,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    environment: dict[str, str] = {}
    if how == "relative-python":
        # `env python3` finds a Python whose path leads through the current directory.
        program = place / "einhornpy"
        program.write_text("#!/usr/bin/env python3\n" + Path(EINHORNPY).read_text())
        program.chmod(0o755)
        monkeypatch.setattr(harness, "EINHORNPY", str(program))
        environment = {"PATH": f"{os.path.relpath(BIN, place / 'r1')}:{os.environ['PATH']}"}
    elif how == "relative-path":
        environment = {"PYTHONPATH": "lib:."}
    master = start_in_a_release(start, place, environment=environment)
    for count in (1, 2):
        result = master.cli("reload")
        assert result.returncode == 0, result.stderr + master.log()
        assert master.status()["master"]["reloads"] == count
    assert master.cli("upgrade").returncode == 0
    assert master.stop() == 0


def test_the_way_back_needs_no_directory(start: Start, place: Path) -> None:
    copy = own_package(place)
    master = start_in_a_release(
        start, place, environment={"PYTHONPATH": f"{copy.parent}:.",
                                   "PYTHONDONTWRITEBYTECODE": "1"})
    append(copy / "supervisor" / "core" / "planner.py",
           "import sys\nif '--take-over' in sys.argv:\n    raise OSError('half installed')\n")
    for _ in range(2):
        result = master.cli("reload")
        assert (result.returncode, "OSError: half installed"
                in result.stderr) == (1, True), result.stderr + master.log()
    assert master.status()["gate"] == "ready"


def test_a_configuration_that_is_gone_is_named_with_its_path(start: Start, place: Path) -> None:
    (place / "r1").mkdir()
    (place / "r1" / "web.toml").write_text("number = 1\n")
    master = start("--config", "web.toml", *SERVICE[2:], cwd=place / "r1")
    master.wait_ready()
    shutil.rmtree(place / "r1")
    why = f"cannot read the configuration {place}/r1/web.toml: No such file or directory"
    assert why in master.cli("reload").stderr
    (place / "r1").mkdir()
    (place / "r1" / "web.toml").write_text("number = 1\n")
    assert master.cli("reload").returncode == 0, master.log()


def test_hooks_and_upgrades_outlive_the_release_that_is_current(start: Start, place: Path) -> None:
    told = place / "told"
    hook = f"pwd >> {told}"
    master, recorder = start_app(start, place, "--on-upgrade-start", hook, "--on-upgrade-failed",
                                 hook, number=2)
    release(place, "r2", "notify")
    shutil.rmtree(place / "r1")
    assert master.cli("upgrade").returncode == 0, master.log()
    assert told.read_text().split() == [str(place / "current")]
    check_airbag(recorder, 2)
    # Nothing is left at all: it is refused for what is missing, and whoever wants to hear it does.
    told.unlink()
    shutil.rmtree(place / "r2")
    result = master.cli("upgrade")
    assert result.returncode == 5
    assert f"cannot start workers in {place / 'current'}: No such file" in result.stderr
    recorder.wait_for("upgrade-ended", outcome="rolled-back")
    victim = master.status()["workers"][0]["pid"]
    os.kill(victim, 9)
    gone = recorder.wait_for("start-failed", count=2)
    assert gone["error"] == (f"cannot change to the directory {place}/r2: No such file or "
                             "directory")
    release(place, "r3", "notify")
    assert master.cli("upgrade").returncode == 0, master.log()
    assert told.read_text().split() == ["/", "/", str(place / "current")]
    assert "hook failed" not in master.log()


@pytest.mark.parametrize("words", [["-n", "1", "--", "true"], ["unit", "--", "true"]])
def test_a_start_where_nothing_is_says_so_in_one_line(place: Path, words: list[str]) -> None:
    result = subprocess.run(
        ["/bin/sh", "-c", 'mkdir "$0" && cd "$0" && rmdir "$0" && exec "$@"', str(place / "gone"),
         EINHORNPY, *words], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
    assert result.stderr.startswith(
        "einhornpy: cannot start in the current directory: No such file or directory")
