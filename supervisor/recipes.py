"""Making a generation: resolve the directory and the program, and ask gunicorn's own Python for gunicorn's settings.

The settings are read by a short-lived process, since a configuration file is a program; the master never waits for it.
A recipe that can't be made is refused here, before anything of the running generation is touched.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import contract
from .attributes import Attributes
from .loop import READ, Loop
from .pool import Recipe
from .processes import CannotStart, Exit, Launch, Processes, find_program
from .settings import Settings

ADAPTER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "worker", "gunicorn_adapter.py")
GUESSED_ACK_SECONDS = 1.0
SETTINGS_TIMEOUT = 30.0


class Refused(RuntimeError):
    """`error`: what the program that was asked said itself, if anything. `bad_input`: the settings can't be meant so."""

    def __init__(self, reason: str, error: str | None = None, bad_input: bool = False) -> None:
        super().__init__(reason)
        self.error = error
        self.bad_input = bad_input


@dataclass(frozen=True, slots=True)
class Gunicorn:
    """gunicorn's settings, as its own Python read them. `given`: those that somebody set. `hooks`: the server hooks
    that somebody wrote. `python`, `arguments`: how to run the adapter."""

    python: str
    arguments: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def given(self, name: str) -> bool:
        return name in self.settings.get("given", ())


