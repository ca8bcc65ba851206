"""The acts of the commands that shared/commands.py declares: `do_NAME` gets arguments that are of
the declared form, asks the master, and answers its session.

A command never waits: a long one leaves its session in `Audience`, which tells it what happens.
"""

from __future__ import annotations

import pwd
from collections.abc import Callable
from dataclasses import replace

from ...shared import commands, printable, protocol
from ...shared.protocol import BadRequest, Code, Request
from ..control_socket.session import Session
from ..core.pool import Stopping
from ..core.upgrade import Kind
from ..launch.notices import Notices
from ..logs.log import Log
from ..logs.strangers import Strangers
from ..places.notify_socket import Notice, from_command
from ..reporting import report
from ..reporting.events import Event
from ..settings.parsers import signal_name
from ..settings.table import Settings
from ..system.guard import Guard
from ..system.ledger import Ledger
from . import einhorn, upgrade_terms
from .answers import Answers
from .audience import Audience
from .orders import Orders
from .releases import Releases
from .reloads import Reloads
from .upgrades import Upgrades


class Commands:
    """Carries out what sessions ask for."""

    def __init__(self, ledger: Ledger, answers: Answers, orders: Orders, notices: Notices,
                 upgrades: Upgrades, reloads: Reloads, audience: Audience, strangers: Strangers,
                 log: Log, settings: Settings, guard: Guard, releases: Releases) -> None:
        self._ledger = ledger
        self._answers = answers
        self._orders = orders
        self._notices = notices
        self._guard = guard
        self._strangers = strangers
        self._upgrades = upgrades
        self._reloads = reloads
        self._audience = audience
        self._settings = settings
        self._releases = releases
        self._einhorn = einhorn.EinhornCommands(ledger, answers, orders, log, settings)

    def handle(self, session: Session, request: Request) -> None:
        """Carry out one request.

        Raises:
            BadRequest: the command or an argument is wrong; nothing was done.
        """
        try:
            if self._ledger.early and request.command not in commands.EARLY:
                raise BadRequest(
                    Code.STARTING, "the first generation is being made: until then only "
                    f"{', '.join(commands.EARLY)} are heard")
            self._handle(session, request)
        except BadRequest as error:
            raise BadRequest(error.code, str(error), request.id) from None
        except ValueError as error:
            raise BadRequest(Code.BAD_ARGUMENT, str(error), request.id) from None
        # a mistake of ours in one command must not take the workers' master down
        except Exception as error:
            self._guard.failed(f"command {request.command[:50]}", error)
            session.send(protocol.failure(request.id, Code.INTERNAL_ERROR,
                                          f"{type(error).__name__}: {error}"))

    def _handle(self, session: Session, request: Request) -> None:
        if request.command in commands.WORKERS_BY_NAME:
            self._worker(session, request)
            return
        declared = commands.BY_NAME.get(request.command)
        # `signal` is a command of both; Einhorn's clients give it words.
        if request.command in commands.EINHORNS_BY_NAME and (request.words is not None
                                                             or declared is None):
            session.send(protocol.reply(request.id, self._einhorn.answer(request)))
            return
        if declared is None:
            raise BadRequest(
                Code.UNKNOWN_COMMAND, f"no such command: {request.command[:100]!r}; expected one "
                f"of {', '.join(commands.ABOUT)}")
        einhorn.refuse_words(request)
        act: Callable[[Session, Request], None] = getattr(self, f"do_{declared.name}")
        act(session, replace(request, args=declared.read(request.args)))

    def _worker(self, session: Session, request: Request) -> None:
        said = dict(request.beside) | dict(request.args)
        if request.command == "worker:upgrade":
            number = self._upgrades.request_for_worker(session.worker, session.pid,
                                                       commands.RELEASE.read(said))
            session.finish(
                protocol.reply(request.id, f"upgrade to generation {number}",
                               {"generation": number}))
            return
        notice = from_command(request.command, said, session.pid, session.worker)
        if isinstance(notice, Notice):
            self._notices.receive(notice)
        else:
            self._strangers.tell(session.uid, Event.WORKERS_WORD_IGNORED,
                                 {"from_pid": session.pid, "reason": notice})
        session.finish()

    def do_ping(self, session: Session, request: Request) -> None:
        session.send(protocol.reply(request.id, "pong", self._answers.identity()))

    def do_help(self, session: Session, request: Request) -> None:
        lines = "\n".join(f"{name}: {about}" for name, about in sorted(commands.ABOUT.items()))
        session.send(
            protocol.reply(request.id, f"You can give the following commands:\n\n{lines}\n", {
                "commands": commands.ABOUT, "arguments": {
                    command.name: {each.name: each.expected for each in command.arguments}
                    for command in commands.OURS}}))

    def do_status(self, session: Session, request: Request) -> None:
        follow = request.args["follow"]
        document = self._answers.status()
        message = printable.escaped(f"{document['gate']}: {document['reason']}")
        session.send(protocol.reply(request.id, message, document, wait=follow))
        if follow:
            self._audience.follow_status(session, request.id)

    def do_upgrade(self, session: Session, request: Request) -> None:
        terms = upgrade_terms.read(request.args, self._settings)
        self._begin(session, request, lambda: self._upgrades.request(
            terms, who(session.uid), as_einhorn=request.einhorns))

    def do_upgrade_fleet(self, session: Session, request: Request) -> None:
        self._begin(session, request, lambda: self._upgrades.request(
            upgrade_terms.usual(self._settings, Kind.FLEET), who(session.uid),
            as_einhorn=request.einhorns))

    def do_rollback(self, session: Session, request: Request) -> None:
        self._begin(session, request,
                    lambda: self._upgrades.roll_back(request.args["to"], who(session.uid)))

    def _begin(self, session: Session, request: Request, begin: Callable[[], int]) -> None:
        if not (request.args.get("wait", True) and einhorn.follows(request)):
            number = begin()
            session.send(
                protocol.reply(request.id, f"upgrade to generation {number} accepted",
                               {"generation": number}))
            return
        # Followed before it begins, since it may be refused at once.
        number = self._upgrades.next_generation()
        self._audience.follow_upgrade(session, request.id, number, request.einhorns)
        try:
            begin()
        except (BadRequest, ValueError):
            self._audience.forget_upgrade(session, number)
            raise

    def do_pause(self, session: Session, request: Request) -> None:
        session.send(protocol.reply(request.id, self._upgrades.pause(who(session.uid))))

    def do_resume(self, session: Session, request: Request) -> None:
        session.send(protocol.reply(request.id, self._upgrades.resume(who(session.uid))))

    def do_abort(self, session: Session, request: Request) -> None:
        number = self._upgrades.steerable()
        if request.args["wait"]:
            self._audience.follow_upgrade(session, request.id, number)
        self._upgrades.abort(who(session.uid))
        if not request.args["wait"]:
            session.send(
                protocol.reply(request.id, f"upgrade to generation {number} goes back",
                               {"generation": number}))

    def do_history(self, session: Session, request: Request) -> None:
        session.send(protocol.reply(request.id, "history", {"upgrades": self._upgrades.history()}))

    def do_releases(self, session: Session, request: Request) -> None:
        session.send(protocol.reply(request.id, "releases", self._releases.document()))

    def do_show(self, session: Session, request: Request) -> None:
        number = request.args["generation"]
        session.send(
            protocol.reply(request.id, f"generation {number}",
                           self._upgrades.generation(number, session.may_steer)))

    def do_scale(self, session: Session, request: Request) -> None:
        old, to, by = self._ledger.pool.target, request.args["to"], request.args["by"]
        target = old + by if to is None else to
        self._orders.scale(target)
        session.send(
            protocol.reply(request.id, f"number of workers: {old} -> {target}",
                           {"from": old, "to": target}))

    def do_signal(self, session: Session, request: Request) -> None:
        given = request.args["signal"]
        try:
            name = signal_name(given)
        except ValueError as error:
            raise ValueError(f"signal: got {given!r}, expected {error}") from None
        count = self._orders.signal_workers(name)
        told = f"{name} sent to {report.counted(count, 'worker')}"
        session.send(protocol.reply(request.id, told, {"signal": name, "workers": count}))

    def do_recycle(self, session: Session, request: Request) -> None:
        index = request.args["index"]
        pid = self._orders.recycle(index, who(session.uid))
        session.send(
            protocol.reply(
                request.id,
                f"worker {index} (pid {pid}) leaves as soon as another one is ready in its place",
                {"index": index, "pid": pid}))

    def do_reload(self, session: Session, request: Request) -> None:
        self._reloads.request(who(session.uid))
        self._audience.follow_reload(session, request.id)

    def do_stop(self, session: Session, request: Request) -> None:
        how = request.args["how"]
        session.send(protocol.reply(request.id, f"stopping ({how})", {"how": how}))
        self._orders.stop(Stopping(how))

    def do_tally(self, session: Session, request: Request) -> None:
        session.send(protocol.reply(request.id, "tally", self._answers.tally()))

    def do_events(self, session: Session, request: Request) -> None:
        session.send(
            protocol.reply(
                request.id, "following", {
                    "status": self._answers.status(), "recent": [
                        dict(each) for each in self._audience.recent]}, wait=True))
        self._audience.follow_events(session, request.id)


def who(uid: int) -> str:
    """The name of a user, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
