"""The master's listening sockets while workers share them: one that a worker shuts down for everybody listens again at once.

It opens none for the first time (listeners.py), and blames nobody (observe.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from . import journal, listeners
from . import pool as facts
from .journal import Entry
from .listeners import Listener
from .loop import WRITE, Loop


class Host(Protocol):
    """What this module needs of the master."""

    pool: facts.Pool

    def observe(self, event: facts.Event) -> None: ...
    def log(self, entry: Entry) -> None: ...


class Listening:
    """`all`: the sockets in the order of their descriptors; one that had to be made anew takes the place of the old one."""

    def __init__(self, host: Host, loop: Loop, opened: Iterable[Listener] = ()) -> None:
        self._host = host
        self._loop = loop
        self.all = list(opened)
        for position in range(len(self.all)):
            self._watch(position)

    def _watch(self, position: int) -> None:
        # A listening socket is never writable; it becomes so when somebody who shares it has shut it down.
        self._loop.watch(self.all[position].socket.fileno(), WRITE, self._looking_at(position))

    def _looking_at(self, position: int) -> Callable[[int], None]:
        def look(events: int) -> None:
            self._mend(position)

        return look

    def mend(self) -> bool:
        """Listen again wherever somebody has shut a socket down; return whether it was so anywhere."""
        mended = [self._mend(position) for position in range(len(self.all))]
        return any(mended)

    def _mend(self, position: int) -> bool:
        listener = self.all[position]
        if not listeners.is_shut(listener):
            return False
        self._loop.unwatch(listener.socket.fileno())
        name = listener.name
        try:
            self.all[position] = listeners.listen_again(listener)
        except (listeners.CannotListen, OSError) as error:
            self._host.log(Entry("listener lost", {"address": name, "reason": str(error), "so": "restart the master"},
                                 journal.ATTENTION))
            return False
        self._watch(position)
        self._host.observe(facts.ListenerShut(name))
        if self.all[position] is not listener:
            for worker in self._host.pool.workers.values():
                self._host.observe(facts.Due(worker.id, f"has the old socket of {name}, which was shut down"))
        return True

    def close(self) -> None:
        listeners.close_all(self.all)
