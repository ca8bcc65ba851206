"""Upgrades from asking to the first plan: the start hook, the preparation;
pause, resume, abort, rollback.

What an upgrade then does is the planner's business. This module waits for nothing; what it
sees, it tells the ledger.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ...shared.protocol import BadRequest, Code
from ..core import facts, worker_environment
from ..core.upgrade import Terms, Upgrade
from ..launch import recipes
from ..launch.prepared import Generations
from ..launch.recognition import Refused
from ..launch.templates import Templates
from ..reporting import generations, hints, report
from ..reporting.events import Entry, Event
from ..settings.table import Settings
from ..system.attributes import Attributes
from ..system.errands import Ended, Errand, Errands
from ..system.ledger import Ledger
from ..system.loop import Loop
from ..system.part import Keep, Part, State
from ..system.processes import Exit, Processes
from . import upgrade_terms
from .fetching import FETCH, Fetching
from .hold_check import HoldCheck
from .hooks import CHECK, START_HOOK, Hooks


class Upgrades(Part):
    """The upgrades of one master. `preparation`: a generation in the making, if one is;
    `preparing`: the number of the one that was last asked for. `status`: makes the status
    document. `replace_master`: asks for that in somebody's name; when it is over, `renewed` is
    called."""

    name = "preparation"
    # What was left out of the environment that we were run in: what is there by these names has
    # been put there anew.
    keeps = {"dropped": Keep(tuple[str, ...], ())}

    def __init__(self, ledger: Ledger, prepared: Generations, processes: Processes, loop: Loop,
                 errands: Errands, hooks: Hooks, settings: Settings, environ: Mapping[str, str],
                 attributes: Attributes, templates: Templates, fetching: Fetching,
                 status: Callable[[], dict[str, Any]]) -> None:
        self._ledger = ledger
        self._prepared = prepared
        errands.resumed_by(self._resume_errand)
        self._processes = processes
        self._loop = loop
        self._errands = errands
        self._hooks = hooks
        self._settings = settings
        self._environ = environ
        self._attributes = attributes
        self._templates = templates
        self._fetching = fetching
        self._dropped: tuple[str, ...] = ()
        self.check = HoldCheck(ledger, errands, hooks, status)
        # What it waits for before its generation is made: the start hook, then the fetch.
        self._asked: Errand | None = None
        # The release that was fetched for it, by the name that it has for good.
        self._resolved: str | None = None
        self._after_replacement = 0
        self._renewed: list[str | None] = []
        self.replace_master: Callable[[str], None] = lambda by: None
        self.preparation: recipes.Preparation | None = None
        self.preparing = 0

    def hand_over(self) -> dict[str, Any]:
        return {"dropped": list(self._settings.drop_env_var)}

    def take_over(self, state: State) -> None:
        self._dropped = state["dropped"]

    @property
    def restored(self) -> dict[str, str]:
        """The environment that an upgrade restores: the one that we were run in, without what is to
        be dropped then."""
        return worker_environment.without(
            self._environ, {*self._settings.drop_env_var}.difference(self._dropped))

    @property
    def deadline(self) -> float | None:
        if self._renewed:
            return 0.0
        return None if self.preparation is None else self.preparation.deadline

    def on_time(self, now: float) -> None:
        while self._renewed:
            self._go_on(self._renewed.pop())
        if self.preparation is not None:
            self.preparation.on_time(now)

    def on_exit(self, exit: Exit) -> bool:
        return self.preparation is not None and self.preparation.on_exit(exit)

    def usual(self, release: str | None = None) -> Terms:
        """The terms of an upgrade of which nothing else was said."""
        return upgrade_terms.usual(self._settings, release=release)

    def next_generation(self) -> int:
        return self._ledger.pool.newest + 1

    def request(self, terms: Terms, requested_by: str, vacant: frozenset[int] = frozenset(), *,
                as_einhorn: bool = False) -> int:
        """Begin an upgrade; return the number of its generation. `as_einhorn`: it is asked for as
        Einhorn's users do, for whom it replaces the master first, where the settings say so.

        Raises:
            BadRequest: the master stops.
        """
        if self._ledger.pool.stopping is not None:
            raise BadRequest(Code.STOPPING, "the master stops: no upgrade begins any more")
        self.stop_preparing()
        self.check.drop()
        self._ledger.observe(facts.UpgradeRequested(terms, requested_by, time.time(), vacant))
        number = self.preparing = self._ledger.pool.newest
        replaces = as_einhorn and (self._settings.einhorn or self._settings.reexec_as is not None)
        self._after_replacement = number if replaces else 0
        upgrade = self._running(number)
        assert upgrade is not None
        self._asked = self._hooks.before_upgrade(upgrade, self._start_hook_ended)
        if self._asked is None:
            self._begin(upgrade)
        return number

    def _begin(self, upgrade: Upgrade) -> None:
        """Nobody has anything against it."""
        if self._after_replacement == upgrade.to_generation:
            self.replace_master(upgrade.requested_by)
        else:
            self._fetch(upgrade)

    def _fetch(self, upgrade: Upgrade) -> None:
        """Get the code that it wants, where that isn't here."""
        self._resolved = None
        self._asked = self._fetching.begin(upgrade, self._fetched)
        if self._asked is None:
            self._prepare()

    def _fetched(self, ended: Ended) -> None:
        self._asked = None
        if self._running(self.preparing) is None:
            return
        if ended.reason is None:
            self._resolved = ended.last_line
            self._prepare()
        else:
            why = ended.last_line or ended.reason
            self._ledger.observe(facts.UpgradeRefused(
                self.preparing, "the release could not be fetched", why, time.time()))

    def renewed(self, refused: str | None) -> None:
        """The master has been replaced, or why it couldn't be: an upgrade that has waited for that
        goes on, or is refused, as soon as it is our turn."""
        self._renewed.append(refused)

    def _go_on(self, refused: str | None) -> None:
        # The next master knows by this that it has waited: it is being prepared, and nobody is at
        # it.
        upgrade, self._after_replacement = self._ledger.pool.running_upgrade, 0
        if (upgrade is None or not upgrade.preparing or self._asked is not None
                or self.preparation is not None):
            return
        self.preparing = upgrade.to_generation
        if refused is None:
            self._fetch(upgrade)
        else:
            self._ledger.observe(
                facts.UpgradeRefused(self.preparing, "the master could not be replaced", refused,
                                     time.time()))

    def _running(self, number: int) -> Upgrade | None:
        """The upgrade to this generation, if it runs and doesn't go back."""
        upgrade = self._ledger.pool.running_upgrade
        if upgrade is None or upgrade.to_generation != number or upgrade.rolling_back:
            return None
        return upgrade

    def _start_hook_ended(self, ended: Ended) -> None:
        """A hook that hangs refuses too: nobody knows what it would have said, and the old code
        serves."""
        self._asked = None
        upgrade = self._running(self.preparing)
        if ended.reason is None and upgrade is not None:
            self._begin(upgrade)
        elif ended.reason is not None:
            self._ledger.observe(
                facts.UpgradeRefused(self.preparing, f"--on-upgrade-start {ended.reason}",
                                     ended.last_line, time.time()))

    def _blueprint(self, terms: Terms) -> recipes.Blueprint:
        if terms.recipe_of is not None:
            known = generations.known(self._ledger.pool)
            return recipes.blueprint_of(known[terms.recipe_of].recipe)
        return recipes.blueprint(self._settings, self.restored,
                                 self._resolved or terms.release)

    def _prepare(self) -> None:
        """Make the generation that was asked for. Whatever goes wrong with that refuses the
        upgrade: else it would never end."""
        with self._refusing(self.preparing):
            self._begin_preparing()

    @contextlib.contextmanager
    def _refusing(self, number: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            upgrade = self._running(number)
            if upgrade is not None and upgrade.preparing:
                self._ledger.observe(
                    facts.UpgradeRefused(number, "the generation cannot be made",
                                         f"{type(error).__name__}: {error}", time.time()))
            raise

    def _begin_preparing(self) -> None:
        number, old = self.preparing, self._prepared.current
        upgrade = self._running(number)
        assert upgrade is not None
        source = upgrade.terms.recipe_of
        if source is not None and source not in generations.known(self._ledger.pool):
            # Known when it was asked for; a start hook takes its time, and others have pushed it
            # out meanwhile.
            self._ledger.observe(
                facts.UpgradeRefused(number, f"generation {source} is not remembered any more",
                                     None, time.time()))
            return

        def done(result: recipes.Prepared | Refused) -> None:
            with self._refusing(number):
                finish(result)

        def finish(result: recipes.Prepared | Refused) -> None:
            self.preparation = None
            if isinstance(result, Refused):
                self._ledger.observe(
                    facts.UpgradeRefused(number, str(result), result.error, time.time()))
                return
            template = result.template
            self._prepared.prepared[number] = replace(result, template=None)
            target = self.target_of(result)
            changed = target is not None and target != self.target_of(old)
            try:
                self._ledger.observe(facts.UpgradePrepared(
                    number, result.recipe, target if changed else None,
                    0 if template is None else template.channel.pid))
            except Exception:
                if template is not None:
                    template.channel.close()  # it leaves by that
                raise
            self._templates.adopt(number, template)
            self._templates.settle(number)
            self._say_what_does_not_count(old, result)

        self._begin_preparation(number, self._blueprint(upgrade.terms), done)

    def prepare_first(self, blueprint: recipes.Blueprint,
                      done: Callable[[recipes.Prepared | Refused], None]) -> None:
        """Make the first generation."""
        self._begin_preparation(1, blueprint, done)

    def _begin_preparation(self, number: int, blueprint: recipes.Blueprint,
                           done: Callable[[recipes.Prepared | Refused], None]) -> None:
        self.preparation = recipes.Preparation(
            self._processes, self._loop, self._settings, number, blueprint, self._attributes,
            self._templates.bundle,
            lambda environment: self._templates.variables(number, environment), done)
        self.preparation.begin(time.monotonic())

    @property
    def busy(self) -> bool:
        """Whether a generation is just being made, or a worker forked: a master that is replaced
        now would leave it half made, since the next one couldn't tell what a template answers."""
        return self.preparation is not None or self._templates.busy

    def _resume_errand(self, errand: Errand) -> Callable[[Ended], None] | None:
        """Take over a start hook, a fetch or a check."""
        upgrade = self._ledger.pool.running_upgrade
        if upgrade is None or errand.cancelled:
            return None
        self.preparing = upgrade.to_generation
        if errand.name == START_HOOK:
            self._asked = errand
            return self._start_hook_ended
        if errand.name == FETCH:
            self._asked, errand.heard = errand, self._fetching.heard
            return self._fetched
        if errand.name == CHECK:
            return self.check.resume(errand)
        return None

    def stop_preparing(self) -> None:
        if self._asked is not None:
            self._errands.cancel(self._asked)
            self._asked = None
        if self.preparation is not None:
            self.preparation.cancel()
            self.preparation = None

    def roll_back(self, to: int | str | None, requested_by: str) -> int:
        """Begin an upgrade to the recipe of a remembered generation; return the number of the new
        one. It is prepared like any other: its directory and gunicorn's settings are looked at
        before anybody is touched.

        Raises:
            BadRequest: the master stops. ValueError: there is no such recipe.
        """
        source = generations.rollback_target(self._ledger.pool, to)
        recipe = generations.known(self._ledger.pool)[source].recipe
        terms = Terms(release=recipe.release, recipe_of=source)
        return self.request(terms, requested_by)

    def request_for_worker(self, number: int, pid: int, release: str | None) -> int:
        """Worker `number`, or somebody else if it is 0, asks for an upgrade: the one under way
        counts, if it will replace that worker; return its generation.

        Raises:
            BadRequest: nobody of ours, or new code that has yet to prove itself, or the upgrade
                goes back.
        """
        worker = self._ledger.pool.workers.get(number)
        if worker is None:
            raise BadRequest(Code.NOT_ALLOWED, f"pid {pid} is not a worker of this master")
        upgrade = self._ledger.pool.running_upgrade
        if upgrade is None:
            return self.request(self.usual(release), f"worker {worker.index} (pid {pid})")
        if upgrade.rolling_back or upgrade.to_generation == worker.generation:
            raise BadRequest(Code.UPGRADING,
                             f"the upgrade to generation {upgrade.to_generation} is not over yet")
        return upgrade.to_generation

    def steerable(self, watched: bool = True) -> int:
        """The generation of the running upgrade, or of one that is watched.

        Raises:
            BadRequest: there is none that could be paused, resumed or aborted.
        """
        upgrade = self._ledger.pool.upgrade
        if upgrade is None or not (upgrade.running or (watched and upgrade.watched)):
            raise BadRequest(Code.NO_UPGRADE, "no upgrade is under way")
        if upgrade.rolling_back:
            raise BadRequest(
                Code.NO_UPGRADE,
                f"the upgrade to generation {upgrade.to_generation} goes back already")
        return upgrade.to_generation

    def pause(self, by: str) -> str:
        number = self.steerable(watched=False)
        self._ledger.observe(facts.Paused(by))
        return f"upgrade to generation {number} paused"

    def resume(self, by: str) -> str:
        number, upgrade = self.steerable(), self._ledger.pool.upgrade
        assert upgrade is not None
        if upgrade.watched:
            self._ledger.observe(facts.Resumed(by))
            return f"generation {number} is watched no more"
        if upgrade.paused_by is None and not upgrade.on_canary:
            raise BadRequest(Code.NOT_PAUSED,
                             f"the upgrade to generation {number} is neither paused nor held")
        self._ledger.observe(facts.Resumed(by))
        return f"upgrade to generation {number} goes on"

    def abort(self, by: str) -> None:
        number, upgrade = self.steerable(), self._ledger.pool.running_upgrade
        self.check.drop()
        if upgrade is not None and upgrade.preparing:
            self.stop_preparing()
            self._ledger.observe(
                facts.UpgradeRefused(number, f"aborted by {by}", None, time.time(), aborted_by=by))
        else:
            self._ledger.observe(facts.AbortRequested(by))

    def history(self) -> list[dict[str, Any]]:
        running = self._ledger.pool.running_upgrade
        upgrades = [*self._ledger.pool.history, *([] if running is None else [running])]
        return [
            report.upgrade_document(self._ledger.pool, upgrade, time.monotonic())
            for upgrade in upgrades]

    def generation(self, number: int, values: bool) -> dict[str, Any]:
        return generations.generation_document(self._ledger.pool, number, values)

    def target_of(self, prepared: recipes.Prepared) -> int | None:
        """How many workers gunicorn's own settings ask for, where they are the ones that count."""
        gunicorn = prepared.gunicorn
        if gunicorn is None or self._settings.given("number") or not gunicorn.given("workers"):
            return None
        return max(1, int(gunicorn.settings["workers"]))

    def _say_what_does_not_count(self, old: recipes.Prepared, new: recipes.Prepared) -> None:
        for entry in hints.about_ignored(new.ignored, old.ignored):
            self._ledger.log(entry)
        if old.gunicorn is None or new.gunicorn is None or self._settings.given("bind"):
            return
        before = recipes.binds_of(old.gunicorn.settings)
        after = recipes.binds_of(new.gunicorn.settings)
        if before != after:
            self._ledger.log(Entry(Event.GUNICORN_SETTING_CANNOT_CHANGE, {
                "setting": "bind", "wanted": " ".join(after), "kept": " ".join(before),
                "reason": "the sockets stay open through an upgrade: restart the master to change "
                          "them"}))

    def close(self) -> None:
        self.stop_preparing()
