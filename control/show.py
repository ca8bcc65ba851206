"""How people see it: tables and lines for a terminal of 80 columns, colours where they are wanted.

Text in, text out; nothing here prints, or asks the master anything. What it is given can be printed
(client.py).
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from ..shared import durations
from . import terminal, traffic

_COLOURS = {
    "ready": "32", "starting": "33", "upgrading": "33", "paused": "33", "degraded": "31",
    "rolled-back": "31", "stopping": "33", "retiring": "33", "done": "32", "superseded": "33",
    "aborted": "31", "well": "32", "no-worse": "32", "proven": "32", "fetched": "33",
    "unprepared": "33", "refused": "31", "unsure": "33", "worse": "31"}


def coloured(word: str, width: int = 0) -> str:
    """A state or gate in its colour, where standard output is a terminal and NO_COLOR isn't set."""
    padded = word.ljust(width)
    if word not in _COLOURS or not terminal.coloured():
        return padded
    return f"\x1b[{_COLOURS[word]}m{padded}\x1b[0m"


# So many findings are shown of a generation.
MOST_FINDINGS = 5
# Where the release begins in a line of the history.
_HISTORY_WIDTH = 68


def duration(seconds: float | None) -> str:
    """In words; `-` where it isn't known."""
    return "-" if seconds is None else durations.duration(seconds)


def compact(seconds: float | None) -> str:
    """The same for a column of 6: `2.3s`, `12s`, `5m3s`, `2h5m`, `3d4h`."""
    return duration(seconds).replace("min", "m").replace(" ", "")


def size(count: int | None) -> str:
    """`25 MiB`, `120 GiB`: never more than 8 characters."""
    if count is None:
        return "-"
    megabytes = f"{count / (1 << 20):.0f} MiB"
    return megabytes if len(megabytes) <= 8 else f"{count / (1 << 30):.0f} GiB"


