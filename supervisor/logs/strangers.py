"""What is told of those whom nobody need believe: a few lines of each user, then how many more
there were. So nobody fills the log, and none of it takes the place of an event that is remembered.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..reporting.events import Entry, Event, Seconds

# So many lines of one user in so many seconds, of so many users; all others share the lines of one
# more.
MOST_LINES, WINDOW, MOST_USERS = 5, 60.0, 16


@dataclass(slots=True)
class _Window:
    ends: float
    told: int = 0
    left_out: int = 0


class Strangers:
    """`log`: takes what is told."""

    def __init__(self, log: Callable[[Entry], None]) -> None:
        self._log = log
        self._windows: dict[int | None, _Window] = {}

    @property
    def deadline(self) -> float | None:
        """When `on_time` is due."""
        return min((window.ends for window in self._windows.values()), default=None)

    def tell(self, uid: int, event: Event, fields: dict[str, Any]) -> None:
        """Log this of a user, or count it."""
        user = uid if uid in self._windows or len(self._windows) < MOST_USERS else None
        window = self._windows.setdefault(user, _Window(time.monotonic() + WINDOW))
        if window.told < MOST_LINES:
            window.told += 1
            self._log(Entry(event, {"from_user": uid, **fields}))
        else:
            window.left_out += 1

    def on_time(self, now: float) -> None:
        """Say how much was left out, where the time is over in which it counts."""
        for user, window in [each for each in self._windows.items() if each[1].ends <= now]:
            del self._windows[user]
            if window.left_out:
                fields = {
                    "from_user": "others" if user is None else user, "count": window.left_out,
                    "in": Seconds(WINDOW, "g")}
                self._log(Entry(Event.STRANGERS_WORDS_LEFT_OUT, fields))
