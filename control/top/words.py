"""The status in words and colours, for the lines above and below the table. Text out of documents;
it knows neither the master nor the screen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from .. import show, traffic

BAR = 24
STYLES = {
    "ready": "green", "done": "green", "starting": "yellow", "upgrading": "yellow",
    "paused": "yellow", "stopping": "yellow", "retiring": "yellow", "superseded": "yellow",
    "degraded": "bold red", "rolled-back": "bold red", "aborted": "bold red", "well": "green",
    "no-worse": "green", "unsure": "yellow", "worse": "bold red"}


def running_upgrade(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The upgrade that is under way."""
    found: Mapping[str, Any] | None = document["upgrade"]
    return None if found is None or found["outcome"] is not None else found


def head(document: Mapping[str, Any]) -> Text:
    """The gate, the generation, the master and its listeners."""
    master, gate = document["master"], document["gate"]
    release = f" ({document['release']})" if document["release"] else ""
    text = Text.assemble(
        (f"{document['name']}: ", "bold"), (gate, STYLES.get(gate, "bold red")),
        f": {document['reason']}\n",
        f"generation {document['generation']}{release}, up "
        f"{show.duration(document['uptime_seconds'])}, pid {master['pid']}, "
        f"einhornpy {master['version']}")
    if document["listeners"]:
        text.append("\n" + ", ".join(map(show.listening, document["listeners"])))
    return text


def upgrade(document: Mapping[str, Any]) -> Text:
    """The course of the running upgrade, or how the last one ended."""
    last = document["upgrade"]
    if last is None:
        return Text("no upgrade so far", "dim")
    if running_upgrade(document) is None:
        left = traffic.watched(last)
        watch = "" if left is None else f", can go back for another {show.duration(left)}"
        return Text(f"last upgrade: {show.upgrade_line(last, plain=True)}{watch}")
    release = f", {last['release']}" if last["release"] else ""
    done, target = last["replaced"], document["target"]
    filled = min(BAR, BAR * done // target)
    parts = [f"{show.duration(last['took_seconds'])}, asked for by {last['requested_by']}"]
    if last["paused_by"]:
        parts.append(f"paused by {last['paused_by']}")
    if last["hold_left_seconds"] is not None:
        parts.append(f"hold ends in {show.duration(last['hold_left_seconds'])}")
    if last["check"]:
        parts.append(f"check {last['check']}")
    if last["failures"]:
        parts.append(
            f"{last['failures']} failed: {last['error'] or last['reason'] or 'no reason known'}")
    return Text.assemble(
        f"upgrade {last['from']} -> {last['to']} ({last['kind']}{release}) ",
        ("█" * filled, STYLES["paused" if document["gate"] == "paused" else "ready"]),
        ("░" * (BAR - filled), "dim"), f" {done}/{target}\n", ", ".join(parts))


def answered(document: Mapping[str, Any]) -> Text:
    """What each generation answers, old against new during an upgrade, and what is made of it."""
    lines = [Text(line) for line in traffic.of_generations(document)]
    verdict = document["upgrade"] and traffic.verdict(document["upgrade"], document["reason"])
    if verdict:
        lines.append(Text.assemble("verdict ", (verdict[0], STYLES.get(verdict[0], "")),
                                   verdict[1]))
    return Text("\n").join(lines)


def templates(document: Mapping[str, Any]) -> Text:
    """The memory of all, the templates, and what isn't safe to fork: a line each."""
    used = show.memory(document)
    lines = [] if used is None else [Text(f"memory {used}")]
    lines += [Text(f"template of {show.template(each, plain=True)}")
              for each in document.get("templates", ())]
    for generation, found in show.of_generations(document.get("findings", ())).items():
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        lines.append(Text(f"generation {generation} is not safe to fork (`einhornpy status` says "
                          f"more): {show.finding(found[0])}{more}", "yellow"))
    return Text("\n").join(lines)


def note(workers: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any] | None) -> Text:
    """What there is to say of the chosen worker, or of the first one of which there is
    something."""
    said = [(worker, text) for worker in workers if (text := show.worker_note(worker)) is not None]
    said.sort(key=lambda each: each[0] is not chosen)
    if not said:
        return Text()
    more = f" (and {len(said) - 1} more)" if len(said) > 1 else ""
    worker, text = said[0]
    return Text(f"worker {worker['index']} (pid {worker['pid']}){more} {text}", "yellow",
                no_wrap=True, overflow="ellipsis")


def event(document: Mapping[str, Any]) -> Text:
    """One event, as a line."""
    return Text(show.happened(document), "red" if document.get("level") == "warning" else "")
