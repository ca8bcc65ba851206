"""The master's own places while it lives: what somebody has swept away is made again, with the same
names, and told of once.

It knows of a removal at once where the kernel tells of changes to a directory (watched.py), and
otherwise whenever the master has something to do. So do those who look after other files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from ..core import facts
from ..core.pool import State
from ..reporting.events import Entry, Event
from ..sockets.listeners import CannotListen
from ..system.ledger import Ledger
from ..system.part import Part
from .notify_socket import NotifySocket
from .pidfile import NoPidfile, Pidfile
from .runtime_directory import NoRuntimeDirectory, RuntimeDirectory
from .watched import Watched

# Directories in which others come and go all the time wake us after so many seconds at the
# earliest, and ever more rarely, until it is as often as we look where the kernel doesn't tell.
CALM = 1.0
# Whoever removes a directory fails if there is something new in it: he has so long to finish, in
# seconds.
SWEEP = 0.25
# How often what can't be made is tried again, and how often is looked where the kernel doesn't
# tell, in seconds.
AGAIN, UNTOLD = 1.0, 30.0


class Places(Part):
    """`heard_by_path`: the workers of whom we hear by path alone. `others`: files that somebody
    else looks after. `stirred`: whether the kernel has told of a change in this turn."""

    name = "places"
    deadline: float | None = None

    def __init__(self, ledger: Ledger, place: RuntimeDirectory, notify: NotifySocket,
                 pidfile: Pidfile, heard_by_path: Callable[[], list[int]],
                 others: Callable[[], Iterable[str]], stirred: Callable[[], bool]) -> None:
        self._ledger = ledger
        self._place = place
        self._notify = notify
        self._pidfile = pidfile
        self._heard_by_path = heard_by_path
        self._others = others
        self._stirred = stirred
        self._watched = Watched()
        self._watched_at = 0.0
        self._calm = CALM
        self._since: float | None = None  # when the loss was seen
        self._failed: str | None = None

    def on_time(self, now: float) -> None:
        """Look after all of them. Whoever starts says only once that he is ready, so he is not kept
        waiting."""
        self.look(now, hurry=any(worker.state is State.STARTING
                                 for worker in self._ledger.pool.workers.values()))

    def look(self, now: float, hurry: bool) -> None:
        """See whether they are there; make them again where they aren't, `hurry`: at once."""
        if not self._place.path:
            return
        if self._stirred():
            busy = now < self._watched_at + 2 * self._calm
            self._calm = min(2 * self._calm, UNTOLD) if busy else CALM
            self.deadline = now + self._calm
        elif not self._watched.paths or (self.deadline is not None and now >= self.deadline):
            self._watch(now)  # where they are changes only when they are made again, below
        lost = self._lost()
        if not lost:
            self._since = None
            return
        if self._notify.path in lost:
            for worker in self._heard_by_path():
                self._ledger.observe(facts.Unheard(worker))
        if self._since is None:
            self._since = now
        if now < self._since + SWEEP and not hurry:
            self.deadline = self._since + SWEEP
            return
        self._restore(lost, now)

    def _restore(self, lost: list[str], now: float) -> None:
        try:
            self._place.make_again()
            if self._notify.lost or self._notify.path not in ("", self._place.notify_path):
                self._notify.open(self._place.notify_path)
            if self._pidfile.lost() is not None:
                self._pidfile.make_again()
        except (NoRuntimeDirectory, NoPidfile, CannotListen, OSError) as error:
            self.deadline = now + AGAIN
            if str(error) != self._failed:
                self._failed = str(error)
                self._ledger.log(Entry(Event.PLACES_LOST, {
                    "files": " ".join(lost), "reason": str(error), "so": "it is tried again"}))
            return
        self._failed = self._since = None
        self._watch(now)
        self.deadline = now + CALM  # do they stay? a directory may be unmounted after it is swept
        self._ledger.log(Entry(Event.PLACES_MADE_AGAIN, {
            "files": " ".join(lost), "socket": self._place.path}))

    def _lost(self) -> list[str]:
        lost = self._place.lost()
        lost += [self._notify.path] if self._notify.lost else []
        return lost + [path for path in [self._pidfile.lost()] if path is not None]

    def _directories(self) -> frozenset[str]:
        # The directory above ours too: what is told of one isn't told of by itself.
        files = [self._place.path, os.path.dirname(self._place.path), self._pidfile.path,
                 *self._others()]
        return frozenset(os.path.dirname(os.path.abspath(path)) for path in files if path)

    def _watch(self, now: float) -> None:
        """Let the kernel tell of the next change to a directory of ours."""
        self._watched.watch(self._directories())
        self._watched_at = now
        self.deadline = None if self._watched.all_told else now + UNTOLD

    def close(self) -> None:
        self._watched.close()
