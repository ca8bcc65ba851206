"""The commands of the control socket: each reads its arguments, asks the master, and answers its
session.

A command never waits: a long one leaves its session in `Audience`, which tells it what happens.
"""

from __future__ import annotations

import pwd
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from ...shared import printable, protocol
from ...shared.protocol import BadRequest, Request
from ..core.upgrade import Kind, Terms
from ..logs import formats
from ..logs.strangers import Strangers
from ..reporting import report
from ..reporting.journal import Entry
from ..settings.table import seconds, signal_name
from ..sockets.notify_socket import Notice, from_command
from . import einhorn

DEFAULT_HOLD = 60.0
UNTIL_RESUME = "until-resume"
LARGEST_NUMBER = 10**9
# So many events are remembered: a quarter of a megabyte, a rolling upgrade of 60 workers.
MOST_RECENT = 256


class Session(Protocol):
    """What a command needs of a client's session."""

    uid: int
    pid: int
    worker: int
    long_running: bool
    closed: bool
    close_handlers: list[Callable[[], None]]

    @property
    def may_steer(self) -> bool: ...

    def send(self, message: Mapping[str, Any]) -> None: ...
    def send_newest(self, make: Callable[[], Mapping[str, Any]]) -> None: ...
    def finish(self, message: Mapping[str, Any] | None = None) -> None: ...
    def close(self) -> None: ...


class Upgrades(Protocol):
    """What a command may ask of the upgrades."""

    def request(self, terms: Terms, requested_by: str) -> int: ...
    def roll_back(self, to: int | str | None, requested_by: str) -> int: ...
    def next_generation(self) -> int: ...
    def request_for_worker(self, worker: int, pid: int, release: str | None) -> int: ...
    def pause(self, by: str) -> str: ...
    def resume(self, by: str) -> str: ...
    def abort(self, by: str) -> None: ...
    def steerable(self) -> int: ...
    def history(self) -> list[dict[str, Any]]: ...
    def generation(self, number: int, values: bool) -> dict[str, Any]: ...


class Master(einhorn.Host, Protocol):
    """What a command may ask of the master."""

    def notice(self, notice: Notice) -> None: ...
    def recycle(self, index: int, by: str) -> int: ...
    def tally(self) -> dict[str, Any]: ...


class Audience:
    """The sessions that want to hear what happens: every event, every new status, or the course of
    one upgrade. `recent`: the last events, which newcomers are told too, so that whoever looks
    after something has happened still sees it. `failed`: told of an exception while somebody was
    told something; that session ends, the others are told."""

    def __init__(self, recent: Iterable[Mapping[str, Any]], failed: Callable[[str, Exception],
                                                                             None]) -> None:
        self._failed = failed
        self.recent: deque[Mapping[str, Any]] = deque(recent, MOST_RECENT)
        self._events: dict[Session, Any] = {}
        self._status: dict[Session, Any] = {}
        # several may be asked for on one connection
        self._upgrades: dict[Session, list[tuple[Any, int]]] = {}
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

    def follow_upgrade(self, session: Session, request_id: Any, number: int) -> None:
        self._admit(session, self._upgrades,
                    [*self._upgrades.get(session, ()), (request_id, number)])

    def follow_reload(self, session: Session, request_id: Any) -> None:
        self._admit(session, self._reloads, [*self._reloads.get(session, ()), request_id])

    def role_of(self, session: Session) -> dict[str, Any]:
        """What a session waits for, for the next master."""
        places = {
            "events": self._events, "status": self._status, "upgrade": self._upgrades,
            "reload": self._reloads}
        return {name: place[session] for name, place in places.items() if session in place}

    def take_over(self, session: Session, role: Mapping[str, Any]) -> None:
        """Go on telling a session of the master before us what it waits for."""
        if "events" in role:
            self.follow_events(session, role["events"])
        if "status" in role:
            self.follow_status(session, role["status"])
        if "upgrade" in role:
            for request_id, number in role["upgrade"]:
                self.follow_upgrade(session, request_id, number)
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
                        request_id, "reload-refused", message))

    def forget_upgrade(self, session: Session, number: int) -> None:
        """It has heard how that upgrade ended, or nothing came of it."""
        left = [(request_id, each) for request_id, each in self._upgrades.get(session, ())
                if each != number]
        if left:
            self._upgrades[session] = left
        else:
            self._upgrades.pop(session, None)
            session.long_running = bool(self.role_of(session))

    def tell(self, entry: Entry, document: Mapping[str, Any],
             upgrade: Mapping[str, Any] | None) -> None:
        """Pass one event on. `upgrade`: the upgrade's document where the event ends one."""
        if entry.remembered:
            self.recent.append(document)
        for session, request_id in list(self._events.items()):
            self._send_event(session, request_id, entry, document)
        for session, followed in list(self._upgrades.items()):
            for request_id, number in followed:
                self._tell_of_upgrade(session, request_id, number, entry, document, upgrade)

    def _send_event(self, session: Session, request_id: Any, entry: Entry,
                    document: Mapping[str, Any]) -> None:
        self._send(
            session, session.send,
            protocol.reply(request_id, formats.sentence(entry), {"event": dict(document)},
                           wait=True))

    def _tell_of_upgrade(self, session: Session, request_id: Any, number: int, entry: Entry,
                         document: Mapping[str, Any], upgrade: Mapping[str, Any] | None) -> None:
        if entry.name == "upgrade ended" and entry.fields["generation"] == number:
            self.forget_upgrade(session, number)
            result = {
                "upgrade": dict(upgrade or {}), "outcome": entry.fields["outcome"],
                "reason": entry.fields.get("reason"), "error": entry.fields.get("error"),
                "by": entry.fields.get("by")}
            self._send(session, session.send,
                       protocol.reply(request_id, _how_it_ended(entry), result))
        elif entry.name == "stopping":
            self.forget_upgrade(session, number)
            self._send(session, session.send,
                       protocol.failure(request_id, "stopping", "the master stops"))
        else:
            self._send_event(session, request_id, entry, document)

    def status_changed(self, make: Callable[[], Mapping[str, Any]]) -> None:
        """Send the new status to those who follow it; one that reads slowly gets only the
        newest."""
        for session, request_id in list(self._status.items()):

            def newest(request_id: Any = request_id) -> Mapping[str, Any]:
                return protocol.reply(request_id, "status", make(), wait=True)

            self._send(session, session.send_newest, newest)


