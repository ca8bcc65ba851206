"""How the master replaces itself: the next program is asked whether it can go on from our state,
then it is exec'ed over us.

Same pid, same children, same sockets, same clients. Until exec has succeeded the old master goes
on, and it goes on for good if the next program can't be started, or can't go on from the state.
What it says counts for the turn in which it says it: later, its files, its settings or our state
may be others.

It is asked in a process of its own, in the turn before: meanwhile we go on. Asked right before
exec, with the master standing still, it would cost as long as Python takes to start. It reads the
whole state and plans on it (reload_check.py), and does so again before it touches anything.

Should it fail all the same in its first second, our own program is run again: see stage.py and
trial.py. What the state holds is told by the parts (system/part.py).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from ...shared.frozen import dataclass
from ...shared.protocol import BadRequest, Code
from ..core import worker_environment
from ..reporting.events import Entry, Event
from ..settings import sources
from ..settings.declaring import Reload
from ..settings.table import SETTINGS, Settings
from ..system import plain_data
from ..system.becoming import Launch, find_program
from ..system.errands import Ended, Errand, Errands
from ..system.ledger import Ledger
from ..system.own_code import OwnCode, interpreter
from ..system.part import Keep, Part, State
from ..system.processes import own_program
from .signals import Signals
from .state import VERSION
from .trial import Trial
from .upgrades import Upgrades

CHECK_STATE, TAKE_OVER = "--check-state", "--take-over"
STAGE = "supervisor/programs/stage.py"
# What the next program says if it can: any program can exit with 0.
CAN_TAKE_OVER = "einhornpy {} can take over"
# The next program has this long to say that it can read the state; loading it takes a tenth of a
# second.
CHECK_TIMEOUT = 30.0
# It is asked anew if it couldn't be exec'ed at once, so often at most.
MOST_ANSWERS = 50
# An environment has room for some megabytes (execve(2)), most are a few kilobytes.
LONGEST_ANSWER = 4 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """The next program can go on. `command`: the Python that it turned out to be, with its options;
    `environment`: what it was run in. None where it didn't say: then nobody stands between it and
    its failure."""

    command: tuple[str, ...] | None = None
    environment: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """The command line."""

    flags: Mapping[str, Any]
    command: tuple[str, ...]
    directory: str


@dataclass(frozen=True, slots=True)
class WayBack:
    """How the master before is run again, should the next one fail: see stage.py. `copy`: a
    descriptor of its code; `path`: where it looks for the rest; `configuration`: the text of its
    TOML file as it read it, whatever has become of that."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    copy: int
    path: tuple[str, ...] | None = None
    configuration: str | None = None


