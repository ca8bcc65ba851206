"""`einhornpy shell` is what einhornsh is."""

from __future__ import annotations

import os
import pty
import select
import subprocess
from collections.abc import Callable
from pathlib import Path

from ..harness import (
    BIN,
    DEADLINE,
    EINHORNPY,
    Master,
    base_environment,
)

Start = Callable[..., Master]


def test_the_shell_for_scripts(master: Master) -> None:
    result = master.cli("shell", "-e", "set_workers 1; upgrade", "-e", "ping")
    assert result.returncode == 0, result.stderr
    assert "number of workers: 2 -> 1" in result.stdout
    assert "\nUpgrade done\n" in result.stdout
    assert result.stdout.endswith("pong\n")
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
