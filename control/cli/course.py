"""The course of a deploy, as it is told: lines for people, one document for scripts."""

from __future__ import annotations

import sys
import time
from typing import Any, NoReturn

from ...shared import releases
from ..deploy.plan import Plan
from ..terminal import say, say_json
from .options import Exit


class Course:
    """One deploy, as it is told: lines for people, and `document` for scripts. `step` begins the
    next step, which ends the one before."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.document: dict[str, Any] = {
            "version": 1, "release": None, "outcome": "failed", "steps": [], "removed": [],
            "current": None, "upgrade": None, "reason": None, "error": None, "last_lines": []}
        self._began = time.monotonic()
        # The host, as soon as it is known.
        self.here: Plan | None = None

    def step(self, name: str) -> None:
        """The next step begins."""
        now = time.monotonic()
        if steps := self.document["steps"]:
            steps[-1]["seconds"] = round(now - self._began, 3)
        if name:
            self._began = now
            self.document["steps"].append({"step": name, "seconds": None})
            if name in ("fetch", "prepare"):
                self.say(f"{name} {self.document['release']}")

    def say(self, line: str) -> None:
        """A line for people: where there is a document, on standard error."""
        say(line, sys.stderr if self.as_json else None)

    def heard(self, line: str) -> None:
        """A line that one of the operator's commands has printed."""
        self.say(f"  {line}")

    def took(self) -> str:
        """How long the steps took that may take long."""
        from .. import show

        return ", ".join(f"{each['step']} {show.duration(each['seconds'])}"
                         for each in self.document["steps"]
                         if each["step"] in ("turn", "fetch", "prepare", "upgrade")
                         and (each["seconds"] or 0) >= 0.1)

    def interrupted(self) -> str:
        """What is true where somebody has told us to end in this step."""
        step = self.document["steps"][-1]["step"] if self.document["steps"] else ""
        if step in ("verify", "prune", "end") and self.document["upgrade"] is not None:
            return (f"interrupted while tidying up: the upgrade to {self.document['release']} is "
                    f"{self.document['upgrade']['outcome']}")
        return "interrupted: what was half here is taken away by the next deploy at the latest"

    def done(self, outcome: str, line: str) -> None:
        """It is over, and all is well."""
        self._over(outcome)
        self.say(line)

    def fail(self, outcome: str, code: int, line: str) -> NoReturn:
        """It is over; leave with this code.

        Raises:
            Exit: always.
        """
        if self.here is not None and self.here.serving is not None:
            self.say(f"release {self.here.serving} serves as before")
        self.document["reason"] = self.document["reason"] or line
        self._over(outcome)
        raise Exit(code, line)

    def _over(self, outcome: str) -> None:
        self.step("")
        self.document["outcome"] = outcome
        if self.here is not None:
            self.document["current"] = releases.current(self.here.root)
        if self.as_json:
            say_json(self.document)