def number(value: int | None, width: int) -> str:
    """A count as it is where it has room, else rounded down: `1.2M`, `34k`, `5.6G`; `-` for
    none."""
    if value is None:
        return "-"
    text = str(value)
    for unit, worth in (("k", 1000), ("M", 1000**2), ("G", 1000**3), ("T", 1000**4)):
        if len(text) <= width:
            break
        rounded = f"{value * 10 // worth / 10:.1f}" if value < 10 * worth else str(value // worth)
        text = f"{rounded}{unit}"
    return text


def requests(worker: Mapping[str, Any]) -> str:
    """A worker's requests, done and under way: `812+1`, or `812` where nobody knows the latter."""
    if worker["requests"] is None:
        return "-"
    if worker["in_flight"] is None:
        return number(worker["requests"], 10)
    flying = number(worker["in_flight"], 4)
    return f"{number(worker['requests'], 10 - len(flying))}+{flying}"


def share(part: float | None) -> str:
    return "-" if part is None else f"{part:.0%}"


def status(document: Mapping[str, Any]) -> str:
    """The status document as a short table."""
    master = document["master"]
    release = f" ({document['release']})" if document["release"] else ""
    lines = wrapped(f"{document['name']}: {coloured(document['gate'])}: {document['reason']}", 4,
                    "")
    lines += _entry(
        "master",
        f"pid {master['pid']}, einhornpy {master['version']}, up "
        f"{duration(document['uptime_seconds'])}"
    )
    lines += _entry("generation", f"{document['generation']}{release}")
    if document.get("labels"):  # a master of an older version has none
        lines += _entry(
            "labels",
            " ".join(f"{key}={quoted(value)}" for key, value in document["labels"].items()))
    for listener in document["listeners"]:
        lines += _entry("listening", listening(listener))
    for each in document.get("templates", ()):
        lines += _entry("template", template(each))
    used = memory(document)
    if used is not None:
        lines += _entry("memory", used)
    for line in traffic.of_generations(document):
        lines += _entry("traffic", line)
    lines += _upgrade(document["upgrade"], document["reason"])
    lines += ["", " INDEX     PID  GEN STATE       AGE READY IN RESTARTS   MEMORY    REQUESTS BUSY"]
    for worker in document["workers"]:
        lines += _worker(worker)
    if not document["workers"]:
        lines.append("  no workers")
    for orphan in document.get("left_behind", []):  # a master of an older version knows of none
        lines += _left_behind(orphan)
    lines += _findings(document.get("findings", []))
    failed = document.get("failed_start")
    if failed is not None and failed["last_lines"]:
        lines += ["", *last_lines(failed["last_lines"], failed["generation"])]
    return "\n".join(lines)


def _upgrade(upgrade: Mapping[str, Any] | None, told: str) -> list[str]:
    if upgrade is None:
        return []
    lines = _entry("upgrade", upgrade_line(upgrade))
    if upgrade["hold_left_seconds"] is not None:
        lines += _entry("hold", f"ends in {duration(upgrade['hold_left_seconds'])}")
    if (left := traffic.watched(upgrade)) is not None:
        lines += _entry("watch", f"can go back for another {duration(left)}")
    if (verdict := traffic.verdict(upgrade, told)) is not None:
        lines += _entry("verdict", f"{coloured(verdict[0])}{verdict[1]}")
    if upgrade["error"] and upgrade["outcome"] != "done":
        lines += _entry("error", upgrade["error"])
    return lines


def _worker(worker: Mapping[str, Any]) -> list[str]:
    notes = [*(["baseline"] if traffic.is_baseline(worker) else []),
             *([] if (note := worker_note(worker)) is None else [note])]
    return [
        f" {worker['index']:>5} {worker['pid']:>7} {number(worker['generation'], 4):>4} "
        f"{coloured(worker['state'], 8)} "
        f"{compact(worker['age_seconds']):>6} {compact(worker['ready_after_seconds']):>8} "
        f"{number(worker['restarts'], 8):>8} {size(worker['memory_bytes']):>8} "
        f"{requests(worker):>11} "
        f"{share(worker['busy_share']):>4}",
        *(line for each in notes for line in wrapped(each, 8))]


def _left_behind(orphan: Mapping[str, Any]) -> list[str]:
    killed = orphan["killed_in_seconds"]
    until = "killed" if killed is None else f"killed in {killed:.0f} s"
    whose = ("a worker that isn't known, and holds a listening socket" if orphan["index"] is None
             else f"worker {orphan['index']} of generation {orphan['generation']}")
    return wrapped(f"pid {orphan['pid']} was left behind by {whose}: asked to go, {until}", 8)


def template(document: Mapping[str, Any], plain: bool = False) -> str:
    """A template in one line: for how long it has been in its state, how long the import of the app
    has taken, how many workers it has forked, what it uses; `plain`: without colours of its own."""
    state = document["state"] if plain else coloured(document["state"])
    if document["pid"] is None:
        return f"generation {document['generation']}: {state}"
    parts = [f"pid {document['pid']}", f"{state} {compact(document['age_seconds'])}"]
    # A master of an older version says no more of it.
    if document.get("import_seconds") is not None:
        parts.append(f"import {compact(document['import_seconds'])}")
    if document.get("forks"):
        parts.append(f"{document['forks']} fork{'' if document['forks'] == 1 else 's'}")
    if document.get("memory_bytes") is not None:
        parts.append(size(document["memory_bytes"]))
    return f"generation {document['generation']}: {', '.join(parts)}"


def memory(document: Mapping[str, Any]) -> str | None:
    """What master, templates and workers use, and what sharing saves; None where that isn't
    known."""
    found = document.get("memory")
    if found is None or found["total_bytes"] is None:
        return None
    saved = f", sharing saves {size(found['saved_bytes'])}" if found["saved_bytes"] >> 20 else ""
    return f"{size(found['total_bytes'])}{saved}"


def of_generations(findings: Iterable[Mapping[str, Any]],
                   ) -> Mapping[int, list[Mapping[str, Any]]]:
    """What isn't safe to fork, by generation."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for each in findings:
        found.setdefault(each["generation"], []).append(each)
    return found


def finding(document: Mapping[str, Any]) -> str:
    """What isn't safe to fork, and since when."""
    since = f", since the import of {document['module']}" if document["module"] else ""
    return f"{document['kind']} {document['what']}{since}"


def _findings(findings: Iterable[Mapping[str, Any]]) -> list[str]:
    lines = []
    for generation, found in of_generations(findings).items():
        so = "; its workers import the app themselves" if found[0]["separate"] else ""
        lines += ["", *wrapped(f"generation {generation} has what is not safe to fork{so}", 2)]
        for each in found[:MOST_FINDINGS]:
            lines += wrapped(f"{finding(each)}: {each['advice']}", 6, "    ")
        if len(found) > MOST_FINDINGS:
            lines.append(f"    and {len(found) - MOST_FINDINGS} more, which --json lists")
    return lines


def last_lines(said: list[str], generation: int, stream: TextIO | None = None) -> list[str]:
    """What the start that failed last has written to its standard error, as a block."""
    return [f"  the last lines of a worker of generation {generation} on its standard error",
            *(part for line in said for part in wrapped(line, 4, stream=stream))]


def quoted(text: str) -> str:
    """A value in quotes, where it could be taken for two."""
    return json.dumps(text, ensure_ascii=False) if not text or " " in text or '"' in text else text


def listening(listener: Mapping[str, Any]) -> str:
    """A listener: its address and how many connections wait in its queue."""
    queue = "?" if listener["queue"] is None else listener["queue"]
    return f"{listener['address']} (queue {queue} of {listener['backlog'] or '?'})"


def worker_note(worker: Mapping[str, Any]) -> str | None:
    """Why a worker is still there, or won't be for long; None for most."""
    if worker["waits_for"]:
        return f"waits for {worker['waits_for']}"
    return f"due for recycling: it {worker['recycled_for']}" if worker["recycled_for"] else None


def _entry(label: str, text: str) -> list[str]:
    """A labelled line of the status."""
    return wrapped(text, 14, f"  {label:<12}")


def history(upgrades: list[dict[str, Any]]) -> str:
    """The upgrades as a table; what was wrong, and the verdict on those that were judged, on lines
    of their own."""
    lines = ["STARTED               FROM    TO OUTCOME         TOOK BY           RELEASE"]
    for each in upgrades:
        release = each["release"] or "-"
        if each["recipe_of"]:
            release += f" (recipe of {each['recipe_of']})"
        # What has no room at the end of the line gets one of its own.
        beside = not sys.stdout.isatty() or len(release) <= columns() - _HISTORY_WIDTH
        lines.append(
            f"{each['started_at']:<20} {each['from']:>5} {each['to']:>5} "
            f"{coloured(each['outcome'] or 'under way', 13)} "
            f"{compact(each['took_seconds']):>6} "
            f"{each['requested_by'].partition(' (')[0][:12]:<12} {release if beside else ''}"
            .rstrip())
        if not beside:
            lines += wrapped(release, 4)
        why = ": ".join(text for text in (each["reason"], each["error"]) if text)
        failed = why and each["outcome"] != "done"
        if failed:
            lines += wrapped(why, 4)
        if (verdict := traffic.verdict(each, why if failed else "")) is not None:
            word, more = verdict
            passed = word == "unsure" and each["outcome"] == "done"
            lines += wrapped(f"verdict {coloured(word)}{', passed' if passed else ''}{more}", 4)
    return "\n".join(lines) if upgrades else "no upgrade so far"


def releases(rows: list[dict[str, Any]]) -> str:
    """The releases of a host as a table; why one was refused, on a line of its own."""
    width = max([7, *(len(each["release"]) for each in rows)])
    lines = [f"{'RELEASE':<{width}}  STATE       SINCE                SIZE      BY"]
    for each in rows:
        since = "-" if not each["at"] else time.strftime("%Y-%m-%d %H:%M:%S",
                                                         time.localtime(each["at"]))
        marks = ", ".join(word for word in ("serves", "current") if each[word])
        lines.append(
            f"{each['release']:<{width}}  {coloured(each['state'] or '-', 11)} {since:<20} "
            f"{size(each['size']):<9} {each['by'] or '-'}{f' ({marks})' if marks else ''}")
        if each["reason"] and each["state"] == "refused":
            lines += wrapped(each["reason"], 4)
    return "\n".join(lines) if rows else "no release so far"


def generation(document: Mapping[str, Any]) -> str:
    """A generation's recipe and its differences from the one before."""
    marks = "".join(f", {word}" for word in ("current", "proven") if document[word])
    lines = [
        f"generation {document['generation']}{marks}",
        f"  release    {document['release'] or '-'}",
        f"  command    {' '.join(document['command'])}",
        f"  directory  {document['directory']}",
        "  environment",
        *(f"    {name}={value}" for name, value in document["environment"].items()),
    ]
    if document["before"] is None:
        return "\n".join([*lines, "no generation before it is remembered"])
    lines.append(
        "what differs from generation "
        f"{document['before']}{'' if document['changes'] else ': nothing'}"
    )
    for change in document["changes"]:
        hidden = " (what differs is secret)" if change.get(
            "secret") and change["before"] == change["after"] else ""
        lines.append(
            f"  {change['what']}: {_value(change['before'])} -> {_value(change['after'])}{hidden}")
    return "\n".join(lines)


# Between words, but not between a number and its unit.
_BREAK = re.compile(r" (?!(?<=[0-9] )(?:d|h|min|s)\b)")


def columns() -> int:
    """How wide standard output is, if it is a terminal."""
    import shutil

    return max(40, shutil.get_terminal_size().columns)


def wrapped(text: str, indent: int, first: str | None = None,
            stream: TextIO | None = None) -> list[str]:
    """Lines that fit a terminal, broken between words; one line for everything else. `first`: what
    the first line begins with, by default the indent. A word too long for a line stays whole: an
    address or a path can then still be copied."""
    head = " " * indent if first is None else first
    if not (stream or sys.stdout).isatty():
        return [head + text]
    lines, width = [], columns()
    line, begun = head, False
    for word in _BREAK.split(text):
        if begun and _visible(line) + _visible(word) > width:
            lines.append(line.rstrip())
            line = " " * indent
        line, begun = f"{line}{word} ", True
    return [*lines, line.rstrip()]


def _visible(text: str) -> int:
    """How many columns a text takes, its colours left out."""
    return sum(
        len(part.partition("m")[2]) if number else len(part)
        for number, part in enumerate(text.split("\x1b")))


def _value(value: Any) -> str:
    return "(none)" if value is None else " ".join(value) if isinstance(value, list) else str(value)


def upgrade_line(upgrade: Mapping[str, Any], plain: bool = False) -> str:
    """One line on the running or the last upgrade; `plain`: without colours of its own."""
    outcome = upgrade["outcome"] or "under way"
    recipe = f", recipe of {upgrade['recipe_of']}" if upgrade["recipe_of"] else ""
    text = f"{upgrade['from']} -> {upgrade['to']}{recipe}, {upgrade['kind']}, "
    text += outcome if plain else coloured(outcome)
    text += f" after {duration(upgrade['took_seconds'])}, asked for by {upgrade['requested_by']}"
    if upgrade["failures"]:
        text += f", {upgrade['failures']} failed"
    return text


# What every event says, beside what happened.
_COMMON = {
    "event", "level", "time", "unix_time", "ready", "live", "target", "gate", "gate_reason",
    "replaced"}


def event(document: Mapping[str, Any]) -> str:
    """One event as a line."""
    counts = f"[{document['ready']}/{document['target']} ready]"
    return f"{document['time']} {document['event']:<18} {counts} {sentence(document)}"


def happened(document: Mapping[str, Any]) -> str:
    """One event with the time of day (UTC): for people who look on."""
    return f"{document['time'][11:19]} {sentence(document)}"


def sentence(document: Mapping[str, Any]) -> str:
    """An event in the words of its master; one of an older version has none."""
    if "message" in document:
        return str(document["message"])
    fields = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in document.items()
                       if key not in _COMMON and value is not None)
    return str(document["event"]).replace("-", " ") + (f": {fields}" if fields else "")
