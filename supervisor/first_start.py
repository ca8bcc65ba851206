"""The first start: what has to happen before there are workers. The generation is made, who may
refuse it is asked, and everything that workers need is opened. Meanwhile clients may look, and say
that it shall stop.

How the master's loop runs meanwhile is its own business.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from .core import observe
from .core.upgrade import Kind, Terms, Upgrade
from .launch import programs, recipes
from .launch.lookups import LookedUp
from .launch.recognition import Refused
from .parts import Parts, set_title
from .reporting import hints
from .reporting.events import Entry, Event, Seconds
from .settings import sources
from .settings.parsers import AckMode
from .settings.table import GUESSED_ACK_SECONDS, Settings
from .sockets import leftovers, listeners, systemd
from .sockets.addresses import Address, ipv4_ports_of, parse_address
from .sockets.given import Given, stored_name
from .sockets.listener import Listener
from .steering.state import VERSION
from .system.errands import Ended

# What a worker may take to notice that its master was killed, and how often is looked whether it
# has left, in seconds.
NOTICING, ATTEMPTS = 3.0, 0.1
# Of variables that mean nothing to us, in one line.
MOST_NAMED = 20

# Our setting → gunicorn's, over which it wins.
OVERRULING = {"bind": "bind", "number": "workers", "timeout": "timeout",
              "graceful_timeout": "graceful_timeout", "max_requests": "max_requests",
              "max_requests_jitter": "max_requests_jitter", "pidfile": "pidfile",
              "command_name": "proc_name", "preload": "preload_app"}


class NotAllowed(RuntimeError):
    """The start hook has refused the first start; the message says why."""


class _Stopped(Exception):
    """We were told to stop before there was anything."""


class FirstStart:
    """`turn`: lets clients and errands have a turn, which waits for so many seconds at most."""

    def __init__(self, parts: Parts, settings: Settings, environ: Mapping[str, str],
                 looked_up: LookedUp, turn: Callable[[float | None], None]) -> None:
        self._parts = parts
        self._settings = settings
        self._environ = environ
        self._known = looked_up
        self._turn = turn
        self._free_by: dict[str, float] = {}  # by address: until when we wait for it

    def begin(self) -> bool:
        """Do it; return False if we were told to stop meanwhile.

        Raises:
            NotAllowed, Refused, CannotListen, BadAddress, NoRuntimeDirectory, NoPidfile: there is
                something in the way.
        """
        parts, settings = self._parts, self._settings
        given = Given(systemd.given_sockets(self._environ))
        # Whoever asks is to find us from the first moment on; but a gunicorn's settings may hold
        # the name.
        if settings.given("command_name") or settings.given("socket_path"):
            parts.place.claim()
        prepared = self._prepare()
        if prepared is None:
            return False
        gunicorn = prepared.gunicorn.settings if prepared.gunicorn is not None else {}
        self._note(prepared, gunicorn)
        if not parts.place.path:
            parts.place.claim()
        parts.log.master = parts.place.master
        set_title(f"einhornpy: master {parts.place.master}")
        if not self._ask():
            return False
        try:
            unused = self._open(given, gunicorn)
        except _Stopped:
            return False
        parts.ledger.early, parts.ledger.changed = False, True
        self._say_how(prepared)
        parts.labels.ask_the_platform()
        if unused:
            parts.ledger.log(
                Entry(Event.INHERITED_SOCKETS_UNUSED,
                      {"names": " ".join(unused), "so": "they are closed"}))
        parts.templates.settle(1)
        return True

    def _wait(self, longest: float | None = None) -> bool:
        """Return False if we were told to stop."""
        signals = self._parts.signals
        self._turn(longest)
        came, signals.came = signals.came, set()  # others are for workers, and there are none
        if not came & signals.stops.keys() and self._parts.ledger.pool.stopping is None:
            return True
        self._parts.ledger.log(Entry(Event.MASTER_STOPPED, {"pid": os.getpid()}))
        return False

    def _prepare(self) -> recipes.Prepared | None:
        """Make the generation; None if we were told to stop meanwhile.

        Raises:
            Refused: it can't be made.
        """
        results: list[recipes.Prepared | Refused] = []
        parts, settings = self._parts, self._settings
        blueprint = recipes.blueprint(settings, self._environ, settings.release)
        parts.upgrades.prepare_first(blueprint, results.append)
        while not results:
            if not self._wait():
                parts.upgrades.stop_preparing()
                return None
        parts.upgrades.preparation = None
        if isinstance(results[0], Refused):
            raise results[0]
        return results[0]

    def _note(self, prepared: recipes.Prepared, gunicorn: Mapping[str, Any]) -> None:
        """What is known of the generation counts from now on."""
        parts, settings = self._parts, self._settings
        if gunicorn.get("proc_name") and not settings.given("command_name"):
            parts.place.master = "".join(letter if letter.isalnum() else "_"
                                         for letter in gunicorn["proc_name"])[:64]
        target = parts.upgrades.target_of(prepared) or settings.number
        template = parts.templates.adopt(1, prepared.template)
        parts.ledger.begin(observe.new_pool(
            prepared.recipe, target, parts.ledger.pool.policy, template, time.monotonic()))
        parts.generations.prepared[1] = replace(prepared, template=None)

    def _ask(self) -> bool:
        """Run the start hook, where it is wanted here too; return False if we were told to stop
        meanwhile.

        Raises:
            NotAllowed: it has refused the start.
        """
        if not self._settings.on_upgrade_start_first:
            return True
        now, pool = time.monotonic(), self._parts.ledger.pool
        terms = Terms(Kind.FIRST, pool.generations[1].recipe.release)
        start = Upgrade(0, 1, terms, "the first start", now, time.time(), now)
        ends: list[Ended] = []
        if self._parts.hooks.before_upgrade(start, ends.append) is None:
            return True
        while not ends:
            if not self._wait():
                return False
        if ends[0].reason is not None:
            said = f": {ends[0].last_line}" if ends[0].last_line else ""
            raise NotAllowed(f"--on-upgrade-start {ends[0].reason}{said}")
        return True

    def _open(self, given: Given, gunicorn: Mapping[str, Any]) -> list[str]:
        """Open what workers need, and the page; return the names of inherited sockets that nobody
        wants."""
        parts, settings = self._parts, self._settings
        binds = list(settings.bind)
        if not binds and gunicorn and not given:
            binds = recipes.binds_of(gunicorn)
        addresses = [parse_address(bind, settings.backlog) for bind in binds]
        web = [] if settings.web is None else [parse_address(settings.web)]
        parts.listening.begin(listeners.open_all(addresses, given, ipv4_ports_of(web),
                                                 self._is_free_again))
        of_web: list[Listener] = []
        if web:
            of_web = listeners.open_all(web, given, ipv4_ports_of(addresses), self._is_free_again)
        try:
            unused = given.close_rest()
            pidfile = settings.pidfile or gunicorn.get("pidfile")
            if pidfile:
                parts.pidfile.write(pidfile)
            parts.notify.open(parts.place.notify_path)
        except BaseException:
            listeners.close_all(of_web)
            raise
        for listener in of_web:
            parts.web.open(listener)
        parts.systemd.store([(each.label or stored_name(position), each.socket.fileno())
                             for position, each in enumerate(parts.listening.all)])
        return unused

    def _is_free_again(self, address: Address) -> bool:
        """Whether an address that is in use is worth another attempt: the workers of a master that
        was killed finish their requests, and are waited for as long as they may take.

        Raises:
            _Stopped: we were told to stop meanwhile.
        """
        now, most = time.monotonic(), self._parts.ledger.pool.generations[
            1].recipe.graceful_timeout + NOTICING
        if address.text not in self._free_by:
            # what was to outlive its master is not waited for
            left = (leftovers.of_dead_masters(address) if self._settings.kill_children_on_exit
                    else [])
            if not left:
                self._free_by[address.text] = now
                return left is None  # the last one has left just now
            self._free_by[address.text] = now + most
            self._parts.ledger.log(Entry(Event.WAITING_FOR_LEFTOVERS, {
                "address": address.text, "holders": ", ".join(left), "most": Seconds(most, "g")}))
        if not self._wait(ATTEMPTS):
            raise _Stopped
        return now < self._free_by[address.text]

    def _say_how(self, prepared: recipes.Prepared) -> None:
        settings, log = self._settings, self._parts.ledger.log
        pool, listening = self._parts.ledger.pool, self._parts.listening.all
        log(Entry(Event.MASTER_STARTED, {
            "pid": os.getpid(), "version": VERSION, "workers": pool.target,
            "listen": " ".join(listener.name for listener in listening) or None,
            "socket": self._parts.place.path}))
        stray = sources.strays(self._environ)
        if stray:
            more = f" and {len(stray) - MOST_NAMED} more" if len(stray) > MOST_NAMED else ""
            log(Entry(Event.STRAY_VARIABLES, {
                "variables": ", ".join(stray[:MOST_NAMED]) + more, "so": "they are ignored"}))
        if self._parts.terminal_signals.nohup:
            log(Entry(Event.SIGNAL_IGNORED, {
                "signal": "HUP", "reason": "it was ignored when the master was started, as nohup "
                                           "does; einhornpy upgrade upgrades"}))
        if prepared.guessed:
            log(Entry(Event.READINESS_IS_A_GUESS, {
                "reason": f"nothing is known about how {settings.command[0]} says that it is ready",
                "so": f"it counts as ready after {GUESSED_ACK_SECONDS:g} s, and for an old "
                      f"one to go after {pool.policy.guessed_min_ready_seconds:g} s more",
                "better": "-m notify or -m manual, or -m SECONDS"}))
        if passed_over := programs.passed_over(settings):
            log(Entry(Event.PRELOAD_PASSED_OVER, {
                "file": settings.preload_file, "reason": passed_over,
                "so": "workers import their code themselves"}))
        if settings.ack_mode not in (AckMode.NOTIFY, AckMode.MANUAL):  # else it knows of us
            recipe = prepared.recipe
            for entry in hints.about_own_ways(recipe.command, recipe.environment):
                log(entry)
        overruled = [
            f"{theirs} (--{ours.replace('_', '-')} wins)"
            for ours, theirs in OVERRULING.items() if prepared.gunicorn is not None
            and prepared.gunicorn.given(theirs) and settings.given(ours)]
        if overruled:
            log(Entry(Event.GUNICORN_SETTINGS_OVERRULED, {"settings": ", ".join(overruled)}))
        for entry in hints.about_ignored(prepared.ignored):
            log(entry)
