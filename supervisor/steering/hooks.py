"""The operator's hooks: commands at the points where he wants them to be called.

Each is an errand; nobody waits for it here. What they are told is the caller's business.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..core.upgrade import Outcome, Upgrade
from ..launch import freezing, recipes
from ..places.runtime_directory import RuntimeDirectory
from ..reporting import report
from ..reporting.events import Entry, Event
from ..settings.table import Settings
from ..system.attributes import Attributes
from ..system.errands import Ended, Errand, Errands
from ..system.ledger import Ledger

# What the errands are called whose end an upgrade waits for: they wait in no line.
START_HOOK, CHECK = "on_upgrade_start", "check"


class Hooks:
    """All of them. `environ`: ours. `attributes`: of the workers."""

    def __init__(self, ledger: Ledger, errands: Errands, settings: Settings,
                 environ: Mapping[str, str], attributes: Attributes,
                 place: RuntimeDirectory) -> None:
        self._ledger = ledger
        self._place = place
        self._errands = errands
        errands.unclaimed = self.ended
        self._settings = settings
        self._environ = environ
        self._attributes = attributes.of_user_alone()

    def before_upgrade(self, upgrade: Upgrade, done: Callable[[Ended], None]) -> Errand | None:
        """Ask the operator's hook whether an upgrade, or the first start, may begin; None if there
        is no such hook."""
        command = self._settings.on_upgrade_start
        if command is None:
            return None
        told = report.upgrade_document(self._ledger.pool, upgrade, time.monotonic())
        document = {
            "event": "upgrade-start", "time": report.timestamp(time.time()),
            "name": self._place.master,
            # before the first start there is none
            "upgrade": told | {"from": upgrade.from_generation or None}}
        return self.shell(START_HOOK, command, self._settings.hook_timeout, done, document)

    def of_event(self, entry: Entry, document: Mapping[str, Any],
                 ended: Mapping[str, Any] | None) -> None:
        """Run the operator's hook for an event, if there is one. `on_upgrade_start` is no such one:
        it is waited for."""
        well = entry.fields.get("outcome") in (Outcome.DONE, Outcome.SUPERSEDED)
        name = {
            Event.WORKER_READY: "on_worker_ready", Event.WORKER_GONE: "on_worker_exit",
            Event.WORKER_DIED: "on_worker_exit",
            Event.UPGRADE_ENDED: "on_upgrade_end" if well else "on_upgrade_failed"}.get(entry.event)
        command = None if name is None else getattr(self._settings, name)
        if name is not None and command is not None:
            self.shell(name, command, self._settings.hook_timeout,
                       lambda ended: self.ended(name, ended), document)

    def ended(self, name: str, ended: Ended) -> None:
        """Say so where one has failed."""
        if ended.reason is not None:
            self._ledger.log(
                Entry(Event.HOOK_FAILED,
                      {"hook": name, "reason": ended.reason, "last_line": ended.last_line}))

    def shell(self, name: str, command: str, limit: float, done: Callable[[Ended], None],
              document: Mapping[str, Any], **variables: str) -> Errand:
        """Run a shell command in the place and environment of the current generation, with
        `document` as its standard input.

        Where that place is gone (a release that was tidied up), it runs where the next generation
        would be, or in /: what has to be asked or told must not depend on old code."""
        recipe = self._ledger.pool.generations[self._ledger.pool.current].recipe
        places = (recipe.directory, self._settings.chdir)
        directory = next((each for each in places if os.path.isdir(each)), "/")
        typed = recipes.blueprint(self._settings, self._environ, None).environment
        environment = freezing.without_gone(recipe.environment, typed) | {
            "EINHORNPY_SOCKET_PATH": self._place.path, "PWD": directory} | variables
        return self._errands.shell(name, command, directory, environment, limit, done,
                                   document, self._attributes, urgent=name in (START_HOOK, CHECK))
