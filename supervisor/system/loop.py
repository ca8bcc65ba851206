"""The loop: one selector and one deadline; signals arrive as a set. No thread, no tick.

It knows nothing of workers or commands: it calls back whoever watches a descriptor, and hands out
signals. A descriptor whose callback fails, or that the kernel has no room to watch, is held back
for a while: it would be ready again at once.
"""

from __future__ import annotations

import errno
import os
import resource
import selectors
import signal
import time
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

from .guard import Guard, Hold, named
from .part import Keep, Part, State

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
LONGEST_WAIT = 86400.0


class Loop(Part):
    """A selector with a wake-up descriptor for signals. Handlers are restored by `close`.
    `on_round`: told for how many seconds everybody else had to wait, each time that the loop comes
    back to sleep. `lost`: for how many seconds at a time we should have run and didn't, the most
    since somebody set it to 0. `interrupted`: the longest sleep, in seconds and since then, in
    which we may have stood still: who is stopped or frozen as he sleeps is put to sleep once more
    when that is over, which the kernel counts (getrusage(2), voluntary context switches).
    `listened_at`: when everybody who had something to say was last
    heard, in monotonic seconds."""

    name = "loop"
    # The next master comes to sleep when we would have, if nobody stands still between us.
    keeps = {"awake_since": Keep(float | None)}

    def __init__(self, signals: Iterable[signal.Signals], guard: Guard,
                 on_round: Callable[[float], None] = lambda seconds: None) -> None:
        self._on_round = on_round
        self._guard = guard
        self._held: dict[int, tuple[Hold, int, Callable[[int], None]]] = {}
        self._holds: dict[int, Hold] = {}  # of those that have failed last time
        self._awake_since: float | None = None
        self.lost = self.interrupted = 0.0
        self.listened_at = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._pending: set[signal.Signals] = set()
        self._wakeup, self._wakeup_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wakeup, READ, self._drain)
        # The descriptor wakes the selector even where a signal lands between two instructions just
        # before it sleeps; a flag alone would be seen only at the next event.
        self._old_wakeup = signal.set_wakeup_fd(self._wakeup_end, warn_on_full_buffer=False)
        self._old_handlers = {number: signal.signal(number, self._note) for number in signals}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._pending.add(signal.Signals(number))

    def _drain(self, events: int) -> None:
        try:
            while os.read(self._wakeup, 4096):
                pass
        except BlockingIOError:
            pass

    def hand_over(self) -> dict[str, Any]:
        return {"awake_since": self._awake_since}

    def take_over(self, state: State) -> None:
        self._awake_since = state["awake_since"]

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback(events)` whenever `fd` is ready for any of `events`; a second call changes
        both."""
        self._held.pop(fd, None)
        try:
            if fd in self._selector.get_map():
                self._selector.modify(fd, events, callback)
            else:
                self._selector.register(fd, events, callback)
        except OSError as error:
            if error.errno not in (errno.ENOMEM, errno.ENOSPC):
                raise
            self._hold(fd, events, callback, error)

    def _hold(self, fd: int, events: int, callback: Callable[[int], None],
              error: Exception) -> None:
        hold = self._holds[fd] = Hold.after(self._holds.get(fd))
        self._held[fd] = (hold, events, callback)
        self._guard.failed(named(callback), error)

    def _release(self) -> None:
        now = time.monotonic()
        for fd, (hold, events, callback) in list(self._held.items()):
            if now >= hold.until:
                self.watch(fd, events, callback)

    def unwatch(self, fd: int) -> None:
        """Forget `fd`; nothing happens where it isn't watched."""
        self._held.pop(fd, None)
        self._holds.pop(fd, None)
        try:
            self._selector.unregister(fd)
        except (KeyError, ValueError):
            pass

    def wait(self, timeout: float | None) -> set[signal.Signals]:
        """Sleep until something is ready, a signal comes or `timeout` seconds have passed; call
        back; return the signals that came."""
        if self._pending:
            timeout = 0.0
        if self._held:
            self._release()
            left = [hold.until - time.monotonic() for hold, _, _ in self._held.values()]
            timeout = min(left if timeout is None else [timeout, *left], default=None)
        begun = time.monotonic()
        if self._awake_since is not None:
            self.lost = max(self.lost, begun - self._awake_since)
            self._on_round(begun - self._awake_since)
        switches = _switches()
        # epoll_wait(2) takes milliseconds as a C int; whoever waits longer looks at the clock once
        # a day.
        ready = self._selector.select(None if timeout is
                                      None else min(max(0.0, timeout), LONGEST_WAIT))
        self._awake_since = time.monotonic()
        slept = self._awake_since - begun
        if timeout is not None:
            self.lost = max(self.lost, slept - max(0.0, timeout))
        if _switches() > switches + 1:
            self.interrupted = max(self.interrupted, slept)
        for key, events in ready:
            # An earlier callback of this round may have closed it.
            if self._selector.get_map().get(key.fd) is key:
                self._call(key, events)
        self.listened_at = time.monotonic()
        came, self._pending = self._pending, set()
        return came

    def _call(self, key: selectors.SelectorKey, events: int) -> None:
        try:
            key.data(events)
            self._holds.pop(key.fd, None)
        except Exception as error:
            now = self._selector.get_map().get(key.fd)
            if now is None:  # whoever watched it has dropped it
                self._guard.failed(named(key.data), error)
                return
            hold = self._holds.get(key.fd)
            self.unwatch(key.fd)
            if hold is not None:
                self._holds[key.fd] = hold
            self._hold(key.fd, now.events, now.data, error)

    def pending(self) -> set[signal.Signals]:
        """The signals that have come and that no `wait` has returned yet."""
        return set(self._pending)

    def close(self) -> None:
        """Restore the signal handlers and close the descriptors."""
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(self._old_wakeup)
        self._selector.close()
        os.close(self._wakeup)
        os.close(self._wakeup_end)


def _switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
