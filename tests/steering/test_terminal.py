"""A master that was started on a terminal: it serves on whatever becomes of that, and takes nothing
for an order that only a terminal says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from einhornpy.control.client import Client, MasterGone, NoMaster, TimedOut

from ..harness import (
    BIN,
    DEADLINE,
    EINHORNPY,
    Master,
    base_environment,
    children,
    keepers,
    process_state,
    reap_leftovers,
    wait_gone,
    wait_until,
    what_they_do,
)
from ..terminals import Shell

Start = Callable[..., Master]
# It prints before it is ready and afterwards; `read`: it reads from standard input first.
TALKER = """
import os, signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
print("a worker begins", flush=True)
if "read" in sys.argv:
    try:
        os.read(0, 1)
    except OSError as error:
        print("a worker reads:", error, flush=True)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
while True:
    print("a worker goes on", flush=True)
    signal.pause()
"""
ZSH = pytest.param(["zsh", "-f", "-i"], marks=pytest.mark.skipif(
    shutil.which("zsh") is None, reason="there is no zsh"))
BASH = ["bash", "--norc", "--noprofile", "-i"]


class Terminal:
    """A shell on a terminal, and the master `x` that is started there. Its log is a file."""

    def __init__(self, place: Path, command: list[str]) -> None:
        (place / "talker.py").write_text(TALKER)
        self._place = place
        self._log = place / "log"
        self._environment = base_environment(place)
        self.shell = Shell(place, self._environment, tuple(command))
        self._pid: int | None = None

    @property
    def pid(self) -> int:
        """The master's."""
        if self._pid is None:
            self._pid = int(self.ask("ping")["pid"])
        return self._pid

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        path = self._place / "run" / "einhornpy" / "x.sock"
        found: list[dict[str, Any]] = []

        def asked() -> bool:
            try:
                with Client(str(path), timeout=DEADLINE) as client:
                    found.append(client.ask(command, **arguments)["result"])
            except (NoMaster, MasterGone, TimedOut):
                return False
            return True

        wait_until(asked, f"an answer to {command}", self.log)
        return found[0]

    def wait_ready(self, generation: int = 1, target: int = 2) -> None:
        def ready() -> bool:
            document = self.ask("status")
            told = document["gate"], document["generation"], document["target"]
            return told == ("ready", generation, target)

        wait_until(ready, f"generation {generation} ready", self.log)

    def log(self) -> str:
        seen = self.shell.seen.decode(errors="replace")
        return seen + (self._log.read_text() if self._log.exists() else "")

    def wait_log(self, text: str) -> None:
        wait_until(lambda: text in self.log(), repr(text), self.log)

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        wait_gone(self.pid, self.log)


def run(*options: str, word: str = "") -> str:
    """A command line of a master that two workers print for."""
    return " ".join([EINHORNPY, "-n 2 -m notify -c x", *options, "--", sys.executable, "talker.py",
                     word])


@pytest.fixture
def terminal(place: Path) -> Iterator[Callable[..., Terminal]]:
    """Open terminals; afterwards everything is gone, or the test fails."""
    opened: list[Terminal] = []

    def factory(command: list[str] = BASH) -> Terminal:
        opened.append(Terminal(place, command))
        return opened[-1]

    yield factory
    for each in opened:
        each.shell.close()
    try:
        wait_until(lambda: not keepers(), "the keepers gone", what_they_do)
    finally:
        left = reap_leftovers()
    assert not left, f"processes left behind: {left}"


@pytest.mark.parametrize("word", ["", "read"])
def test_printing_and_reading_in_the_background_stops_nobody(
        terminal: Callable[..., Terminal], word: str) -> None:
    there = terminal()
    there.shell.type(f"stty tostop; {run(word=word)} &")
    there.wait_ready()
    there.shell.sees("worker ready index=1")
    wait_until(lambda: there.shell.seen.count(b"a worker goes on") == 2, "what workers print",
               there.log)
    assert there.log().count("a worker reads: [Errno 5]") == (2 if word else 0)
    there.stop()
    there.shell.sees("master stopped")


