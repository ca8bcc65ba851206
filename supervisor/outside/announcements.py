"""Deploy events for others: an upgrade `started`, is `done`, or was `refused`. Each is told to each
place by an errand, one after the other in a place, so that nobody hears of an end before its
beginning. Nobody waits for it, and it can hold nothing up.
"""

from __future__ import annotations

import enum
import json
import re
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from ..core.upgrade import Outcome
from ..reporting import report
from ..reporting.events import Entry, Event
from ..settings.table import Settings
from ..system.errands import Ended, Errand, Errands
from ..system.ledger import Ledger
from ..system.own_code import OwnCode
from ..system.part import Keep, Part, State

# Longer than all attempts together (control/announce.py).
TIMEOUT = 40.0
# What the master's end waits for the last word.
GRACE = 3.0
# What a place that is slow or gone has not heard yet; beyond it the oldest goes.
MOST_WAITING = 50
NAME = "announce"


class Deploy(enum.StrEnum):
    """A deploy event, as others are told it."""

    STARTED = "started"
    DONE = "done"
    REFUSED = "refused"


class Announcements(Part):
    """`user`: (uid, gid) of whoever tells it, None for us. `who`: the name of the master, and the
    labels of this host."""

    name = "announcements"
    keeps = {"announcements": Keep(Mapping[str, tuple[str, ...]], {})}

    def __init__(self, settings: Settings, errands: Errands, environ: Mapping[str, str],
                 user: tuple[int, int] | None, ledger: Ledger,
                 who: Callable[[], tuple[str, Mapping[str, str]]], own_code: OwnCode) -> None:
        self._errands = errands
        self._ledger = ledger
        self._who = who
        self._own_code = own_code
        errands.resumed_by(self._resume)
        self._environ = environ
        self._user = user
        self._places = [
            (kind, to)
            for kind, several in (("statsd", settings.statsd), ("graphite", settings.graphite),
                                  ("webhook", settings.webhook)) for to in several]
        self._waiting: dict[str, deque[str]] = {}
        self._busy: set[str] = set()

    def tell(self, entry: Entry, document: Mapping[str, Any],
             ended: Mapping[str, Any] | None) -> None:
        """Tell every place, if this entry is for others. `document`: the event's; `ended`: that of
        the upgrade that it ends."""
        event, pool = event_of(entry), self._ledger.pool
        if not self._places or event is None or pool.upgrade is None:
            return
        upgrade = ended or report.upgrade_document(pool, pool.upgrade, time.monotonic())
        name, labels = self._who()
        told = {
            "text": sentence(event, name, labels,
                             upgrade), "event": event, "name": name, "labels": dict(labels),
            "time": document["time"], "unix_time": document["unix_time"], "upgrade": dict(upgrade)}
        metric = f"events.deploy.{re.sub(r'[^A-Za-z0-9_-]', '_', name)}.{event}"
        for number, (kind, to) in enumerate(self._places, 1):
            self._put(
                f"{NAME} {number} {kind} {shown(kind, to)}",
                json.dumps({
                    "kind": kind, "to": to, "metric": metric, "unix_time": document["unix_time"],
                    "document": told, "user": self._user}))

    def _put(self, place: str, told: str) -> None:
        waiting = self._waiting.setdefault(place, deque())
        waiting.append(told)
        if len(waiting) > MOST_WAITING:
            waiting.popleft()
            self._ledger.log(Entry(Event.ANNOUNCEMENT_DROPPED, {"to": _named(place)}))
        self._next(place)

    def _next(self, place: str) -> None:
        if place in self._busy or not self._waiting.get(place):
            return
        self._busy.add(place)
        launch = self._own_code.launch("control.announce", (), self._environ, (), signal.SIGKILL)
        told = self._waiting[place].popleft()
        self._errands.send(
            Errand(place, launch, TIMEOUT, self.ended(place, told), told, GRACE, urgent=True))

    def ended(self, place: str, told: str | None) -> Callable[[Ended], None]:
        """Who is to know how an errand to this place ended, which was to tell this (None: a reload
        has forgotten it)."""

        def done(ended: Ended) -> None:
            self._busy.discard(place)
            if ended.reason is not None:
                event = {} if told is None else {"told": json.loads(told)["document"]["event"]}
                self._ledger.log(Entry(Event.ANNOUNCEMENT_FAILED, {
                    "to": _named(place), **event, "reason": ended.reason,
                    "last_line": ended.last_line}))
            self._next(place)

        return done

    def give_up(self) -> None:
        """The master ends: say what nobody has heard."""
        for place in {*self._busy, *(place for place, waiting in self._waiting.items() if waiting)}:
            count = len(self._waiting.get(place, ())) + (place in self._busy)
            self._ledger.log(Entry(Event.ANNOUNCEMENT_FAILED, {
                "to": _named(place), "reason": "the master ends", "events": count}))

    def _resume(self, errand: Errand) -> Callable[[Ended], None] | None:
        if not errand.name.startswith(f"{NAME} "):
            return None
        self._busy.add(errand.name)
        return self.ended(errand.name, errand.stdin)

    def hand_over(self) -> dict[str, Any]:
        waiting = {place: list(waiting) for place, waiting in self._waiting.items() if waiting}
        return {"announcements": waiting}

    def take_over(self, state: State) -> None:
        kept: Mapping[str, tuple[str, ...]] = state["announcements"]
        for place, waiting in kept.items():
            for told in waiting:
                self._put(place, told)


def _named(place: str) -> str:
    return place.split(" ", 2)[2]


def event_of(entry: Entry) -> Deploy | None:
    """What an entry means for whoever follows deploys."""
    if entry.event is Event.UPGRADE_STARTED:
        return Deploy.STARTED
    if entry.event is not Event.UPGRADE_ENDED or entry.fields["outcome"] == Outcome.SUPERSEDED:
        return None
    return Deploy.DONE if entry.fields["outcome"] == Outcome.DONE else Deploy.REFUSED


def sentence(event: Deploy, name: str, labels: Mapping[str, str],
             upgrade: Mapping[str, Any]) -> str:
    """For people: `shop on web-3: upgrade to generation 7 (3f2c1ab) done after 12.3 s`."""
    where = f" on {labels['hostname']}" if "hostname" in labels else ""
    release = f" ({upgrade['release']})" if upgrade["release"] else ""
    text = f"{name}{where}: upgrade to generation {upgrade['to']}{release} {event}"
    if event is Deploy.STARTED:
        return f"{text} by {upgrade['requested_by']}"
    text += f" after {upgrade['took_seconds']:.1f} s"
    why = ": ".join(part for part in (upgrade["reason"], upgrade["error"]) if part)
    return text if event is Deploy.DONE or not why else f"{text}: {why}"


def shown(kind: str, to: str) -> str:
    """A place as it may stand in a log: of a webhook the host alone, since its path is often a
    secret."""
    return re.sub(r"^(https?://)(?:[^/@]*@)?([^/?#]*).*", r"\1\2", to) if kind == "webhook" else to