class Reloads(Protocol):
    """What a command may ask of the master's replacement."""

    def request(self, by: str) -> None: ...


class Commands:
    """The table of commands."""

    def __init__(self, master: Master, upgrades: Upgrades, reloads: Reloads, audience: Audience,
                 strangers: Strangers) -> None:
        self._master = master
        self._strangers = strangers
        self._upgrades = upgrades
        self._reloads = reloads
        self._audience = audience
        self._einhorn = einhorn.EinhornCommands(master)
        self._table: dict[str, tuple[Callable[[Session, Request], None], tuple[str, ...], str]] = {
            "ping": (self._ping, (), "answer with the master's name, pid and version"),
            "help": (self._help, (), "list the commands"),
            "status": (self._status, ("follow",),
                       "the status document; follow: again at every change"),
            "upgrade": (self._upgrade, ("kind", "release", "canary", "hold", "check",
                                        "max_failures", "wait"),
                        "replace every worker; kind: rolling or fleet"),
            "upgrade_fleet": (self._upgrade_fleet, (), "replace every worker, all new ones first"),
            "rollback": (self._rollback, ("to", "wait"),
                         "upgrade to a remembered recipe; to: a generation or a release"),
            "pause": (self._pause, (), "let the running upgrade stand still"),
            "resume": (self._resume, (), "let it go on, or end its hold"),
            "abort": (self._abort, ("wait",), "let the running upgrade go back"),
            "history": (self._history, (), "the last upgrades, the newest last"),
            "show": (self._show, ("generation",), "what a generation was made of"),
            "scale": (self._scale, ("to", "by"), "change how many workers are kept ready"),
            "signal": (self._signal, ("signal",), "send a signal to every worker"),
            "recycle": (self._recycle, ("index",),
                        "replace the ready worker of a seat, make before break"),
            "reload": (self._reload, (),
                       "replace the master by the einhornpy that is installed now"),
            "stop": (self._stop, ("how",), "stop; how: graceful, terminate or now"),
            "tally": (self._tally, (), "what has happened since the start, as numbers"),
            "events": (self._events, (), "stream every event"),}

    def handle(self, session: Session, request: Request) -> None:
        """Carry out one request.

        Raises:
            BadRequest: the command or an argument is wrong; nothing was done.
        """
        try:
            self._handle(session, request)
        except BadRequest as error:
            raise BadRequest(error.code, str(error), request.id) from None
        except ValueError as error:
            raise BadRequest("bad-argument", str(error), request.id) from None

    def _handle(self, session: Session, request: Request) -> None:
        if request.command in protocol.WORKER_COMMANDS:
            self._worker(session, request)
            return
        # `signal` is a command of both; Einhorn's clients give it words.
        if request.command in self._einhorn.table and (request.words is not None
                                                       or request.command not in self._table):
            session.send(protocol.reply(request.id, self._einhorn.answer(request)))
            return
        if request.command not in self._table:
            raise BadRequest(
                "unknown-command", f"no such command: {request.command[:100]!r}; expected one of "
                f"{', '.join(self._listing())}")
        command, arguments, _ = self._table[request.command]
        einhorn.refuse_words(request)
        for key in request.args:
            if key not in arguments:
                raise BadRequest(
                    "bad-argument", f"{request.command} takes no {key[:100]!r}; expected "
                    f"{', '.join(arguments) or 'no arguments'}")
        command(session, request)

    def _worker(self, session: Session, request: Request) -> None:
        said = dict(request.beside) | dict(request.args)
        if request.command == "worker:upgrade":
            number = self._upgrades.request_for_worker(session.worker, session.pid,
                                                       _label(said.get("release")))
            session.finish(
                protocol.reply(request.id, f"upgrade to generation {number}",
                               {"generation": number}))
            return
        notice = from_command(request.command, said, session.pid, session.worker)
        if isinstance(notice, Notice):
            self._master.notice(notice)
        else:
            self._strangers.tell(session.uid, "worker's word ignored",
                                 {"from_pid": session.pid, "reason": notice})
        session.finish()

    def _ping(self, session: Session, request: Request) -> None:
        session.send(protocol.reply(request.id, "pong", self._master.identity()))

    def _listing(self) -> dict[str, str]:
        ours = {name: about for name, (_, _, about) in self._table.items()}
        return {name: about for name, (_, about) in self._einhorn.table.items()} | ours

    def _help(self, session: Session, request: Request) -> None:
        listing = self._listing()
        lines = "\n".join(f"{name}: {about}" for name, about in sorted(listing.items()))
        session.send(
            protocol.reply(request.id, f"You can give the following commands:\n\n{lines}\n",
                           {"commands": listing}))

    def _status(self, session: Session, request: Request) -> None:
        follow = _boolean(request, "follow", False)
        document = self._master.status()
        message = printable.escaped(f"{document['gate']}: {document['reason']}")
        session.send(protocol.reply(request.id, message, document, wait=follow))
        if follow:
            self._audience.follow_status(session, request.id)

    def _upgrade(self, session: Session, request: Request) -> None:
        terms = _terms(request.args)
        self._begin(session, request, lambda: self._upgrades.request(terms, who(session.uid)))

    def _upgrade_fleet(self, session: Session, request: Request) -> None:
        self._begin(session, request,
                    lambda: self._upgrades.request(Terms(Kind.FLEET), who(session.uid)))

    def _rollback(self, session: Session, request: Request) -> None:
        to = request.args.get("to")
        if isinstance(to, bool) or not isinstance(to, int | str | None):
            raise ValueError(f"to: got {to!r}, expected the number of a generation or a release")
        self._begin(session, request, lambda: self._upgrades.roll_back(to, who(session.uid)))

    def _begin(self, session: Session, request: Request, begin: Callable[[], int]) -> None:
        if not _boolean(request, "wait", einhorn.follows(request)):
            number = begin()
            session.send(
                protocol.reply(request.id, f"upgrade to generation {number} accepted",
                               {"generation": number}))
            return
        # Followed before it begins, since it may be refused at once.
        number = self._upgrades.next_generation()
        self._audience.follow_upgrade(session, request.id, number)
        try:
            begin()
        except (BadRequest, ValueError):
            self._audience.forget_upgrade(session, number)
            raise

    def _pause(self, session: Session, request: Request) -> None:
        session.send(protocol.reply(request.id, self._upgrades.pause(who(session.uid))))

    def _resume(self, session: Session, request: Request) -> None:
        session.send(protocol.reply(request.id, self._upgrades.resume(who(session.uid))))

    def _abort(self, session: Session, request: Request) -> None:
        number = self._upgrades.steerable()
        if _boolean(request, "wait", True):
            self._audience.follow_upgrade(session, request.id, number)
        self._upgrades.abort(who(session.uid))
        if not _boolean(request, "wait", True):
            session.send(
                protocol.reply(request.id, f"upgrade to generation {number} goes back",
                               {"generation": number}))

    def _history(self, session: Session, request: Request) -> None:
        session.send(protocol.reply(request.id, "history", {"upgrades": self._upgrades.history()}))

    def _show(self, session: Session, request: Request) -> None:
        number = request.args.get("generation")
        if isinstance(number, bool) or not isinstance(number, int):
            raise ValueError(f"generation: got {number!r}, expected its number")
        session.send(
            protocol.reply(request.id, f"generation {number}",
                           self._upgrades.generation(number, session.may_steer)))

    def _scale(self, session: Session, request: Request) -> None:
        old = self._master.pool.target
        if ("to" in request.args) == ("by" in request.args):
            raise ValueError("scale: expected either to or by")
        key = "to" if "to" in request.args else "by"
        number = request.args[key]
        if isinstance(number, bool) or not isinstance(number, int):
            raise ValueError(f"{key}: got {number!r}, expected a whole number")
        target = number if key == "to" else old + number
        if not 1 <= target <= 10000:
            raise ValueError(f"scale: {target} workers asked for, expected 1 to 10000")
        self._master.scale(target)
        session.send(
            protocol.reply(request.id, f"number of workers: {old} -> {target}",
                           {"from": old, "to": target}))

    def _signal(self, session: Session, request: Request) -> None:
        try:
            name = signal_name(request.args.get("signal"))
        except ValueError as error:
            raise ValueError(
                f"signal: got {request.args.get('signal')!r}, expected {error}") from None
        count = self._master.signal_workers(name)
        told = f"{name} sent to {report.counted(count, 'worker')}"
        session.send(protocol.reply(request.id, told, {"signal": name, "workers": count}))

    def _recycle(self, session: Session, request: Request) -> None:
        index = request.args.get("index")
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise ValueError(f"index: got {index!r}, expected the number of a seat, 0 or more")
        pid = self._master.recycle(index, who(session.uid))
        session.send(
            protocol.reply(
                request.id,
                f"worker {index} (pid {pid}) leaves as soon as another one is ready in its place",
                {"index": index, "pid": pid}))

    def _reload(self, session: Session, request: Request) -> None:
        self._reloads.request(who(session.uid))
        self._audience.follow_reload(session, request.id)

    def _stop(self, session: Session, request: Request) -> None:
        how = request.args.get("how", "graceful")
        if how not in ("graceful", "terminate", "now"):
            raise ValueError(f"how: got {how!r}, expected graceful, terminate or now")
        session.send(protocol.reply(request.id, f"stopping ({how})", {"how": how}))
        self._master.stop(how)

    def _tally(self, session: Session, request: Request) -> None:
        session.send(protocol.reply(request.id, "tally", self._master.tally()))

    def _events(self, session: Session, request: Request) -> None:
        session.send(
            protocol.reply(
                request.id, "following", {
                    "status": self._master.status(), "recent": [
                        dict(each) for each in self._audience.recent]}, wait=True))
        self._audience.follow_events(session, request.id)


