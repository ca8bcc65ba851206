"""The log: entries of the journal and lines of workers' output, formatted and put into the sink
that the operator chose."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from ...shared.frozen import dataclass
from ..outside import labels
from ..reporting.events import Entry, Event, Weight
from ..settings.parsers import LogFormat, LogTo, WorkerOutput
from ..settings.table import Settings
from ..system.part import Keep, Kept, Part, State
from . import formats
from .sinks import CannotLog, Counts, Datagrams, Descriptor, File, KeptUnwritten, Loop, Sink

JOURNALD, SYSLOG = "/run/systemd/journal/socket", "/dev/log"
STANDARD_ERROR = 2
_PARTIAL = ', "partial": true'


@dataclass(frozen=True, slots=True)
class Source:
    """Which worker said something, on which of its streams (`stdout` or `stderr`)."""

    index: int
    pid: int
    generation: int
    release: str | None
    stream: str = "stderr"


def check(settings: Settings) -> None:
    """Look whether there can be a log, as the settings want it.

    Raises:
        CannotLog: there can't.
    """
    nowhere = _Nowhere()
    if settings.log_file is not None:
        File(settings.log_file, nowhere, Counts(), lambda dropped: b"").close()
    elif settings.log_to != "stderr":
        Datagrams(JOURNALD if settings.log_to == "journal" else SYSLOG, nowhere, Counts(),
                  lambda dropped: b"").close()


def opened(settings: Settings, loop: Loop, environ: Mapping[str, str]) -> Log:
    """The log that the settings want, with what is known of this host at once."""
    found = labels.known_at_once(environ)
    try:
        return Log(settings, loop, found)
    except CannotLog:
        # It could be written when it was looked at (`check`): a master that takes over must not
        # fail for it now.
        return Log(replace(settings, log_file=None, log_to=LogTo.STDERR), loop, found)


class _Nowhere:
    """A loop that watches nothing."""

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None: ...
    def unwatch(self, fd: int) -> None: ...


@dataclass(frozen=True, slots=True)
class KeptLog(Kept):
    """`unwritten`: of the log, and of our standard error where that isn't it."""

    lines: int = 0
    dropped: int = 0
    unsaid: int = 0
    unwritten: tuple[tuple[KeptUnwritten, ...], tuple[KeptUnwritten, ...]] = ((), ())

    def texts(self) -> Iterable[str]:
        return [each.data for several in self.unwritten for each in several]


