"""Who wants to hear what happens: every event, every new status, the course of one upgrade or of a
reload. It sends, and decides nothing; a session that waits for none of it is not kept here.

Who waits is handed over by a reload: whoever waits for an upgrade hears of its end from the next
master.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from ...shared import printable, protocol
from ...shared.frozen import dataclass
from ..control_socket.session import Session
from ..core import facts
from ..core.pool import Pool
from ..core.view import is_exchanged
from ..logs import formats
from ..reporting.events import Entry, Event
from ..system.part import Keep, Part, State

# So many events are remembered: a quarter of a megabyte, a rolling upgrade of 60 workers.
MOST_RECENT = 256


@dataclass(frozen=True, slots=True)
class Follower:
    """One request that waits for an upgrade. `number`: its generation. `until_exchanged`: answered
    as soon as nothing is left of it but to wait for those who leave, as Einhorn does."""

    request_id: Any
    number: int
    until_exchanged: bool = False


class Audience(Part):
    """The sessions that want to hear what happens: every event, every new status, or the course of
    one upgrade. `recent`: the last events, which newcomers are told too, so that whoever looks
    after something has happened still sees it. `failed`: told of an exception while somebody was
    told something; that session ends, the others are told."""

    name = "audience"
    keeps = {"recent": Keep(tuple[Mapping[str, Any], ...], ())}

    def __init__(self, failed: Callable[[str, Exception], None]) -> None:
        self._failed = failed
        self.recent: deque[Mapping[str, Any]] = deque(maxlen=MOST_RECENT)
        self._events: dict[Session, Any] = {}
        self._status: dict[Session, Any] = {}
        # several may be asked for on one connection
        self._upgrades: dict[Session, list[Follower]] = {}
        self._reloads: dict[Session, list[Any]] = {}

    def _send(self, session: Session, send: Callable[[Any], None], what: Any) -> None:
        try:
            send(what)
        except Exception as error:
            session.close()
            self._failed("session", error)

    def _admit(self, session: Session, place: dict[Session, Any], value: Any) -> None:
        session.long_running = True
        place[session] = value
        session.close_handlers.append(lambda: place.pop(session, None) and None)

    def follow_events(self, session: Session, request_id: Any) -> None:
        self._admit(session, self._events, request_id)

    def follow_status(self, session: Session, request_id: Any) -> None:
        self._admit(session, self._status, request_id)

    def follow_upgrade(self, session: Session, request_id: Any, number: int,
                       until_exchanged: bool = False) -> None:
        follower = Follower(request_id, number, until_exchanged)
        self._admit(session, self._upgrades, [*self._upgrades.get(session, ()), follower])

    def follow_reload(self, session: Session, request_id: Any) -> None:
        self._admit(session, self._reloads, [*self._reloads.get(session, ()), request_id])

    def role_of(self, session: Session) -> dict[str, Any]:
        """What a session waits for, for the next master."""
        places = {"events": self._events, "status": self._status, "reload": self._reloads}
        role = {name: place[session] for name, place in places.items() if session in place}
        if followers := self._upgrades.get(session):
            role["upgrade"] = [(each.request_id, each.number) for each in followers]
            # Beside them: a version that knows nothing of these answers them all the same, later.
            role["until_exchanged"] = [(each.request_id, each.number) for each in followers
                                       if each.until_exchanged]
        return role

    def hand_over(self) -> dict[str, Any]:
        return {"recent": [dict(each) for each in self.recent]}

    def take_over(self, state: State) -> None:
        self.recent.extend(state["recent"])

    def resume(self, session: Session, role: Mapping[str, Any]) -> None:
        """Go on telling a session of the master before us what it waits for."""
        if "events" in role:
            self.follow_events(session, role["events"])
        if "status" in role:
            self.follow_status(session, role["status"])
        if "upgrade" in role:
            early = [tuple(each) for each in role.get("until_exchanged", ())]
            for request_id, number in role["upgrade"]:
                self.follow_upgrade(session, request_id, number, (request_id, number) in early)
        if "reload" in role:
            for request_id in role["reload"]:
                self.follow_reload(session, request_id)

    def reload_ended(self, message: str, well: bool, result: Mapping[str, Any]) -> None:
        """Answer whoever asked the master to replace itself."""
        for session, request_ids in list(self._reloads.items()):
            self._reloads.pop(session)
            session.long_running = bool(self.role_of(session))
            for request_id in request_ids:
                self._send(
                    session, session.send,
                    protocol.reply(request_id, message, result) if well else protocol.failure(
                        request_id, protocol.Code.RELOAD_REFUSED, message))

    def forget_upgrade(self, session: Session, number: int) -> None:
        """It has heard how that upgrade ended, or nothing came of it."""
        for each in self._upgrades.get(session, ()):
            if each.number == number:
                self._stop_following(session, each)

    def _stop_following(self, session: Session, follower: Follower) -> None:
        left = [each for each in self._upgrades.get(session, ()) if each is not follower]
        if left:
            self._upgrades[session] = left
        else:
            self._upgrades.pop(session, None)
            session.long_running = bool(self.role_of(session))

    def tell(self, entry: Entry, document: Mapping[str, Any],
             upgrade: Mapping[str, Any] | None) -> None:
        """Pass one event on. `upgrade`: the upgrade's document where the event ends one."""
        if entry.event.remembered:
            self.recent.append(document)
        for session, request_id in list(self._events.items()):
            self._send_event(session, request_id, entry, document)
        for session, followers in list(self._upgrades.items()):
            for each in followers:
                self._tell_of_upgrade(session, each.request_id, each.number, entry, document,
                                      upgrade)

    def _send_event(self, session: Session, request_id: Any, entry: Entry,
                    document: Mapping[str, Any]) -> None:
        self._send(
            session, session.send,
            protocol.reply(request_id, formats.sentence(entry), {"event": dict(document)},
                           wait=True))

    def _tell_of_upgrade(self, session: Session, request_id: Any, number: int, entry: Entry,
                         document: Mapping[str, Any], upgrade: Mapping[str, Any] | None) -> None:
        if entry.event is Event.UPGRADE_ENDED and entry.fields["generation"] == number:
            self.forget_upgrade(session, number)
            result = {
                "upgrade": dict(upgrade or {}), "outcome": entry.fields["outcome"],
                "reason": entry.fields.get("reason"), "error": entry.fields.get("error"),
                "by": entry.fields.get("by")}
            self._send(session, session.send,
                       protocol.reply(request_id, _how_it_ended(entry), result))
        elif entry.event is Event.STOPPING:
            self.forget_upgrade(session, number)
            self._send(session, session.send,
                       protocol.failure(request_id, protocol.Code.STOPPING, "the master stops"))
        else:
            self._send_event(session, request_id, entry, document)

    def look(self, before: Pool, fact: facts.Event, after: Pool, now: float) -> None:
        """Answer those who wait until everybody is exchanged, after a fact."""
        if not self._upgrades or not is_exchanged(after):
            return
        number = after.current
        for session, followers in list(self._upgrades.items()):
            done = [each for each in followers if each.until_exchanged and each.number == number]
            for each in done:
                self._stop_following(session, each)
                self._send(session, session.send,
                           protocol.reply(each.request_id, "Upgrade done", {"generation": number}))

    def status_changed(self, make: Callable[[], Mapping[str, Any]]) -> None:
        """Send the new status to those who follow it; one that reads slowly gets only the
        newest."""
        for session, request_id in list(self._status.items()):

            def newest(request_id: Any = request_id) -> Mapping[str, Any]:
                return protocol.reply(request_id, "status", make(), wait=True)

            self._send(session, session.send_newest, newest)


def _how_it_ended(entry: Entry) -> str:
    """The last message of an upgrade: Einhorn's clients wait for `Upgrade done`."""
    fields = entry.fields
    if fields["outcome"] == "superseded":
        return f"Upgrade superseded by generation {fields['by']}"
    why = ": ".join(str(fields[key]) for key in ("reason", "error") if fields.get(key))
    why = printable.escaped(why)
    return f"Upgrade {fields['outcome']}" + (f": {why}"
                                             if why and fields["outcome"] != "done" else "")