def test_another_of_the_job_that_is_stopped_for_printing_scales_nothing(
        terminal: Callable[..., Terminal], place: Path) -> None:
    there = terminal()
    there.shell.type(f"stty tostop; {run(f'--log-file {place}/log')} | cat &")
    there.wait_ready()
    (cat,) = [pid for pid, command in children(there.shell.process.pid) if command == "cat "]
    wait_until(lambda: process_state(cat) == "T", "cat stopped", there.log)
    # by hand it does
    os.kill(there.pid, signal.SIGTTIN)
    there.wait_ready(target=3)
    assert "number of workers: 2 -> 1" not in there.log()
    assert "from=2 to=1" not in there.log()
    there.stop()
    os.kill(cat, signal.SIGKILL)
    wait_gone(cat, there.log)


@pytest.mark.parametrize(("shell", "how"), [
    (BASH, "&"), (BASH, ""), pytest.param(ZSH.values[0], "&", marks=ZSH.marks),
    pytest.param(ZSH.values[0], "& exit; exit", marks=ZSH.marks)])
def test_closing_the_terminal_deploys_nothing(terminal: Callable[..., Terminal], place: Path,
                                              shell: list[str], how: str) -> None:
    there = terminal(shell)
    job, *afterwards = how.split(" ", 1)
    there.shell.type(f"{run(f'--log-file {place}/log')} {job if how else ''}")
    there.wait_ready()
    pid = there.pid
    for line in " ".join(afterwards).split("; ") if afterwards else ():
        there.shell.type(line)
    there.shell.close()
    there.wait_log("signal ignored signal=HUP")
    there.wait_ready()
    # and an order is one: new workers print although there is no terminal any more
    os.kill(pid, signal.SIGHUP)
    there.wait_ready(generation=2)
    there.stop()


def test_a_master_that_leads_the_session_goes_on_too(terminal: Callable[..., Terminal],
                                                     place: Path) -> None:
    there = terminal(run(f"--log-file {place}/log").split())
    there.wait_ready()
    pid = there.pid
    there.ask("reload")
    there.wait_log("master replaced")
    there.shell.close(wait=False)
    there.wait_log("signal ignored signal=HUP")
    there.wait_ready()
    os.kill(pid, signal.SIGHUP)
    there.wait_ready(generation=2)
    there.stop()
    there.shell.process.wait(DEADLINE)


def test_an_order_by_hand_is_one_on_a_terminal_too(terminal: Callable[..., Terminal]) -> None:
    there = terminal()
    there.shell.type(f"{run()} &")
    there.wait_ready()
    os.kill(there.pid, signal.SIGHUP)
    there.wait_ready(generation=2)
    os.kill(there.pid, signal.SIGTTOU)
    there.wait_ready(generation=2, target=1)
    there.stop()


def test_a_job_that_was_stopped_goes_on(terminal: Callable[..., Terminal]) -> None:
    there = terminal()
    there.shell.type(run())
    there.wait_ready()
    pid = there.pid
    there.shell.press("Z")
    wait_until(lambda: process_state(pid) == "T", "the master stopped", there.log)
    there.shell.type("fg")
    there.wait_ready()
    there.shell.press("C")
    there.shell.sees("master stopped")
    wait_gone(pid, there.log)


