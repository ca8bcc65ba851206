"""The ledger: facts in, the next pool noted, entries out to everybody who follows. What is secret
is left out of both here.

It decides nothing, acts on nothing, and knows none of those who follow: each says under which name
it may fail.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, replace
from typing import Any

from ...shared.frozen import dataclass
from ..core import facts, observe
from ..core.pool import Pool
from ..reporting import generations, journal, report
from ..reporting.events import Entry, Event, Weight
from ..reporting.tally import Tally
from . import pool_state
from .guard import Guard
from .part import Keep, Kept, Part, State
from .plain_data import to_plain

# Told of a fact: the pool before, the fact, the pool after, and when that was in monotonic seconds.
OnFact = Callable[[Pool, facts.Event, Pool, float], None]
# Told of an entry, whatever its weight, and when it was in seconds since the epoch.
OnEntry = Callable[[Entry, float], None]
# Told of an entry that is more than a detail: the entry, the event's document, and the document of
# the upgrade that it ends, if it ends one.
OnEvent = Callable[[Entry, Mapping[str, Any], Mapping[str, Any] | None], None]


@dataclass(frozen=True, slots=True)
class KeptHistogram:
    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


@dataclass(frozen=True, slots=True)
class KeptTally(Kept):
    upgrades: Mapping[str, int] = field(default_factory=dict)
    exits: Mapping[str, int] = field(default_factory=dict)
    upgrade_seconds: KeptHistogram | None = None
    ready_seconds: KeptHistogram | None = None
    lag_seconds: KeptHistogram | None = None
    requests: int = 0
    errors: int = 0

    def doubts(self) -> Iterator[str]:
        for each in (self.upgrade_seconds, self.ready_seconds, self.lag_seconds):
            if each is not None and len(each.counts) != len(each.bounds) + 1:
                yield f"a histogram of {len(each.counts)} counts for {len(each.bounds)} bounds"


class Ledger(Part):
    """`pool`: what is. `tally`: how often what has happened. `changed`: something that the status
    tells has changed since somebody has said False here. `early`: there are no workers yet, and not
    everything that they need."""

    name = "ledger"
    keeps = {
        "pool": Keep(Pool, needed=True, adapt=pool_state.adapted),
        "tally": Keep(KeptTally, KeptTally())}

    def __init__(self, guard: Guard, pool: Pool, *secrets: Mapping[str, str]) -> None:
        """`secrets`: environments that hold secrets; the next generation's are among them."""
        self._guard = guard
        self._secrets = secrets
        self._on_fact: list[tuple[str, OnFact]] = []
        self._on_entry: list[tuple[str, OnEntry]] = []
        self._on_event: list[tuple[str, OnEvent]] = []
        self.tally = Tally()
        self.changed = False
        self.early = True
        self.follow("tally", fact=lambda *told: self.tally.observe(*told))
        self.begin(pool)

    def begin(self, pool: Pool) -> None:
        """Go on from a pool that no fact has led to."""
        self.pool = pool
        self.changed = True
        self.redaction = generations.redaction(pool, *self._secrets)

    def hand_over(self) -> dict[str, Any]:
        return {"pool": pool_state.written(self.pool), "tally": self.tally.document()}

    def take_over(self, state: State) -> None:
        kept: Pool | None = state["pool"]
        self.tally = Tally(to_plain(state["tally"]))
        if kept is not None:
            self.early = False
            self.begin(replace(kept, policy=self.pool.policy))

    def on_suspended(self, now: float, seconds: float | None) -> None:
        self.observe(facts.Suspended(seconds))

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
        if entry.weight > Weight.DETAIL:
            self._guard.run("event", self._tell, entry, wall)

    def _tell(self, entry: Entry, wall: float) -> None:
        ended = None
        if entry.event is Event.UPGRADE_ENDED:
            ended = report.upgrade_document(self.pool, self.pool.history[-1], time.monotonic())
        document = journal.event_document(entry, self.pool, wall)
        for name, told in self._on_event:
            self._guard.run(name, told, entry, document, ended)
