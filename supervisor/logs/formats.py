"""What a log line looks like, as text, JSON, logfmt, or in journald's own words. Pure.

An entry of the journal has a name and fields; a line of a worker's output has the fields of who
said it, and its text.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ...shared import printable
from ..reporting.events import Entry, Weight
from ..reporting.report import timestamp

# syslog(3) severities, as journald and syslog want them.
WARNING, INFORMATION, DEBUG = 4, 6, 7
# syslog(3), LOG_DAEMON.
FACILITY = 3
# What may be unprintable: anything but ASCII's signs, letters and tabs.
_UNPRINTABLE = re.compile(rb"[^\t -~]")


def sentence(entry: Entry) -> str:
    """The entry and its fields: `worker ready index=2 pid=4711 generation=7 took=2.31s`."""
    return line(entry.name, entry.logged)


def line(begin: str, fields: Mapping[str, Any]) -> str:
    """Some words, then the fields that have a value."""
    return " ".join([begin, *_pairs(fields)])


def _pairs(fields: Mapping[str, Any]) -> Iterable[str]:
    for key, value in fields.items():
        if value is None:
            continue
        text = _text(value)
        if not text or any(character in text for character in ' "=\n') or not text.isprintable():
            text = '"' + "".join(_escaped(character) for character in text) + '"'
        yield f"{key}={text}"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _escaped(character: str) -> str:
    # A message of somebody else's must neither begin a line of its own nor steer a terminal.
    return "\\" + character if character in '"\\' else printable.escaped(character)


def text_line(entry: Entry, name: str, wall: float) -> str:
    """One log line: `2026-01-02T03:04:05Z web worker ready index=2 pid=4711 generation=7
    took=2.31s`."""
    return f"{timestamp(wall)} {name} {sentence(entry)}"


def json_line(entry: Entry, name: str, labels: Mapping[str, str], wall: float) -> str:
    """One JSON object, with the event's name as `einhornpy events --json` has it."""
    fields = {key: value for key, value in entry.logged.items() if value is not None}
    return json.dumps(_head(entry, name, wall) | fields | {"labels": dict(labels)}, default=str)


def logfmt_line(entry: Entry, name: str, labels: Mapping[str, str], wall: float) -> str:
    """Pairs alone, labels at the end."""
    own = _head(entry, name, wall) | entry.logged
    return " ".join(_pairs(own | {key: text for key, text in labels.items() if key not in own}))


def _head(entry: Entry, name: str, wall: float) -> dict[str, Any]:
    return {"time": precise(wall), "name": name, "level": entry.weight.level,
            "event": entry.event.value}


def output_line(text: bytes) -> bytes:
    """A line of a worker's output that stays one, behind the name of who said it; a tab is no
    harm."""
    if not _UNPRINTABLE.search(text):
        return text
    return printable.escaped(text.decode(errors="backslashreplace"), but="\t").encode()


def precise(wall: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC, with milliseconds."""
    thousandths = round(wall * 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(
        thousandths // 1000)) + f".{thousandths % 1000:03d}Z"


def severity(weight: Weight) -> int:
    """The syslog severity of an entry."""
    return (DEBUG, INFORMATION, WARNING)[weight]


def journal_datagram(message: str, priority: int, name: str, fields: Mapping[str, Any]) -> bytes:
    """A record for journald in its native protocol (systemd, Native Journal Protocol): fields as
    EINHORNPY_NAME. The standard library has no word of it, and systemd's own binding needs a
    compiler and waits for its reader."""
    parts = [("MESSAGE", message), ("PRIORITY", priority), ("SYSLOG_IDENTIFIER", name),
             ("SYSLOG_FACILITY", FACILITY)]
    parts += [
        (f"EINHORNPY_{key.upper()}", value) for key, value in fields.items() if value is not None]
    return b"".join(
        _journal_field(key,
                       _text(value).encode("utf-8", "backslashreplace")) for key, value in parts)


def _journal_field(key: str, value: bytes) -> bytes:
    if b"\n" in value:
        return key.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
    return key.encode() + b"=" + value + b"\n"


def syslog_datagram(message: str, priority: int, name: str, pid: int, wall: float) -> bytes:
    """A record for /dev/log: the form that syslog(3) of the C library writes (RFC 3164, without a
    host)."""
    month, day, clock = time.strftime("%b %d %H:%M:%S", time.localtime(wall)).split()
    head = f"<{FACILITY * 8 + priority}>{month} {day.lstrip('0'):>2} {clock} {name}[{pid}]"
    return f"{head}: {message}".encode(errors="replace")
