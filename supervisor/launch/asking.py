"""A template from its start until it has told what it has read: gunicorn's settings, by gunicorn
itself, in gunicorn's own Python. It decides nothing of what follows."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...shared.frozen import dataclass
from ...worker import template_messages
from ..core import worker_environment
from ..core.facts import how_it_ended
from ..core.generation import Started
from ..core.worker_environment import FIRST_FD
from ..logs.output import LAST_LINES
from ..sockets import rivals
from ..system import plain_data
from ..system.attributes import Attributes
from ..system.loop import READ, Loop
from ..system.processes import (
    CannotStart,
    Exit,
    Launch,
    Processes,
    children,
    command_line,
    tree,
)
from .channel import Channel
from .programs import Program
from .recognition import Gunicorn, Refused, is_gunicorn, not_reached, runs_gunicorn
from .template_command import by_itself, template_command

CANNOT_BE_READ = "gunicorn's settings cannot be read"
# A template holds some descriptors free for what its workers are given: a part of those that it may
# have, but so many at least and at most.
PART_RESERVED, LEAST_RESERVED, MOST_RESERVED = 1 / 4, 12, 200
# A settings file is a program, and may print what it likes; the answer is a line of less than this.
LONGEST_ANSWER = 1 << 24


@dataclass(frozen=True, slots=True)
class Answer:
    """`files`: the text of each configuration file that it has read. `pid`: the template's own,
    where something else has started it; `started`: with what, then."""

    channel: Channel
    pid: int
    settings: Mapping[str, Any]
    files: Mapping[str, str]
    started: Started | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What the template of a generation is started with. `start`: gunicorn, or a program that
    becomes it by itself. `variables`: what it is given beside the environment of its generation.
    `reloads`: it is that of an upgrade. `workers`: N, where it isn't gunicorn's to say. `frozen`:
    what the one before it has read. `warm_up`: what an app is to answer that it imports."""

    generation: int
    start: Gunicorn | Program
    directory: str
    environment: Mapping[str, str]
    variables: Mapping[str, str]
    release: str | None = None
    reloads: bool = False
    workers: int | None = None
    frozen: Mapping[str, Any] | None = None
    warm_up: Sequence[str] = ()


def no_answer(start: Gunicorn | Program | None, how: str, error: str) -> Refused:
    """Why there is no template. `how`: what has happened where something else was to start
    gunicorn; `error`: where gunicorn itself was asked."""
    if isinstance(start, Program):
        return Refused(f"{how} said that it can fork (einhornpy.worker.template)")
    if start is not None and start.wrapped:
        return not_reached(start, how)
    return Refused(CANNOT_BE_READ, error)


