"""Other people's commands at the points where they want to be called: the operator's hooks and
gunicorn's server hooks.

Each is an errand; nobody waits for it here. What they are told is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from ..core import pool
from ..core.upgrade import Outcome
from ..launch import recipes
from ..reporting.events import Entry, Event
from ..settings.table import Settings
from ..system.attributes import Attributes
from ..system.errands import Ended, Errand, Errands

GUNICORN_TIMEOUT = 30.0
# What the errands are called whose end an upgrade waits for: they wait in no line.
START_HOOK, CHECK = "on_upgrade_start", "check"


class Host(Protocol):
    """What this module needs of the master. `prepared`: generation → what it was made from."""

    pool: pool.Pool
    prepared: dict[int, recipes.Prepared]

    def log(self, entry: Entry) -> None: ...
    def identity(self) -> dict[str, Any]: ...
    def metrics_environment(self, generation: int) -> dict[str, str]: ...


class Hooks:
    """All of them. `attributes`: of the workers."""

    def __init__(self, host: Host, errands: Errands, settings: Settings,
                 attributes: Attributes) -> None:
        self._host = host
        self._errands = errands
        self._settings = settings
        self._attributes = attributes.of_user_alone()

    def of_gunicorn(self, prepared: recipes.Prepared, name: str, arguments: list[Any]) -> None:
        """Run one of the server hooks that gunicorn's arbiter would have run, if there is one, in a
        process of its own."""
        gunicorn = prepared.gunicorn
        if gunicorn is None or name not in gunicorn.settings["hooks"]:
            return
        launch = recipes.hook_launch(prepared, gunicorn, name, arguments, self._host.pool.target,
                                     self._attributes)
        for number, each in self._host.prepared.items():
            if each is prepared and number in self._host.pool.generations:
                # Many a child_exit hook tidies up the metrics of the dead.
                launch = replace(
                    launch,
                    environment={**launch.environment, **self._host.metrics_environment(number)})
        self._errands.send(
            Errand(name, launch, GUNICORN_TIMEOUT, lambda ended: self.ended(name, ended)))

    def of_event(self, entry: Entry, document: Mapping[str, Any]) -> None:
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
            self._host.log(
                Entry(Event.HOOK_FAILED,
                      {"hook": name, "reason": ended.reason, "last_line": ended.last_line}))

    def shell(self, name: str, command: str, limit: float, done: Callable[[Ended], None],
              document: Mapping[str, Any], **variables: str) -> Errand:
        """Run a shell command in the place and environment of the current generation, with
        `document` as its standard input."""
        recipe = self._host.pool.generations[self._host.pool.current].recipe
        environment = dict(recipe.environment) | {
            "EINHORNPY_SOCKET_PATH": self._host.identity()["socket"], "PWD": recipe.directory
        } | variables
        return self._errands.shell(name, command, recipe.directory, environment, limit, done,
                                   document, self._attributes, urgent=name in (START_HOOK, CHECK))
