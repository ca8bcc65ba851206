"""Making a generation: resolve the directory and the program, and ask gunicorn's own Python for
gunicorn's settings.

The settings are read by a short-lived process, since a configuration file is a program; the master
never waits for it. A recipe that can't be made is refused here, before anything of the running
generation is touched.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..core import worker_environment
from ..core.facts import how_it_ended
from ..core.generation import Recipe
from ..settings.contradictions import without_gunicorn
from ..settings.parsers import AckMode
from ..settings.policy import rules_of_recipe
from ..settings.table import GUESSED_ACK_SECONDS, Settings
from ..sockets.addresses import escaped
from ..system.attributes import Attributes
from ..system.loop import READ, Loop
from ..system.processes import CannotStart, Exit, Launch, Processes
from .recognition import Gunicorn, Refused, recognise

SETTINGS_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A recipe, and where it is gunicorn's the settings that it was made from. `guessed`: nothing
    is known about how the command says that it is ready."""

    recipe: Recipe
    gunicorn: Gunicorn | None = None
    guessed: bool = False

    @property
    def ignored(self) -> Sequence[str]:
        """The settings that somebody set, and that have no effect here."""
        # an earlier version didn't ask for them
        return () if self.gunicorn is None else self.gunicorn.settings.get("ignored", ())


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What a generation is to be made of. `directory`: symbolic links in it are followed when it is
    made."""

    command: tuple[str, ...]
    directory: str
    environment: Mapping[str, str]
    release: str | None


def blueprint(settings: Settings, environ: Mapping[str, str], release: str | None) -> Blueprint:
    """The blueprint of new code."""
    environment = worker_environment.inherited(environ) | dict(settings.env)
    return Blueprint(settings.command, settings.chdir, environment, release)


def blueprint_of(recipe: Recipe) -> Blueprint:
    """The blueprint of a remembered recipe."""
    return Blueprint(recipe.command, recipe.directory, recipe.environment, recipe.release)


class Preparation:
    """One generation in the making. Ends by exactly one call of `done`, unless it is cancelled."""

    def __init__(self, processes: Processes, loop: Loop, settings: Settings, blueprint: Blueprint,
                 attributes: Attributes, done: Callable[[Prepared | Refused], None],
                 ) -> None:
        self._processes = processes
        self._loop = loop
        self._settings = settings
        self._attributes = attributes
        self._command = blueprint.command
        self._named_directory = blueprint.directory
        self._release = blueprint.release
        self._environment = dict(blueprint.environment)
        self._done = done
        self._output = bytearray()
        self._reader: int | None = None
        self._gunicorn: Gunicorn | None = None
        self._directory = ""
        self.pid: int | None = None
        self.deadline: float | None = None

    def begin(self, now: float, hook: str) -> None:
        """Start. `hook`: the gunicorn server hook that runs on the way, on_starting or
        on_reload."""
        try:
            self._directory = _resolve(self._named_directory)
            self._environment["PWD"] = self._directory
            found = recognise(self._command, self._directory, self._environment)
            if found is None:
                self._end(self._without_gunicorn())
                return
            self._gunicorn, self._environment = found.gunicorn, dict(found.environment)
            self._ask_gunicorn(found.gunicorn, hook)
            self.deadline = now + SETTINGS_TIMEOUT
        except Refused as refused:
            self._end(refused)

    def _without_gunicorn(self) -> Prepared:
        for line in without_gunicorn(self._settings):
            raise Refused(line, bad_input=True)
        guessed = self._settings.ack_mode is AckMode.AUTO
        return Prepared(self._recipe({}, GUESSED_ACK_SECONDS if guessed else None), guessed=guessed)

    def _recipe(self, gunicorn: Mapping[str, Any], ack_seconds: float | None) -> Recipe:
        """`gunicorn`: its settings, which count where nobody gave ours; `ack_seconds` likewise."""
        mode = self._settings.ack_mode
        return Recipe(self._command, self._directory, self._environment, self._release,
                      mode if isinstance(mode, float) else ack_seconds,
                      **rules_of_recipe(self._settings, gunicorn))

    def _ask_gunicorn(self, gunicorn: Gunicorn, hook: str) -> None:
        try:
            reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise Refused(f"cannot ask gunicorn for its settings: {error.strerror}") from None
        os.set_blocking(writer, True)
        instructions = json.dumps({
            "mode": "settings", "hook": hook, "result_fd": worker_environment.FIRST_FD})
        launch = Launch(gunicorn.adapter, self._directory,
                        self._environment | {"EINHORNPY_ADAPTER": instructions}, [writer],
                        signal.SIGKILL, attributes=self._attributes,
                        )
        try:
            self.pid = self._processes.start(launch)
        except CannotStart as error:
            os.close(reader)
            raise Refused(str(error)) from None
        finally:
            os.close(writer)
        self._reader = reader
        self._loop.watch(reader, READ, self._read)

    def _read(self, events: int) -> None:
        if self._reader is None:
            return
        try:
            data = os.read(self._reader, 65536)
        except BlockingIOError:
            return
        self._output += data
        if not data:
            self._loop.unwatch(self._reader)

    def on_exit(self, exit: Exit) -> None:
        """The process that was asked is gone: its answer is whole, or it is none."""
        if self._reader is None:
            return
        self._read(READ)
        while self._reader is not None:
            before = len(self._output)
            self._read(READ)
            if len(self._output) == before:
                break
        result: Prepared | Refused
        try:
            result = self._understood(exit)
        except Refused as refused:
            result = refused
        self._end(result)

    def _understood(self, exit: Exit) -> Prepared:
        """What gunicorn's answer comes to, or Refused."""
        try:
            answer = json.loads(self._output)
        except (ValueError, RecursionError):
            answer = None
        # the app's own code may have written there
        answer = answer if isinstance(answer, dict) else {}
        if exit.status != 0 or "settings" not in answer:
            raise Refused("gunicorn's settings cannot be read",
                          answer.get("error") or exit.error or how_it_ended(exit.status))
        assert self._gunicorn is not None
        read = replace(self._gunicorn, settings=answer["settings"])
        theirs = dict(read.settings)
        if not read.given("max_requests_jitter"):
            theirs.pop("max_requests_jitter", None)
        recipe = self._recipe(theirs, None)
        if recipe.max_requests and not theirs.get("counts_requests", True):
            raise Refused(
                "--max-requests (gunicorn's max_requests): nothing counts the requests of its "
                f"worker class {theirs['worker_class']}: expected 0, or another class; "
                "--max-lifetime and --max-memory work", bad_input=True)
        return Prepared(recipe, read)

    def on_time(self, now: float) -> None:
        """Give up if the deadline has passed."""
        if self.deadline is not None and now >= self.deadline:
            self.cancel()
            self._end(
                Refused("gunicorn's settings cannot be read",
                        f"no answer within {SETTINGS_TIMEOUT:g} s"))

    def cancel(self) -> None:
        """Stop without a word; a process that is still there is killed."""
        if self.pid is not None:
            self._processes.signal(self.pid, signal.SIGKILL, group=True)
        self._close()

    def _close(self) -> None:
        self.deadline = None
        if self._reader is not None:
            self._loop.unwatch(self._reader)
            os.close(self._reader)
            self._reader = None

    def _end(self, result: Prepared | Refused) -> None:
        self._close()
        self._done(result)


