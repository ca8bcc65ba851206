"""Where a worker says nothing: is it ready? What a guess can check is checked here, and told as
facts.

Looks: who accepts connections (probes.py), whether gunicorn's own arbiter runs in a worker, whether
it serves by a socket of its own (rivals.py).
What follows from the answers is the planner's business.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..core import facts
from ..core.pool import State
from ..core.upgrade import Accepting
from ..sockets import rivals
from ..sockets.listener import Listener
from ..sockets.probes import Probes
from ..system import part
from ..system.ledger import Ledger
from ..system.processes import command_line, tree
from .recognition import WHAT_TO_TYPE, find_arbiter

# When only workers are left whose readiness is a guess, somebody must accept a connection within so
# many seconds.
ACCEPT_SECONDS = 10.0
# A worker is looked at for this part of its ready timeout; then it is said why it will not be
# ready.
PART_OF_READY_TIMEOUT = 0.95
TAKE_DESCRIPTOR = ("let it serve descriptor 3, which is that socket (uvicorn --fd 3; see "
                   "docs/servers.md)")


class Guesses(part.Part):
    """`listeners`: where somebody must accept."""

    name = "guesses"

    def __init__(self, ledger: Ledger, listeners: Sequence[Listener]) -> None:
        self._ledger = ledger
        self._listeners = listeners
        self._probes = Probes(listeners)

    @property
    def deadline(self) -> float | None:
        """When `on_time` is due."""
        return self._probes.deadline

    def on_time(self, now: float) -> None:
        self._probes.on_time(now)

    def on_suspended(self, now: float, seconds: float | None) -> None:
        self._probes.on_suspended(now)

    def close(self) -> None:
        self._probes.close()

    def take_over(self, state: part.State) -> None:
        """Ask again what the master before us was asking."""
        for worker in self._ledger.pool.workers.values():
            if worker.state is State.STARTING and worker.assumed_at is not None:
                self._ask_for(worker.id)
        upgrade = self._ledger.pool.running_upgrade
        if upgrade is not None and upgrade.accepting is Accepting.ASKED:
            self._ask_for_upgrade(upgrade.to_generation)

    def assume(self, worker: int) -> None:
        """It has lived for long enough: it is ready as soon as somebody accepts."""
        self._ledger.observe(facts.Assumed(worker))
        self._ask_for(worker)

    def trust(self, worker: int) -> None:
        """The guess has stood."""
        if not self.is_unfit(worker):
            self._ledger.observe(facts.Stood(worker))

    def check_accepting(self) -> None:
        """Only guessed workers are left: an upgrade is done only if somebody accepts."""
        upgrade = self._ledger.pool.running_upgrade
        assert upgrade is not None
        self._ledger.observe(facts.AcceptingAsked())
        self._ask_for_upgrade(upgrade.to_generation)

    def is_unfit(self, worker: int) -> bool:
        """Look whether a worker runs gunicorn's own arbiter, or serves by a socket of its own: then
        nothing that is said or guessed of it counts."""
        pid = self._ledger.pool.workers[worker].pid
        if find_arbiter(tree(pid), command_line) is not None:
            self.found_arbiter(worker)
            return True
        name = rivals.beside(tree(pid), self._listeners)
        if name is not None:
            self._found_rival(worker, f"it listens on {name} by a socket of its own")
        return name is not None

    def found_arbiter(self, worker: int) -> None:
        reason = ("gunicorn's own arbiter runs in it, and calls itself ready before it has "
                  f"imported the app: {WHAT_TO_TYPE}")
        self._ledger.observe(facts.FoundUnfit(worker, reason))

    def on_failed_start(self, worker: int, lines: Sequence[str]) -> None:
        """A worker has died before it was ready; `lines`: the end of its standard error."""
        pool = self._ledger.pool
        words = pool.generations[pool.workers[worker].generation].recipe.command
        name = rivals.complained_of(lines, words, [each.name for each in self._listeners])
        if name is not None:
            self._found_rival(worker, f"it tried to bind {name} itself, which the master holds")

    def _found_rival(self, worker: int, what: str) -> None:
        self._ledger.observe(facts.FoundUnfit(worker, f"{what}: {TAKE_DESCRIPTOR}"))

    def _ask_for(self, worker: int) -> None:
        def answered(silent: str | None) -> None:
            asked = self._ledger.pool.workers.get(worker)
            if asked is None or asked.state is not State.STARTING or self.is_unfit(worker):
                return
            if silent is None:
                self._ledger.observe(facts.SaidReady(worker, guessed=True))
            else:
                self._ledger.observe(
                    facts.SaidFailed(worker, f"nobody accepts connections on {silent}"))

        spawned_at = self._ledger.pool.workers[worker].spawned_at
        until = spawned_at + self._ledger.pool.policy.ready_timeout * PART_OF_READY_TIMEOUT
        self._probes.ask(until, answered, time.monotonic())

    def _ask_for_upgrade(self, generation: int) -> None:
        def answered(silent: str | None) -> None:
            asked = self._ledger.pool.running_upgrade
            if (asked is not None and asked.to_generation == generation
                    and asked.accepting is Accepting.ASKED):
                reason = None if silent is None else f"nobody accepts connections on {silent}"
                self._ledger.observe(facts.AcceptingChecked(reason))

        now = time.monotonic()
        until = now + min(ACCEPT_SECONDS, self._ledger.pool.policy.ready_timeout)
        self._probes.ask(until, answered, now)
