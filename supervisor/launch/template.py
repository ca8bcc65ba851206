"""One template as the master has it: the process, how it is asked and heard, whom it was asked for,
and how it ends. What follows from any of that is templates.py's to observe.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import field
from typing import Any

from ...shared.frozen import dataclass
from ...worker import template_messages
from ..core.generation import Finding
from ..system import plain_data
from ..system.part import Kept
from ..system.processes import Processes, parent
from .asking import Asking
from .channel import Channel


@dataclass(frozen=True, slots=True)
class Fork:
    """A worker that a template was asked for: told its pid, or None if there will be none."""

    worker: int
    done: Callable[[int | None], None]


@dataclass(slots=True, eq=False)
class Template:
    """`pid`: the process that we have started; `own_pid`: the template's, where something stands in
    between. `gone`: how it ended, and until when its last words are waited for. `error`: its own
    word on why, with `lines` of a traceback; `failed`: as a predicate. `deaf_until`: it hears us no
    more, and is killed then if it has not ended. `version`: of the messages that it understands.
    """

    generation: int
    pid: int
    own_pid: int = 0
    channel: Channel | None = None
    asking: Asking | None = None
    forks: dict[int, Fork] = field(default_factory=dict)
    gone: tuple[str, float] | None = None
    error: str | None = None
    lines: tuple[str, ...] = ()
    failed: str | None = None
    deaf_until: float | None = None
    version: int = template_messages.VERSION

    @property
    def busy(self) -> bool:
        """Whether it is starting, forking or about to be gone: another master could not hear what
        comes of that."""
        return bool(self.asking or self.forks or self.gone or (self.channel and self.channel.ended))

    @property
    def held(self) -> bool:
        """Whether the kernel doesn't take yet what it is told."""
        return self.channel is not None and self.channel.held

    def send(self, message: bytes, descriptors: Iterable[int] = ()) -> None:
        """Say it, if it is there.

        Raises:
            OSError: no such message can be sent.
        """
        if self.channel is not None:
            self.channel.send(message, [*descriptors])

    def kill(self, processes: Processes) -> None:
        # What stands before it may have put it into a group of its own.
        if self.own_pid == self.pid:
            processes.signal(self.pid, signal.SIGKILL, group=True)
        else:
            processes.kill_tree(self.pid)

    def end_own(self, processes: Processes) -> None:
        """What had started it is gone, and may have left it to us."""
        if self.own_pid not in (0, self.pid) and parent(self.own_pid) == os.getpid():
            processes.adopt(self.own_pid)
            processes.signal(self.own_pid, signal.SIGKILL)

    def close(self, processes: Processes) -> None:
        """End it at once, and hear nothing more of it."""
        if self.asking is not None:
            self.asking.cancel()
        if self.channel is not None:
            self.channel.close()
        processes.end(self.pid)
        self.end_own(processes)


@dataclass(frozen=True, slots=True)
class Imported:
    """`seconds`: how long the import of the app has taken. `findings`: see
    template_facts.TemplateReady."""

    seconds: float
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class KeptTemplate(Kept):
    """One that can fork."""

    generation: int
    pid: int
    own_pid: int
    fd: int
    version: int = 1

    def descriptors(self) -> Iterable[int]:
        return [self.fd]

    def process_ids(self) -> Iterable[int]:
        return [self.pid]


def imported(said: Any) -> Imported | None:
    """What a template has said of it; None if that is nothing."""
    try:
        found: Imported | None = plain_data.from_plain(Imported | None, said)
    except plain_data.Unreadable:
        return None
    return found
