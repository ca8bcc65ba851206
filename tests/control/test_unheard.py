"""What the command line says where nobody can hear it, or only some of it: the exit code is that of
what was done."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..harness import APPS, DEADLINE, EINHORNPY, Master, base_environment, wait_until

Start = Callable[..., Master]
WORKER = [sys.executable, str(APPS / "worker.py"), "notify"]
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
DOES = [["upgrade", "--release", "grün"], ["scale", "1"], ["status", "--json"],
        ["shell", "-e", "state"]]
TELLS = [["history"], ["list", "--json"], ["--help"], ["completion", "bash"], ["upgrade", "--help"],
         ["status", "-h"], ["shell", "--help"]]
NO_ROOM = "einhornpy: cannot write to standard output: No space left on device\n"


@pytest.fixture
def master(start: Start) -> Master:
    there = start("-n", "1", "-m", "notify", "--release", "grün", "--", *WORKER)
    there.wait_ready()
    return there


@pytest.fixture
def nobody() -> Iterator[int]:
    """The end of a pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.fixture
def full() -> Iterator[int]:
    """The end of a pipe that is full."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, bytes(4096))
    except BlockingIOError:
        os.set_blocking(writer, True)
    yield writer
    os.close(reader)
    os.close(writer)


def run(master: Master, words: list[str], stdout: Any = subprocess.DEVNULL,
        environment: dict[str, str] | None = None) -> tuple[int, str]:
    """The exit code and what was said on standard error."""
    result = subprocess.run([EINHORNPY, *words], env=master.environment | (environment or {}),
                            stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=DEADLINE)
    return result.returncode, result.stderr


def test_whoever_has_left(master: Master, nobody: int) -> None:
    for words in (*DOES, *TELLS):
        assert run(master, words, nobody) == (0, ""), words
    assert run(master, ["pause"], nobody) == (1, "einhornpy: no upgrade is under way\n")


def test_whoever_reads_one_line(master: Master) -> None:
    result = subprocess.run(
        ["bash", "-c", f"{EINHORNPY} upgrade | head -n 1; exit ${{PIPESTATUS[0]}}"],
        env=master.environment, capture_output=True, text=True, timeout=DEADLINE)
    assert (result.returncode, result.stdout.count("\n"), result.stderr) == (0, 1, "")


def test_no_room(master: Master) -> None:
    with open("/dev/full", "w") as place:
        for words in DOES:
            assert run(master, words, place) == (0, NO_ROOM), words
        for words in TELLS:  # who has asked for words alone has got none
            assert run(master, words, place) == (1, NO_ROOM), words
        refused = subprocess.run([EINHORNPY, "pause"], env=master.environment, stdout=place,
                                 stderr=place, timeout=DEADLINE)
        assert refused.returncode == 1


def test_a_pipe_that_nobody_reads(master: Master, full: int) -> None:
    assert run(master, ["upgrade"], full) == (
        0, "einhornpy: cannot write to standard output: nobody reads it\n")
    assert master.status()["generation"] == 2
    both = subprocess.run([EINHORNPY, "pause"], env=master.environment, stdout=full, stderr=full,
                          timeout=DEADLINE)
    assert both.returncode == 1


def test_no_descriptor_at_all(master: Master) -> None:
    for closed, words in ((">&-", DOES[0]), (">&-", TELLS[0]), ("<&- >&- 2>&-", DOES[0]),
                          ("<&- >&- 2>&-", ["shell"])):
        result = subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", EINHORNPY, *words], env=master.environment,
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=DEADLINE)
        assert (result.returncode, result.stderr) == (0, ""), words


@pytest.mark.parametrize("environment", [
    ASCII, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}])
def test_other_encodings(master: Master, environment: dict[str, str]) -> None:
    for words in (DOES[0], DOES[2], TELLS[0]):
        assert run(master, words, environment=environment) == (0, ""), words
    document = master.cli("history", "--json", environment=environment)
    assert '"grün"' in document.stdout or '"gr\\u00fcn"' in document.stdout


def test_who_listens_no_more_is_told_no_more_events(master: Master) -> None:
    with subprocess.Popen([EINHORNPY, "events"], env=master.environment,
                          stdout=subprocess.PIPE) as listening:
        assert listening.stdout is not None
        out = listening.stdout

        def something_happens() -> None:
            master.ask("scale", by=1)
            master.ask("scale", by=-1)

        def told() -> bool:
            something_happens()
            return bool(select.select([out], [], [], 0)[0])

        wait_until(told, "an event", master.log)
        out.close()
        something_happens()
        assert listening.wait(DEADLINE) == 0


def test_a_master_in_an_ascii_locale(start: Start, place: Path) -> None:
    (place / "grün").mkdir()
    master = start("-n", "1", "-m", "notify", "--chdir", "grün", "--release", "grün", "--", *WORKER,
                   environment=ASCII)
    assert master.wait_ready()["release"] == "grün"
    assert os.readlink(f"/proc/{master.status()['workers'][0]['pid']}/cwd") == f"{place}/grün"
    assert master.cli("reload").returncode == 0
    assert master.cli("upgrade", "--release", "grüner").returncode == 0
    assert master.status()["release"] == "grüner"
    assert "release=grüner" in master.log()


@pytest.mark.parametrize("closed", ["2>/dev/full", "2>&-", ">&- 2>&-"])
def test_a_start_that_fails_unheard(place: Path, closed: str) -> None:
    for words, code in ((["-n", "0", "--", "true"], 2), (["--", "none-such"], 1)):
        result = subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", EINHORNPY, *words], timeout=DEADLINE,
            env=base_environment(place), stdout=subprocess.PIPE)
        assert (result.returncode, result.stdout) == (code, b"")
