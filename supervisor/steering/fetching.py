"""A release that an upgrade wants and that isn't here yet: the operator's commands fetch and
prepare it, in a process of ours (control/deploy), before its generation is made."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping

from ..core import worker_environment
from ..core.upgrade import Upgrade
from ..places.runtime_directory import RuntimeDirectory
from ..reporting.events import Entry, Event
from ..settings.table import Settings
from ..system.errands import Ended, Errand, Errands
from ..system.ledger import Ledger
from ..system.own_code import OwnCode
from .releases import Releases

# What the errand is called. It has time for both commands, and for a turn of somebody else's.
FETCH, COMMANDS = "fetch", 4
# Of what it prints, so many lines are logged.
MOST_LINES = 200


class Fetching:
    """`environ`: ours."""

    def __init__(self, ledger: Ledger, errands: Errands, settings: Settings,
                 environ: Mapping[str, str], releases: Releases, place: RuntimeDirectory,
                 own_code: OwnCode) -> None:
        self._ledger = ledger
        self._errands = errands
        self._settings = settings
        self._environ = worker_environment.inherited(environ)
        self._releases = releases
        self._place = place
        self._own_code = own_code
        self._lines = 0

    def begin(self, upgrade: Upgrade, done: Callable[[Ended], None]) -> Errand | None:
        """Fetch the release of an upgrade; None where that isn't needed, or can't be done here."""
        release = upgrade.terms.release
        if upgrade.terms.recipe_of is not None or not self._releases.is_missing(release):
            return None
        told = self._releases.document() | {
            "release": release, "by": upgrade.requested_by, "socket": self._place.path}
        launch = self._own_code.launch("control.deploy", [], self._environ, (), signal.SIGKILL)
        self._lines = 0
        self._ledger.log(Entry(Event.RELEASE_FETCHING, {"release": release}))
        return self._errands.send(Errand(
            FETCH, launch, COMMANDS * self._settings.releases_timeout, done, json.dumps(told),
            grace=0.0, urgent=True, heard=self.heard))

    def heard(self, line: str) -> None:
        """Log what it prints, as far as somebody may want to read it."""
        self._lines += 1
        if self._lines <= MOST_LINES:
            self._ledger.log(Entry(Event.RELEASE_FETCH_SAYS, {"line": line}))
