"""Making a generation: resolve the directory and the program, and let its template read gunicorn's
settings.

The master never waits for that. A recipe that can't be made is refused here, before anything of the
running generation is touched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...shared.frozen import dataclass
from ..core import worker_environment
from ..core.generation import Preload, Recipe
from ..settings.contradictions import without_gunicorn
from ..settings.parsers import AckMode
from ..settings.policy import rules_of_recipe
from ..settings.table import GUESSED_ACK_SECONDS, Settings
from ..sockets.addresses import escaped
from ..system.attributes import Attributes
from ..system.loop import Loop
from ..system.processes import Exit, Processes
from . import freezing, programs, release_directories
from .asking import Answer, Asking, Question, no_answer
from .freezing import Frozen
from .recognition import Gunicorn, Refused, not_reached, recognise

# In seconds; and how often it is looked whether gunicorn's own arbiter has started instead.
SETTINGS_TIMEOUT, LOOK = 30.0, 1.0
INSTALLERS = ("uv", "poetry", "pdm", "pipenv", "hatch", "rye", "pixi")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A recipe, and where it is gunicorn's the settings that it was made from. `guessed`: nothing
    is known about how the command says that it is ready. `template`: the one that has read them,
    until somebody has taken it over."""

    recipe: Recipe
    gunicorn: Gunicorn | None = None
    guessed: bool = False
    template: Answer | None = None

    @property
    def ignored(self) -> Sequence[str]:
        """The settings that somebody set, and that have no effect here."""
        # an earlier version didn't ask for them
        return () if self.gunicorn is None else self.gunicorn.settings.get("ignored", ())


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What a generation is to be made of. `directory`: symbolic links in it are followed when it is
    made. `remembered`: the recipe that it is to be made of again, as that has resolved them."""

    command: tuple[str, ...]
    directory: str
    environment: Mapping[str, str]
    release: str | None
    remembered: Recipe | None = None


def blueprint(settings: Settings, environ: Mapping[str, str], release: str | None) -> Blueprint:
    """The blueprint of new code."""
    environment = worker_environment.inherited(environ) | dict(settings.env)
    return Blueprint(settings.command, settings.chdir, environment, release)


def blueprint_of(recipe: Recipe) -> Blueprint:
    """The blueprint of a remembered recipe."""
    return Blueprint(recipe.command, recipe.directory, recipe.environment, recipe.release, recipe)


class Preparation:
    """One generation in the making. Ends by exactly one call of `done`, unless it is cancelled.
    `attributes`: of the workers. `bundle`: the descriptor of the adapter. `variables`: what its
    processes are given beside their environment, which is told first."""

    def __init__(self, processes: Processes, loop: Loop, settings: Settings, number: int,
                 blueprint: Blueprint, attributes: Attributes, bundle: int,
                 variables: Callable[[Mapping[str, str]], Mapping[str, str]],
                 done: Callable[[Prepared | Refused], None]) -> None:
        self._asking = Asking(processes, loop, attributes, bundle, self._answered)
        self._settings = settings
        self._number = number
        self._command = blueprint.command
        self._named_directory = blueprint.directory
        self._remembered = blueprint.remembered
        self._frozen: Frozen | None = None
        self._release = blueprint.release
        self._environment = dict(blueprint.environment)
        self._variables = variables
        self._done = done
        self._gunicorn: Gunicorn | None = None
        self._directory = ""
        self._until = 0.0
        self.deadline: float | None = None

    def begin(self, now: float) -> None:
        """Start; `done` may be called at once."""
        try:
            if self._remembered is None and self._settings.releases_root is not None:
                self._command, self._named_directory, self._release = release_directories.placed(
                    self._settings.releases_root, self._command, self._named_directory,
                    self._release)
            self._directory = _resolve(self._named_directory)
            self._environment["PWD"] = self._directory
            self._freeze()
            if self._gunicorn is None:
                self._end(self._without_gunicorn())
                return
            programs.check_gunicorn(self._settings)
            question = Question(
                self._number, self._gunicorn, self._directory, self._environment,
                self._variables(self._environment), self._release, self._number > 1,
                self._settings.number if self._settings.given("number") else None,
                warm_up=self._settings.warm_up)
            if self._remembered is not None:
                question = again(question, self._remembered)
            self._asking.begin(question)
            self._until = now + self._patience
            self.deadline = now + LOOK if self._gunicorn.wrapped else self._until
        except Refused as refused:
            self._end(refused)
        except OSError as error:  # gone between two looks
            self._end(Refused(f"cannot run {self._command[0]!r}: {error.strerror}"))

    def _freeze(self) -> None:
        """Resolve program, arguments and environment, or take what is remembered of them."""
        before = self._remembered
        if before is not None and before.words:  # an earlier version didn't resolve them
            self._frozen = Frozen(before.program, before.interpreter, before.words)
            started = before.started
            if started is None:
                freezing.check(self._frozen, self._command)
            else:
                freezing.check(Frozen(started.words[0], "", started.words), self._command)
                _resolve(started.directory)
            self._gunicorn = freezing.gunicorn_of(before)
            return
        found = recognise(self._command, self._directory, self._environment,
                          self._settings.ack_mode)
        links = freezing.links_of(self._command, self._named_directory, self._directory,
                                  self._environment)
        if found is None:
            self._frozen = freezing.freeze(self._command, self._directory, self._environment, links)
        else:
            self._environment = dict(found.environment)
            self._gunicorn, self._frozen = freezing.freeze_gunicorn(
                found.gunicorn, self._directory, self._environment, links)
        self._environment = freezing.environment(self._environment, self._directory, links)

    def _without_gunicorn(self) -> Prepared:
        for line in without_gunicorn(self._settings):
            raise Refused(line, bad_input=True)
        guessed = self._settings.ack_mode is AckMode.AUTO
        recipe = self._recipe({}, GUESSED_ACK_SECONDS if guessed else None)
        before = self._remembered
        if before is not None:
            recipe = replace(recipe, preload=before.preload, program_forks=before.program_forks,
                             preload_file=before.preload_file)
        else:
            recipe = programs.preloading(recipe, self._settings)
        return Prepared(recipe, guessed=guessed)

    def _recipe(self, gunicorn: Mapping[str, Any], ack_seconds: float | None) -> Recipe:
        """`gunicorn`: its settings, which count where nobody gave ours; `ack_seconds` likewise."""
        mode, frozen = self._settings.ack_mode, self._frozen
        assert frozen is not None
        return Recipe(self._command, self._directory, self._environment, self._release,
                      mode if isinstance(mode, float) else ack_seconds, program=frozen.program,
                      interpreter=frozen.interpreter, words=frozen.words,
                      **rules_of_recipe(self._settings, gunicorn))

    @property
    def _patience(self) -> float:
        """Seconds; what stands before gunicorn may have to install it first."""
        names = {os.path.basename(word) for word in self._command}
        return max(SETTINGS_TIMEOUT,
                   0.0 if names.isdisjoint(INSTALLERS) else self._settings.ready_timeout)

    def on_exit(self, exit: Exit) -> bool:
        """Return whether it was the process that was asked."""
        return self._asking.on_exit(exit)

    def _answered(self, result: Answer | Refused) -> None:
        if isinstance(result, Refused):
            self._end(result)
            return
        try:
            self._end(self._understood(result))
        except Refused as refused:
            result.channel.close()
            self._end(refused)

    def _understood(self, answer: Answer) -> Prepared:
        """What gunicorn's answer comes to, or Refused."""
        assert self._gunicorn is not None
        read = replace(self._gunicorn, settings=answer.settings)
        theirs = dict(read.settings)
        if not read.given("max_requests_jitter"):
            theirs.pop("max_requests_jitter", None)
        recipe = replace(self._recipe(theirs, None), chdir=theirs.get("chdir"),
                         pythonpath=theirs.get("pythonpath"), files=answer.files,
                         started=answer.started, preload=self._preload(theirs))
        if recipe.max_requests and not theirs.get("counts_requests", True):
            raise Refused(
                "--max-requests (gunicorn's max_requests): nothing counts the requests of its "
                f"worker class {theirs['worker_class']}: expected 0, or another class; "
                "--max-lifetime and --max-memory work", bad_input=True)
        if not theirs.get("notifies", True) and not isinstance(self._settings.ack_mode, float):
            raise Refused(
                f"gunicorn's worker class {theirs['worker_class']} never calls notify, by which "
                "workers say that they serve and live: expected one that does, or -m SECONDS, "
                "after which it counts as ready", bad_input=True)
        return Prepared(recipe, read, template=answer)

    def _preload(self, gunicorn: Mapping[str, Any]) -> Preload:
        """How the template preloads the app; as its generation did before."""
        if self._remembered is not None:
            return self._remembered.preload
        if self._settings.given("preload"):
            return self._settings.preload
        return Preload.WARN if gunicorn.get("preload_app") else Preload.OFF

    def on_time(self, now: float) -> None:
        """Give up if the deadline has passed, or if gunicorn serves by itself."""
        if self.deadline is None or now < self.deadline:
            return
        self.deadline = min(now + LOOK, self._until)
        if now >= self._until:
            seconds = f"within {self._patience:g} s"
            why = no_answer(self._gunicorn, f"has not {seconds}", f"no answer {seconds}")
        elif self._gunicorn is not None and self._asking.arbiter_serves():
            why = not_reached(self._gunicorn, "gunicorn's own arbiter serves instead")
        else:
            return
        self.cancel()
        self._end(why)

    def cancel(self) -> None:
        """Stop without a word; a process that is still there is killed."""
        self.deadline = None
        self._asking.cancel()

    def _end(self, result: Prepared | Refused) -> None:
        self.deadline = None
        self._done(result)


