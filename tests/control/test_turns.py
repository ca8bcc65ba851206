"""Deploys take turns: in the order in which they came, whoever is killed meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from einhornpy.control.deploy.turns import Holder, Taken, turn

from ..harness import DEADLINE, wait_until

# Has a turn until its standard input ends; tells what happens line by line.
PROGRAM = """
import os, sys, time
from einhornpy.control.deploy.turns import Holder, turn
name, directory = sys.argv[1:]
with turn(directory, Holder(name, os.getpid(), time.time(), "r-" + name), True,
          lambda whom: print("waits for", whom, flush=True)):
    print("has it", flush=True)
    sys.stdin.read()
"""


class Deploy:
    """A process that wants a turn."""

    def __init__(self, name: str, directory: Path) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", PROGRAM, name, str(directory)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.communicate(timeout=DEADLINE)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.end()


@pytest.fixture
def deploys(tmp_path: Path) -> Iterator[list[Deploy]]:
    """Four that stand in line, a before b before c before d; a has its turn."""
    found: list[Deploy] = []
    for name in "abcd":
        found.append(Deploy(name, tmp_path))
        assert found[-1].line() == "has it" if name == "a" else found[-1].line().startswith(
            "waits for a (pid")
    yield found
    for each in found:
        each.kill()


def test_who_waits_longest_is_next(deploys: list[Deploy], tmp_path: Path) -> None:
    assert len(os.listdir(tmp_path)) == 4
    for number, deploy in enumerate(deploys):
        deploy.end()
        for left in deploys[number + 1:]:
            if left is not deploys[number + 1]:
                assert left.line().startswith(f"waits for {'abcd'[number + 1]} (pid")
        if number < 3:
            assert deploys[number + 1].line() == "has it"
    assert not os.listdir(tmp_path)


def test_whoever_is_killed_is_passed_over(deploys: list[Deploy], tmp_path: Path) -> None:
    a, b, c, d = deploys
    b.kill()  # while it waits
    a.kill()  # while it has the turn
    while (line := c.line()) != "has it":
        assert line.startswith("waits for")
    c.kill()
    while (line := d.line()) != "has it":
        assert line.startswith("waits for")
    d.end()
    assert not os.listdir(tmp_path)


def test_who_will_not_wait_is_told_for_whom(deploys: list[Deploy], tmp_path: Path) -> None:
    me = Holder("me", os.getpid(), 0.0, "r")
    with (pytest.raises(Taken, match=r"^a \(pid [0-9]+\), who deploys r-a since [0-9:]{8}$"),
          turn(str(tmp_path), me, False, lambda whom: None)):
        pass
    assert len(os.listdir(tmp_path)) == 4
    deploys[0].kill()
    with (pytest.raises(Taken, match=r"^b \("), turn(str(tmp_path), me, False, lambda _: None)):
        pass


def test_a_file_of_nobody_is_no_turn(tmp_path: Path) -> None:
    """A holder that the kernel has ended, a file without its text, and a name of something else."""
    (tmp_path / ".turn-3").write_text("{")
    (tmp_path / ".turn-7").touch()
    (tmp_path / ".turn-x").touch()
    (tmp_path / "releases").mkdir()
    with turn(str(tmp_path), Holder("me", os.getpid(), 0.0, "r"), False, lambda whom: None):
        assert sorted(os.listdir(tmp_path)) == [".turn-8", ".turn-x", "releases"]
    assert sorted(os.listdir(tmp_path)) == [".turn-x", "releases"]


def test_what_a_holder_says_cannot_break_a_line(tmp_path: Path) -> None:
    other = Deploy("x\x1b[31m\ny", tmp_path)
    assert other.line() == "has it"
    try:
        with (pytest.raises(Taken), turn(str(tmp_path), Holder("me", 1, 0.0, "r"), False,
                                         lambda whom: None)):
            pass
        wait_until(lambda: len(os.listdir(tmp_path)) == 1, "one turn")
    finally:
        other.end()


SLOW = """
import os, sys, time
link = os.link

def slowly(*given, **named):
    print("numbered", flush=True)
    while not os.path.exists(sys.argv[2] + "/go"):
        time.sleep(0.01)
    link(*given, **named)

os.link = slowly
""" + PROGRAM


def test_who_is_slow_to_stand_in_line_gets_nobodys_turn(deploys: list[Deploy], tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number was free again by then, and lower than that of whoever had the turn."""
    for each in deploys:
        each.end()
    monkeypatch.setattr(f"{__name__}.PROGRAM", SLOW)
    slow = Deploy("slow", tmp_path)
    assert slow.line() == "numbered"
    monkeypatch.undo()
    others = [Deploy(name, tmp_path) for name in "xy"]
    (tmp_path / "go").touch()
    assert slow.line() == "has it"
    for each in others:
        assert each.line().startswith("waits for slow (pid")
    slow.end()
    for each in others:
        each.kill()


def test_odd_files_are_nobodys_turn(tmp_path: Path) -> None:
    (tmp_path / ".turn-1").mkdir()
    (tmp_path / ".turn-2").symlink_to("nowhere")
    os.mkfifo(tmp_path / ".turn-3")
    (tmp_path / ".turn-999999999").touch()
    for _ in range(2):
        with turn(str(tmp_path), Holder("me", 1, 0.0, "r"), False, lambda whom: None):
            mine = {*os.listdir(tmp_path)} - {".turn-1", ".turn-2", ".turn-3", ".turn-999999999"}
            assert len(mine) == 1