@dataclass(frozen=True, slots=True)
class Prepared:
    """A recipe, and where it is gunicorn's the settings that it was made from. `guessed`: nothing is known about how
    the command says that it is ready."""

    recipe: Recipe
    gunicorn: Gunicorn | None = None
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What a generation is to be made of. `directory`: symbolic links in it are followed when it is made."""

    command: tuple[str, ...]
    directory: str
    environment: Mapping[str, str]
    release: str | None


def blueprint(settings: Settings, environ: Mapping[str, str], release: str | None) -> Blueprint:
    """The blueprint of new code."""
    environment = contract.inherited(environ) | dict(settings.env)
    for name in settings.drop_env_var:
        environment.pop(name, None)
    return Blueprint(settings.command, settings.chdir, environment, release)


def blueprint_of(recipe: Recipe) -> Blueprint:
    """The blueprint of a remembered recipe."""
    return Blueprint(recipe.command, recipe.directory, recipe.environment, recipe.release)


class Preparation:
    """One generation in the making. Ends by exactly one call of `done`, unless it is cancelled."""

    def __init__(
        self, processes: Processes, loop: Loop, settings: Settings, blueprint: Blueprint, attributes: Attributes,
        done: Callable[[Prepared | Refused], None],
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
        """Start. `hook`: the gunicorn server hook that runs on the way, on_starting or on_reload."""
        try:
            self._directory = _resolve(self._named_directory)
            self._environment["PWD"] = self._directory
            program = self._find(self._command[0])
            self._gunicorn = recognise(self._command, program, self._environment)
            if self._gunicorn is None:
                self._end(self._plain())
                return
            self._ask_gunicorn(self._gunicorn, hook)
            self.deadline = now + SETTINGS_TIMEOUT
        except Refused as refused:
            self._end(refused)

    def _find(self, name: str) -> str:
        try:
            return find_program(name, self._environment.get("PATH", os.defpath), self._directory)
        except OSError as error:
            where = "" if name.startswith("/") else f" (looked in {self._directory if '/' in name else 'PATH'})"
            raise Refused(f"cannot run {name!r}: {error.strerror}{where}") from None

    def _plain(self) -> Prepared:
        mode = self._settings.ack_mode
        guessed = mode == "auto"
        if guessed and self._settings.ready_timeout <= GUESSED_ACK_SECONDS:
            raise Refused(f"--ready-timeout: {self._settings.ready_timeout:g} s is not longer than the {GUESSED_ACK_SECONDS:g} s "
                          "after which a worker is guessed to be ready: expected more, or -m notify, manual or SECONDS",
                          bad_input=True)
        if self._settings.warm_up:
            raise Refused("--warm-up: only gunicorn's workers can be warmed up from inside, and "
                          f"{self._settings.command[0]} is not gunicorn", bad_input=True)
        if self._settings.max_requests:
            raise Refused("--max-requests: only gunicorn's workers count their requests, and "
                          f"{self._settings.command[0]} is not gunicorn", bad_input=True)
        seconds = GUESSED_ACK_SECONDS if guessed else mode if isinstance(mode, float) else None
        return Prepared(self._recipe(seconds, {}), guessed=guessed)

    def _recipe(self, ack_seconds: float | None, gunicorn: Mapping[str, Any]) -> Recipe:
        """`gunicorn`: the settings that count where nobody gave ours."""

        def choose(name: str) -> Any:
            ours = getattr(self._settings, name)
            return ours if self._settings.given(name) or name not in gunicorn else gunicorn[name]

        settings, requests = self._settings, int(choose("max_requests"))
        jitter, longer = choose("max_requests_jitter"), settings.max_lifetime_jitter
        return Recipe(
            self._command, self._directory, self._environment, self._release, ack_seconds,
            graceful_timeout=float(choose("graceful_timeout")), timeout=float(choose("timeout")),
            max_requests=requests, max_requests_jitter=requests // 10 if jitter is None else int(jitter),
            max_lifetime=settings.max_lifetime,
            max_lifetime_jitter=settings.max_lifetime / 10 if longer is None else longer,
            max_memory=settings.max_memory, max_memory_hard=settings.max_memory_hard,
        )

    def _ask_gunicorn(self, gunicorn: Gunicorn, hook: str) -> None:
        try:
            reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise Refused(f"cannot ask gunicorn for its settings: {error.strerror}") from None
        os.set_blocking(writer, True)
        instructions = json.dumps({"mode": "settings", "hook": hook, "result_fd": contract.FIRST_FD})
        launch = Launch(
            [gunicorn.python, ADAPTER, *gunicorn.arguments], self._directory,
            self._environment | {"EINHORNPY_ADAPTER": instructions}, [writer], signal.SIGKILL, attributes=self._attributes,
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
        try:
            answer = json.loads(self._output)
        except (ValueError, RecursionError):
            answer = None
        answer = answer if isinstance(answer, dict) else {}  # the app's own code may have written there
        if exit.status != 0 or "settings" not in answer:
            how = f"signal {-exit.status}" if exit.status < 0 else f"exit code {exit.status}"
            error = answer.get("error") or exit.error or how
            self._end(Refused("gunicorn's settings cannot be read", error))
            return
        assert self._gunicorn is not None
        read = Gunicorn(self._gunicorn.python, self._gunicorn.arguments, answer["settings"])
        theirs = dict(read.settings)
        if not read.given("max_requests_jitter"):
            theirs["max_requests_jitter"] = None
        mode = self._settings.ack_mode
        self._end(Prepared(self._recipe(mode if isinstance(mode, float) else None, theirs), read))

    def on_time(self, now: float) -> None:
        """Give up if the deadline has passed."""
        if self.deadline is not None and now >= self.deadline:
            self.cancel()
            self._end(Refused("gunicorn's settings cannot be read", f"no answer within {SETTINGS_TIMEOUT:g} s"))

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


def recognise(command: tuple[str, ...], program: str, environment: Mapping[str, str]) -> Gunicorn | None:
    """Tell whether a command runs gunicorn, and in which Python; None if it is something else.

    `gunicorn …` names a script whose first line names its Python; `PYTHON -m gunicorn …` says it itself.

    Raises:
        Refused: it is called gunicorn, but its Python can't be told.
    """
    if len(command) > 2 and command[1:3] == ("-m", "gunicorn") and re.match(r"(python|pypy)[0-9.]*$",
                                                                            os.path.basename(program)):
        return Gunicorn(program, command[3:])
    if os.path.basename(command[0]) != "gunicorn":
        return None
    try:
        with open(program, "rb") as file:
            head = file.read(4096).decode(errors="replace").splitlines()
    except OSError as error:
        raise Refused(f"cannot read {program}: {error.strerror}") from None
    python = _python_of(head, environment)
    if python is None:
        first = head[0] if head else ""
        raise Refused(f"cannot tell which Python {program} belongs to, its first line is {first[:80]!r}: "
                      "use PYTHON -m gunicorn …")
    return Gunicorn(python, command[1:])


def _python_of(head: list[str], environment: Mapping[str, str]) -> str | None:
    if not head or not head[0].startswith("#!"):
        return None
    words = head[0][2:].split()
    # Where the path is too long or has blanks, installers write a shell line that execs the Python.
    if words and os.path.basename(words[0]) == "sh" and len(head) > 1:
        match = re.match(r"""'''exec'\s+(?:"([^"]+)"|(\S+))\s""", head[1])
        words = [match[1] or match[2]] if match else []
    if words and os.path.basename(words[0]) == "env":
        words = [word for word in words[1:] if not word.startswith("-")]
        try:
            words = [find_program(words[0], environment.get("PATH", os.defpath), "/")] if words else []
        except OSError:
            return None
    return words[0] if words and re.match(r"(python|pypy)[0-9.]*$", os.path.basename(words[0])) else None


def adapter_instructions(
    prepared: Prepared, settings: Settings, target: int, page: tuple[int, int], jitter: float, stderr: int | None
) -> str:
    """What the adapter in a worker is told, as JSON. `page`: descriptor and offset of its slot. `jitter`: 0 to 1. `stderr`: the
    descriptor that is its standard error as soon as it is ready, None where it has that already."""
    recipe = prepared.recipe
    return json.dumps({
        "mode": "worker",
        "page": page,
        "stderr": stderr,
        "workers": target,
        "timeout": recipe.timeout,
        "max_requests": recipe.max_requests and recipe.max_requests + round(jitter * recipe.max_requests_jitter),
        # A little less than the master's patience, so that a worker that keeps its own time leaves by itself.
        "graceful_timeout": recipe.graceful_timeout - min(1.0, recipe.graceful_timeout / 10),
        "warm_up": list(settings.warm_up),
        "outlive_master": not settings.kill_children_on_exit,
    })


def bind_of(bind: str, settings: Mapping[str, Any]) -> str:
    """One of gunicorn's addresses in our form. gunicorn makes UNIX sockets with its own umask (0 unless somebody set it),
    so that a proxy of another user can connect."""
    mode = f",mode={0o777 & ~settings['umask']:03o}" if bind.startswith("unix:") else ""
    return f"{bind},backlog={min(65535, settings['backlog'])}{mode}"


def hook_launch(
    prepared: Prepared, gunicorn: Gunicorn, name: str, arguments: list[Any], target: int, attributes: Attributes
) -> Launch:
    """How to run one of the arbiter's server hooks in a process of its own."""
    instructions = json.dumps({"mode": "hook", "hook": name, "arguments": arguments, "master": os.getpid(),
                               "workers": target})
    environment = dict(prepared.recipe.environment) | {"EINHORNPY_ADAPTER": instructions}
    return Launch([gunicorn.python, ADAPTER, *gunicorn.arguments], prepared.recipe.directory, environment, (),
                  signal.SIGKILL, attributes=attributes)