def again(question: Question, recipe: Recipe) -> Question:
    """The question for a template that is to be what the one before was: what that has read counts,
    and where something else had started it, it is started as it was itself. All is as asked where a
    recipe of an earlier version knows nothing of that."""
    if recipe.files is not None:
        question = replace(question, frozen={
            "chdir": recipe.chdir, "pythonpath": recipe.pythonpath, "files": dict(recipe.files)})
    started = recipe.started
    if started is None:
        return question
    program, *arguments = started.words
    return replace(question, start=Gunicorn(program, tuple(arguments), wrapped=True),
                   directory=started.directory, environment=started.environment)


def _resolve(directory: str) -> str:
    try:
        resolved = os.path.realpath(directory, strict=True)
        os.stat(f"{resolved}/.")
    except OSError as error:
        raise Refused(f"cannot start workers in {directory}: {error.strerror}") from None
    return resolved


def life(recipe: Recipe, settings: Settings, target: int, page: tuple[int, int],
         traffic: tuple[int, int], jitter: float, stderr: int | None, control: int | None,
         notify: int) -> dict[str, Any]:
    """What a worker of gunicorn's is told. `page`, `traffic`: descriptor and offset of its slots.
    `jitter`: 0 to 1. `stderr`: the descriptor that is its standard error as soon as it is ready,
    None where it has that already. `control`, `notify`: descriptors that are connected to the
    master: commands go to the one, datagrams of sd_notify(3) to the other."""
    return {
        "page": page,
        "traffic": traffic,
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
        "warm_up_each": settings.warm_up_per_worker,
        "outlive_master": not settings.kill_children_on_exit}


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
