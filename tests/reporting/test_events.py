"""The declarations of events: whoever tells one has declared it, with words that use nothing but
its fields; whoever shows one by name names one that there is."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Collection
from typing import Any

import pytest
from einhornpy.control import progress
from einhornpy.supervisor.logs import formats
from einhornpy.supervisor.reporting.events import (
    NOT_LOGGED,
    Bytes,
    Entry,
    Event,
    Seconds,
    Weight,
    message,
)

from ..harness import ROOT
from ..whole.test_docs import generator

page = generator("generate_events")
each_event = pytest.mark.parametrize("event", Event)


def check(event: Event, given: Collection[str], known: Collection[str]) -> None:
    """Fields that an entry has are declared; declared ones are given, or may be missing. `known`:
    those that have a value."""
    fields = page.fields_of(event)
    assert {*given} <= fields.keys(), event
    assert {name for name, (_, missing) in fields.items() if not missing} <= {*known}, event


@functools.cache
def in_supervisor() -> list[tuple[str, ast.AST]]:
    """Where entries and events are named."""
    return [(f"{path.relative_to(ROOT)}:{node.lineno}", node)
            for path in (ROOT / "supervisor").rglob("*.py") for node in ast.walk(
                ast.parse(path.read_text())) if path.name != "events.py"
            and isinstance(node, ast.Attribute | ast.Call)
            and re.search(r"\bE(?:vent|ntry)$", ast.unparse(
                node.value if isinstance(node, ast.Attribute) else node.func))]


@each_event
def test_words_are_well_formed(event: Event) -> None:
    assert re.fullmatch("[a-z'-]+", event.value)
    assert event.words
    assert re.fullmatch(r"(?:\w+(?::seconds)?\??\+?(?: |$))*|\*", event.unsaid)
    for field in event.unsaid.split():
        assert field.endswith("+") == (field.rstrip("?+") in NOT_LOGGED)
    assert not re.search(r"[{}]", page.FIELD.sub("", event.words))
    assert not re.search(r"[][]", re.sub(r"\[[^][{]*\{[^][]*\]", "", event.words))


def test_each_event_is_declared_and_told() -> None:
    told = set()
    for where, node in in_supervisor():
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "Event":
            told.add(node.attr)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Entry":
            assert not isinstance(node.args[0], ast.Constant), where
    assert told == {event.name for event in Event}


def test_entries_have_the_fields_that_are_declared() -> None:
    """Those that are written where they are told; test_journal.py has the others."""
    looked = 0
    for where, node in in_supervisor():
        if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "Entry"
                and len(node.args) > 1 and isinstance(node.args[1], ast.Dict)):
            continue
        given = {str(key.value) for key in node.args[1].keys if isinstance(key, ast.Constant)}
        for name in re.findall(r"Event\.(\w+)", ast.unparse(node.args[0])):
            looked += 1
            whole = None not in node.args[1].keys
            check(Event[name], given, given if whole else page.fields_of(Event[name]))
    assert looked > 30


def test_who_shows_an_event_by_name_names_one() -> None:
    names = {event.value for event in Event}
    assert names >= progress.OF_UPGRADES
    scripts = "".join(path.read_text() for path in (ROOT / "control/web/page").glob("*.js"))
    shown = {*re.findall(r'event\.event [!=]== "([^"]+)"', scripts),
             *re.findall(r'^  "([a-z]+-[a-z-]+)": \[', scripts, re.MULTILINE)}
    assert len(shown) > 8
    assert shown <= names


WORKER = {"index": 2, "pid": 4711, "generation": 7}
WHY = {"reason": "too many failed", "error": "OSError: gone"}
ENDED = {"generation": 7, "by": None, "took": Seconds(754.2)}


@pytest.mark.parametrize(("event", "fields", "words"), [
    (Event.WORKER_READY, WORKER | {"took": Seconds(2.314)},
     "worker 2 (pid 4711, generation 7) ready after 2.3 s"),
    (Event.WORKER_READY, WORKER | {"took": Seconds(1), "guessed": True},
     "worker 2 (pid 4711, generation 7) ready after 1.0 s (a guess)"),
    (Event.WORKER_DIED, WORKER | {"status": 0, "error": None},
     "worker 2 (pid 4711, generation 7) died with status 0"),
    (Event.UPGRADE_ENDED, ENDED | WHY | {"outcome": "done"},
     "upgrade to generation 7 done after 12 min 34 s"),
    (Event.UPGRADE_ENDED, ENDED | WHY | {"outcome": "rolled-back"},
     "upgrade to generation 7 rolled-back after 12 min 34 s: too many failed: OSError: gone"),
    (Event.CHECK_FAILED, {"reason": "a [x] {pid}", "error": "[x]"}, "check failed: a [x] {pid}"),
    (Event.HOLD_BEGUN, {"canaries": 1, "hold": "until resume", "check": None},
     "hold begun: 1 new worker serving, until resume"),
    (Event.HOLD_BEGUN, {"canaries": 2, "hold": Seconds(30, "g"), "check": "true"},
     "hold begun: 2 new workers serving, 30 s, check: true"),
    (Event.SIGNAL_SENT, {"signal": "TERM", "workers": 0}, "signal TERM sent to 0 workers"),
    (Event.HOST_HAS_MEMORY_AGAIN, {"available": Bytes(5 << 20), "so": None},
     "the host has memory again, 5 MiB available")])
def test_words(event: Event, fields: dict[str, Any], words: str) -> None:
    assert message(Entry(event, fields)) == words


def test_numbers_are_numbers_in_documents_and_texts_in_the_log() -> None:
    entry = Entry(Event.HOST_SHORT_OF_MEMORY, {"available": Bytes(5 << 20), "so": None})
    assert entry.document() == {"available": "5MiB", "available_bytes": 5 << 20, "so": None}
    assert formats.sentence(entry) == "host short of memory available=5MiB"
    entry = Entry(Event.WORKER_READY, WORKER | {"took": Seconds(2.3149)}, Weight.ATTENTION)
    assert entry.document() == WORKER | {"took": "2.31s", "took_seconds": 2.315}
    assert formats.sentence(entry) == "worker ready index=2 pid=4711 generation=7 took=2.31s"
    assert '"level": "warning"' in formats.json_line(entry, "web", {}, 0.0)
    assert '"took": "2.31s", "labels"' in formats.json_line(entry, "web", {}, 0.0)


def test_the_list_in_the_docs_is_up_to_date() -> None:
    assert (ROOT / "docs" / "events.md").read_text() == generator("generate_events").page()
