"""The master's listening sockets while workers share them: one that a worker shuts down for
everybody listens again at once, so does one whose file somebody has swept away, and one to which
nobody can connect any more is told of.

It opens none for the first time (listeners.py), and blames nobody (observe.py).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

from ...shared.frozen import dataclass
from ..core import facts
from ..system.ledger import Ledger
from ..system.loop import WRITE, Loop
from ..system.part import Keep, Kept, Part, State
from ..system.plain_data import to_plain
from . import listeners
from .addresses import Address
from .listener import Listener, is_shut, path_of

# A socket that can't be listened on again is tried again after so many seconds.
AGAIN = 1.0
# A file that somebody removes again and again is not made more often, in seconds: all workers are
# replaced for it.
CALM = 10.0


@dataclass(frozen=True, slots=True)
class KeptListener(Kept):
    """A listening socket as plain data."""

    fd: int
    address: Address
    made: tuple[int, int] | None
    label: str = ""

    def descriptors(self) -> Iterable[int]:
        return [self.fd]

    def listener(self) -> Listener:
        return Listener(self.address, socket.socket(fileno=self.fd), self.made, self.label)


def plain_listener(listener: Listener) -> dict[str, Any]:
    """The opposite: what `KeptListener` is made of."""
    return {
        "fd": listener.socket.fileno(), "address": to_plain(listener.address),
        "made": listener.made, "label": listener.label}


class Listening(Part):
    """`all`: the sockets in the order of their descriptors; one that had to be made anew takes the
    place of the old one."""

    name = "listening"
    keeps = {"listeners": Keep(tuple[KeptListener, ...], (), needed=True)}
    deadline: float | None = None

    def __init__(self, ledger: Ledger, loop: Loop) -> None:
        self._ledger = ledger
        self._loop = loop
        self.all: list[Listener] = []
        self._files: list[os.stat_result | None] = []
        self._lost: dict[int, str] = {}  # by position: the address
        self._swept_at: dict[int, float] = {}  # by position: when its file was last made again

    def begin(self, opened: Iterable[Listener]) -> None:
        """Look after these from now on."""
        self.all += opened
        self._files = [_file(each) for each in self.all]
        for position in range(len(self.all)):
            self._watch(position)

    def files(self) -> list[str]:
        """The files of UNIX sockets, by which clients come."""
        return [path for path in map(path_of, self.all) if path is not None]

    def hand_over(self) -> dict[str, Any]:
        return {"listeners": [plain_listener(each) for each in self.all]}

    def take_over(self, state: State) -> None:
        kept: tuple[KeptListener, ...] = state["listeners"]
        self.begin(each.listener() for each in kept)

    def _watch(self, position: int) -> None:
        # A listening socket is never writable; it becomes so when somebody who shares it has shut
        # it down.
        self._loop.watch(self.all[position].socket.fileno(), WRITE,
                         lambda events: self.on_time(time.monotonic()))

    def on_time(self, now: float) -> None:
        """Look after all of them."""
        self.mend()
        self.deadline = now + AGAIN if self._lost else None

    def mend(self) -> bool:
        """Listen again wherever somebody has shut a socket down, unless we stop; return whether it
        was so anywhere."""
        if self._ledger.pool.stopping is not None:
            return False
        mended = [self._mend(position) for position in range(len(self.all))]
        return any(mended)

    def _mend(self, position: int) -> bool:
        listener = self.all[position]
        name = listener.name
        if is_shut(listener):
            # Whoever did it was told of when it was lost.
            blamed = position not in self._lost
            return self._listen_again(
                position, lambda anew: facts.ListenerShut(name, anew=anew, blamed=blamed))
        if not self._is_swept(position, listener):
            return False
        made_again = self._listen_again(position, lambda anew: facts.ListenerSwept(name))
        if made_again:
            self._swept_at[position] = time.monotonic()
        return made_again

    def _listen_again(self, position: int, fact: Callable[[bool], facts.Event]) -> bool:
        """Do so, and observe the fact of it, which is told whether it is a new socket; return
        whether it went well."""
        listener = self.all[position]
        self._loop.unwatch(listener.socket.fileno())
        try:
            self.all[position] = listeners.listen_again(listener, self._files[position])
        except (listeners.CannotListen, OSError) as error:
            self._lose(position, str(error))
            return False
        self._files[position] = _file(self.all[position])
        self._find(position)
        self._watch(position)
        self._ledger.observe(fact(self.all[position] is not listener))
        return True

    def _is_swept(self, position: int, listener: Listener) -> bool:
        """Clients come by the file of a UNIX socket: is it still there, and this socket's? Return
        whether it is gone and ours to make again."""
        before, now = self._files[position], _file(listener)
        if before is None:
            return False
        if now is not None and os.path.samestat(now, before):
            self._files[position] = now  # with the owner and mode that somebody may have given it
            self._find(position)
            return False
        again_at = self._swept_at.get(position, -CALM) + CALM
        upgrade = self._ledger.pool.running_upgrade
        # Nobody would be replaced now, and clients would wait for nobody.
        stands = upgrade is not None and (upgrade.paused_by is not None or upgrade.on_canary)
        if now is None and listener.made is not None and not stands and (
                time.monotonic() >= again_at):
            return True
        self._lose(position,
                   "its file is gone" if now is None else "its file is another one by now")
        return False

    def _lose(self, position: int, why: str) -> None:
        if position not in self._lost:
            self._lost[position] = self.all[position].name
            self._ledger.observe(facts.ListenerLost(self._lost[position], why))

    def _find(self, position: int) -> None:
        if position in self._lost:
            self._ledger.observe(facts.ListenerLost(self._lost.pop(position), None))

    def close(self) -> None:
        listeners.close_all(self.all)


def _file(listener: Listener) -> os.stat_result | None:
    path = path_of(listener)
    try:
        return None if path is None else os.lstat(path)
    except OSError:
        return None
