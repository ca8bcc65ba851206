"""Promises 1 and 2 under load: no request fails because of an upgrade, and ready workers never fall
below N.

A short form of each runs in `make test`; `make soak` runs the long one, with crashes and a
third-party app.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from ..airbag import check, kill_one, scale_up_and_down, upgrades_under_load
from ..harness import EXAMPLE, Master
from ..load import Load

Start = Callable[..., Master]
CLASSES = {
    "sync": ["-k", "sync", "app:wsgi"],
    "gthread": ["-k", "gthread", "--threads", "4", "app:wsgi"],
    "gevent": ["-k", "gevent", "app:wsgi"],
    "asgi": ["-k", "asgi", "asgi_app:asgi"],
    "uvicorn": ["-k", "uvicorn_worker.UvicornWorker", "asgi_app:asgi"],
}


def start_example(start: Start, arguments: list[str], number: int, import_seconds: str) -> Master:
    master = start("-n", str(number), "-b", "127.0.0.1:0", "--chdir", str(EXAMPLE), "--",
                   "gunicorn", "--log-level", "warning", *arguments,
                   environment={"IMPORT_SECONDS": import_seconds})
    master.wait_ready()
    return master


@pytest.mark.parametrize("worker_class", CLASSES)
def test_upgrades_and_scaling_lose_no_request(start: Start, worker_class: str) -> None:
    master = start_example(start, CLASSES[worker_class], 3, "0.1")
    recorder = master.record()
    with Load(master.address, 60) as load:
        upgrades_under_load(master, 2)
        scale_up_and_down(master, 3)
    report = load.report
    assert not report.failures, f"{len(report.failures)} of {report.sent} failed\n{report.why()}\n{master.log()}"
    assert report.sent == report.ok + len(report.failures)
    # asgi, gthread and uvicorn keep connections alive; sync and gevent's StreamServer may close
    # them.
    assert report.reused > 0 or worker_class == "sync"
    assert {"r0", "r1"} <= report.bodies.keys()
    # Scaled from 3 to 5 and back, the most is 5 and the surge.
    check(recorder, 3, surge=3)


@pytest.mark.parametrize("broken", ["import", "unhealthy", "hang"])
def test_a_bad_release_loses_no_request(start: Start, place: Path, broken: str) -> None:
    app = place / "app.py"
    good = (EXAMPLE / "app.py").read_text()
    app.write_text(good)
    master = start("-n", "2", "-b", "127.0.0.1:0", "--max-failures", "1", "--warm-up", "/health",
                   "--ready-timeout", "5", "--", "gunicorn", *CLASSES["gthread"])
    master.wait_ready()
    recorder = master.record()
    with Load(master.address, 60) as load:
        app.write_text(f'import os\nos.environ["BROKEN"] = "{broken}"\n{good}')
        assert master.cli("upgrade", "--release", "bad").returncode == 5
        assert master.cli("status").returncode == 5
        app.write_text(good)
        assert master.cli("upgrade", "--release", "good").returncode == 0
        assert master.cli("status", "--release", "good").returncode == 0
    assert not load.report.failures, load.report.why()
    assert "bad" not in load.report.bodies
    check(recorder, 2)


@pytest.mark.soak
def test_a_thousand_workers(start: Start) -> None:
    master = start("-q", "-n", "1000", "--max-surge", "50", "-m", "0.2", "--min-ready-seconds", "0",
                   "--ready-timeout", "300", "--", "sleep", "100000")
    master.wait_ready()
    recorder = master.record()
    assert master.cli("upgrade").returncode == 0
    check(recorder, 1000, surge=50)
    assert master.stop() == 0


@pytest.mark.soak
@pytest.mark.parametrize("worker_class", CLASSES)
def test_soak_of_the_example_app(start: Start, worker_class: str) -> None:
    master = start_example(start, CLASSES[worker_class], 4, "1")
    recorder = master.record()
    with Load(master.address, 100) as load:
        upgrades_under_load(master, 20)
        check(recorder, 4)
        scale_up_and_down(master, 4)
    report = load.report
    print(
        f"\nexample app, {worker_class}: 20 upgrades, {report.sent} requests ({report.reused} on "
        "reused connections), "
        f"{len(report.failures)} failed, longest time without an answer {report.longest_gap():.3f} "
        "s"
    )
    assert not report.failures, f"{len(report.failures)} of {report.sent}\n{report.why()}"


@pytest.mark.soak
@pytest.mark.parametrize("worker_class", ["sync", "gthread", "asgi"])
def test_soak_with_crashes(start: Start, worker_class: str) -> None:
    master = start_example(start, CLASSES[worker_class], 4, "1")
    recorder = master.record()
    dice = random.Random(7)
    excused = []
    with Load(master.address, 100) as load:
        for _ in range(5):
            excused.append(kill_one(master, recorder, dice))
            upgrades_under_load(master, 1)
    report = load.report
    lost = [
        failure for failure in report.failures
        if not any(since <= failure.at <= until for since, until in excused)]
    print(
        f"\ncrashes, {worker_class}: 5 kills, 5 upgrades, {report.sent} requests, "
        f"{len(report.failures)} in the hands of "
        f"a killed worker, {len(lost)} others failed")
    assert not lost, f"{lost}\n{report.why()}"
    # A worker has at most its own connections in its hands.
    assert len(report.failures) <= 5 * 16


@pytest.mark.soak
@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_soak_of_a_third_party_app(start: Start, place: Path, worker_class: str) -> None:
    threads = ["--threads", "4"] if worker_class == "gthread" else []
    master = start("-n", "4", "-b", "127.0.0.1:0", "--", "gunicorn", "-k", worker_class, *threads,
                   "httpbin:app")
    master.wait_ready()
    recorder = master.record()
    with Load(master.address, 60, path="/uuid", slow_path="/delay/0.3") as load:
        upgrades_under_load(master, 20)
        check(recorder, 4)
        scale_up_and_down(master, 4)
    report = load.report
    print(
        f"\nhttpbin, {worker_class}: 20 upgrades, {report.sent} requests ({report.reused} on "
        "reused connections), "
        f"{len(report.failures)} failed")
    assert not report.failures, f"{len(report.failures)} of {report.sent}\n{report.why()}"
