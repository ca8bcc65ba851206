"""Terminals in which tests run commands: a bare one of 80 columns, a shell with job control, and a
tmux where keys are pressed and the screen is read."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shlex
import subprocess
import termios
import threading
from pathlib import Path

from .harness import DEADLINE, wait_gone, wait_until


def on_terminal(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a command on a terminal of 80 columns; return its exit code and what it printed."""
    terminal, inside = pty.openpty()
    process = subprocess.Popen(command, env={"TERM": "xterm", "COLUMNS": "80"} | environment,
                               stdin=inside, stdout=inside, stderr=inside)
    os.close(inside)
    seen = b""
    try:
        while chunk := os.read(terminal, 65536):
            seen += chunk
    except OSError:  # the other end is closed
        pass
    os.close(terminal)
    return process.wait(DEADLINE), seen.decode().replace("\r\n", "\n")


class Shell:
    """An interactive shell with job control, the leader of a session on a terminal of its own. What
    is written there is read at once, unless the terminal is to stay full."""

    def __init__(self, place: Path, environment: dict[str, str],
                 command: tuple[str, ...] = ("bash", "--norc", "--noprofile", "-i")) -> None:
        self._terminal, inside = pty.openpty()
        self.process = subprocess.Popen(
            command, env={"TERM": "dumb", "PS1": "$ "} | environment, cwd=place, stdin=inside,
            stdout=inside, stderr=inside, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        self._name = os.ttyname(inside)
        os.close(inside)
        self.seen = b""
        self._leave, self._leave_end = os.pipe()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        poller = select.poll()
        for fd in (self._leave, self._terminal):
            poller.register(fd, select.POLLIN)
        try:
            while self._leave not in dict(poller.poll()):
                self.seen += os.read(self._terminal, 65536)
        except OSError:  # nobody has the other end any more
            pass

    def type(self, line: str) -> None:
        os.write(self._terminal, line.encode() + b"\n")

    def press(self, key: str) -> None:
        """A control key: `C` is ^C."""
        os.write(self._terminal, bytes([ord(key) - 64]))

    def hold(self, held: bool) -> None:
        """As ^S and ^Q do, but at once: the kernel takes its time over keys."""
        fd = os.open(self._name, os.O_RDWR | os.O_NOCTTY)
        termios.tcflow(fd, termios.TCOOFF if held else termios.TCOON)
        os.close(fd)

    def sees(self, text: str) -> None:
        wait_until(lambda: text.encode() in self.seen, repr(text),
                   lambda: self.seen.decode(errors="replace"))

    def close(self, wait: bool = True) -> None:
        """Close the terminal, as a window or an ssh session is closed, and wait for the shell's
        end."""
        if self._terminal < 0:
            return
        os.write(self._leave_end, b"x")
        self._thread.join(DEADLINE)
        for fd in (self._leave, self._leave_end, self._terminal):
            os.close(fd)
        self._terminal = -1
        if wait:
            self.process.wait(DEADLINE)


class Tmux:
    """A tmux server of our own, with one window of 80 by 24 in which a command runs; then it says
    `left with CODE`."""

    def __init__(self, place: Path, command: list[str], environment: dict[str, str]) -> None:
        self._environment = environment | {"TERM": "xterm-256color"}
        self._socket = str(place / "tmux")
        settings = place / "tmux.conf"
        settings.write_text("set -g escape-time 0\nset -g default-terminal screen-256color\n")
        # tmux itself doesn't always notice how a window's command ended.
        script = f"{shlex.join(command)}; echo left with $?; read line"
        self.run("-f", str(settings), "new-session", "-d", "-x", "80", "-y", "24",
                 shlex.join(["sh", "-c", script]))
        self._pids = [int(word) for word in self.about("pid", "pane_pid").split()]

    def run(self, *arguments: str) -> str:
        return subprocess.run(["tmux", "-S", self._socket, *arguments], env=self._environment,
                              capture_output=True, text=True, timeout=DEADLINE, check=True).stdout

    def about(self, *names: str) -> str:
        """What tmux knows of itself and the window, by the names of its format variables."""
        return self.run("display-message", "-p", " ".join(f"#{{{name}}}" for name in names)).strip()

    def screen(self, *arguments: str) -> str:
        return self.run("capture-pane", "-p", *arguments)

    def sees(self, text: str) -> None:
        wait_until(lambda: text in self.screen(), repr(text), self.screen)

    def misses(self, text: str) -> None:
        wait_until(lambda: text not in self.screen(), f"{text!r} gone", self.screen)

    def type(self, *keys: str) -> None:
        """Press keys, by tmux's names for them."""
        self.run("send-keys", *keys)

    def pid(self) -> int:
        """That of the command."""
        return int(Path(f"/proc/{self._pids[1]}/task/{self._pids[1]}/children").read_text())

    def close(self) -> None:
        """End it and what runs in it."""
        self.run("kill-server")
        for pid in self._pids:
            wait_gone(pid)