def _resolve(directory: str) -> str:
    try:
        resolved = os.path.realpath(directory, strict=True)
        os.stat(f"{resolved}/.")
    except OSError as error:
        raise Refused(f"cannot start workers in {directory}: {error.strerror}") from None
    return resolved


def adapter_instructions(prepared: Prepared, settings: Settings, target: int, page: tuple[int, int],
                         jitter: float, stderr: int | None, control: int | None,
                         notify: int) -> str:
    """What the adapter in a worker is told, as JSON. `page`: descriptor and offset of its slot.
    `jitter`: 0 to 1. `stderr`: the descriptor that is its standard error as soon as it is ready,
    None where it has that already. `control`, `notify`: descriptors that are connected to the
    master: commands go to the one, datagrams of sd_notify(3) to the other."""
    recipe = prepared.recipe
    return json.dumps({
        "mode": "worker",
        "page": page,
        "stderr": stderr,
        "control": control,
        "notify": notify,
        "workers": target,
        "timeout": recipe.timeout,
        "max_requests": recipe.max_requests
        and recipe.max_requests + round(jitter * recipe.max_requests_jitter),
        # A little less than the master's patience, so that a worker that keeps its own time leaves
        # by itself.
        "graceful_timeout": recipe.graceful_timeout - min(1.0, recipe.graceful_timeout / 10),
        "warm_up": list(settings.warm_up),
        "outlive_master": not settings.kill_children_on_exit,})


def binds_of(settings: Mapping[str, Any]) -> list[str]:
    """gunicorn's addresses in our form."""
    return [_bind_of(bind, settings) for bind in settings["bind"]]


def _bind_of(bind: str, settings: Mapping[str, Any]) -> str:
    """One of gunicorn's addresses in our form. gunicorn makes UNIX sockets with its own umask (0
    unless somebody set it), so that a proxy of another user can connect, and gives them to its own
    user and group where somebody set these."""
    options = f",backlog={min(65535, settings['backlog'])}"
    if not bind.startswith("unix:"):
        return bind + options
    options += f",mode={0o777 & ~settings['umask']:03o}"
    for name in ("user", "group"):
        # an earlier version didn't ask for them
        if name in settings["given"] and settings.get(name) is not None:
            options += f",{name}={settings[name]}"
    return escaped(bind) + options


def hook_launch(prepared: Prepared, gunicorn: Gunicorn, name: str, arguments: list[Any],
                target: int, attributes: Attributes) -> Launch:
    """How to run one of the arbiter's server hooks in a process of its own."""
    instructions = json.dumps({
        "mode": "hook", "hook": name, "arguments": arguments, "master": os.getpid(),
        "workers": target})
    environment = dict(prepared.recipe.environment) | {"EINHORNPY_ADAPTER": instructions}
    return Launch(gunicorn.adapter, prepared.recipe.directory, environment, (),
                  signal.SIGKILL, attributes=attributes)
