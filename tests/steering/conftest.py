"""What several tests of this room start."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ..harness import WORKER, Master


@pytest.fixture
def master(start: Callable[..., Master]) -> Master:
    running = start("-n", "2", "-m", "manual", "-c", "web", "-b", "127.0.0.1:0", "--stop-signal",
                    "TERM", "--", *WORKER, "ack")
    running.wait_ready()
    return running
