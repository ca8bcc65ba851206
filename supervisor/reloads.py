"""How the master replaces itself: the next program is asked whether it can read our state, then it is exec'ed over us.

Same pid, same children, same sockets, same clients. Until exec has succeeded the old master goes on, and it goes on for good
if the next program can't be started, or can't read the state. What the state holds is the host's business.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from ..control.protocol import BadRequest
from . import handover, journal
from .errands import Ended, Errand, Errands
from .journal import Entry
from .processes import Launch, find_program, own_program

CHECK_STATE, TAKE_OVER = "--check-state", "--take-over"
# What the next program says if it can: any program can exit with 0.
CAN_TAKE_OVER = "einhornpy {} can take over"
# The next program has this long to say that it can read the state; loading it takes a tenth of a second.
CHECK_TIMEOUT = 30.0


class Host(Protocol):
    """What this module needs of the master."""

    def state(self) -> dict[str, Any]: ...
    def log(self, entry: Entry) -> None: ...
    def reload_refused(self, reason: str) -> None: ...
    def stopping(self) -> bool: ...
    def busy(self) -> bool: ...
    def has_signals(self) -> bool: ...


class Reloads:
    """The replacement that was asked for, if one was. `count`: how many there have been."""

    def __init__(self, host: Host, errands: Errands, environ: Mapping[str, str], directory: str, reexec_as: Sequence[str] | None,
                 count: int) -> None:
        """`directory`: where `reexec_as` was named. `count`: how many replacements there have been."""
        self._host = host
        self._errands = errands
        self._environ = environ
        self._directory = directory
        self._command = own_program("supervisor") if reexec_as is None else list(reexec_as)
        self._wanted_by: str | None = None
        self._asking = False
        self._checked = False
        self.count = count

    def request(self, by: str) -> None:
        """Ask for it. It happens as soon as no generation is in the making.

        Raises:
            BadRequest: the master stops.
        """
        if self._host.stopping():
            raise BadRequest("stopping", "the master stops")
        if self._wanted_by is None:
            self._wanted_by = by
            self._host.log(Entry("reload requested", {"by": by}))

    def on_turn(self) -> None:
        """Take the next step, if it is time for one. Does not return where the next program takes over."""
        if self._wanted_by is None or self._asking:
            return
        if self._host.stopping():
            self._refuse("the master stops")
        elif not self._checked:
            self._ask()
        elif not self._host.busy():
            self._exec()

    def _ask(self) -> None:
        # What clients have yet to read may be much, and is nothing that could be misread.
        state = self._host.state()
        document = {"format": handover.FORMAT, **state, "sessions": [each | {"unsent": ""} for each in state["sessions"]]}
        launch = Launch([*self._command, CHECK_STATE], self._directory, self._environ, (), signal.SIGKILL)
        self._asking = True
        self._errands.send(Errand("check-state", launch, CHECK_TIMEOUT, self._answered, json.dumps(document), urgent=True))

    def _answered(self, ended: Ended) -> None:
        self._asking = False
        said, command = ended.last_line or "", shlex.join(self._command)
        if ended.reason is not None:
            self._refuse(f"{command} {ended.reason}" + (f": {said}" if said else ""))
        elif not re.fullmatch(CAN_TAKE_OVER.format(r"\S+"), said):
            self._refuse(f"{command} did not say that it can take over" + (f", but: {said}" if said else ""))
        else:
            self._checked = True

    def _exec(self) -> None:
        # From here on signals wait for the next program. One that came before is noted in the loop, and would be lost with it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        kept: list[int] = []
        try:
            if self._host.has_signals():
                return  # the next turn begins with them, and then comes here again
            document = self._host.state() | {"reloads": self.count + 1, "reloaded_by": self._wanted_by}
            state = handover.sealed(document)
            kept = [state, *descriptors_in(document)]
            program = find_program(self._command[0], self._environ.get("PATH", os.defpath), self._directory)
            for fd in kept:
                os.set_inheritable(fd, True)
            os.execve(program, [*self._command, TAKE_OVER, str(state)], dict(self._environ))
        except OSError as error:
            for fd in kept:
                os.set_inheritable(fd, False)
            self._refuse(f"cannot run {self._command[0]}: {error.strerror}")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for fd in kept[:1]:
                os.close(fd)

    def _refuse(self, reason: str) -> None:
        self._wanted_by, self._checked = None, False
        self._host.log(Entry("reload refused", {"reason": reason, "so": "this master goes on"}, journal.ATTENTION))
        self._host.reload_refused(reason)


def descriptors_in(document: Mapping[str, Any]) -> Iterable[int]:
    """Every descriptor that a state speaks of."""
    place, running = document["place"], document["errands"]["running"]
    return [
        *(each["fd"] for each in (document.get("web"), document.get("keeper")) if each is not None),
        place["listener"], place["lock"], document["notify"], document["page"]["fd"], *document["processes"]["errors"],
        *(each["fd"] for each in document["listeners"]), *(each["fd"] for each in document["sessions"]),
        *(each["fd"] for each in document.get("output", ()) if each["fd"] >= 0),
        *(each["output"] for each in running if each["output"] is not None),
    ]
