"""The tally: what is counted, on a real master; it outlives a reload."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from ..harness import APPS, BREAKABLE, EXAMPLE, Master, get, wait_until

WORKER = [sys.executable, str(APPS / "worker.py"), "notify"]


def test_what_happens_is_counted_once(start: Callable[..., Master]) -> None:
    master = start("-n", "2", "-m", "notify", "--max-failures", "1", "--", *WORKER)
    first = master.wait_ready()["workers"]
    recorder = master.record()
    assert master.ask("tally")["result"]["ready_seconds"]["counts"] != [0] * 12
    assert master.cli("upgrade").returncode == 0
    master.cli("recycle", "0")
    recorder.wait_for("worker-gone", 3)
    master.wait_ready()
    master.cli("scale", "3")
    recorder.wait_for("worker-ready", 4)
    master.cli("scale", "2")
    recorder.wait_for("worker-gone", 4)
    crashed = master.status()["workers"][1]["pid"]
    os.kill(crashed, signal.SIGKILL)
    recorder.wait_for("worker-ready", 5)
    master.cli("reload")
    tally = master.ask("tally")["result"]
    assert {reason: count for reason, count in tally["exits"].items() if count} == {
        "upgrade": 2, "asked": 1, "scaled": 1, "died": 1}
    assert tally["upgrades"] == {"done": 1, "rolled-back": 0, "aborted": 0, "superseded": 0}
    assert sum(tally["upgrade_seconds"]["counts"]) == 1
    assert sum(tally["ready_seconds"]["counts"]) == len(first) + 5
    assert sum(tally["lag_seconds"]["counts"]) > 0
    assert tally["master"]["memory_bytes"] > 1 << 20
    assert tally["master"]["reloads"] == 1


def test_requests_of_workers_that_are_gone_still_count(start: Callable[..., Master]) -> None:
    master = start("-n", "1", "-b", "127.0.0.1:0", "--chdir", str(EXAMPLE), "--", "gunicorn",
                   "app:wsgi", environment={"BROKEN": "unhealthy"})
    master.wait_ready()

    def wait_for(requests: int) -> list[dict[str, Any]]:
        """The traffic by generation, as soon as so many requests are counted in both places."""
        def found() -> list[dict[str, Any]] | None:
            tally = master.ask("tally")["result"]
            generations: list[dict[str, Any]] = tally["traffic"]["generations"]
            there = tally["requests"], sum(each["requests"] for each in generations)
            return generations if there == (requests, requests) else None
        counted: list[dict[str, Any]] = wait_until(found, f"{requests} requests", master.log)
        return counted

    for _ in range(4):
        assert get(master.address)[0] == 200
    assert get(master.address, "/health")[0] == 500
    wait_for(5)
    assert master.cli("upgrade").returncode == 0
    assert get(master.address)[0] == 200
    old, new = wait_for(6)
    (worker,) = master.status()["workers"]
    assert worker["traffic"]["since_start"]["requests"] == 1, "the living one's own"
    assert (old["generation"], new["generation"]) == (1, 2)
    assert (old["responses"]["2xx"], old["responses"]["5xx"], old["failed"]) == (4, 1, 1)
    assert sum(old["latencies"]) == 5
    assert old["bytes_out"] > 0
    assert master.cli("reload").returncode == 0
    assert wait_for(6) == [old, new], "none is lost, and none is counted twice"


def test_a_refused_release_is_counted(start: Callable[..., Master]) -> None:
    master = start("-n", "1", "-m", "notify", "--max-failures", "1", "--", *BREAKABLE)
    master.wait_ready()
    (master.directory / "broken").touch()
    assert master.cli("upgrade").returncode == 5
    tally = master.ask("tally")["result"]
    assert tally["upgrades"]["rolled-back"] == 1
    assert tally["exits"]["failed-start"] == 1
