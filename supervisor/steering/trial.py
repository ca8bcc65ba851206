"""A next master's first second: until it is over there is a way back to the one before, which
stage.py takes if this one fails.

Whoever is on trial passes on every exception and tidies nothing up: the one before needs it all,
and goes on from what is true by then. Nor does it tell anybody that it has taken over, since it may
not have. After that second no exception ends a master (guard.py).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..system import plain_data

SECONDS = 1.0


class Trial:
    """`fd`: the state that we took over from, and the way back as long as it is open. `until`: in
    monotonic seconds, None before it has begun. `whole`: makes the state as it is by now; None as
    long as not everything is taken over."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.until: float | None = None
        self.whole: Callable[[], Mapping[str, Any]] | None = None

    def begin(self) -> None:
        """Everything is taken over: the second counts from now."""
        self.until = time.monotonic() + SECONDS

    def failed(self, signals: Callable[[], Iterable[signal.Signals]]) -> None:
        """Leave to the one before what is true by now, as far as that can still be told, and the
        signals that have come."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        for number in signals():
            os.kill(os.getpid(), number)
        if self.whole is None:
            return  # it goes on from what we took over
        with contextlib.suppress(Exception):  # so it does then
            newer = plain_data.sealed(self.whole())
            os.dup2(newer, self._fd, inheritable=False)
            os.close(newer)

    def passed(self) -> None:
        """There is no way back any more."""
        os.close(self._fd)
