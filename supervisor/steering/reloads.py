"""How the master replaces itself: the next program is asked whether it can go on from our state,
then it is exec'ed over us.

Same pid, same children, same sockets, same clients. Until exec has succeeded the old master goes
on, and it goes on for good if the next program can't be started, or can't go on from the state.
What it says counts for the turn in which it says it: later, its files, its settings or our state
may be others.

It is asked in a process of its own, in the turn before: meanwhile we go on. Asked right before
exec, with the master standing still, it would cost as long as Python takes to start. It reads the
whole state and plans on it (reload_check.py), and does so again before it touches anything.

Should it fail all the same in its first second, our own program is run again: see
stage.py and trial.py. What the state holds is the host's business.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ...shared.protocol import BadRequest
from ..reporting.events import Entry, Event
from ..settings.table import Settings
from ..system import plain_data
from ..system.errands import Ended, Errand, Errands
from ..system.processes import Launch, find_program, own_program
from .own_code import OwnCode, interpreter
from .reload_check import descriptors_in, whole

CHECK_STATE, TAKE_OVER = "--check-state", "--take-over"
# What the next program says if it can: any program can exit with 0.
CAN_TAKE_OVER = "einhornpy {} can take over"
# The next program has this long to say that it can read the state; loading it takes a tenth of a
# second.
CHECK_TIMEOUT = 30.0
# It is asked anew if it couldn't be exec'ed at once, so often at most.
MOST_ANSWERS = 50
# An environment has room for some megabytes (execve(2)), most are a few kilobytes.
LONGEST_ANSWER = 4 << 20


class Host(Protocol):
    """What this module needs of the master."""

    settings: Settings

    def state(self) -> dict[str, Any]: ...
    def log(self, entry: Entry) -> None: ...
    def reload_refused(self, reason: str) -> None: ...
    def stopping(self) -> bool: ...
    def busy(self) -> bool: ...
    def has_signals(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """The next program can go on. `command`: the Python that it turned out to be, with its options;
    `environment`: what it was run in. None where it didn't say: then nobody stands between it and
    its failure."""

    command: tuple[str, ...] | None = None
    environment: Mapping[str, str] | None = None


class Reloads:
    """The replacement that was asked for, if one was. `count`: how many there have been. `refused`:
    why the last one that was asked for wasn't one, None if it was."""

    def __init__(self, host: Host, errands: Errands, environ: Mapping[str, str], directory: str,
                 reexec_as: Sequence[str] | None, count: int, own_code: OwnCode | None) -> None:
        """`directory`: where `reexec_as` was named. `count`: how many replacements there have been.
        `own_code`: the way back."""
        self._host = host
        self._errands = errands
        self._environ = environ
        self._directory = directory
        self._own_code = own_code
        self._command = own_program("supervisor") if reexec_as is None else list(reexec_as)
        self._wanted_by: str | None = None
        self._asking = False
        self._answer: Answer | None = None
        self._answers = 0
        self.count = count
        self.refused: str | None = None

    def request(self, by: str) -> None:
        """Ask for it. It happens as soon as no generation is in the making.

        Raises:
            BadRequest: the master stops.
        """
        if self._host.stopping():
            raise BadRequest("stopping", "the master stops")
        if self._wanted_by is None:
            self._wanted_by, self._answers = by, 0
            self._host.log(Entry(Event.RELOAD_REQUESTED, {"by": by}))

    def on_turn(self) -> None:
        """Take the next step, if it is time for one. Does not return where the next program takes
        over."""
        if self._wanted_by is None or self._asking:
            return
        answer, self._answer = self._answer, None
        if self._host.stopping():
            self.refuse("the master stops")
        elif self._host.busy():
            return
        elif answer is not None:
            self._exec(answer)
        elif self._answers >= MOST_ANSWERS:
            self.refuse(
                f"{self._answers} times it could take over, and was kept waiting by something new")
        else:
            self._ask()

    def _ask(self) -> None:
        # What clients have yet to read may be much, and is nothing that could be misread.
        state = self._host.state()
        sessions = [each | {"unsent": ""} for each in state["sessions"]]
        document = {"format": plain_data.FORMAT, "how": True, **state, "sessions": sessions}
        launch = Launch([*self._command, CHECK_STATE], self._directory, self._environ, (),
                        signal.SIGKILL)
        self._asking = True
        self._errands.send(
            Errand("check-state", launch, CHECK_TIMEOUT, self._answered, json.dumps(document),
                   urgent=True, most=LONGEST_ANSWER))

    def _answered(self, ended: Ended) -> None:
        self._asking = False
        said, command = ended.last_line or "", shlex.join(self._command)
        if ended.reason is not None:
            self.refuse(f"{command} {ended.reason}" + (f": {said}" if said else ""))
        elif not re.fullmatch(CAN_TAKE_OVER.format(r"\S+"), said):
            self.refuse(f"{command} did not say that it can take over" +
                        (f", but: {said}" if said else ""))
        else:
            self._answers += 1
            self._answer = answer_in(ended.line_before)

    def _exec(self, answer: Answer) -> None:
        # From here on signals wait for the next program. One that came before is noted in the loop,
        # and would be lost with it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        kept: list[int] = []
        opened: list[int] = []
        try:
            if self._host.has_signals():
                return  # the next turn begins with them; then we ask again
            document = self._host.state() | {
                "reloads": self.count + 1, "reloaded_by": self._wanted_by}
            kept = descriptors_in(document)
            if self._own_code is not None:
                way_back = self._own_code.way_back(self._environ) | {
                    "configuration": self._host.settings.configuration}
                document |= {"way_back": way_back}
                kept.append(self._own_code.fd)
            opened = [plain_data.sealed(whole(document))]
            command, environment = [*self._command, TAKE_OVER, str(opened[0])], self._environ
            if self._own_code is not None and answer.command is not None and answer.environment is not None:
                command = [*answer.command, "-S", "-c", self._own_code.stage, *command[-2:]]
                environment = answer.environment
            program = find_program(command[0], self._environ.get("PATH", os.defpath),
                                   self._directory)
            for fd in (*kept, *opened):
                os.set_inheritable(fd, True)
            os.execve(program, command, dict(environment))
        except Exception as error:  # whatever it is: this master goes on
            for fd in kept:
                os.set_inheritable(fd, False)
            self.refuse(
                f"cannot run {self._command[0]}: "
                f"{getattr(error, 'strerror', None) or f'{type(error).__name__}: {error}'}"
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for fd in opened:
                os.close(fd)

    def refuse(self, reason: str) -> None:
        """Say that this master goes on, and why."""
        self._wanted_by, self._answer = None, None
        self.refused = reason
        self._host.log(
            Entry(Event.RELOAD_REFUSED, {"reason": reason, "so": "this master goes on"}))
        self._host.reload_refused(reason)


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
        answer: Answer = plain_data.made(Answer, json.loads(line or "{}"))
    except (ValueError, plain_data.Unreadable):
        return Answer()
    return answer