def _terms(args: Mapping[str, Any]) -> Terms:
    """Read how an upgrade is to go."""
    kind, canary, check = args.get("kind", "rolling"), args.get("canary", 0), args.get("check")
    if kind not in ("rolling", "fleet"):
        raise ValueError(f"kind: got {kind!r}, expected rolling or fleet")
    for key in ("canary", "max_failures"):
        value = args.get(key, 0)
        if isinstance(value,
                      bool) or not isinstance(value, int) or not 0 <= value <= LARGEST_NUMBER:
            raise ValueError(
                f"{key}: got {value!r}, expected a whole number from 0 to {LARGEST_NUMBER}")
    for key in ("hold", "check"):
        if key in args and not canary:
            raise ValueError(f"{key}: goes with a canary")
    if check is not None and (not isinstance(check, str) or not check.strip() or "\0" in check):
        raise ValueError("check: expected a shell command")
    hold = args.get("hold", DEFAULT_HOLD)
    try:
        hold = None if hold == UNTIL_RESUME else seconds(hold)
    except ValueError as error:
        raise ValueError(f"hold: got {hold!r}, expected {error}, or {UNTIL_RESUME}") from None
    return Terms(Kind(kind), _label(args.get("release")), canary, hold if canary else 0.0, check,
                 args.get("max_failures"))


def _label(release: Any) -> str | None:
    if release is not None and not (isinstance(release, str) and printable.is_label(release)):
        raise BadRequest("bad-argument",
                         "release: expected a label of 1 to 200 printable characters")
    return release


def _how_it_ended(entry: Entry) -> str:
    """The last message of an upgrade: Einhorn's clients wait for `Upgrade done`."""
    fields = entry.fields
    if fields["outcome"] == "superseded":
        return f"Upgrade superseded by generation {fields['by']}"
    why = ": ".join(str(fields[key]) for key in ("reason", "error") if fields.get(key))
    why = printable.escaped(why)
    return f"Upgrade {fields['outcome']}" + (f": {why}"
                                             if why and fields["outcome"] != "done" else "")


def who(uid: int) -> str:
    """The name of a user, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _boolean(request: Request, key: str, default: bool) -> bool:
    value = request.args.get(key, default)
    if not isinstance(value, bool):
        raise ValueError(f"{key}: got {value!r}, expected true or false")
    return value
