"""The master: facts in, pool observed, plan made, actions carried out. The only wiring; it holds no
policy.

Whatever happens reaches `observe` as a fact; whatever is done is something that `plan` asked for.
Only this module does both, and it does nothing in between that could wait.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from ..shared import printable
from ..shared.protocol import BadRequest, Request, failure
from .core import actions, facts, observe, planner, pool, upgrade, worker_environment
from .core.causes import Recycling
from .launch import recipes, shared_page
from .launch.guesses import Guesses
from .launch.lookups import Known
from .launch.measures import Measures
from .launch.recognition import Gunicorn, Refused
from .launch.spawning import Spawner, Started
from .logs import log
from .logs.keeper import Keeper
from .logs.output import LAST_LINES, LINES_SEARCHED, Output
from .logs.sinks import CannotLog, Counts
from .logs.strangers import Strangers
from .outside import labels
from .outside.announcements import Announcements
from .outside.web import Web
from .reporting import generations, hints, journal, report
from .reporting.complaints import complaint
from .reporting.events import Entry, Event, Weight
from .reporting.redaction import Redaction, secrets_of
from .reporting.tally import Tally
from .settings.policy import policy_of
from .settings.table import GUESSED_ACK_SECONDS, Settings
from .sockets import listeners, queues, systemd
from .sockets.addresses import BadAddress, parse_address
from .sockets.control_server import Access, Server
from .sockets.given import Given, stored_name
from .sockets.listener import Listener
from .sockets.listener_repair import Listening
from .sockets.notify_socket import Notice, NotifySocket
from .sockets.runtime_directory import NoPlace, Place, claim, remove_pidfile, write_pidfile
from .sockets.session import Session as ServerSession
from .steering import first_start, pool_state, reload_check
from .steering.audience import Audience
from .steering.commands import Commands
from .steering.hooks import Hooks
from .steering.own_code import OwnCode
from .steering.reload_check import listener_of, listener_state
from .steering.reloads import Reloads
from .steering.trial import Trial
from .steering.upgrades import Upgrades
from .system import attributes
from .system.errands import Ended, Errand, Errands
from .system.guard import FIRST_HOLD, Guard
from .system.loop import Loop
from .system.orphans import Orphans
from .system.plain_data import made, plain
from .system.processes import CannotStart, Exit, Processes, parent

VERSION = "0.1.0"
SIGNALS = [
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGTTIN, signal.SIGTTOU, signal.SIGCHLD, signal.SIGALRM,]
STOPS = {
    signal.SIGINT: "graceful", signal.SIGUSR2: "graceful", signal.SIGTERM: "terminate",
    signal.SIGQUIT: "now"}
# Starting a process takes a few milliseconds; after this long in one go the rest of the loop has
# its turn.
LONGEST_TURN = 0.05
# Listening so many seconds after a deadline is late, and by no later clock is anybody judged than
# so long after we have listened. An ack is heard in the second round: one accepts, one reads.
LATE, ROUNDS_WHEN_LATE = 0.2, 4
# A part of each turn: what it is called, what it does at a time (monotonic seconds), when it would
# like to be next.
Part = tuple[str, Callable[[float], Any], float | None]


class CannotRun(RuntimeError):
    """The master can't start; the message is one line, `code` the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Master:
    """One app's master. `run` returns the exit code of the process.

    `given`: the command line, from which `settings` were made. `known`: who and what they name.
    `own_code`: the way back to this one, should the next one fail. `inherited`: the state of the
    master that this one replaces.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str], given: Mapping[str, Any],
                 known: Known, own_code: OwnCode | None,
                 inherited: Mapping[str, Any] | None = None) -> None:
        self.settings = settings
        self._environ = dict(environ)
        self._given = dict(given)
        self._inherited = inherited
        for fd in () if inherited is None else reload_check.descriptors_in(inherited):
            os.set_inheritable(fd, False)  # they were to survive exec, but are nothing for a worker
        self._attributes, self._observers, self._rights, self._web_user = (
            known.attributes, known.observers, known.rights, known.web_user)
        self._started_at = time.monotonic()
        self._tally = Tally(None if inherited is None else inherited.get("tally"))
        self._guard = Guard(self.log, self._tally.failed)
        self._loop = Loop(SIGNALS, self._guard, self._tally.lag_seconds.add)
        self._log = log.opened(
            settings, self._loop, environ,
            None if inherited is None else made(Counts, inherited.get("log", {})))
        self._processes = Processes(None if inherited is None else inherited["processes"])
        self._output = Output(self._loop, self._log, settings.worker_output, self._keep,
                              self._guard)
        self._keeper = Keeper(self._processes, worker_environment.inherited(environ),
                              self._output.open_pipes, self.log, settings.worker_output
                              != "inherit", None if inherited is None else inherited.get("keeper"))
        self._most_sessions = max(16, self._processes.raise_descriptor_limit() // 2)
        self._page = shared_page.Page(None if inherited is None else inherited["page"])
        self._audience = Audience(() if inherited is None else inherited.get("recent", ()),
                                  self._guard.failed)
        self._strangers = Strangers(self.log)
        self.prepared: dict[int, recipes.Prepared] = {}
        self._workers: dict[int, int] = {}  # pid → worker
        self._orphans = Orphans()
        self._signals: set[signal.Signals] = set()  # that have come
        self._missed: list[Exit] = []  # ends of workers that could not be observed yet
        self._next_worker = 1
        self._errands = Errands(self._processes, self._loop, self._guard)
        self._hooks = Hooks(self, self._errands, settings, self._attributes)
        self.upgrades = Upgrades(self, self._processes, self._loop, self._errands, self._hooks,
                                 settings, self._environ, self._attributes)
        self._reloads = Reloads(self, self._errands, self._environ, self._given["directory"],
                                settings.reexec_as,
                                0 if inherited is None else inherited["reloads"], own_code)
        self._trial: Trial | None = None
        self._announcements = Announcements(settings, self._errands,
                                            worker_environment.inherited(environ), self._web_user,
                                            self.log)
        self._systemd = systemd.Notifier(
            environ, None if inherited is None else made(systemd.Told, inherited["systemd"]))
        self._measures = Measures(self, self._page, settings.min_available_memory)
        self._web_listeners: list[Listener] = []
        self._listening = Listening(self, self._loop)
        self._guesses = Guesses(self, ())
        self._wake_at: float | None = self._started_at  # the first plan is due at once
        self._listened_at = self._started_at
        self._changed = False
        self._advised = bool(settings.warm_up) or inherited is not None
        self._exit_code: int | None = None
        # there are no workers yet, and not everything that they need
        self._early = inherited is None
        self._name = settings.command_name
        self._least_weight: int = (Weight.ATTENTION if settings.quiet else
                                   Weight.DETAIL if settings.verbose else Weight.NORMAL)
        self._place: Place | None = None
        self._notify: NotifySocket | None = None
        self._server: Server | None = None
        self._pidfile: str | None = None
        self._web: Web | None = None
        self._secrets = self._environ, dict(settings.env)  # the next generation's are among them
        self._redaction = Redaction(known=secrets_of(self._environ)
                                    | secrets_of(dict(settings.env)))
        self.pool: pool.Pool  # there is none before the first generation is made

    # --- starting and ending ---

    def run(self) -> int:
        """Start, run until stopped, clean up; return the exit code: 0 after an asked-for stop, 3
        when no worker ever became ready.

        Raises:
            CannotRun: the master can't start.
        """
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            self._guard.strict = False  # there is no master before us who could go on
            if not self._start():
                return 0
            return self._go_on()
        except first_start.NotAllowed as error:
            raise CannotRun(self._redaction.text(str(error)), 3) from None
        except (listeners.CannotListen, BadAddress, NoPlace, Refused,
                attributes.Refused) as error:
            detail = getattr(error, "error", None)
            code = 2 if getattr(error, "bad_input", False) or isinstance(error,
                                                                         attributes.Refused) else 1
            raise CannotRun(f"{error}: {self._redaction.text(detail)}" if detail else str(error),
                            code) from None
        finally:
            self._clean_up()

    def take_over(self, way_back: int, failed: str | None) -> int:
        """Go on where the master before us was, and `run`. `way_back`: the state, to be closed when
        there is none any more. `failed`: why the master that should have gone on in our place
        didn't.

        Raises whatever goes wrong in the first second, with nothing cleaned up: the master before
        goes on then.
        """
        assert self._inherited is not None
        self._trial = trial = Trial(way_back)
        try:
            self._take_over(self._inherited)
            # Whoever exec'ed us had blocked them all, so that none was lost meanwhile.
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            self._turn()
            trial.begin()
            while self._exit_code is None and time.monotonic() < (trial.until or 0.0):
                self._turn()
        except BaseException:
            way = {key: self._inherited[key] for key in ("reloads", "reloaded_by", "way_back")}
            trial.failed(lambda: reload_check.whole(self.state() | way),
                         lambda: self._loop.pending() | self._signals)
            raise
        self._trial = None
        trial.passed()
        try:
            self._guard.strict = False
            self._guard.run("settling", self._settle, self._inherited, failed)
            return self._go_on()
        finally:
            self._clean_up()

    def _go_on(self) -> int:
        self._guard.strict = False
        while self._exit_code is None:
            try:
                self._turn()
            except Exception as error:  # between its parts: the loop itself, for instance
                self._guard.failed("turn", error)
                select.select([], [], [], FIRST_HOLD)
        return self._exit_code

    def _start(self) -> bool:
        settings = self.settings
        given = Given(systemd.given_sockets(self._environ))
        self.pool = observe.new_pool(first_start.placeholder(settings, self._environ),
                                     settings.number, policy_of(settings))
        start = first_start.First(self, self._processes, self._loop, self._hooks, settings,
                                  self._environ, self._attributes)
        # Whoever asks is to find us from the first moment on; but a gunicorn's settings may hold
        # the name.
        if settings.given("command_name") or settings.given("socket_path"):
            self._claim()
        prepared = start.prepare()
        if prepared is None:
            return False
        gunicorn = prepared.gunicorn.settings if prepared.gunicorn is not None else {}
        if gunicorn.get("proc_name") and not settings.given("command_name"):
            self._name = "".join(letter if letter.isalnum() else "_"
                                 for letter in gunicorn["proc_name"])[:64]
        target = self.upgrades.target_of(prepared) or settings.number
        self.pool = observe.new_pool(prepared.recipe, target, policy_of(settings))
        self._redaction = generations.redaction(self.pool, *self._secrets)
        self.prepared[1] = prepared
        if self._place is None:
            self._claim()
        self._log.name = self._name
        _set_title(f"einhornpy: master {self._name}")
        if not start.ask():
            return False
        binds = list(settings.bind)
        if not binds and gunicorn and not given:
            binds = [recipes.bind_of(bind, gunicorn) for bind in gunicorn["bind"]]
        addresses = [parse_address(bind, settings.backlog) for bind in binds]
        self._listening = Listening(self, self._loop, listeners.open_all(addresses, given))
        if settings.web is not None:
            self._web_listeners = listeners.open_all([parse_address(settings.web)], given)
        unused = given.close_rest()
        pidfile = settings.pidfile or gunicorn.get("pidfile")
        if pidfile:
            write_pidfile(pidfile)
            self._pidfile = pidfile
        assert self._place is not None
        notify_mode = 0o666 if self._attributes.other_user else 0o600
        self._notify = NotifySocket(self._loop, self._place.notify_path, notify_mode,
                                    self.worker_of, self.worker_above, self._guarded_notice)
        self._spawner = self._make_spawner()
        for listener in self._web_listeners:
            self._serve_web(listener, None)
        self._systemd.store([(each.label or stored_name(position), each.socket.fileno())
                             for position, each in enumerate(self._listening.all)])
        self._early = False
        self._changed = True
        self._say_how_it_started(prepared, gunicorn)
        labels.ask_the_platform(self._errands, self._environ, self._labels_found,
                                self._labels_not_found)
        if unused:
            self.log(Entry(Event.INHERITED_SOCKETS_UNUSED,
                           {"names": " ".join(unused), "so": "they are closed"}))
        self._hooks.of_gunicorn(prepared, "when_ready", [])
        return True

    def _claim(self) -> None:
        self._place = claim(self._name, self.settings.socket_path, self._environ, self._rights,
                            self.settings.lockfile)
        self._open_for_commands()

    def _open_for_commands(self) -> None:
        assert self._place is not None
        access = Access(os.geteuid(), self._observers)
        self._server = Server(self._loop, self._place.listener, self._handle, access,
                              self.worker_of, lambda worker: worker in self.pool.workers,
                              self._most_sessions, self._guard.failed)
        self._commands = Commands(self, self.upgrades, self._reloads, self._audience,
                                  self._strangers)
        _set_title(f"einhornpy: master {self._name}")

    def _make_spawner(self) -> Spawner:
        self._guesses = Guesses(self, self._listening.all)
        assert self._notify is not None
        return Spawner(self, self._processes, self._page, self._output, self.settings,
                       self._attributes, self._listening.all, self._notify.path)

    def _serve_web(self, listener: Listener, inherited: Mapping[str, Any] | None) -> None:
        assert self._server is not None
        self._web = Web(self, self._processes, self._errands, self._environ, listener,
                        self._web_user, self.settings.web_host, self._attributes,
                        self._server.admit_onlooker, inherited)

    # --- one master after the other ---

    def state(self) -> dict[str, Any]:
        """Everything that the next master needs in order to go on as if nothing had happened, as
        plain data."""
        assert self._place is not None
        assert self._notify is not None
        assert self._server is not None
        place = self._place
        return {
            "version": VERSION, "given": self._given, "name": self._name,
            "started_at": self._started_at, "reloads": self._reloads.count,
            "next_worker": self._next_worker, "least_weight": self._least_weight,
            "pool": pool_state.written(self.pool), "prepared": {
                str(number): {"gunicorn": plain(each.gunicorn), "guessed": each.guessed}
                for number, each in self.prepared.items()
            }, "listeners": [listener_state(each) for each in self._listening.all], "place": {
                "path": place.path, "notify_path": place.notify_path, "lock_path": place.lock_path,
                "listener": place.listener.fileno(),
                "lock": place.lock}, "notify": self._notify.fileno(), "pidfile": self._pidfile,
            "page": self._page.hand_over(), "processes": self._processes.hand_over(),
            "errands": self._errands.hand_over(), "sessions": [
                session.hand_over() | {"role": self._audience.role_of(session)}
                for session in self._server.sessions()], "systemd": plain(self._systemd.told),
            "web": None if self._web is None else listener_state(self._web_listeners[0])
            | self._web.hand_over(), "log": self._log.hand_over(), "labels": dict(self._log.found),
            "announcements": self._announcements.hand_over(), "keeper": self._keeper.hand_over(),
            "output": self._output.hand_over(), "tally": self._tally.document(),
            "recent": [dict(each) for each in self._audience.recent
                       ], "kept": reload_check.kept(self.settings),}

    def _take_over(self, state: Mapping[str, Any]) -> None:
        self._name, self._started_at, self._next_worker = state["name"], state["started_at"], state[
            "next_worker"]
        self._least_weight = state["least_weight"]
        self._log.name = self._name
        self._output.take_over(state.get("output", []))
        self._log.take_over(state.get("log", {}))
        self._log.found = state.get("labels", {}) | self._log.found
        self.pool = replace(made(pool.Pool, state["pool"]), policy=policy_of(self.settings))
        self._redaction = generations.redaction(self.pool, *self._secrets)
        kept = self.pool.generations
        for number, each in state["prepared"].items():
            gunicorn = made(Gunicorn | None, each["gunicorn"])
            if int(number) in kept:
                self.prepared[int(number)] = recipes.Prepared(kept[int(number)].recipe, gunicorn,
                                                              each["guessed"])
        self._workers = {worker.pid: worker.id for worker in self.pool.workers.values()}
        self._listening = Listening(self, self._loop,
                                    [listener_of(each) for each in state["listeners"]])
        place = state["place"]
        control = socket.socket(fileno=place["listener"])
        self._place = Place(place["path"], place["notify_path"], place["lock_path"], control,
                            place["lock"])
        self._pidfile = state["pidfile"]
        self._notify = NotifySocket(self._loop, place["notify_path"], 0, self.worker_of,
                                    self.worker_above, self._guarded_notice, state["notify"])
        self._spawner = self._make_spawner()
        self._errands.take_over(state["errands"], self._whom)
        self._announcements.take_over(state.get("announcements", {}))
        self._open_for_commands()
        assert self._server is not None
        for told in state["sessions"]:
            self._audience.take_over(self._server.take_over(told), told["role"])
        web = state.get("web")
        if web is not None:
            self._web_listeners = [listener_of(web)]
            self._serve_web(self._web_listeners[0], web)
        for worker in self.pool.workers.values():
            self._measures.expect(worker, time.monotonic())
        self._guesses.take_over()
        self._changed = True

    def _settle(self, state: Mapping[str, Any], failed: str | None) -> None:
        """The first second is over: there is no way back, and who waits for us is told so."""
        if failed is not None:
            self._reloads.count -= 1
            self._reloads.refuse(f"the next master failed, and the one before went on: {failed}")
            return
        if state["way_back"] is not None:
            os.close(state["way_back"]["copy"])
        self.log(Entry(Event.MASTER_REPLACED, {
            "pid": os.getpid(), "version": VERSION, "before": state["version"],
            "workers": self.pool.target, "by": state["reloaded_by"]}))
        stays = reload_check.ignored(self.settings, state.get("kept", {}))
        if stays:
            why = "restart the master to change them"
            self.log(Entry(Event.SETTINGS_THAT_STAY, {"settings": " ".join(stays), "so": why}))
        self._audience.reload_ended(f"einhornpy {VERSION} goes on, pid {os.getpid()}", True,
                                    self.identity())

    def _whom(self, errand: Errand) -> Callable[[Ended], None]:
        """Who is to know how an errand of the master before us ended."""
        if errand.name == labels.NAME:
            return labels.answered(self._labels_found, self._labels_not_found)
        for resume in (self.upgrades.resume_errand, self._announcements.resume_errand):
            whom = resume(errand)
            if whom is not None:
                return whom
        return lambda ended: self._hooks.ended(errand.name, ended)

    def _keep(self, pipe: int) -> None:
        self._keeper.keep(pipe)

    def has_signals(self) -> bool:
        return bool(self._loop.pending() | self._signals)

    def reload_refused(self, reason: str) -> None:
        self._audience.reload_ended(f"reload refused: {self._redaction.text(reason)}", False, {})

    def stopping(self) -> bool:
        return self.pool.stopping is not None

    def busy(self) -> bool:
        return self.upgrades.busy

    def early_turn(self, deadline: float | None) -> list[Exit] | None:
        """Before there are workers: wait, hear clients, return who has exited; None if we were told
        to stop."""
        deadlines = [each for each in (deadline, self._errands.deadline) if each is not None]
        if self._server is not None and self._server.waiting:
            deadlines.append(0.0)
        came = self._loop.wait(max(0.0, min(deadlines) - time.monotonic()) if deadlines else None)
        if self._server is not None:
            self._server.on_turn()
        self._errands.on_time(time.monotonic())
        exits = self._processes.reap()
        for exit in exits:
            self._errands.on_exit(exit)
        if not came & STOPS.keys() and self.pool.stopping is None:
            return exits
        self.log(Entry(Event.MASTER_STOPPED, {"pid": os.getpid()}))
        return None

    def _say_how_it_started(self, prepared: recipes.Prepared, gunicorn: Mapping[str, Any]) -> None:
        assert self._place is not None
        self.log(Entry(Event.MASTER_STARTED, {
            "pid": os.getpid(), "version": VERSION, "workers": self.pool.target,
            "listen": " ".join(listener.name for listener in self._listening.all) or None,
            "socket": self._place.path}))
        if prepared.guessed:
            self.log(Entry(Event.READINESS_IS_A_GUESS, {
                "reason": f"nothing is known about how {self.settings.command[0]} says that it is "
                          "ready",
                "so": f"it counts as ready after {GUESSED_ACK_SECONDS:g} s, and for an old "
                      f"one to go after {self.pool.policy.guessed_min_ready_seconds:g} s more",
                "better": "-m notify or -m manual, or -m SECONDS"}))
        overruled = [
            f"{theirs} (--{ours.replace('_', '-')} wins)"
            for ours, theirs in (("bind", "bind"), ("number", "workers"), ("timeout", "timeout"),
                                 ("graceful_timeout", "graceful_timeout"), ("pidfile", "pidfile"),
                                 ("command_name", "proc_name")) if prepared.gunicorn is not None
            and prepared.gunicorn.given(theirs) and self.settings.given(ours)]
        if overruled:
            self.log(Entry(Event.GUNICORN_SETTINGS_OVERRULED, {"settings": ", ".join(overruled)}))

    def _labels_found(self, found: dict[str, str]) -> None:
        self._log.found |= found
        self._changed = True
        self.log(Entry(Event.LABELS_FOUND, found))

    def _labels_not_found(self, reason: str) -> None:
        self.log(Entry(Event.LABELS_NOT_FOUND, {"reason": reason}))

    def _clean_up(self) -> None:
        """Everything, whatever of it fails."""
        self._guard.strict = False
        tidy = partial(self._guard.run, "cleaning up")
        tidy(self.upgrades.stop_preparing)
        tidy(self._errands.close)
        if self._web is not None:
            tidy(self._web.close)
        if self._server is not None:
            tidy(self._server.close)
        if self._notify is not None:
            tidy(self._notify.close)
        tidy(self._guesses.close)
        tidy(self._listening.close)
        tidy(listeners.close_all, self._web_listeners)
        if self._place is not None:
            tidy(self._place.listener.close)
            tidy(self._place.close)
        if self._pidfile is not None:
            tidy(remove_pidfile, self._pidfile)
        tidy(self._output.read_the_rest)
        for close in (self._keeper.close, self._output.close, self._log.close, self._systemd.close,
                      self._page.close, self._processes.close, self._loop.close):
            tidy(close)

    # --- the turn: wait, note what happened, plan, act ---

    def _parts(self) -> list[Part]:
        """What is done in each turn, in this order: what it is called, what it does at a time, and
        when it would like to be next."""
        parts: list[Part] = [(f"signal {number.name}", partial(self._hear, number), 0.0)
                             for number in sorted(self._signals)]
        server, web, preparation = self._server, self._web, self.upgrades.preparation
        # Before anybody is told how we are.
        parts.append(("listening", self._listening.on_time, self._listening.deadline))
        if server is not None:
            parts.append(("server", lambda now: server.on_turn(), 0.0 if server.waiting else None))
            parts.append(("accepting", server.on_time, server.deadline))
        if preparation is not None:
            parts.append(("preparation", preparation.on_time, preparation.deadline))
        if web is not None:
            parts.append(("web", web.on_time, web.deadline))
        return [
            *parts, ("errands", self._errands.on_time, self._errands.deadline),
            ("measures", self._measures.on_time, self._measures.memory_at),
            ("keeper", self._keeper.on_time, self._keeper.deadline),
            ("strangers", self._strangers.on_time, self._strangers.deadline),
            ("guesses", self._guesses.on_time, self._guesses.deadline),
            ("exits", lambda now: self._reap(), None),
            ("plan", lambda now: self._advance(now + LONGEST_TURN), self._wake_at),
            ("status", lambda now: self._tell_status(), None),
            ("systemd", lambda now: self._systemd.tell(self.pool, time.monotonic()),
             self._systemd.deadline), ("guard", self._guard.on_time, self._guard.deadline),
            ("reload", lambda now: self._replace_ourselves(),
             None if self._trial is None else self._trial.until),]

    def _turn(self) -> None:
        now = time.monotonic()
        deadlines = [self._guard.due(what, deadline) for what, _, deadline in self._parts()]
        soonest = min((deadline for deadline in deadlines if deadline is not None), default=None)
        self._output.on_turn()
        came = self._loop.wait(None if soonest is None else soonest - now)
        if soonest is not None and time.monotonic() > max(soonest, self._listened_at) + LATE:
            # We were stopped, or the host is: hear first what was said in time, before anybody is
            # judged by the clock.
            for _ in range(ROUNDS_WHEN_LATE):
                came |= self._loop.wait(0.0)
                if self._server is not None:
                    self._guard.run("server", self._server.on_turn)
        self._signals |= came
        self._listened_at = now = time.monotonic()
        for what, act, _ in self._parts():
            self._guard.part(what, act, now)

    def _replace_ourselves(self) -> None:
        if self._trial is None:  # first it has to settle itself
            self._reloads.on_turn()

    def _tell_status(self) -> None:
        if self._changed:
            self._changed = False
            self._audience.status_changed(self.status)

    def _advance(self, until: float) -> None:
        """Plan and act until nothing is due, or until `until`; then the loop comes first and the
        rest follows."""
        while self._exit_code is None:
            # Deaths first: a worker must not be asked to go because of another one that is dead
            # already.
            self._reap()
            # We may have been stopped since we have listened: what was said meanwhile is heard
            # first, in the next turn.
            plan = planner.plan(self.pool, min(time.monotonic(), self._listened_at + LATE))
            self._wake_at = plan.wake_at
            if not plan.actions:
                return
            for action in plan.actions:
                if not self._carry_out(action):
                    break
                if time.monotonic() >= until:
                    self._wake_at = until
                    return

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
        event = self._redaction.fact(event)
        self.pool = observe.observe(before, event, now)
        if self.pool.generations.keys() != before.generations.keys(
        ) or self.pool.upgrade is not before.upgrade:
            self._redaction = generations.redaction(self.pool, *self._secrets)
        self._changed = True
        self._guard.run("tally", self._tally.observe, before, event, self.pool, now)
        if self._web is not None and self.pool.generations.keys() != before.generations.keys():
            self._guard.run("web", self._web.generations_changed)
        for entry in self._guard.run(
                "journal", lambda: list(journal.changes(before, event, self.pool, now))) or ():
            self.log(entry)

    def log(self, entry: Entry) -> None:
        """Write an entry to the log and tell everybody who follows."""
        wall, entry = time.time(), replace(entry, fields=self._redaction.fields(entry.fields))
        if entry.weight >= self._least_weight:
            self._guard.run("log", self._log.entry, entry, wall)
        if entry.weight > Weight.DETAIL:
            self._guard.run("event", self._tell, entry, wall)

    def _tell(self, entry: Entry, wall: float) -> None:
        ended = None
        if entry.event is Event.UPGRADE_ENDED:
            ended = report.upgrade_document(self.pool, self.pool.history[-1], time.monotonic())
        document = journal.event_document(entry, self.pool, wall)
        self._guard.run("audience", self._audience.tell, entry, document, ended)
        self._guard.run("hooks", self._hooks.of_event, entry, document)
        if self._announcements.wants(entry):
            assert self.pool.upgrade is not None
            told = ended or report.upgrade_document(self.pool, self.pool.upgrade, time.monotonic())
            self._guard.run("announcements", self._announcements.tell, entry, told, self._name,
                            self._log.labels, document)

    # --- facts ---

    def _hear(self, number: signal.Signals, now: float) -> None:
        self._on_signal(number)
        # not before: somebody has sent it once and will not do so again
        self._signals.discard(number)

    def _on_signal(self, number: signal.Signals) -> None:
        match number:
            case signal.SIGHUP | signal.SIGALRM:
                if self.pool.stopping is None:
                    self.upgrades.request(upgrade.Terms(), f"signal {number.name.removeprefix('SIG')}")
            case signal.SIGINT | signal.SIGTERM | signal.SIGUSR2 | signal.SIGQUIT:
                # The second time somebody is in a hurry.
                self.stop("now" if self.pool.stopping is not None else STOPS[number])
            case signal.SIGUSR1:
                try:
                    self._log.reopen()
                except CannotLog as error:
                    self.log(Entry(Event.LOG_FILE_NOT_OPENED_ANEW, {"reason": str(error)}))
                for worker in self.pool.workers.values():
                    # One that has no handler for it, or not yet, would die of it.
                    if shared_page.catches(worker.pid, signal.SIGUSR1):
                        self._processes.signal(worker.pid, signal.SIGUSR1)
            case signal.SIGTTIN:
                self.scale(self.pool.target + 1)
            case signal.SIGTTOU:
                if self.pool.target > 1:
                    self.scale(self.pool.target - 1)
                else:
                    self.log(
                        Entry(Event.SIGNAL_IGNORED,
                              {"signal": "TTOU", "reason": "one worker is the least"}))

    def _reap(self) -> None:
        exits, self._missed, failures = [*self._missed, *self._processes.reap()], [], []
        for exit in exits:
            try:
                self._on_exit(exit)
            except Exception as error:
                failures.append(error)
                if exit.pid in self._workers:
                    # it must be observed, since nobody else will ever tell of it
                    self._missed.append(exit)
        if exits:
            self._guard.run("orphans", self._look_for_orphans)
        needed = {*self.pool.generations, self.upgrades.preparing}
        self.prepared = {number: each for number, each in self.prepared.items() if number in needed}
        if failures:
            raise failures[0]

    def _on_exit(self, exit: Exit) -> None:
        worker = self._workers.get(exit.pid)
        if worker is not None:
            self._on_worker_exit(self.pool.workers[worker], exit)
        elif exit.pid in self.pool.left_behind:
            self.observe(facts.OrphanGone(exit.pid))
        elif self.upgrades.preparation is not None and exit.pid == self.upgrades.preparation.pid:
            self.upgrades.preparation.on_exit(exit)
        elif not self._keeper.on_exit(exit) and (self._web is None or not self._web.on_exit(exit)):
            self._errands.on_exit(exit)

    def _look_for_orphans(self) -> None:
        living = {worker.id: worker.pid for worker in self.pool.workers.values()}
        sockets = {os.fstat(each.socket.fileno()).st_ino for each in self._listening.all}
        for orphan in self._orphans.look(self._processes.ours, living, sockets):
            # As what it leaves in its process group; and what this one leaves is found when it is
            # gone.
            self._processes.adopt(orphan.pid)
            self._processes.signal(orphan.pid, signal.SIGTERM, group=True)
            self.observe(facts.OrphanFound(orphan.pid, orphan.index, orphan.generation))

    def _on_worker_exit(self, worker: pool.Worker, exit: Exit) -> None:
        # While it still counts as leaving: what it did to the sockets on its way out is not the new
        # code's doing.
        self._guard.run("listening", self._listening.mend)
        worker = self.pool.workers[worker.id]
        asks = observe.asks_for_upgrade(self.pool, worker,
                                        exit.status) and self.pool.running_upgrade is None
        lines = self._last_lines(worker.id, LINES_SEARCHED)
        # Once it serves, its last lines are about requests as like as not, above all where a signal
        # has ended it.
        starting = worker.ready_at is None
        why = complaint(lines, or_last=starting
                        and exit.status > 0) if starting or exit.status > 0 else None
        self.observe(facts.Exited(worker.id, exit.status, exit.error, lines[-LAST_LINES:], why))
        self._workers.pop(exit.pid)
        tidy = partial(self._guard.run, "what a worker left")
        tidy(self._output.worker_is_gone, worker.id)
        tidy(lambda: self._tally.worker_is_gone(self._page.requests(worker.id)))
        tidy(self._page.give_back, worker.id)
        if self._web is not None:
            tidy(self._web.worker_is_gone, worker.generation, exit.pid)
        tidy(self._hooks.of_gunicorn, self.prepared[worker.generation], "child_exit",
             [[exit.pid, worker.index + 1]])
        if asks:
            asker = f"worker {worker.index} (pid {worker.pid}, exit code {exit.status})"
            self.upgrades.request(upgrade.Terms(), asker, frozenset({worker.index}))

    def _last_lines(self, worker: int, most: int = LAST_LINES) -> tuple[str, ...]:
        """What a fact carries along; it is true without."""
        return self._guard.run("last lines", self._output.last_lines, worker, most) or ()

    def _guarded_notice(self, notice: Notice) -> None:
        self._guard.run("notice", self.notice, notice)

    def notice(self, notice: Notice) -> None:
        """A process said something about itself."""
        # Its words may arrive with its death, and a notice from nobody we know is nobody's.
        worker = notice.worker
        if worker not in self.pool.workers:
            return
        match notice.said:
            case "ready":
                if self.prepared[self.pool.workers[worker].generation].gunicorn is not None:
                    self.observe(facts.SaidReady(worker))
                    self.observe(facts.Heartbeat(worker, time.monotonic()))
                    self._advise(notice.framework)
                elif not self._guesses.is_unfit(worker):
                    self.observe(facts.SaidReady(worker))
            case "arbiter":
                self._guesses.found_arbiter(worker)
            case "alive":
                self.observe(facts.Heartbeat(worker, time.monotonic(), notice.request_id))
            case "due":
                self.observe(facts.Due(worker, notice.error or "", Recycling.REQUESTS))
                self._measures.memory_at = time.monotonic()  # is there room for its replacement?
            case "failed":
                self.observe(facts.SaidFailed(worker, notice.error or ""))

    def worker_above(self, pid: int) -> int:
        """The worker in whose process tree a process is; 0 if it is in nobody's."""
        above: int | None = pid
        while above is not None and above != os.getpid():
            if above in self._workers:
                return self._workers[above]
            above = parent(above)
        return 0

    def _advise(self, framework: str | None) -> None:
        """Say once what could be warmed up."""
        if not self._advised:
            self._advised = True
            self.log(hints.about_warm_up(framework))

    # --- actions ---

    def _carry_out(self, action: actions.Action) -> bool:
        """Do it and observe that it was done; return whether the rest of the plan still holds."""
        match action:
            case actions.Spawn():
                return self._spawn(action)
            case actions.AssumeReady():
                self._guesses.assume(action.worker)
            case actions.Trust():
                self._guesses.trust(action.worker)
            case actions.CheckAccepting():
                self._guesses.check_accepting()
            case actions.CalmDown():
                self.observe(facts.Calmed(action.generation))
            case actions.Recycle():
                self.observe(facts.Due(action.worker, action.reason, action.cause))
                self._guard.run("measures", self._measures.look_at_host,
                                [self.pool.workers[action.worker]], time.monotonic())
            case actions.Abort():
                self._processes.signal(self.pool.workers[action.worker].pid, signal.SIGABRT)
                self.observe(
                    facts.Aborted(action.worker, action.reason, action.cause,
                                  self._last_lines(action.worker)))
            case actions.BeginHold():
                self.observe(facts.HoldBegun())
                self._guard.run("check", self.upgrades.begin_check)
            case actions.EndHold():
                self.observe(facts.HoldEnded())
            case actions.Retire():
                # Before somebody is asked to go for new code: once old code leaves, nobody can tell
                # who shuts a socket down.
                if self._listening.mend():
                    return False
                # SIGTERM to the master is SIGTERM to its workers, as in Einhorn, unless somebody
                # named another one for them.
                by_rule = self.pool.stopping == "terminate" and not self.settings.given(
                    "stop_signal")
                number = "SIGTERM" if by_rule else self.settings.stop_signal
                self._processes.signal(self.pool.workers[action.worker].pid, signal.Signals[number])
                self.observe(facts.Retired(action.worker, action.reason, action.cause))
            case actions.Kill():
                self._processes.signal(self.pool.workers[action.worker].pid, signal.SIGKILL,
                                       group=True)
                self.observe(
                    facts.Killed(action.worker, action.reason, action.cause,
                                 self._last_lines(action.worker)))
            case actions.KillOrphan():
                self._processes.signal(action.pid, signal.SIGKILL, group=True)
                self.observe(facts.OrphanKilled(action.pid))
            case actions.RollBack():
                self.observe(facts.RolledBack(action.reason, action.error, action.cause))
            case actions.Finish():
                if self._hides_an_arbiter():
                    return False
                self.observe(facts.Finished(time.time()))
            case actions.GiveUp():
                self.log(
                    Entry(Event.GIVING_UP, {"reason": action.reason, "error": action.error}))
                self._exit_code = 3
            case actions.Leave():
                self._guard.run(
                    "hooks", lambda: self._hooks.of_gunicorn(self.prepared[self.pool.current],
                                                             "on_exit", []))
                self._guard.run("errands", self._wait_for_errands)
                self._guard.run("announcements", self._announcements.give_up)
                self.log(Entry(Event.MASTER_STOPPED, {"pid": os.getpid()}))
                self._exit_code = 0
        return True

    def _hides_an_arbiter(self) -> bool:
        """Whether a worker that has said ready runs gunicorn's own arbiter all the same: the last
        look before an upgrade is done."""
        upgrade = self.pool.running_upgrade
        if upgrade is None or upgrade.rolling_back or self.prepared[
                self.pool.current].gunicorn is not None:
            return False
        return any(self._guesses.is_unfit(worker.id) for worker in list(self.pool.workers.values())
                   if worker.generation == self.pool.current and worker.state is pool.State.READY)

    def _spawn(self, action: actions.Spawn) -> bool:
        worker, self._next_worker = self._next_worker, self._next_worker + 1
        if self._server is not None:
            # The new process may get the pid of one that has connected and gone: who connects after
            # this is another one.
            self._guard.run("accept", self._server.accept_all)
        started: Started | None = None
        try:
            started = self._spawner.spawn(action, worker)
            self.observe(
                facts.Spawned(worker, action.index, action.generation, started.pid, started.jitter))
        # a start that fails is held back and counted, whatever it failed of
        except Exception as error:
            if started is not None:  # it must not live on unknown
                self._processes.signal(started.pid, signal.SIGKILL, group=True)
                self._guard.run("spawn", self._output.worker_is_gone, worker)
            if not isinstance(error, CannotStart | OSError):
                self._guard.failed("spawn", error)
            self.observe(
                facts.SpawnFailed(action.index, action.generation,
                                 str(error) or type(error).__name__))
            return False
        self._workers[started.pid] = worker
        if started.connection is not None and self._server is not None:
            self._guard.run("worker's connection", self._server.admit_worker, started.connection,
                            started.pid, worker)
        self._guard.run("measures", self._measures.expect, self.pool.workers[worker],
                        time.monotonic())
        return True

    def _wait_for_errands(self) -> None:
        """Let the last hooks finish; whoever asks us to stop once more doesn't want to wait for
        them."""
        begun = time.monotonic()
        while (left := begun + self._errands.grace - time.monotonic()) > 0:
            if self._loop.wait(left) & STOPS.keys():
                return
            if self._server is not None:
                self._server.on_turn()
            self._errands.on_time(time.monotonic())
            self._reap()

    # --- what commands may ask ---

    def _handle(self, session: ServerSession, request: Request) -> None:
        try:
            if self._early and request.command not in first_start.HEARD:
                raise BadRequest(
                    "starting",
                    "the first generation is being made: until then only "
                    f"{', '.join(sorted(first_start.HEARD))} "
                    "are heard", request.id)
            self._commands.handle(session, request)
        except BadRequest:
            raise
        # a mistake of ours in one command must not take the workers' master down
        except Exception as error:
            self._guard.failed(f"command {request.command[:50]}", error)
            session.send(failure(request.id, "internal-error", f"{type(error).__name__}: {error}"))

    def metrics_environment(self, generation: int) -> dict[str, str]:
        """What processes of a generation's app are given beside its recipe, for the app's own
        metrics."""
        return {} if self._web is None else self._web.environment(generation)

    def identity(self) -> dict[str, Any]:
        assert self._place is not None
        return {
            "name": self._name, "pid": os.getpid(), "version": VERSION, "socket": self._place.path,
            "reloads": self._reloads.count}

    def status(self) -> dict[str, Any]:
        assert self._place is not None
        waiting = [queues.queue(listener.socket) for listener in self._listening.all]
        return report.status_document(
            self.pool, time.monotonic(), name=self._name, started_at=self._started_at, master={
                "pid": os.getpid(), "version": VERSION, "socket": self._place.path,
                "reloads": self._reloads.count, "reload_refused": self._reloads.refused},
            listeners=[{
                "address": listener.name, "fd": worker_environment.FIRST_FD + position,
                "queue": queue, "backlog": backlog} for position, (listener, (
                    queue, backlog)) in enumerate(zip(self._listening.all, waiting, strict=True))],
            memory={
                worker.pid: shared_page.memory(worker.pid) for worker in self.pool.workers.values()
            }, usage=self._usage(time.monotonic()), labels=self._log.labels, last_lines={
                worker: self._redaction.lines(self._output.kept_lines(worker))
                for worker in self.pool.workers},
        ) | ({"reason": "generation 1 is being prepared"}
             if self._early and self.pool.stopping is None else {})

    def tally(self) -> dict[str, Any]:
        """What has happened since the first master started, as numbers, and what this one costs:
        see docs/observability.md."""
        used = os.times()
        return self._tally.document(sum(
            self._page.requests(worker) for worker in self.pool.workers)) | {
                "log": plain(self._log.counts), "master": {
                    "cpu_seconds": used.user + used.system,
                    "memory_bytes": shared_page.memory(os.getpid()), "started_at": round(
                        time.time() -
                        (time.monotonic() - self._started_at), 3), "reloads": self._reloads.count},}

    def _usage(self, now: float) -> dict[int, dict[str, Any]]:
        found = {}
        for worker in self.pool.workers.values():
            counters = self._page.counters(worker.id, now, now - worker.spawned_at)
            if counters is not None:
                found[worker.id] = asdict(counters)
        return found

    def worker_of(self, pid: int) -> int:
        """The worker that has this pid; 0 if none has."""
        return self._workers.get(pid, 0)

    def scale(self, target: int) -> None:
        old = self.pool.target
        self.observe(facts.Scaled(target))
        self._hooks.of_gunicorn(self.prepared[self.pool.current], "nworkers_changed", [target, old])

    def recycle(self, index: int, by: str) -> int:
        """Let the ready worker of a seat be replaced; return its pid.

        Raises:
            BadRequest: nobody there is ready, or it is due already.
        """
        ready = [
            worker for worker in self.pool.workers.values()
            if worker.index == index and worker.state is pool.State.READY]
        if not ready:
            raise BadRequest("not-ready", f"no worker with index {index} is ready")
        due = [worker for worker in ready if worker.recycled_for is None]
        if not due:
            raise BadRequest(
                "not-ready",
                f"worker {index} (pid {ready[0].pid}) is due already: it {ready[0].recycled_for}")
        self.observe(facts.Due(due[0].id, f"was asked to go by {by}", Recycling.ASKED))
        self._measures.memory_at = time.monotonic()  # is there room for its replacement?
        return due[0].pid

    def signal_workers(self, name: str) -> int:
        count = sum(
            self._processes.signal(worker.pid, signal.Signals[name])
            for worker in self.pool.workers.values())
        self.log(Entry(Event.SIGNAL_SENT, {"signal": name, "workers": count}))
        return count

    def change_verbosity(self, by: int) -> str:
        """Log less (+1) or more (-1); return what is logged from now on."""
        self._least_weight = min(Weight.ATTENTION, max(Weight.DETAIL, self._least_weight + by))
        return f"logging {('details too', 'what happens', 'only what needs attention')[self._least_weight]}"

    def stop(self, how: str) -> None:
        """Stop: `graceful`, `terminate` or `now`; a stop under way can only become faster."""
        if self.pool.stopping in ("now", how):
            return
        self.upgrades.stop_preparing()
        self.upgrades.drop_check()
        self.observe(facts.StopRequested(pool.Stopping(how)))


def _set_title(title: str) -> None:
    import setproctitle  # a readable `ps`; the kernel's own name is cut at 15 bytes

    setproctitle.setproctitle(title)


def fail(message: str, code: int, as_it_is: bool = False) -> int:
    """Print one line about what went wrong; return the exit code. `as_it_is`: nothing secret is in
    it, and what was expected isn't to be taken for that."""
    told = message if as_it_is else Redaction(known=secrets_of(os.environ)).text(message)
    print(f"einhornpy: {printable.escaped(told)}", file=sys.stderr)
    return code