class Asking:
    """Ends by exactly one call of `done`, unless it is cancelled. `bundle`: the descriptor of the
    adapter. `attributes`: of workers; each takes its core itself."""

    def __init__(self, processes: Processes, loop: Loop, attributes: Attributes, bundle: int,
                 done: Callable[[Answer | Refused], None]) -> None:
        self._processes = processes
        self._loop = loop
        self._attributes = attributes.of_template()
        self._bundle = bundle
        self._done = done
        self._output = bytearray()
        self._reader: int | None = None
        self._channel: Channel | None = None
        self._start: Gunicorn | Program | None = None
        self.pid: int | None = None

    def begin(self, question: Question) -> int:
        """Start it; return its pid.

        Raises:
            Refused: it can't be started.
        """
        null = reader = writer = -1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            reader, writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(reader, False)
            descriptors = [*[null] * self._reserved, theirs.fileno(), writer, self._bundle]
            self.pid = self._processes.start(self._launch(question, descriptors))
        except (OSError, CannotStart) as error:
            ours.close()
            if reader >= 0:
                os.close(reader)
            why = str(error) if isinstance(error, CannotStart) else error.strerror
            raise Refused(f"cannot ask gunicorn for its settings: {why}") from None
        finally:
            theirs.close()
            for fd in (null, writer):
                if fd >= 0:
                    os.close(fd)
        self._start = question.start
        self._reader, self._channel = reader, Channel(self._loop, ours, self.pid)
        self._loop.watch(reader, READ, self._read)
        return self.pid

    @property
    def _reserved(self) -> int:
        may_have = int(self._processes.descriptor_limit * PART_RESERVED)
        return max(LEAST_RESERVED, min(MOST_RESERVED, may_have))

    def _launch(self, question: Question, descriptors: list[int]) -> Launch:
        after = FIRST_FD + self._reserved
        instructions = json.dumps({
            "version": template_messages.VERSION, "master": os.getpid(), "reserved": self._reserved,
            "channel": after, "result": after + 1, "bundle": after + 2,
            "reloads": question.reloads, "workers": question.workers, "frozen": question.frozen,
            "wrapped": isinstance(question.start, Gunicorn) and question.start.wrapped,
            "warm_up": list(question.warm_up),
            **by_itself(question.start)})
        environment = worker_environment.of_template(
            {**question.environment, **question.variables}, question.directory, os.getpid(),
            question.generation, question.release)
        run = template_command(question.start, environment, after + 2, instructions)
        return Launch(run.words, question.directory, run.environment, descriptors, signal.SIGKILL,
                      attributes=self._attributes, program=run.program,
                      interpreter=run.interpreter)

    def _read(self, events: int) -> None:
        while self._reader is not None:
            try:
                data = os.read(self._reader, 65536)
            except BlockingIOError:
                return
            self._output += data
            # The line, not the end of the file: who stands between us may hold the pipe too.
            if data and b"\n" not in data and len(self._output) < LONGEST_ANSWER:
                continue
            answer = self._understood()
            if answer is not None:
                self._end(answer)
            elif not data:
                self._close_reader()  # its exit will tell

    def _understood(self) -> Answer | Refused | None:
        """What it has said, if that is an answer: the app's own code can write there."""
        for line in self._output.splitlines():
            try:
                said = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if not isinstance(said, dict):
                continue
            if isinstance(said.get("error"), str):
                lines = said.get("lines")
                return Refused(CANNOT_BE_READ, said["error"], lines=tuple(
                    map(str, lines if isinstance(lines, list) else ()))[-LAST_LINES:])
            if isinstance(said.get("settings"), dict) and self._channel is not None:
                if said.get("version") != template_messages.VERSION:
                    return Refused(CANNOT_BE_READ, f"its template speaks {said.get('version')!r}")
                pid = said.get("pid")
                return Answer(self._channel, pid if isinstance(pid, int) else self._channel.pid,
                              said["settings"], said.get("files") or {},
                              _started(said.get("started")))
        return None

    def on_exit(self, exit: Exit) -> bool:
        """It is gone, or what had started it is; return whether it was this one, and had not
        answered yet."""
        if exit.pid != self.pid or self._channel is None:
            return False
        self._read(READ)
        if self._channel is not None:
            ended = how_it_ended(exit.status)
            self._end(no_answer(self._start, f"{ended} before it had", exit.error or ended))
        return True

    def arbiter_serves(self) -> bool:
        """Whether gunicorn's own arbiter has started instead: it listens together with a worker.
        What only reads its settings may do either."""
        return self.pid is not None and any(
            rivals.listens(pid) & rivals.listens(child) for pid in tree(self.pid)
            if runs_gunicorn(command_line(pid)) for child in children(pid)
            if is_gunicorn(command_line(child)))

    def cancel(self) -> None:
        """Stop without a word; a process that is still there is killed."""
        if self._channel is not None and self.pid is not None:
            if not isinstance(self._start, Gunicorn) or self._start.wrapped:
                # What stands before it may have put it into a group of its own.
                self._processes.kill_tree(self.pid)
            else:
                self._processes.signal(self.pid, signal.SIGKILL, group=True)
            self._channel.close()
            self._channel = None
        self._close_reader()

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._loop.unwatch(self._reader)
            os.close(self._reader)
            self._reader = None

    def _end(self, result: Answer | Refused) -> None:
        self._close_reader()
        if isinstance(result, Refused):
            self.cancel()
        self._channel = None
        self._done(result)


def _started(said: Any) -> Started | None:
    try:
        found: Started | None = plain_data.from_plain(Started | None, said)
    except plain_data.Unreadable:
        return None
    return found if found is not None and found.words else None
