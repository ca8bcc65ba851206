"""What a judged canary keeps from users: releases that start well, and then fail, are slow, leak or
are only cold, under load, rolled out with the judge and without.

A Django app under gthread and a FastAPI app under uvicorn's worker, four workers each, a catalogue
in SQLite, 100 requests a second. What a request saw stands in its answer. Both ways run at the same
time, and are watched equally long from when the upgrade was asked for: without a judge the bad code
stays until somebody notices.

    python -m bench.releases [--hold 240] [--app django] [--release fine]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import STDOUT, Popen

from tests.load import Load, Report

from .release_apps import ITEMS
from .servers import BIN, ROOT, Server, free_port, stop, wait_serving

RELEASES = {
    "failing": "fails 5 % of the requests", "slow": "a query a row more",
    "leaking": "100 KiB a request", "cold": "slow for 50 requests a worker", "fine": "fine"}
APPS = {"django": ["-k", "gthread", "--threads", "4", "release_apps.django_app:app"],
        "fastapi": ["-k", "uvicorn_worker.UvicornWorker", "release_apps.fastapi_app:app"]}
JUDGED = ["--canary", "1", "--hold-at-least", "45", "--judge", "--watch", "10min", "--hold"]
WARM = 30.0


@dataclass
class Row:
    """`ended`: seconds after which the command knew; `saw`: requests that the new code answered, or
    that failed; `failed`: those of them."""

    app: str
    like: str
    judged: bool
    said: str
    ended: float
    saw: int
    failed: int
    sent: int


@contextlib.contextmanager
def serving(app: str, old: str) -> Iterator[Server]:
    """A master with the release before, all of whose releases have directories of their own behind
    `current`. `old`: what the release before is like."""
    place = Path(tempfile.mkdtemp(prefix="bench", dir="/tmp"))
    for release, like in (("old", old), *zip(RELEASES, RELEASES, strict=True)):
        apps = place / release / "release_apps"
        shutil.copytree(ROOT / "bench" / "release_apps", apps)
        (apps / "like").write_text(f"{release} {like}")
    with sqlite3.connect(place / "catalogue.db") as database:
        database.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price INTEGER)")
        database.executemany("INSERT INTO item VALUES (?, ?, ?)",
                             ((each, f"item {each}", each * 7 % 1000) for each in range(ITEMS)))
    (place / "current").symlink_to("old")
    port = free_port()
    environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "XDG_RUNTIME_DIR": str(place),
                   "HOME": str(place)}
    with open(place / "log", "wb") as log:
        process = Popen(["einhornpy", "-n", "4", "-b", f"127.0.0.1:{port}", "--chdir", "current",
                         "--", "gunicorn", *APPS[app]], cwd=place, env=environment, stdout=log,
                        stderr=STDOUT, start_new_session=True)
    try:
        server = Server(app, process, ("127.0.0.1", port), place, True, environment)
        wait_serving(server, 0.0)
        yield server
    finally:
        stop(process)
        shutil.rmtree(place, ignore_errors=True)


def rolled_out(app: str, like: str, judged: bool, hold: float) -> Row:
    """One release under load, watched until half a minute after a judged canary's hold."""
    # What makes a worker cold is nothing new: the code before was as cold when it was started.
    with serving(app, "cold" if like == "cold" else "fine") as server:
        with Load(server.address, 100, slow=0.0) as load:
            time.sleep(WARM)
            (server.directory / "next").symlink_to(like)
            (server.directory / "next").rename(server.directory / "current")
            began = time.monotonic()
            ended = server.einhornpy("upgrade", "--release", like,
                                     *([*JUDGED, str(hold)] if judged else ["--no-judge"]))
            if ended.returncode not in (0, 5):
                raise RuntimeError(ended.stderr)
            took = time.monotonic() - began
            time.sleep(max(0.0, hold + 30.0 - took))
            upgrade = json.loads(server.einhornpy("status", "--json").stdout)["upgrade"]
        return row(app, like, judged, upgrade, took, load.report)


def row(app: str, like: str, judged: bool, upgrade: dict[str, object], ended: float,
        report: Report) -> Row:
    failed = len(report.failures)
    said = f"{upgrade['outcome']}"
    if judged:
        verdict = upgrade["verdict"]
        assert isinstance(verdict, dict)
        said += f": {verdict['reason']}"
    return Row(app, like, judged, said, ended, report.bodies.get(like, 0) + failed, failed,
               report.sent)


def line(one: Row) -> str:
    return (f"| {one.app} | {RELEASES[one.like]} | {'yes' if one.judged else 'no'} | {one.said} | "
            f"{one.ended:.0f} s | {one.saw:,} | {one.failed} |")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--hold", type=float, default=240.0)
    asked.add_argument("--app", choices=APPS, action="append")
    asked.add_argument("--release", choices=RELEASES, action="append")
    options = asked.parse_args()
    print("| app | release | judged | outcome | after | requests that saw the new code "
          "| of them failed |\n| --- | --- | --- | --- | ---: | ---: | ---: |", flush=True)
    for app in options.app or APPS:
        for like in options.release or RELEASES:
            with ThreadPoolExecutor() as both:
                roll_out = partial(rolled_out, app, like, hold=options.hold)
                for one in both.map(roll_out, (True, False)):
                    print(line(one), flush=True)


if __name__ == "__main__":
    main()