def ignored(pid: int) -> set[int]:
    """The signals that a process ignores."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(status.partition("SigIgn:\t")[2].split()[0], 16)
    return {number for number in signal.valid_signals() if mask >> number - 1 & 1}


def test_nohup_stays(terminal: Callable[..., Terminal], place: Path) -> None:
    there = terminal()
    there.shell.type(f"nohup {run(f'--log-file {place}/log')} &")
    there.wait_ready()
    pid = there.pid
    there.wait_log("as nohup does")
    there.ask("reload")
    there.wait_log("master replaced")
    assert signal.SIGHUP in ignored(pid)
    (worker, *_) = there.ask("status")["workers"]
    assert signal.SIGHUP not in ignored(worker["pid"])
    there.shell.close()
    os.kill(pid, signal.SIGHUP)
    there.ask("ping")
    assert there.ask("status")["generation"] == 1
    there.stop()


def test_a_key_that_a_script_keeps_from_its_jobs_is_no_order(
        terminal: Callable[..., Terminal], place: Path) -> None:
    there = terminal()
    (place / "script").write_text(f"{run(f'--log-file {place}/log')} &\necho $! > pid\nwait\n")
    there.shell.type("sh script")
    there.wait_ready()
    pid = there.pid
    there.shell.press("C")
    there.shell.type("echo back $((1 + 1))")
    there.shell.sees("back 2")
    assert there.ask("status")["gate"] == "ready"
    os.kill(pid, signal.SIGINT)
    wait_gone(pid, there.log)


def test_signals_that_the_parent_ignored_or_blocked(start: Start, place: Path) -> None:
    """Only HUP stays ignored: where nobody's end can be waited for, no service can be run."""
    wrapper = place / "wrapper"
    wrapper.write_text(
        f"#!{sys.executable}\nimport os, signal, sys\n"
        "for number in signal.valid_signals() - {9, 19}:\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n")
    (place / "talker.py").write_text(TALKER)
    wrapper.chmod(0o700)
    process = subprocess.Popen(
        [wrapper, *run("--nice 1:2", "--umask 027", f"--log-file {place}/log").split()], cwd=place,
        env=base_environment(place) | {"PATH": f"{BIN}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL, start_new_session=True)
    master = start("-n", "1", "-m", "notify", "-c", "other", "--", sys.executable, "talker.py")
    master.wait_ready()
    wait_until(lambda: master.cli("status", "-c", "x").returncode == 0, "it ready",
               lambda: (place / "log").read_text())
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE) == 0


def test_a_terminal_that_takes_nothing_holds_nobody_up(terminal: Callable[..., Terminal]) -> None:
    there = terminal()
    there.shell.type(run("--worker-output prefix --max-surge 4"))
    there.wait_ready()
    there.shell.hold(True)
    for target in (8, 2, 8, 2):
        there.ask("scale", to=target)
        there.wait_ready(target=target)
    assert b"scaled from" not in there.shell.seen
    there.shell.hold(False)
    wait_until(lambda: there.shell.seen.count(b"scaled from=8 to=2") == 2, "what was held back",
               there.log)
    there.stop()


# Starts a master in a process group of its own, waits for it, stops it, and leaves: the kernel then
# sends HUP and CONT to the group, which nobody is left to care for (setpgid(2)).
LEAVES = """
import os, signal, subprocess, sys
ready, command = sys.argv[1].split(), sys.argv[2:]
master = subprocess.Popen(command, process_group=0)
subprocess.run(ready, check=True)
os.kill(master.pid, signal.SIGSTOP)
os.waitid(os.P_PID, master.pid, os.WSTOPPED)
"""


def test_without_a_terminal_too_the_kernels_hang_up_is_no_order(place: Path) -> None:
    (place / "talker.py").write_text(TALKER)
    environment = base_environment(place) | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    log, cli = place / "log", [EINHORNPY, "status", "--wait", "-c", "x"]
    # Somebody else of the session stays, or there would be no group that is left alone.
    with subprocess.Popen(
            ["sh", "-c", '"$@"; read line', "sh", sys.executable, "-c", LEAVES, " ".join(cli),
             *run(f"--log-file {log}").split()],
            cwd=place, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            start_new_session=True) as session:
        wait_until(lambda: log.exists() and "signal ignored signal=HUP" in log.read_text(),
                   "a hang-up", lambda: log.read_text() if log.exists() else "")
        status = subprocess.run([EINHORNPY, "status", "--json", "-c", "x"], env=environment,
                                capture_output=True, text=True, check=True)
        assert json.loads(status.stdout)["generation"] == 1
        pid = json.loads(status.stdout)["master"]["pid"]
        os.kill(pid, signal.SIGHUP)  # by hand it is one
        wait_until(lambda: "upgrade ended" in log.read_text(), "an upgrade", log.read_text)
        subprocess.run([EINHORNPY, "stop", "-c", "x"], env=environment, check=True)
        wait_gone(pid)
        session.communicate(b"\n")
