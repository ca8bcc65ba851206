"""What workers print: read from pipes, cut into lines, handed to the log; the last lines of
standard error are kept.

With `inherit` only standard error comes this way, byte for byte, so that a start that fails can be
explained; a gunicorn worker takes the real one as soon as it is ready. A reader of ours never
waits, and a flood has its share of each turn and no more. Pipes that outlast a start are held by
the keeper too.

The loop reads them, not a process of its own: its share costs nobody else more than some
milliseconds, and the last lines of a failed start are there when its exit is seen.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, field, replace
from functools import partial
from typing import Any

from ...shared.frozen import dataclass
from ..settings.parsers import WorkerOutput
from ..system.guard import Guard
from ..system.loop import READ, Loop
from ..system.part import Keep, Kept, Part, State
from .log import Log, Source

# A longer line is logged in pieces.
LONGEST = 16384
AT_ONCE = 1 << 15
# All pipes together, in one turn of the loop: some milliseconds of work. A line costs about as much
# as so many bytes.
A_TURN, A_LINE = 1 << 20, 100
LAST_LINES, LONGEST_LAST_LINE = 20, 500
# A stack may be longer than what people are shown, and the line that tells why may stand above it.
LINES_SEARCHED = 60


@dataclass(frozen=True, slots=True)
class Ends:
    """Pipes for a worker that is about to start. `stdout`, `stderr`: (what we read, what it
    writes), None where it has ours."""

    stdout: tuple[int, int] | None
    stderr: tuple[int, int] | None

    @property
    def writers(self) -> tuple[int | None, int | None]:
        return self.stdout and self.stdout[1], self.stderr and self.stderr[1]


@dataclass(slots=True, eq=False)
class Pipe:
    """One stream of one worker. `fd`: -1 after its end. `rest`: the beginning of a line that isn't
    whole yet; `goes_on`: a piece of it is logged already. `orphaned`: the worker is gone, and
    somebody whom it has left behind may still write."""

    fd: int
    worker: int
    source: Source
    orphaned: bool = False
    rest: bytes = b""
    goes_on: bool = False
    last: deque[str] = field(default_factory=lambda: deque(maxlen=LINES_SEARCHED))


@dataclass(frozen=True, slots=True)
class KeptPipe(Kept):
    """A pipe as plain data."""

    fd: int
    worker: int
    source: Source
    orphaned: bool
    rest: str
    goes_on: bool
    last: tuple[str, ...]

    def descriptors(self) -> Iterable[int]:
        return [self.fd] if self.fd >= 0 else []

    def texts(self) -> Iterable[str]:
        return [self.rest]


class Output(Part):
    """All pipes. `mode`: inherit, prefix or json. `keep`: lets the keeper hold one."""

    name = "output"
    keeps = {"output": Keep(tuple[KeptPipe, ...], ())}

    def __init__(self, loop: Loop, log: Log, mode: WorkerOutput, guard: Guard) -> None:
        self._guard = guard
        self._loop = loop
        self._log = log
        self._mode = mode
        self.keep: Callable[[int], None] = lambda pipe: None
        self._pipes: dict[int, list[Pipe]] = {}
        self._left = A_TURN

    def open(self) -> Ends:
        """Make the pipes for one worker.

        Raises:
            OSError: there are too many.
        """
        stdout = None if self._mode is WorkerOutput.INHERIT else _pipe()
        try:
            return Ends(stdout, _pipe())
        except OSError:
            self.close_all(Ends(stdout, None))
            raise

    def started(self, ends: Ends, worker: int, source: Source, for_good: bool) -> None:
        """The worker that `source` tells of runs: read what it says. `for_good`: it doesn't take
        our standard error when ready."""
        pairs = [(stream, pair)
                 for stream, pair in (("stdout", ends.stdout), ("stderr", ends.stderr))
                 if pair is not None]
        for stream, pair in pairs:
            self._add(Pipe(pair[0], worker, replace(source, stream=stream)))
            if for_good or self._mode is not WorkerOutput.INHERIT:
                self._guard.run("keeper", self.keep, pair[0])
        for _, pair in pairs:
            os.close(pair[1])

    def named(self, worker: int, pid: int) -> None:
        """Its pid is known by now."""
        for pipe in self._pipes.get(worker, ()):
            pipe.source = replace(pipe.source, pid=pid)

    def open_pipes(self) -> list[int]:
        """The descriptors of all pipes that are read."""
        return [pipe.fd for pipes in self._pipes.values() for pipe in pipes if pipe.fd >= 0]

    def close_all(self, ends: Ends) -> None:
        """It could not be started."""
        for pipes in list(self._pipes.values()):
            for pipe in [
                    each for each in pipes
                    if each.fd in {pair[0] for pair in (ends.stdout, ends.stderr) if pair}]:
                self._loop.unwatch(pipe.fd)
                self._forget(pipe)
        for pair in (ends.stdout, ends.stderr):
            for fd in pair or ():
                os.close(fd)

    def _add(self, pipe: Pipe) -> None:
        self._pipes.setdefault(pipe.worker, []).append(pipe)
        self._watch(pipe)

    def _watch(self, pipe: Pipe) -> None:
        if pipe.fd >= 0:
            self._loop.watch(pipe.fd, READ, partial(self._on_readable, pipe))

    def on_time(self, now: float) -> None:
        """A new turn of the loop, a new share."""
        self._left = A_TURN

    def _on_readable(self, pipe: Pipe, events: int) -> None:
        if self._left <= 0:
            return
        if self._mode is WorkerOutput.INHERIT and not self._log.standard_error.room:
            # As if it wrote there itself, it has to wait; we don't.
            self._loop.unwatch(pipe.fd)
            self._log.standard_error.when_there_is_room(lambda: self._watch(pipe))
            return
        self._read(pipe)

    def _read(self, pipe: Pipe) -> bool:
        """Read once; return whether there may be more."""
        try:
            data = os.read(pipe.fd, AT_ONCE)
        except BlockingIOError:
            return False
        if data:
            self._left -= len(data) + A_LINE * data.count(b"\n")
            self._take(pipe, data)
            return True
        if pipe.rest:
            # Half a line is one when nobody can finish it; the log's next line must not stand
            # behind it.
            self._take(pipe, b"\n")
        self._end(pipe)
        if pipe.orphaned:
            self._forget(pipe)
        return False

    def _end(self, pipe: Pipe) -> None:
        self._loop.unwatch(pipe.fd)
        os.close(pipe.fd)
        pipe.fd = -1

    def _forget(self, pipe: Pipe) -> None:
        left = [each for each in self._pipes[pipe.worker] if each is not pipe]
        if left:
            self._pipes[pipe.worker] = left
        else:
            del self._pipes[pipe.worker]

    def _take(self, pipe: Pipe, data: bytes) -> None:
        pieces = list(cut(pipe, data))
        if pipe.source.stream == "stderr":
            pipe.last.extend(text[:LONGEST_LAST_LINE].decode(errors="backslashreplace")
                             for text, _, _ in pieces[-LINES_SEARCHED:])
        if self._mode is WorkerOutput.INHERIT:
            self._log.standard_error.put(data, data.count(b"\n"))
        elif pieces:
            self._log.output(pipe.source, pieces, time.time())

    def last_lines(self, worker: int, most: int = LAST_LINES) -> tuple[str, ...]:
        """The last lines that a worker wrote to its standard error, the newest last; what it has
        just written is read first."""
        for pipe in list(self._pipes.get(worker, ())):
            for _ in range(A_TURN // AT_ONCE):
                if pipe.fd < 0 or not self._read(pipe):
                    break
            if pipe.source.stream == "stderr":
                begun = [pipe.rest[:LONGEST_LAST_LINE].decode(
                    errors="backslashreplace")] if pipe.rest else []
                return tuple([*pipe.last, *begun][-most:])
        return ()

    def lines_of(self, worker: int, most: int = LAST_LINES) -> tuple[str, ...]:
        """The same, for a fact that carries them along: it is true without."""
        return self._guard.run("last lines", self.last_lines, worker, most) or ()

    def kept_lines(self, worker: int) -> list[str]:
        """The same, as far as they have been read; none with `inherit`, where only the beginning
        may have come this way."""
        if self._mode is WorkerOutput.INHERIT:
            return []
        return [
            line for pipe in self._pipes.get(worker, ()) if pipe.source.stream == "stderr"
            for line in pipe.last][-LAST_LINES:]

    def worker_is_gone(self, worker: int) -> None:
        """Its lines are needed no more; whoever else holds its pipes may go on writing."""
        for pipe in list(self._pipes.get(worker, ())):
            pipe.orphaned = True
            if pipe.fd < 0:
                self._forget(pipe)

    def hand_over(self) -> dict[str, Any]:
        return {"output": [{
            "fd": pipe.fd, "worker": pipe.worker, "source": asdict(pipe.source),
            "orphaned": pipe.orphaned, "rest": pipe.rest.decode("latin-1"), "goes_on": pipe.goes_on,
            "last": list(pipe.last)} for pipes in self._pipes.values() for pipe in pipes]}

    def take_over(self, state: State) -> None:
        kept: tuple[KeptPipe, ...] = state["output"]
        for each in kept:
            self._add(
                Pipe(each.fd, each.worker, each.source, each.orphaned, each.rest.encode("latin-1"),
                     each.goes_on, deque(each.last, LINES_SEARCHED)))

    def read_the_rest(self) -> None:
        """Log what is there."""
        for worker in list(self._pipes):
            self.last_lines(worker)

    def close(self) -> None:
        """Read no more."""
        for pipe in [pipe for pipes in self._pipes.values() for pipe in pipes if pipe.fd >= 0]:
            self._end(pipe)
        self._pipes.clear()


def _pipe() -> tuple[int, int]:
    """A pipe whose reading end doesn't block; its writing end does, as a worker expects."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reader, False)
    return reader, writer


def cut(pipe: Pipe, data: bytes) -> list[tuple[bytes, bool, bool]]:
    """Cut what has arrived into lines, and lines that are too long into pieces: (text, whether it
    goes on the line before, whether its line goes on). What isn't a line yet stays in the pipe's
    `rest`."""
    *whole, rest = (pipe.rest + data).split(b"\n")
    pieces: list[tuple[bytes, bool, bool]] = []
    for line in whole:
        while len(line) > LONGEST:
            pieces.append((line[:LONGEST], pipe.goes_on, True))
            line, pipe.goes_on = line[LONGEST:], True
        pieces.append((line, pipe.goes_on, False))
        pipe.goes_on = False
    while len(rest) > LONGEST:
        pieces.append((rest[:LONGEST], pipe.goes_on, True))
        rest, pipe.goes_on = rest[LONGEST:], True
    pipe.rest = rest
    return pieces
