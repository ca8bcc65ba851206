"""The parts of a master: the one list of them, and how they are put together. It runs none of
them.

To add one: write its class (system/part.py), name it in `ORDER`, make it in `Parts`. What it keeps
over a reload it declares itself.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from .carrying_out import Plan
from .control_socket.server import Access, Server
from .core import facts, observe, worker_environment
from .core.generation import Recipe
from .core.pool import Pool
from .exits import Exits
from .launch import recipes
from .launch.arbiter_hooks import ArbiterHooks
from .launch.guesses import Guesses
from .launch.lookups import LookedUp
from .launch.measures import Measures
from .launch.notices import Notices
from .launch.prepared import Generations
from .launch.shared_page import SharedPage
from .launch.spawning import Spawner
from .launch.templates import Templates
from .launch.traffic_pages import TrafficPages
from .launch.workers import Workers
from .logs import log
from .logs.keeper import Keeper
from .logs.output import Output
from .logs.strangers import Strangers
from .outside.announcements import Announcements
from .outside.labels import Labels
from .outside.web import Web
from .places.notify_socket import NotifySocket
from .places.pidfile import Pidfile
from .places.restoring import Places
from .places.runtime_directory import RuntimeDirectory
from .places.watched import STIRRED
from .settings import sources
from .settings.parsers import WorkerOutput
from .settings.policy import policy_of
from .settings.table import Settings
from .sockets.listener_repair import Listening
from .sockets.systemd import Notifier
from .steering.answers import Answers
from .steering.audience import Audience
from .steering.commands import Commands
from .steering.fetching import Fetching
from .steering.hooks import Hooks
from .steering.judge import Judge
from .steering.orders import Orders
from .steering.releases import Releases
from .steering.reloads import Reloads
from .steering.signals import SIGNALS, Signals
from .steering.state import Schema
from .steering.upgrades import Upgrades
from .system.errands import Errands
from .system.guard import Guard
from .system.ledger import Ledger
from .system.loop import Loop
from .system.own_code import OwnCode
from .system.part import Part, State
from .system.processes import Processes
from .system.terminal_signals import TerminalSignals

# In this order they take over, are asked whose an exit was, and have their turn; in reverse they
# end. The first ones are what others stand on.
ORDER: tuple[type[Part], ...] = (
    Loop, Processes, SharedPage, TrafficPages, log.Log, Ledger, Workers, Generations, Pidfile,
    RuntimeDirectory, NotifySocket,
    Places,  # before anybody is judged by what he couldn't say
    Output, Labels, Audience, Notices, Signals,
    Listening,  # before anybody is told how we are
    Server, Upgrades, Web, Templates, Errands,
    Announcements,  # when it is known which of them are on their way
    Measures, Judge,
    Keeper,  # ends before the output, of which it asks who still writes
    Strangers, Guesses,
    Exits,  # deaths before the plan
    Plan, Answers, Notifier, Guard, Reloads)
SCHEMA = Schema(ORDER)

# An ack is heard in the second round: one accepts, one reads.
ROUNDS = 4


class Parts:
    """All of them."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], given: Mapping[str, Any],
                 looked_up: LookedUp, own_code: OwnCode) -> None:
        self.guard = Guard(lambda entry: self.ledger.log(entry),
                           lambda: self.ledger.tally.failed())
        self.ledger = Ledger(self.guard, first_pool(settings, environ), environ, dict(settings.env))
        self.terminal_signals = TerminalSignals()
        self.loop = Loop(SIGNALS - self.terminal_signals.left_alone, self.guard,
                         lambda seconds: self.ledger.tally.lag_seconds.add(seconds))
        self.processes = Processes()
        self.errands = Errands(self.processes, self.loop, self.guard)
        self.log = log.opened(settings, self.loop, environ)
        self._of_workers(settings, environ, looked_up, own_code)
        self._of_clients(settings, environ, looked_up, own_code,
                         sources.named_file(given["flags"], environ, given["directory"]))
        self.reloads = Reloads(
            self.ledger, self.upgrades, self.errands, self.signals, self._tell_of_reload,
            self.state, SCHEMA.whole, environ, settings, given, own_code)
        self.answers.reloads = lambda: (self.reloads.count, self.reloads.refused)
        self.upgrades.replace_master = self.reloads.request
        self.commands = Commands(
            self.ledger, self.answers, self.orders, self.notices, self.upgrades, self.reloads,
            self.audience, self.strangers, self.log, settings, self.guard, self.releases)
        self.exits, self.plan = Exits(self), Plan(self)
        self._follow()
        self._all = sorted((each for each in vars(self).values() if isinstance(each, Part)),
                           key=lambda part: ORDER.index(type(part)))

    def _of_workers(self, settings: Settings, environ: Mapping[str, str], looked_up: LookedUp,
                    own_code: OwnCode) -> None:
        """What starts workers, and what is known of them."""
        self.workers, self.generations = Workers(self.ledger), Generations(self.ledger)
        self.page = SharedPage()
        self.traffic = TrafficPages(self.page)
        self.output = Output(self.loop, self.log, settings.worker_output, self.guard)
        self.keeper = Keeper(self.processes, worker_environment.inherited(environ), self.output,
                             self.ledger.log, settings.worker_output is not WorkerOutput.INHERIT,
                             own_code)
        self.place = RuntimeDirectory(settings.command_name, settings.socket_path,
                                      settings.lockfile, environ, looked_up.rights)
        self.pidfile = Pidfile()
        self.listening = Listening(self.ledger, self.loop)
        self.guesses = Guesses(self.ledger, self.listening.all)
        self.measures = Measures(self.ledger, self.page, settings.min_available_memory)
        self.notices = Notices(self.ledger, self.generations, self.guesses, self.measures,
                               self.traffic, settings, self.guard)
        self.notify = NotifySocket(self.loop, self.workers.of, self.workers.above,
                                   self.notices.guarded,
                                   0o666 if looked_up.attributes.other_user else 0o600)
        self.places = Places(self.ledger, self.place, self.notify, self.pidfile,
                             self.measures.heard_by_path, self.listening.files,
                             lambda: STIRRED in self.signals.came)
        self.hooks = Hooks(self.ledger, self.errands, settings, environ, looked_up.attributes,
                           self.place)
        self.templates = Templates(
            self.ledger, self.generations, self.processes, self.loop, looked_up.attributes,
            settings.number if settings.given("number") else None, settings.warm_up,
            lambda *generation: self.web.environment(*generation), own_code)
        self.workers.hear = self.templates.hear
        self.arbiter_hooks = ArbiterHooks(self.ledger, self.templates)
        self.spawner = Spawner(
            self.ledger, self.generations, self.processes, self.page, self.traffic, self.output,
            settings, looked_up.attributes, self.listening.all, self.place, self.notify,
            self.templates)

    def _of_clients(self, settings: Settings, environ: Mapping[str, str], looked_up: LookedUp,
                    own_code: OwnCode, config: str) -> None:
        """Who asks us, and who is told. `config`: the file of settings."""
        self.strangers = Strangers(self.ledger.log)
        self.audience = Audience(self.guard.failed)
        self.answers = Answers(self.ledger, self.place, self.listening, self.page, self.traffic,
                               self.output, self.log, self.templates.own_pids,
                               self.audience.status_changed)
        self.releases = Releases(self.ledger, settings, looked_up.attributes, config)
        fetching = Fetching(self.ledger, self.errands, settings, environ, self.releases, self.place,
                            own_code)
        self.upgrades = Upgrades(
            self.ledger, self.generations, self.processes, self.loop, self.errands, self.hooks,
            settings, environ, looked_up.attributes, self.templates, fetching,
            self.answers.status)
        self.judge = Judge(self.ledger, self.traffic, self.page)
        self.orders = Orders(self.ledger, self.arbiter_hooks, self.processes, self.measures,
                             self.upgrades)
        self.signals = Signals(self.loop, self.guard, self.ledger, self.orders, self.upgrades,
                               self.processes, self.arbiter_hooks, self.log, self.terminal_signals,
                               settings)
        self.server = Server(
            self.loop, lambda session, request: self.commands.handle(session, request),
            Access(os.geteuid(), looked_up.observers), self.workers.of, self.workers.lives,
            max(16, self.processes.raise_descriptor_limit() // 2), self.guard.failed,
            self.audience.role_of, self.audience.resume)
        self.place.on_open = self._open
        self.web = Web(self.ledger, self.processes, self.errands, environ, self.place,
                       looked_up.web_user, None if settings.web is None else settings.web_host,
                       looked_up.attributes, self.server.admit_onlooker, own_code)
        self.labels = Labels(self.errands, environ, self.ledger,
                             lambda found: self.log.found.update(found), own_code)
        self.announcements = Announcements(
            settings, self.errands, worker_environment.inherited(environ), looked_up.web_user,
            self.ledger, lambda: (self.place.master, self.log.labels), own_code)
        self.systemd = Notifier(environ, self.ledger)

    def _follow(self) -> None:
        """Who is told of facts, entries and events, in this order."""
        self.ledger.follow("web", fact=self.web.observe)
        self.ledger.follow("arbiter's hooks", fact=self._tell_arbiter)
        # before those who wait for an upgrade hear that it is done
        self.ledger.follow("releases", fact=self.releases.observe)
        self.ledger.follow("log", entry=self.log.tell)
        self.ledger.follow("audience", fact=self.audience.look, event=self.audience.tell)
        self.ledger.follow("hooks", event=self.hooks.of_event)
        self.ledger.follow("announcements", event=self.announcements.tell)

    def _tell_arbiter(self, before: Pool, fact: facts.Event, after: Pool, now: float) -> None:
        if isinstance(fact, facts.ListenerSwept | facts.ListenerShut):
            self.arbiter_hooks.give_listeners([each.socket for each in self.listening.all])
        elif isinstance(fact, facts.Forked):
            self.arbiter_hooks.say_how_many()

    def _open(self, listener: socket.socket) -> None:
        self.server.open(listener)
        set_title(f"einhornpy: master {self.place.master}")

    def _tell_of_reload(self, message: str, well: bool) -> None:
        self.audience.reload_ended(message, well, self.answers.identity() if well else {})

    def __iter__(self) -> Iterator[Part]:
        return iter(self._all)

    def state(self) -> dict[str, Any]:
        """Everything that the next master needs in order to go on as if nothing had happened, as
        plain data."""
        return {key: value for part in self for key, value in part.hand_over().items()}

    def take_over(self, state: State) -> None:
        """Go on where the master before was; a fresh start is an empty state."""
        for part in self:
            part.take_over(state)

    def hear(self) -> None:
        """Listen to what has been said by now, without waiting."""
        for _ in range(ROUNDS):
            self.signals.came |= self.loop.wait(0.0)
            self.guard.run("server", self.server.on_turn)

    def close(self) -> None:
        """Everything, whatever of it fails."""
        for part in reversed(self._all):
            self.guard.run("cleaning up", part.close)


def first_pool(settings: Settings, environ: Mapping[str, str]) -> Pool:
    """What is there before anything is known: the first generation's recipe, as far as the settings
    say it."""
    blueprint = recipes.blueprint(settings, environ, settings.release)
    recipe = Recipe(blueprint.command, blueprint.directory, blueprint.environment,
                    blueprint.release)
    return observe.new_pool(recipe, settings.number, policy_of(settings))


def set_title(title: str) -> None:
    import setproctitle  # a readable `ps`; the kernel's own name is cut at 15 bytes

    setproctitle.setproctitle(title)
