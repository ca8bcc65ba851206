"""Writes docs/events.md from the declarations of events; tests/reporting/test_events.py checks that
it is new."""

from __future__ import annotations

import re
from pathlib import Path

from einhornpy.supervisor.reporting.events import PARTS, Event

FIELD = re.compile(r"\{(\w+)(?::([^}]*))?\}")
UNITS = ("seconds", "bytes")


def fields_of(event: Event) -> dict[str, tuple[str, bool]]:
    """Each field of an event: its unit, and whether it may be missing."""
    fields: dict[str, tuple[str, bool]] = {}
    for part in re.split(r"(\[[^]]*\])", event.words):
        for name, unit in FIELD.findall(part):
            for each in ("reason", "error") if name == "because" else (name,):
                missing = part.startswith("[") or (name == "because" and each == "error")
                fields[each] = (unit if unit in UNITS else "", missing)
    for field in event.unsaid.split():
        name, _, unit = field.rstrip("?+").partition(":")
        fields[name] = (unit, "?" in field)
    return fields


def keys(event: Event) -> list[str]:
    """The keys of an event in its document."""
    if event.unsaid == "*":
        return ["every label"]
    return [f"`{key}`{'?' if missing else ''}" for name, (unit, missing) in fields_of(event).items()
            for key in ((name, f"{name}_{unit}") if unit else (name,))]


def said(event: Event) -> str:
    """Its words, as somebody reads them who knows no braces."""
    words = event.words.replace(PARTS["worker"], "*worker*")
    words = re.sub(r"\{\w+:(a [^}]*)\}", r"\1", words)
    return FIELD.sub(lambda found: f"*{found[1]}* {found[2]}s" if found[2] and
                     found[2] not in UNITS else f"*{found[1]}*", words)


def page() -> str:
    """The whole page."""
    rows = [f"| `{event.value}` | {event.weight.level} | {', '.join(keys(event))} | {said(event)} |"
            for event in Event]
    return "\n".join([
        "# Events", "",
        "Generated from the program; `python docs/generate_events.py` writes it anew.", "",
        "What `einhornpy events --json` prints, hooks are given, and the page and `top` live on. "
        "Beside its own keys each",
        "event has `event`, `level`, `time`, `unix_time`, `message` (the sentence for people), and "
        "what the pool was right after it:",
        "`ready`, `live`, `target`, `gate`, `gate_reason`, and during an upgrade `replaced`. In "
        "the log it has its name without hyphens,",
        "and those of its keys that were there first: no message, and no number beside a text "
        "that says it.", "",
        "`?`: missing or null where there is nothing to say; what stands in brackets then falls "
        "away. *worker* is",
        "`worker 2 (pid 4711, generation 7)`, *because* is reason and error. An "
        "`upgrade-ended` whose release was refused is a warning.", "",
        "| event | level | keys | message |", "| --- | --- | --- | --- |", *rows, ""])


if __name__ == "__main__":
    Path(__file__).with_name("events.md").write_text(page())
