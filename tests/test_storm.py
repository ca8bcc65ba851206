"""Upgrades in a storm: one after the other without a pause, under load, half of it on fresh connections. Each worker is asked
to leave while connections come in, so that windows of a few microseconds are met sooner or later.

`make soak` runs 1,000 upgrades a class; STORM_UPGRADES asks for another number, STORM_HOSTS for more or fewer at the same time.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .airbag import check
from .harness import EXAMPLE, Master
from .load import Load
from .test_no_lost_request import CLASSES

Start = Callable[..., Master]
WRAPPED = {
    "worker.asgi under uvicorn": ["uvicorn", "--fd", "3", "--timeout-keep-alive", "2", "--log-level", "warning",
                                  "einhornpy.worker.asgi:app"],
    "worker.asgi under hypercorn": ["hypercorn", "-w", "0", "--bind", "fd://3", "--backlog", "2048", "--keep-alive", "2",
                                    "einhornpy.worker.asgi:app"],
}
COMMANDS = {
    **{name: ["gunicorn", "--log-level", "warning", *arguments] for name, arguments in CLASSES.items()},
    **WRAPPED,
}
# Most of an upgrade is waiting for kept-alive connections to end: others use the cores meanwhile.
HOSTS = int(os.environ.get("STORM_HOSTS", "4"))
UPGRADES = int(os.environ.get("STORM_UPGRADES", "1000"))


def start_host(start: Start, directory: Path, name: str) -> Master:
    directory.mkdir()
    flags = ["-m", "notify"] if name in WRAPPED else []
    return start("-n", "2", "--max-surge", "2", "-b", "127.0.0.1:0", "--chdir", str(EXAMPLE), *flags, "--", *COMMANDS[name],
                 directory=directory, environment={"EINHORNPY_ASGI_APP": "asgi_app:asgi", "EINHORNPY_ASGI_KEEP_ALIVE": "2"})


@pytest.mark.soak
@pytest.mark.parametrize("name", COMMANDS)
def test_a_storm_of_upgrades_loses_no_request(start: Start, place: Path, name: str) -> None:
    masters = [start_host(start, place / str(number), name) for number in range(HOSTS)]
    recorders = []
    for master in masters:
        master.wait_ready()
        recorders.append(master.record())
    numbers = itertools.count()
    done: list[str] = []
    began = time.monotonic()

    def upgrade_again_and_again(master: Master) -> None:
        while (number := next(numbers)) < UPGRADES:
            done.append(master.ask("upgrade", wait=True)["result"]["outcome"])
            if number % 50 == 49:
                print(f"{name}: {number + 1} upgrades after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    loads = [Load(master.address, 150, slow=0, reuse_within=0.9, seed=number) for number, master in enumerate(masters)]
    threads = [threading.Thread(target=upgrade_again_and_again, args=(master,)) for master in masters]
    for load in loads:
        load.__enter__()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for load in loads:
        load.__exit__(None, None, None)
    reports = [load.report for load in loads]
    failures = [failure for report in reports for failure in report.failures]
    print(f"\nstorm, {name}: {len(done)} upgrades, {sum(report.sent for report in reports)} requests "
          f"({sum(report.reused for report in reports)} on reused connections), {len(failures)} failed, "
          f"{time.monotonic() - began:.0f} s")
    assert set(done) == {"done"}
    assert not failures, "\n".join(report.why() for report in reports)
    for recorder in recorders:
        check(recorder, 2, surge=2)
