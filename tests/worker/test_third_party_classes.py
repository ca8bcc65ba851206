"""Worker classes of somebody else's (tests/apps/third_party.py) run as under gunicorn, and nobody is
lost in an upgrade; or they are refused by name, with what they lack."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from einhornpy.worker.gunicorn_classes import notifies

from ..harness import APPS, Master, get, wait_until
from ..load import Load
from .test_draining import Connection, connect, idle_connections_are_answered

Start = Callable[..., Master]
third_party: Any = import_module("..apps.third_party", __package__)
__all__ = ["connect"]  # a fixture
AIOHTTP = ("aiohttp.GunicornWebWorker", "third_party:aiohttp_app")
TORNADO = ("tornado", "third_party:tornado_app()")
WSGI = "third_party:wsgi"
RUN = {
    "aiohttp": AIOHTTP, "tornado": TORNADO,
    "its own loop and init_process": ("third_party.OwnProcess", WSGI),
    "its own init_signals": ("third_party.OwnSignals", WSGI),
    "no heartbeat": ("third_party.Silent", WSGI),}
FLAGS = {"no heartbeat": ("-m", "1", "--min-ready-seconds", "0")}


@pytest.fixture
def site(place: Path) -> Path:
    shutil.copy(APPS / "third_party.py", place)
    return place


def start_class(start: Start, worker_class: str, app: str, *flags: str) -> Master:
    return start("-n", "1", "-b", "127.0.0.1:0", *flags, "--", "gunicorn", "-k", worker_class, app)


@pytest.mark.parametrize("name", RUN)
def test_it_serves_and_loses_nobody_in_an_upgrade(start: Start, site: Path, name: str) -> None:
    master = start_class(start, *RUN[name], *FLAGS.get(name, ()))
    master.wait_ready()
    slow = "/slow/0.3" if RUN[name][1] == WSGI else "/slow/1.5"  # the one blocks its loop
    with Load(master.address, rate=40, slow=0.05, slow_path=slow, keep_alive=0.5) as load:
        result = master.cli("upgrade")
    assert result.returncode == 0, result.stderr + master.log()
    assert not load.report.failures, load.report.why() + master.log()
    assert {*load.report.bodies} == {"1", "2"}
    assert master.stop() == 0
    assert "worker killed" not in master.log()
    assert "Traceback" not in master.log()


@pytest.mark.parametrize(("worker_class", "app"), [AIOHTTP, TORNADO], ids=["aiohttp", "tornado"])
def test_a_connection_reused_at_the_worst_moment_gets_its_answer(
        start: Start, site: Path, connect: Callable[..., Connection], worker_class: str,
        app: str) -> None:
    master = start("-n", "1", "-b", "127.0.0.1:0", "--", "gunicorn", "--keep-alive", "60", "-k",
                   worker_class, app)
    master.wait_ready()
    idle_connections_are_answered(master, connect)


def test_who_beats_while_the_app_is_imported_is_not_ready(start: Start, site: Path) -> None:
    master = start_class(start, "third_party.Early", WSGI)
    wait_until((site / "notified").exists, "the first heartbeat", master.log)
    assert master.status()["ready"] == 0
    (site / "imported").touch()
    assert master.wait_ready()["ready"] == 1


NEVER = "gunicorn's worker class third_party.Silent never calls notify"
TERM = "does nothing about SIGTERM"
REFUSED = {
    "Silent": (2, NEVER), "LateSilent": (3, "was not ready within 3 s"),
    "WithoutReadyPath": (3, "worker class third_party.WithoutReadyPath has ended without a call"),
    "Deaf": (3, f"worker class third_party.Deaf {TERM}"),
    "Careless": (3, f"worker class third_party.Careless {TERM}"),
    "Choosy": (1, "RuntimeError: it wants threads = 1, and nothing else")}


@pytest.mark.parametrize("name", ["Silent", "LateSilent", "Deaf"])
def test_what_lacks_something_is_refused_at_the_start(start: Start, site: Path, name: str) -> None:
    master = start_class(start, f"third_party.{name}", WSGI, "--max-failures", "1",
                         "--ready-timeout", "3" if name == "LateSilent" else "60")
    code, words = REFUSED[name]
    assert master.wait_exit() == code, master.log()
    assert words in master.log().splitlines()[-1]


def test_what_lacks_something_is_refused_by_an_upgrade(start: Start, site: Path) -> None:
    conf = site / "gunicorn.conf.py"
    conf.write_text("worker_class = 'third_party.Own'\n")
    master = start("-n", "1", "-b", "127.0.0.1:0", "--max-failures", "1", "--", "gunicorn", WSGI)
    pid = master.wait_ready()["workers"][0]["pid"]
    for name, (_, words) in REFUSED.items():
        if name != "LateSilent":  # the clock alone would tell
            conf.write_text(f"worker_class = 'third_party.{name}'\n")
            result = master.cli("upgrade")
            assert result.returncode == 5
            assert words in result.stderr
    assert [worker["pid"] for worker in master.status()["workers"]] == [pid]
    assert get(master.address)[0] == 200


@pytest.mark.parametrize(("name", "told"), [
    ("Own", True), ("OwnProcess", True), ("OwnSignals", True), ("Deaf", True), ("Silent", False),
    ("LateSilent", True), ("Compiled", True), ("Calls", True), ("ByName", True)])
def test_whether_a_class_notifies_is_told_by_its_code(name: str, told: bool) -> None:
    """Where it can't be told, it counts as one that does."""
    assert notifies(getattr(third_party, name)) is told
