"""The check of a canary's hold: the operator's command, whose word refuses the release. What
follows from it is the planner's business."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ..core import facts
from ..core.upgrade import Check
from ..system.errands import Ended, Errand, Errands
from ..system.ledger import Ledger
from .hooks import CHECK, Hooks

# It runs at most as long as the hold, but has at least this long.
SHORTEST_CHECK_TIMEOUT = 60.0
# One environment variable has room for 128 KiB (execve(2), MAX_ARG_STRLEN).
LONGEST_STATUS = 100_000


class HoldCheck:
    """One at a time. `status`: makes the status document."""

    def __init__(self, ledger: Ledger, errands: Errands, hooks: Hooks,
                 status: Callable[[], dict[str, Any]]) -> None:
        self._ledger = ledger
        self._errands = errands
        self._hooks = hooks
        self._status = status
        self._running: Errand | None = None

    def begin(self) -> None:
        """Run the check of the hold that has just begun, unless it ran already."""
        upgrade = self._ledger.pool.running_upgrade
        assert upgrade is not None
        due = upgrade.check is Check.RUNNING and self._running is None
        if not due or upgrade.terms.check is None:
            return
        number, limit = upgrade.to_generation, max(upgrade.terms.hold or 0.0,
                                                   SHORTEST_CHECK_TIMEOUT)
        document = self._status()
        if len(json.dumps(document)) > LONGEST_STATUS:
            document["workers"] = []
        self._running = self._hooks.shell(CHECK, upgrade.terms.check, limit, self._ended, document,
                                          EINHORNPY_STATUS=json.dumps(document),
                                          EINHORNPY_GENERATION=str(number),
                                          EINHORNPY_RELEASE=upgrade.terms.release or "")

    def resume(self, errand: Errand) -> Callable[[Ended], None]:
        """Take over the one that the master before us has begun; return who waits for its end."""
        self._running = errand
        return self._ended

    def _ended(self, ended: Ended) -> None:
        # One that belongs to an upgrade which is over was cancelled, and tells nobody.
        self._running = None
        reason = None if ended.reason is None else f"the check {ended.reason}"
        self._ledger.observe(facts.Checked(reason, ended.last_line if reason else None))

    def drop(self) -> None:
        """Nobody wants to know any more."""
        if self._running is not None:
            self._errands.cancel(self._running)
            self._running = None
