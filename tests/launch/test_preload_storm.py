"""Upgrades under load of an app that is preloaded: templates are killed and stopped at every step,
and some releases raise or hang at import, start a thread or open a socket. No request fails, and
ready workers never fall below N."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ..airbag import check
from ..harness import EXAMPLE, Master
from ..load import Load
from ..whole.test_no_lost_request import CLASSES

Start = Callable[..., Master]
# What a release does when it is imported.
RELEASES = {
    "good": "",
    "raises": "raise RuntimeError('no such table')",
    "hangs": "import threading; threading.Event().wait()",
    "starts a thread": "import threading\n"
                       "threading.Thread(target=threading.Event().wait, daemon=True).start()",
    "opens a socket": "import socket\n"
                      "listener = socket.create_server(('127.0.0.1', 0))\n"
                      "connected = socket.create_connection(listener.getsockname())",
}
STEPS = ("generation-prepared", "template-ready", "worker-starting", "worker-ready",
         "worker-retiring", "worker-gone", "upgrade-ended")
MODES = {"sync": "warn", "gthread": "strict", "gevent": "auto", "asgi": "strict", "uvicorn": "auto"}


def expected(release: str, mode: str) -> str:
    refused = release in ("raises", "hangs") or (
        mode == "strict" and release in ("starts a thread", "opens a socket"))
    return "rolled-back" if refused else "done"


def torment(master: Master, place: Path, upgrades: int, mode: str) -> dict[str, int]:
    """Upgrade so often, and at another step each time kill or stop a template; return how often
    each release was tried."""
    recorder = master.record()
    tried = dict.fromkeys(RELEASES, 0)
    for number in range(upgrades):
        # Every other one is good, since whoever follows a refused one is to find what was there.
        release = [*RELEASES][number // 2 % len(RELEASES)] if number % 2 else "good"
        tried[release] += 1
        (place / "release.py").write_text(RELEASES[release])
        step = STEPS[number % len(STEPS)]
        seen = sum(event["event"] == step for event in recorder.events)
        most = 1 if release == "hangs" else 5
        master.ask("upgrade", max_failures=most, wait=False)
        generation = master.status()["newest_generation"]
        if expected(release, mode) == "done" or step == "generation-prepared":
            recorder.wait_for(step, seen + 1)
        victims = [each["pid"] for each in master.status()["templates"] if each["pid"]]
        if victims:
            force = signal.SIGSTOP if number // len(STEPS) % 2 else signal.SIGKILL
            with contextlib.suppress(ProcessLookupError):  # it was just leaving
                os.kill(victims[number // 2 % len(victims)], force)
        outcome = recorder.wait_for("upgrade-ended", generation=generation)["outcome"]
        assert outcome == expected(release, mode), f"{release}, {step}\n{master.log()}"
    return tried


def storm(start: Start, place: Path, name: str, upgrades: int) -> None:
    mode = MODES[name]
    for file in EXAMPLE.glob("*.py"):
        shutil.copy(file, place)
    (place / "release.py").write_text("")
    for module in ("app", "asgi_app"):
        whole = (place / f"{module}.py").read_text()
        (place / f"{module}.py").write_text(
            whole.replace("\nimport ", "\nimport release\nimport ", 1))
    master = start("-n", "2", "-b", "127.0.0.1:0", "--ready-timeout", "4", "-s", "0.1",
                   f"--preload={mode}", "--", "gunicorn", "--keep-alive", "1", "--log-level",
                   "warning", *CLASSES[name])
    master.wait_ready()
    recorder = master.record()
    with Load(master.address, 30 if name == "sync" else 60) as load:
        tried = torment(master, place, upgrades, mode)
    assert not load.report.failures, load.report.why() + master.log()
    check(recorder, 2)
    died = sum(event["event"] == "template-died" for event in recorder.events)
    print(f"\n{name}, --preload={mode}: {upgrades} upgrades ({tried}), {load.report.sent} "
          f"requests, {len(load.report.failures)} failed, templates died {died} times")


@pytest.mark.soak
@pytest.mark.parametrize("name", CLASSES)
def test_fifty_upgrades(start: Start, place: Path, name: str) -> None:
    storm(start, place, name, 50)


def test_upgrades_in_a_storm(start: Start, place: Path) -> None:
    storm(start, place, "gthread", 6)
