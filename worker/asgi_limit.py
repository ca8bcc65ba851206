"""Takes over from uvicorn and hypercorn the number of requests after which they leave by
themselves: the master is asked for a replacement, and the worker serves until that is ready.

Where a server keeps its limit is known here alone: in the configuration of whatever calls the app's
lifespan. What isn't there is left alone. Plain standard library from Python 3.9 on.
"""

import random
import sys
from typing import Any, Callable, Optional


class Limit:
    """One worker's. `most`: after so many requests `reached` is called with a sentence, until it
    returns True; None: never."""

    def __init__(self, reached: Callable[[str], bool]) -> None:
        self.reached = reached
        self.most: Optional[int] = None
        self.served = 0

    def served_one(self) -> None:
        self.served += 1
        if self.most is not None and self.served >= self.most and self.reached(
                "served %d requests" % self.served):
            self.most = None

    def take_over(self, config: Any) -> None:
        """Called with the server's configuration."""
        for name, leave_it in (("limit_max_requests", forget), ("max_requests", keep_on)):
            most = getattr(config, name, None)
            if isinstance(most, int):
                # Each somewhat later than the others, as with einhornpy's own limits.
                jitter = getattr(config, name + "_jitter", 0) or most // 10
                self.most = most + random.randint(0, jitter)
                leave_it(config)


def forget(config: Any) -> None:
    """uvicorn looks at its configuration after the startup."""
    config.limit_max_requests = None


def keep_on(config: Any) -> None:
    """hypercorn has read its own by now, and counts."""
    for name in ("asyncio", "trio"):
        module = sys.modules.get("hypercorn.%s.worker_context" % name)
        if module is not None:
            module.WorkerContext.mark_request = mark_nothing


async def mark_nothing(context: Any) -> None:
    pass
