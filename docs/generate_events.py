"""Writes docs/events.md from the declarations of events; tests/reporting/test_events.py checks that
it is new."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from einhornpy.supervisor.reporting.events import Event

WORKER = "worker {index} (pid {pid}, generation {generation})"
FIELD = re.compile(r"(\w+|\*)(?::(seconds|bytes))?(\??)(\+?)")


def keys(event: Event) -> Iterator[str]:
    """The keys of an event in its document."""
    for field in event.fields.split():
        found = FIELD.fullmatch(field)
        assert found is not None, field
        name, unit, missing, _ = found.groups()
        for key in (name, f"{name}_{unit}") if unit else (name,):
            yield "every label" if key == "*" else f"`{key}`{missing}"


def said(event: Event) -> str:
    """Its words, as somebody reads them who knows no braces."""
    words = event.words.replace(WORKER, "*worker*")
    words = re.sub(r"\{\w+:(a [^}]*)\}", r"\1", words)
    return re.sub(r"\{(\w+)(?::([^}]*))?\}",
                  lambda found: f"*{found[1]}* {found[2]}s" if found[2] else f"*{found[1]}*", words)


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
        f"`{re.sub('[{}]', '', WORKER)}`, *why* is reason and error. An `upgrade-ended` whose "
        "release was refused is a warning.", "",
        "| event | level | keys | message |", "| --- | --- | --- | --- |", *rows, ""])


if __name__ == "__main__":
    Path(__file__).with_name("events.md").write_text(page())
