"""The chaos that the promises are tested with: one master under load, and everything that operators
do to it."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass

from .harness import Master, Recorder, wait_until
from .load import Report


@dataclass
class Figures:
    """What a run under load showed."""

    upgrades: int
    report: Report
    least_ready: int
    most_live: int


def upgrades_under_load(master: Master, count: int) -> None:
    """Upgrade `count` times, one after the other."""
    for number in range(count):
        result = master.cli("upgrade", "--release", f"r{number}")
        assert result.returncode == 0, result.stdout + result.stderr + master.log()


def scale_up_and_down(master: Master, target: int) -> None:
    """Two workers more, and back, waiting for each to be reached."""
    for wanted in (target + 2, target):
        assert master.cli("scale", str(wanted)).returncode == 0
        master.wait_status(lambda each, wanted=wanted: each["ready"] == len(each["workers"]) ==
                           wanted)  # type: ignore[misc]


def kill_one(master: Master, recorder: Recorder, dice: random.Random) -> tuple[float, float]:
    """`kill -9` a settled worker; return the time in which its own requests may fail: from long
    enough before for the slowest request to have begun, until it is known to be gone."""
    document = wait_until(
        lambda: (each := master.status()) and min(worker["age_seconds"]
                                                  for worker in each["workers"]) > 2 and each,
        "settled workers")
    pid = dice.choice(document["workers"])["pid"]
    before = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    recorder.wait_for("worker-died", pid=pid)
    after = time.monotonic()
    master.wait_ready()
    return before - 1.0, after + 0.1


def check(recorder: Recorder, target: int, surge: int = 1) -> tuple[int, int]:
    """The least ready and the most live workers that anybody who follows the events has seen."""
    least, most = min(event["ready"]
                      for event in recorder.events), max(event["live"] for event in recorder.events)
    assert least >= target, f"the airbag failed: {least} ready\n{recorder.tail()}"
    assert most <= target + surge, f"{most} live\n{recorder.tail()}"
    return least, most