class Log(Part):
    """`master`: its name. `found`: labels that nobody gave; more may become known later. `counts`:
    how many lines there were."""

    name = "log"
    keeps = {
        "log": Keep(KeptLog, KeptLog()), "labels": Keep(Mapping[str, str], {}),
        "least_weight": Keep(int, needed=True)}

    def __init__(self, settings: Settings, loop: Loop, found: Mapping[str, str]) -> None:
        """`found`: labels that nobody gave.

        Raises:
            CannotLog: there is no such place.
        """
        self.master = settings.command_name
        self._given = dict(settings.labels)
        self.found = dict(found)
        self.counts = Counts()
        self._least_weight: int = (Weight.ATTENTION if settings.quiet else
                                   Weight.DETAIL if settings.verbose else Weight.NORMAL)
        self._format = settings.log_format
        self._output_format = settings.worker_output
        self.standard_error = Descriptor(STANDARD_ERROR, loop, self.counts, self._note)
        self._sink: Sink = self.standard_error
        self._to = settings.log_to if settings.log_file is None else "file"
        if settings.log_file is not None:
            self._sink = File(settings.log_file, loop, self.counts, self._note)
        elif self._to != "stderr":
            self._sink = Datagrams(JOURNALD if self._to == "journal" else SYSLOG, loop, self.counts,
                                   self._note)

    @property
    def labels(self) -> dict[str, str]:
        """What this host is called; what somebody gave comes first."""
        return {**self.found, **self._given}

    def entry(self, entry: Entry, wall: float) -> None:
        """Log what happened at `wall`, in seconds since the epoch."""
        self._sink.put(self._formatted(entry, wall))

    def tell(self, entry: Entry, wall: float) -> None:
        """Log it, if it is of enough weight."""
        if entry.weight >= self._least_weight:
            self.entry(entry, wall)

    def change_verbosity(self, by: int) -> str:
        """Log less (+1) or more (-1); return what is logged from now on."""
        self._least_weight = min(Weight.ATTENTION, max(Weight.DETAIL, self._least_weight + by))
        logged = ("details too", "what happens", "only what needs attention")
        return f"logging {logged[self._least_weight]}"

    def _formatted(self, entry: Entry, wall: float) -> bytes:
        if self._to == "journal":
            fields = {
                **self.labels, **entry.logged, "event": entry.event.value, "name": self.master}
            return formats.journal_datagram(formats.sentence(entry), formats.severity(entry.weight),
                                            self.master, fields)
        if self._format is LogFormat.JSON:
            line = formats.json_line(entry, self.master, self.labels, wall)
        elif self._format is LogFormat.LOGFMT:
            line = formats.logfmt_line(entry, self.master, self.labels, wall)
        elif self._to == "syslog":
            line = formats.sentence(entry)
        else:
            line = formats.text_line(entry, self.master, wall)
        if self._to == "syslog":
            return formats.syslog_datagram(line, formats.severity(entry.weight), self.master,
                                           os.getpid(), wall)
        return line.encode(errors="backslashreplace") + b"\n"

    def _note(self, dropped: int) -> bytes:
        entry = Entry(Event.LOG_LINES_DROPPED,
                      {"lines": dropped, "why": "nobody took them in time"})
        return self._formatted(entry, time.time())

    def output(self, source: Source, pieces: Iterable[tuple[bytes, bool, bool]],
               wall: float) -> None:
        """Log what a worker has printed: (text, whether it goes on the line before, whether its
        line goes on)."""
        fields = {
            "index": source.index, "pid": source.pid, "generation": source.generation,
            "release": source.release}
        if self._to in ("journal", "syslog"):
            for text, _, _ in pieces:
                self._sink.put(self._datagram(source, fields, text, wall))
            return
        if self._output_format is WorkerOutput.JSON:
            written = _json_lines(self.master, fields, self.labels, source.stream, pieces, wall)
        else:  # for people, who know on which host they are
            written = _prefixed_lines(self.master, fields, self._given, source.stream, pieces)
        self._sink.put(b"".join(written), len(written))

    def _datagram(self, source: Source, fields: Mapping[str, Any], text: bytes,
                  wall: float) -> bytes:
        """A piece of a worker's output for journald or syslog."""
        severity = formats.severity(Weight.NORMAL)
        if self._to == "syslog":
            said = formats.output_line(text).decode(errors="backslashreplace")
            message = f"worker {source.index} (pid {source.pid}) {source.stream}: {said}"
            return formats.syslog_datagram(message, severity, self.master, os.getpid(), wall)
        told = {**self.labels, **fields, "stream": source.stream, "name": self.master,
                "event": "worker-output"}
        return formats.journal_datagram(text.decode(errors="backslashreplace"), severity,
                                        self.master, told)

    def reopen(self) -> None:
        """Follow a log file that was moved away.

        Raises:
            CannotLog: there can be no new one; the old one goes on.
        """
        if isinstance(self._sink, File):
            self._sink.reopen()

    def hand_over(self) -> dict[str, Any]:
        unwritten = [
            self._sink.hand_over(),
            [] if self._sink is self.standard_error else self.standard_error.hand_over()]
        return {"log": {**asdict(self.counts), "unwritten": unwritten},
                "labels": dict(self.found), "least_weight": self._least_weight}

    def take_over(self, state: State) -> None:
        kept: KeptLog = state["log"]
        counts = self.counts
        counts.lines, counts.dropped, counts.unsaid = kept.lines, kept.dropped, kept.unsaid
        self.found = dict(state["labels"]) | self.found
        if state["least_weight"] is not None:
            self.master, self._least_weight = state["name"], state["least_weight"]
        self._sink.take_over(kept.unwritten[0])
        self.standard_error.take_over(kept.unwritten[1])

    def close(self) -> None:
        for sink in {self._sink, self.standard_error}:
            sink.close()


def _prefixed_lines(name: str, fields: Mapping[str, Any], labels: Mapping[str, str], stream: str,
                    pieces: Iterable[tuple[bytes, bool, bool]]) -> list[bytes]:
    """`shop index=2 pid=4711 generation=7 region=eu stderr| text`; with `stderr+|` what goes on the
    line before."""
    head = formats.line(name, {**labels, **fields}).encode(errors="backslashreplace")
    first, further = head + b" %s| " % stream.encode(), head + b" %s+| " % stream.encode()
    return [(further if continues else first) + formats.output_line(text) + b"\n"
            for text, continues, _ in pieces]


def _json_lines(name: str, fields: Mapping[str, Any], labels: Mapping[str, str], stream: str,
                pieces: Iterable[tuple[bytes, bool, bool]], wall: float) -> list[bytes]:
    """One object a line; `partial` where its line goes on in the next one."""
    head = json.dumps({
        "time": formats.precise(wall), "name": name, "event": "worker-output", "stream": stream,
        **fields, "labels": dict(labels)})[:-1]
    encode = json.encoder.encode_basestring_ascii
    return [
        f'{head}, "message": {encode(text.decode("utf-8", "backslashreplace"))}'
        f'{_PARTIAL if goes_on else ""}}}\n'.encode() for text, _, goes_on in pieces]
