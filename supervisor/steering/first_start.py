"""The first generation: what has to happen before there are workers. Meanwhile clients may look,
and say that it shall stop.

It knows what is to be made, and asked; how the master's loop runs meanwhile is the host's business.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from ..core import generation, pool, upgrade
from ..launch import recipes
from ..launch.recognition import Refused
from ..reporting import report
from ..settings.table import Settings
from ..system.attributes import Attributes
from ..system.errands import Ended
from ..system.loop import Loop
from ..system.processes import Exit, Processes
from .hooks import START_HOOK, Hooks

# Commands that are heard before there are workers.
HEARD = frozenset({"ping", "help", "status", "history", "tally", "events", "stop"})


class Host(Protocol):
    """What this module needs of the master."""

    pool: pool.Pool

    def identity(self) -> dict[str, Any]: ...
    def early_turn(self, deadline: float | None) -> list[Exit] | None: ...


class NotAllowed(RuntimeError):
    """The start hook has refused the first start; the message says why."""


def placeholder(settings: Settings, environ: Mapping[str, str]) -> generation.Recipe:
    """The first generation's recipe as far as it is known before it is made."""
    blueprint = recipes.blueprint(settings, environ, settings.release)
    return generation.Recipe(blueprint.command, blueprint.directory, blueprint.environment,
                       blueprint.release)


class First:
    """`attributes`: of the workers."""

    def __init__(self, host: Host, processes: Processes, loop: Loop, hooks: Hooks,
                 settings: Settings, environ: Mapping[str, str], attributes: Attributes) -> None:
        self._host = host
        self._processes = processes
        self._loop = loop
        self._hooks = hooks
        self._settings = settings
        self._environ = environ
        self._attributes = attributes

    def prepare(self) -> recipes.Prepared | None:
        """Make it; None if we were told to stop meanwhile.

        Raises:
            Refused: it can't be made.
        """
        results: list[recipes.Prepared | Refused] = []
        blueprint = recipes.blueprint(self._settings, self._environ, self._settings.release)
        preparation = recipes.Preparation(self._processes, self._loop, self._settings, blueprint,
                                          self._attributes.of_user_alone(), results.append)
        preparation.begin(time.monotonic(), "on_starting")
        while not results:
            exits = self._host.early_turn(preparation.deadline)
            if exits is None:
                preparation.cancel()
                return None
            for exit in exits:
                if exit.pid == preparation.pid:
                    preparation.on_exit(exit)
            preparation.on_time(time.monotonic())
        if isinstance(results[0], Refused):
            raise results[0]
        return results[0]

    def ask(self) -> bool:
        """Run the start hook, where it is wanted here too; return False if we were told to stop
        meanwhile.

        Raises:
            NotAllowed: it has refused the start.
        """
        command = self._settings.on_upgrade_start
        if command is None or not self._settings.on_upgrade_start_first:
            return True
        now, wall = time.monotonic(), time.time()
        terms = upgrade.Terms(upgrade.Kind.FIRST, self._host.pool.generations[1].recipe.release)
        start = upgrade.Upgrade(0, 1, terms, "the first start", now, wall, now)
        document = {
            "event": "upgrade-start", "time": report.timestamp(wall),
            "name": self._host.identity()["name"],
            "upgrade": report.upgrade_document(self._host.pool, start, now) | {"from": None}}
        ends: list[Ended] = []
        self._hooks.shell(START_HOOK, command, self._settings.hook_timeout, ends.append, document)
        while not ends:
            if self._host.early_turn(None) is None:
                return False
        if ends[0].reason is not None:
            said = f": {ends[0].last_line}" if ends[0].last_line else ""
            raise NotAllowed(f"--on-upgrade-start {ends[0].reason}{said}")
        return True
