"""Upgrades in a storm: one after the other without a pause, under a load of which half comes on
fresh connections. Workers are asked to leave so often that windows of some microseconds are met.

`make soak` runs 1,000 upgrades a class, on several hosts (masters) at the same time, since most of
an upgrade is waiting for kept-alive connections to end. STORM_UPGRADES and STORM_HOSTS ask for
other numbers. tests/worker/test_accepting.py has the windows that were found, each by itself.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ..airbag import check
from ..harness import EXAMPLE, Master
from ..load import Load
from .test_no_lost_request import CLASSES

Start = Callable[..., Master]
WRAPPED = {
    "worker.asgi under uvicorn": [
        "uvicorn", "--fd", "3", "--timeout-keep-alive", "2", "--log-level", "warning",
        "einhornpy.worker.asgi:app"], "worker.asgi under hypercorn": [
            "hypercorn", "-w", "0", "--bind", "fd://3", "--backlog", "2048", "--keep-alive", "2",
            "einhornpy.worker.asgi:app"],}
COMMANDS = {
    name: ["gunicorn", "--log-level", "warning", *arguments]
    for name, arguments in CLASSES.items()} | WRAPPED
HOSTS = int(os.environ.get("STORM_HOSTS", "6"))
UPGRADES = int(os.environ.get("STORM_UPGRADES", "1000"))


def start_host(start: Start, directory: Path, name: str) -> Master:
    directory.mkdir()
    flags = ["-m", "notify"] if name in WRAPPED else []
    return start(
        "-n", "2", "--max-surge", "2", "-b", "127.0.0.1:0", "--chdir", str(EXAMPLE), *flags, "--",
        *COMMANDS[name], directory=directory,
        environment={"EINHORNPY_ASGI_APP": "asgi_app:asgi", "EINHORNPY_ASGI_KEEP_ALIVE": "2"})


def upgrade_again_and_again(master: Master, numbers: itertools.count[int], name: str) -> int:
    """Upgrade while there are numbers below UPGRADES; return how often."""
    began = time.monotonic()
    for done, number in enumerate(numbers):
        if number >= UPGRADES:
            return done
        result = master.ask("upgrade", wait=True)["result"]
        assert result["outcome"] == "done", f"{result}\n{master.log()}"
        if number % 50 == 49:
            print(f"{name}: {number + 1} upgrades after {time.monotonic() - began:.0f} s",
                  file=sys.stderr, flush=True)
    raise AssertionError("a count has no end")


@pytest.mark.soak
@pytest.mark.parametrize("name", COMMANDS)
def test_a_storm_of_upgrades_loses_no_request(start: Start, place: Path, name: str) -> None:
    masters = [start_host(start, place / str(number), name) for number in range(HOSTS)]
    for master in masters:
        master.wait_ready()
    recorders = [master.record() for master in masters]
    # A sync worker has one connection at a time, until its client has closed it: on a busy machine
    # more is an overload.
    rate = 30 if name == "sync" else 150
    loads = [
        Load(master.address, rate, slow=0, seed=number) for number, master in enumerate(masters)]
    numbers = itertools.count()
    with contextlib.ExitStack() as running, ThreadPoolExecutor(HOSTS) as threads:
        for load in loads:
            running.enter_context(load)
        upgrades = sum(
            threads.map(lambda master: upgrade_again_and_again(master, numbers, name), masters))
    reports = [load.report for load in loads]
    failed = sum(len(report.failures) for report in reports)
    print(
        f"\nstorm, {name}: {upgrades} upgrades, {sum(report.sent for report in reports)} requests "
        f"({sum(report.reused for report in reports)} on reused connections), {failed} failed, "
        "longest time without an answer "
        f"{max(report.longest_gap() for report in reports):.3f} s")
    assert upgrades == UPGRADES
    assert not failed, "\n".join(report.why() for report in reports if report.failures)
    for recorder in recorders:
        check(recorder, 2, surge=2)
