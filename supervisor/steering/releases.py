"""What becomes of releases on the disk: which ones were proven, which refused, and to which one
`current` leads. It follows facts; deploys do the rest (control/deploy/).

`current` is what a start runs, so it leads to the release that serves, from the moment on at which
that is proven: not while an upgrade to it runs, and back again where it goes back later.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from ...shared import reach, releases
from ...shared.gate import Gate
from ...shared.releases import State
from ..core import bookkeeping, facts
from ..core.causes import Refusal
from ..core.generation import Generation
from ..core.pool import Pool
from ..core.upgrade import Outcome, Upgrade
from ..launch.release_directories import names_release, running_release
from ..reporting import generations, report
from ..reporting.events import Entry, Event
from ..settings.table import Settings
from ..system.attributes import Attributes
from ..system.ledger import Ledger

LONGEST_REASON = 2000  # of what a record says


class Releases:
    """`attributes`: of the workers, as whose user an operator's commands are run. `config`: the
    file that says where releases are, as one would type it."""

    def __init__(self, ledger: Ledger, settings: Settings, attributes: Attributes,
                 config: str) -> None:
        self._ledger = ledger
        self._settings = settings
        self._config = config
        self._attributes = attributes.of_user_alone()
        self._run = names_release(settings.command, settings.chdir)
        # None: what runs here is of no release.
        self._root = settings.releases_root if self._run else None

    def observe(self, before: Pool, fact: facts.Event, after: Pool, now: float) -> None:
        """Record what a fact has proven or refused."""
        root = self._root
        if root is None:
            return
        ended, serving = bookkeeping.just_ended(before, after), after.generations[after.current]
        if ended is not None and ended.outcome is not Outcome.SUPERSEDED:
            if ended.outcome is Outcome.ROLLED_BACK:
                self._refused(root, ended, after)
            self._serves(root, serving, ended)
        elif ended is None and after.running_upgrade is None and serving.proven:
            old = before.generations.get(serving.number)
            if old is None or not old.proven:
                self._serves(root, serving, None)

    def _serves(self, root: str, serving: Generation, upgrade: Upgrade | None) -> None:
        name = running_release(serving.recipe, self._settings)
        if name is None or not serving.proven:
            return
        record = releases.read(root, name)
        by = "the first start" if upgrade is None else upgrade.requested_by
        # One that an upgrade has gone back to was proven before, by somebody else.
        if record is None or record.state is not State.PROVEN or (
                upgrade is not None and upgrade.outcome is Outcome.DONE):
            self._note(root, name, State.PROVEN, by)
        old = releases.current(root)
        if old == name:
            return
        told = {"link": f"{root}/{releases.CURRENT}", "release": name, "before": old}
        try:
            releases.link(root, name)
        except OSError as error:
            self._ledger.log(Entry(Event.CURRENT_NOT_MOVED, told | {"reason": reach.why(error)}))
        else:
            self._ledger.log(Entry(Event.CURRENT_MOVED, told))

    def _refused(self, root: str, upgrade: Upgrade, pool: Pool) -> None:
        generation = generations.find(pool, upgrade.to_generation)
        name = (upgrade.terms.release if generation is None else
                running_release(generation.recipe, self._settings))
        if name is None or not releases.is_there(root, name):
            return
        record = releases.read(root, name)
        if (upgrade.cause is Refusal.NOT_PREPARED and record is not None
                and record.state is State.PROVEN):
            return  # it was not even tried: what has proven it counts still
        why = ": ".join(text for text in (upgrade.reason, upgrade.error) if text)[:LONGEST_REASON]
        self._note(root, name, State.REFUSED, upgrade.requested_by, why)

    def _note(self, root: str, name: str, state: State, by: str, why: str | None = None) -> None:
        try:
            releases.note(root, name, state, by, time.time(), reason=why)
        except OSError as error:
            if state is State.REFUSED:  # better nothing is known than that it was proven once
                with contextlib.suppress(OSError):
                    releases.forget(root, name)
            self._ledger.log(Entry(Event.RELEASE_NOT_RECORDED, {
                "release": name, "state": state, "reason": reach.why(error)}))

    def way_out(self) -> str | None:
        """What to do where the release that a start runs can't be started any more."""
        root = self._root
        if root is None or self._barred() is not None:
            return None
        found = releases.before(releases.known(root), {releases.current(root)})
        return None if found is None else (
            f"einhornpy deploy --rollback --config {self._config} goes back to release {found}, "
            "which was proven here")

    def is_missing(self, release: str | None) -> bool:
        """Whether a release has to be fetched before there can be a generation of it, or its name
        to be resolved."""
        root = self._root
        if root is None or release is None or self._settings.releases_fetch is None:
            return False
        if not releases.is_name(release):
            return self._settings.releases_resolve is not None
        return not releases.is_complete(root, release)

    def document(self) -> dict[str, Any]:
        """What a deploy has to know."""
        settings, pool = self._settings, self._ledger.pool
        upgrade = pool.running_upgrade
        names = {number: running_release(each.recipe, settings)
                 for number, each in pool.generations.items()}
        live = {*names.values(), None if upgrade is None else upgrade.terms.release}
        running = {names[each.generation] for each in pool.workers.values() if each.convincing}
        user = self._attributes
        return {
            "root": settings.releases_root, "run": self._run, "barred": self._barred(),
            "fetch": settings.releases_fetch, "prepare": settings.releases_prepare,
            "resolve": settings.releases_resolve, "timeout": settings.releases_timeout,
            "keep": settings.releases_keep, "live": sorted(each for each in live if each),
            "serving": names[pool.current], "running": sorted(each for each in running if each),
            "ready": report.gate(pool)[0] is Gate.READY,
            "under_way": None if upgrade is None else (
                report.release_of(pool, upgrade) or f"generation {upgrade.to_generation}"),
            "user": {
                "uid": os.geteuid() if user.uid is None else user.uid,
                "gid": os.getegid() if user.gid is None else user.gid,
                "groups": list(os.getgroups() if user.groups is None else user.groups)}}

    def _barred(self) -> str | None:
        """Why we could not record anything, nor move `current`."""
        root = self._settings.releases_root
        for each in () if root is None else (root, releases.directory(root)):
            if not os.path.isdir(each):
                return f"there is no directory {each}"
            if not os.access(each, os.W_OK | os.X_OK, effective_ids=True):
                return f"{reach.we()} may not write in {each}"
        link = f"{root}/{releases.CURRENT}"
        return f"{link} is no link" if os.path.exists(link) and not os.path.islink(link) else None