class Reloads(Part):
    """The replacement that was asked for, if one was. `trial`: our own first second, None when it
    is over. `count`: how many replacements there have been. `refused`: why the last one that was
    asked for wasn't one, None if it was."""

    name = "reload"
    keeps = {
        "version": Keep(str, VERSION, needed=True), "given": Keep(Given, needed=True),
        "reloads": Keep(int, 0, needed=True), "reloaded_by": Keep(str, ""),
        "way_back": Keep(WayBack | None), "kept": Keep(Mapping[str, Any], {})}

    def __init__(self, ledger: Ledger, upgrades: Upgrades, errands: Errands, signals: Signals,
                 tell: Callable[[str, bool], None], state: Callable[[], dict[str, Any]],
                 whole: Callable[[Mapping[str, Any]], dict[str, Any]],
                 environ: Mapping[str, str], settings: Settings, given: Mapping[str, Any],
                 own_code: OwnCode) -> None:
        """`tell`: those who wait how it went, and whether well. `state`: everything that the next
        master needs, `whole`: as it is written down. `given`: the command line. `own_code`: the
        way back."""
        self._ledger = ledger
        self._upgrades = upgrades
        self._errands = errands
        self._signals = signals
        self._tell = tell
        self._state = state
        self._whole = whole
        self._environ = worker_environment.without(environ, settings.drop_env_var)
        self._settings = settings
        self._given = given
        self._own_code = own_code
        self._command = _next_program(settings)
        self._wanted_by: str | None = None
        self._asking = False
        self._answer: Answer | None = None
        self._answers = 0
        self._before: State = {}
        self.trial: Trial | None = None
        self.count = 0
        self.refused: str | None = None

    def hand_over(self) -> dict[str, Any]:
        return {"version": VERSION, "given": self._given, "reloads": self.count,
                "kept": kept(self._settings)}

    def take_over(self, state: State) -> None:
        self._before, self.count = state, state["reloads"]

    def conclude(self, failed: str | None) -> None:
        """The first second is over: there is no way back, and who waits for us is told so.
        `failed`: why the master that should have gone on in our place didn't."""
        before, self._before = self._before, {}
        if failed is not None:
            self.count -= 1
            self._refuse(f"the next master failed, and the one before went on: {failed}")
            return
        way_back: WayBack | None = before["way_back"]
        if way_back is not None:
            os.close(way_back.copy)
        self._ledger.log(Entry(Event.MASTER_REPLACED, {
            "pid": os.getpid(), "version": VERSION, "before": before["version"],
            "workers": self._ledger.pool.target, "by": before["reloaded_by"]}))
        stays = ignored(self._settings, before["kept"])
        if stays:
            why = "restart the master to change them"
            self._ledger.log(
                Entry(Event.SETTINGS_THAT_STAY, {"settings": " ".join(stays), "so": why}))
        self._tell(f"einhornpy {VERSION} goes on, pid {os.getpid()}", True)
        self._upgrades.renewed(None)

    def request(self, by: str) -> None:
        """Ask for it. It happens as soon as no generation is in the making.

        Raises:
            BadRequest: the master stops.
        """
        if self._ledger.pool.stopping is not None:
            raise BadRequest(Code.STOPPING, "the master stops")
        if self._wanted_by is None:
            self._wanted_by, self._answers = by, 0
            self._ledger.log(Entry(Event.RELOAD_REQUESTED, {"by": by}))

    @property
    def deadline(self) -> float | None:
        """The end of our own first second."""
        return None if self.trial is None else self.trial.until

    def on_time(self, now: float) -> None:
        """Take the next step, if it is time for one. Does not return where the next program takes
        over."""
        if self.trial is not None:  # first we have to settle ourselves
            return
        if self._wanted_by is None or self._asking:
            return
        answer, self._answer = self._answer, None
        if self._ledger.pool.stopping is not None:
            self._refuse("the master stops")
        elif self._upgrades.busy:
            return
        elif answer is not None:
            self._exec(answer)
        elif self._answers >= MOST_ANSWERS:
            self._refuse(
                f"{self._answers} times it could take over, and was kept waiting by something new")
        else:
            self._ask()

    def _settings_of_now(self) -> Settings:
        """The settings as the next master will read them: what is wrong in the file may be mended
        by now, or the other way round. Where they can't be read, it says so better than we."""
        try:
            return sources.load(self._given["flags"], self._given["command"], self._environ,
                                self._given["directory"])
        except sources.BadSetting:
            return self._settings

    def _ask(self) -> None:
        self._command = _next_program(self._settings_of_now())
        # What clients have yet to read may be much, and is nothing that could be misread.
        state = self._state()
        sessions = [each | {"unsent": ""} for each in state["sessions"]]
        document = {"format": plain_data.FORMAT, "how": True, **state, "sessions": sessions}
        _leave_what_is_gone()
        try:
            program = self._found(self._command[0])
        except OSError as error:
            self._refuse(f"cannot run {self._command[0]}: {error.strerror}")
            return
        # Where we are, as it will be when it is exec'ed.
        launch = Launch([program, *self._command[1:], CHECK_STATE], None, self._environ, (),
                        signal.SIGKILL)
        self._asking = True
        self._errands.send(
            Errand("check-state", launch, CHECK_TIMEOUT, self._answered, json.dumps(document),
                   urgent=True, most=LONGEST_ANSWER))

    def _found(self, name: str) -> str:
        """The path of a program, looked up where we were started, whatever that name means by now.

        Raises:
            OSError: it isn't there.
        """
        return find_program(name, self._environ.get("PATH", os.defpath), self._given["directory"])

    def _answered(self, ended: Ended) -> None:
        self._asking = False
        said, command = ended.last_line or "", shlex.join(self._command)
        if ended.reason is not None:
            self._refuse(f"{command} {ended.reason}" + (f": {said}" if said else ""))
        elif not re.fullmatch(CAN_TAKE_OVER.format(r"\S+"), said):
            self._refuse(f"{command} did not say that it can take over" +
                        (f", but: {said}" if said else ""))
        else:
            self._answers += 1
            self._answer = answer_in(ended.line_before)

    def _exec(self, answer: Answer) -> None:
        # From here on signals wait for the next program. One that came before is noted in the loop,
        # and would be lost with it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        fds: list[int] = []
        opened: list[int] = []
        program = self._command[0]
        try:
            if self._signals.waiting():
                return  # the next turn begins with them; then we ask again
            document = self._state() | {
                "reloads": self.count + 1, "reloaded_by": self._wanted_by}
            way_back = self._own_code.way_back(self._upgrades.restored) | {
                "configuration": self._settings.configuration}
            document = self._whole(document | {"way_back": way_back})
            fds += [self._own_code.fd, *document["descriptors"]]
            opened = [plain_data.sealed(document)]
            command = [*self._command, TAKE_OVER, str(opened[0])]
            environment: Mapping[str, str] = self._environ
            if answer.command is not None and answer.environment is not None:
                stage = self._own_code.read(STAGE).decode()
                command = [*answer.command, "-S", "-c", stage, *command[-2:]]
                environment = answer.environment
            program = command[0]
            program = self._found(program)
            for fd in (*fds, *opened):
                os.set_inheritable(fd, True)
            os.execve(program, command, dict(environment))
        except Exception as error:  # whatever it is: this master goes on
            for fd in fds:
                os.set_inheritable(fd, False)
            self._refuse(
                f"cannot run {program}: "
                f"{getattr(error, 'strerror', None) or f'{type(error).__name__}: {error}'}")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for fd in opened:
                os.close(fd)

    def _refuse(self, reason: str) -> None:
        """Say that this master goes on, and why."""
        self._wanted_by, self._answer = None, None
        self.refused = reason
        self._ledger.log(
            Entry(Event.RELOAD_REFUSED, {"reason": reason, "so": "this master goes on"}))
        self._tell(f"reload refused: {self._ledger.redaction.text(reason)}", False)
        self._upgrades.renewed(reason)


