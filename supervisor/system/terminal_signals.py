"""The signals that a terminal sends, read with their senders (signalfd(2)): only so can an order be
told from a terminal that closes, or that is written to from the background. It decides nothing: it
hands out what came, and from whom.

A master without a terminal needs none of it. One that has a terminal keeps these signals blocked:
the kernel then lets it write to the terminal from the background too, whatever `stty tostop` says
(tty_ioctl(4), TIOCSCTTY; termios(3), TOSTOP), and neither stops it nor makes it try for ever.
"""

from __future__ import annotations

import enum
import os
import signal
import struct

from ...shared import kernel

# HUP: it closes. TTIN, TTOU: somebody in our process group reads it or writes to it from the
# background.
_OF_TERMINALS = frozenset({signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU})
# ^C and ^\. A shell without job control has what it starts in the background ignore them.
_KEYS = frozenset({signal.SIGINT, signal.SIGQUIT})
# The begin of struct signalfd_siginfo: number, errno, code, pid. The whole has 128 bytes.
_SIGINFO, _LENGTH = struct.Struct("IiiI"), 128


class Sender(enum.Enum):
    """Who has sent a signal. The shell: the leader of our session, which tells its jobs of its
    end."""

    KERNEL = "the kernel"
    SHELL = "the shell"
    SOMEBODY = "somebody"


class TerminalSignals:
    """`blocked`: those that are read here, none without a terminal. `nohup`: whoever started us
    wants us to ignore HUP. `left_alone`: those that get no handler. `fd`: readable when one has
    come, -1 where none can."""

    def __init__(self) -> None:
        """Raises OSError: there is no descriptor left."""
        self.nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self.blocked: set[signal.Signals] = set()
        self.fd = -1
        if _has_terminal():
            self.blocked |= _OF_TERMINALS
            # Ignored as keys; what a person sends is kept for us while it is blocked.
            self.blocked |= {each for each in _KEYS if signal.getsignal(each) is signal.SIG_IGN}
            self.blocked -= {signal.SIGHUP} if self.nohup else set()
            signal.pthread_sigmask(signal.SIG_BLOCK, self.blocked)
            self.fd = kernel.signalfd(self.blocked)
        self.left_alone = self.blocked | ({signal.SIGHUP} if self.nohup else set())

    def read(self) -> list[tuple[signal.Signals, Sender]]:
        """What has come since."""
        try:
            data = os.read(self.fd, 64 * _LENGTH)
        except BlockingIOError:
            return []
        # A container's first process is no shell that leaves: it passes on what it is sent.
        shell = os.getsid(0) if os.getsid(0) not in (os.getpid(), 1) else None
        found = []
        for begin in range(0, len(data), _LENGTH):
            number, _, code, pid = _SIGINFO.unpack_from(data, begin)
            sender = (Sender.KERNEL if code > 0 else  # sigaction(2), si_code
                      Sender.SHELL if pid == shell else Sender.SOMEBODY)
            found.append((signal.Signals(number), sender))
        return found

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def _has_terminal() -> bool:
    """Whether there is a terminal that controls our session (proc(5): tty_nr)."""
    with open("/proc/self/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[4]) != 0
