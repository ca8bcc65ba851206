"""The ledger: facts in, the next pool noted, entries out to everybody who follows. What is secret
is left out of both here.

It decides nothing, acts on nothing, and knows none of those who follow: each says under which name
it may fail.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..core import observe
from ..core import pool as facts
from ..core.pool import Pool
from ..reporting import generations, journal, report
from ..reporting.journal import Entry
from .guard import Guard

# Told of a fact: the pool before, the fact, the pool after, and when that was in monotonic seconds.
OnFact = Callable[[Pool, facts.Event, Pool, float], None]
# Told of an entry, whatever its weight, and when it was in seconds since the epoch.
OnEntry = Callable[[Entry, float], None]
# Told of an entry that is more than a detail: the entry, the event's document, and the document of
# the upgrade that it ends, if it ends one.
OnEvent = Callable[[Entry, Mapping[str, Any], Mapping[str, Any] | None], None]


class Ledger:
    """`pool`: what is. `changed`: something that the status tells has changed since somebody has
    said False here."""

    def __init__(self, guard: Guard, pool: Pool, *secrets: Mapping[str, str]) -> None:
        """`secrets`: environments that hold secrets; the next generation's are among them."""
        self._guard = guard
        self._secrets = secrets
        self._on_fact: list[tuple[str, OnFact]] = []
        self._on_entry: list[tuple[str, OnEntry]] = []
        self._on_event: list[tuple[str, OnEvent]] = []
        self.changed = False
        self.begin(pool)

    def begin(self, pool: Pool) -> None:
        """Go on from a pool that no fact has led to."""
        self.pool = pool
        self.redaction = generations.redaction(pool, *self._secrets)

    def follow(self, name: str, fact: OnFact | None = None, entry: OnEntry | None = None,
               event: OnEvent | None = None) -> None:
        """Tell somebody, after those who follow already. `name`: what fails if that does."""
        if fact is not None:
            self._on_fact.append((name, fact))
        if entry is not None:
            self._on_entry.append((name, entry))
        if event is not None:
            self._on_event.append((name, event))

    def observe(self, event: facts.Event) -> None:
        """Note a fact. Once it is noted, nothing that is told of it can undo that, nor stop whoever
        has seen it.

        Raises:
            Impossible: it can't be true.
        """
        before, now = self.pool, time.monotonic()
        if isinstance(event, facts.Heartbeat | facts.Measured):
            self.pool = observe.observe(before, event, now)
            return
        event = self.redaction.fact(event)
        self.pool = after = observe.observe(before, event, now)
        if after.generations.keys() != before.generations.keys(
        ) or after.upgrade is not before.upgrade:
            self.redaction = generations.redaction(after, *self._secrets)
        self.changed = True
        for name, told in self._on_fact:
            self._guard.run(name, told, before, event, after, now)
        for entry in self._guard.run(
                "journal", lambda: list(journal.changes(before, event, after, now))) or ():
            self.log(entry)

    def log(self, entry: Entry) -> None:
        """Tell everybody of something that happened."""
        wall, entry = time.time(), replace(entry, fields=self.redaction.fields(entry.fields))
        for name, told in self._on_entry:
            self._guard.run(name, told, entry, wall)
        if entry.weight > journal.DETAIL:
            self._guard.run("event", self._tell, entry, wall)

    def _tell(self, entry: Entry, wall: float) -> None:
        ended = None
        if entry.name == "upgrade ended":
            ended = report.upgrade_document(self.pool, self.pool.history[-1], time.monotonic())
        document = journal.event_document(entry, self.pool, wall)
        for name, told in self._on_event:
            self._guard.run(name, told, entry, document, ended)