def _next_program(settings: Settings) -> list[str]:
    return own_program("supervisor") if settings.reexec_as is None else list(settings.reexec_as)


def _leave_what_is_gone() -> None:
    """Where our directory was removed (a release that was tidied up), go to /: nothing can be found
    in it, and Python can't start there with a relative PYTHONPATH."""
    try:
        os.getcwd()
    except FileNotFoundError:
        os.chdir("/")


def answer(version: str, how: bool) -> str:
    """What this program says, as the next one: that it can take over, and before that, where
    somebody asks, how it is run."""
    lines = [CAN_TAKE_OVER.format(version)]
    if how and sys.orig_argv[-3:-1] == ["-m", "einhornpy.supervisor"]:
        lines.insert(0, json.dumps({"command": interpreter(), "environment": dict(os.environ)}))
    return "\n".join(lines)


def answer_in(line: str | None) -> Answer:
    """Read how the next program is run."""
    try:
        answer: Answer = plain_data.from_plain(Answer, json.loads(line or "{}"))
    except (ValueError, plain_data.Unreadable):
        return Answer()
    return answer


def kept(settings: Settings) -> dict[str, Any]:
    """The settings that a reload keeps, as plain data."""
    return {name: plain_data.to_plain(getattr(settings, name)) for name, setting in SETTINGS.items()
            if setting.reload is Reload.RESTART}


def ignored(settings: Settings, kept_before: Mapping[str, Any]) -> list[str]:
    """The names of those that have been changed since, for nothing."""
    return [SETTINGS[name].key for name, value in kept(settings).items()
            if name in kept_before and value != kept_before[name]]
