"""A release directory per upgrade, each with its own virtual environment, reached through a link:
until an upgrade, every worker has the code and the packages of the release that it began with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..harness import Master

Start = Callable[..., Master]
# What serves: as a script that says READY=1, and as gunicorn's app.
CODE = """
import json, os, signal, socket, sys
import thing

with open(f"{os.environ['PLACE']}/reports/{os.getpid()}", "w") as file:
    json.dump([CODE, thing.VERSION, sys.flags.no_user_site, os.environ.get("COLOUR")], file)

def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Length", "0")])
    return []

if __name__ == "__main__":
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    signal.pause()
"""
GUNICORN = "from gunicorn.app.wsgiapp import run\nrun()\n"
PATH = {"PATH": f"PLACE/current/venv/bin:PLACE/current/bin:{os.environ['PATH']}"}
# The directory of the workers, and how they are started; PLACE stands for where `current` is.
WAYS: dict[str, tuple[str, str, dict[str, str]]] = {
    "absolute": ("PLACE", "PLACE/current/bin/web", {}),
    "relative": ("PLACE/current", "bin/web", {}),
    "through-a-link-of-its-own": ("/", "PLACE/web", {}),
    "searched": ("/", "by-env", PATH),
    "module": ("PLACE/current", "venv/bin/python -m web", {}),
    "file": ("PLACE", f"{sys.executable} current/web.py", {"PYTHONPATH": "PLACE/current/lib"}),
    "gunicorn": ("PLACE/current", "PLACE/current/venv/bin/gunicorn web:wsgi", {}),
    "gunicorn-relative": ("PLACE/current", "venv/bin/gunicorn web:wsgi", {}),
    "gunicorn-searched": ("PLACE", "gunicorn --chdir PLACE/current web:wsgi", PATH),
    "gunicorn-module": (
        "/", "PLACE/current/venv/bin/python -s -m gunicorn --chdir PLACE/current web:wsgi", {}),
    # The script goes there by itself, and to a script that names its Python by the link.
    "gunicorn-started": ("/", "PLACE/current/bin/start web:wsgi", {}),
    # Nothing but gunicorn's own `chdir` leads through the link, and its packages are there.
    "gunicorn-behind-a-word": ("PLACE", "nice PLACE/current/venv/bin/gunicorn --chdir "
                               "PLACE/current web:wsgi", {}),
    "gunicorn-in-a-script": ("PLACE/current", "PLACE/current/bin/start web:wsgi", {}),
    "gunicorn-configured": (
        "PLACE", f"{sys.executable} -m gunicorn -c PLACE/gunicorn.conf.py web:wsgi", {}),
}


def release(place: Path, name: str) -> None:
    """Make a release."""
    directory = place / "releases" / name
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory / "venv"], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(directory / "venv")}))
    (packages / "thing.py").write_text(f"VERSION = {name!r}\n")
    # Its gunicorn is the one that is installed here.
    (packages / "shared.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (directory / "lib").mkdir()
    (directory / "lib" / "thing.py").write_text(f"VERSION = {name!r}\n")
    for above in (directory, directory / "lib"):
        (above / "web.py").write_text(f"CODE = {name!r}\n{CODE}")
    (directory / "bin").mkdir()
    python = f"#!{place}/current/venv/bin/python -s\n"
    for path, text in [
        (directory / "bin" / "web", f"{python}CODE = {name!r}\n{CODE}"),
        (directory / "bin" / "by-env", f"#!/usr/bin/env python\nCODE = {name!r}\n{CODE}"),
        (directory / "bin" / "start",
         f'#!/bin/sh\ncd {place}/current && PATH=$PWD/venv/bin:$PATH exec gunicorn "$@"\n'),
        (directory / "venv" / "bin" / "gunicorn", python + GUNICORN),
    ]:
        path.write_text(text)
        path.chmod(0o755)


def make_current(place: Path, name: str) -> None:
    os.symlink(f"releases/{name}", place / "next")
    os.replace(place / "next", place / "current")


@pytest.fixture
def site(place: Path) -> Path:
    for name in ("1", "2"):
        release(place, name)
    make_current(place, "1")
    (place / "web").symlink_to("current/bin/web")
    (place / "gunicorn.conf.py").write_text(f"chdir = '{place}/current/lib'\n")
    (place / "reports").mkdir()
    return place


def start_way(start: Start, place: Path, way: str) -> Master:
    directory, command, environment = WAYS[way]
    words = command.replace("PLACE", str(place)).split()
    listening = ["-b", "127.0.0.1:0"] if way.startswith("gunicorn") else ["-m", "notify"]
    environment = {"PLACE": str(place)} | {
        name: value.replace("PLACE", str(place)) for name, value in environment.items()}
    return start("-n", "1", "--seconds", "0.1", *listening, "--chdir",
                 directory.replace("PLACE", str(place)), "--", *words, environment=environment)


def settled(master: Master, generation: int, count: int, *gone: int) -> list[int]:
    """Wait until so many workers of a generation serve, and nobody else; return their pids."""
    def is_settled(status: dict[str, Any]) -> bool:
        return (status["gate"] == "ready" and status["generation"] == generation
                and [each["state"] for each in status["workers"]] == ["ready"] * count
                and not {*gone}.intersection(each["pid"] for each in status["workers"]))

    document = master.wait_status(is_settled, f"{count} workers of generation {generation}")
    return [each["pid"] for each in document["workers"]]


def told(place: Path, pids: list[int]) -> set[tuple[str, str, int, str | None]]:
    """Code and packages of these workers, whether their Python was given -s, and a variable."""
    return {tuple(json.loads((place / "reports" / str(pid)).read_text())) for pid in pids}


def kill_template(master: Master) -> None:
    """Kill the only one, and wait until there is another."""
    (template,) = master.status()["templates"]
    os.kill(template["pid"], signal.SIGKILL)
    master.wait_status(lambda status: [each["state"] for each in status["templates"]] == ["ready"]
                       and status["templates"][0]["pid"] != template["pid"], "another template")


@pytest.mark.parametrize("way", WAYS)
def test_a_release_stays_what_it_was(start: Start, site: Path, way: str) -> None:
    options = int(way not in ("searched", "module", "file", "gunicorn-configured"))
    old, new = ("1", "1", options, None), ("2", "2", options, None)
    master = start_way(start, site, way)
    (first,) = settled(master, 1, 1)
    assert told(site, [first]) == {old}
    make_current(site, "2")
    if way in ("searched", "gunicorn-relative"):
        assert master.cli("reload").returncode == 0, master.log()
    if way in ("gunicorn-module", "gunicorn-started", "gunicorn-behind-a-word",
               "gunicorn-in-a-script"):
        kill_template(master)
    os.kill(first, signal.SIGKILL)
    (second,) = settled(master, 1, 1, first)
    master.ask("scale", to=2)
    assert told(site, [second, *settled(master, 1, 2)]) == {old}, master.log()
    if way in ("absolute", "gunicorn", "gunicorn-configured"):  # it waits for a quiet second
        master.ask("recycle", index=0)
        assert told(site, settled(master, 1, 2, second)) == {old}, master.log()
    master.ask("upgrade")
    assert told(site, settled(master, 2, 2)) == {new}, master.log()
    master.ask("rollback")
    assert told(site, settled(master, 3, 2)) == {old}, master.log()


CONFIGURED = "chdir = '{0}/current'\npythonpath = '{0}/current/lib'\nraw_env = ['COLOUR={1}']\n"


def test_settings_stay_what_was_read(start: Start, site: Path) -> None:
    config = site / "gunicorn.conf.py"
    config.write_text(CONFIGURED.format(site, "red"))
    old, new = ("1", "1", 0, "red"), ("2", "2", 0, "blue")
    master = start_way(start, site, "gunicorn-configured")
    (first,) = settled(master, 1, 1)
    make_current(site, "2")
    config.write_text("nonsense")
    kill_template(master)
    os.kill(first, signal.SIGKILL)
    (second,) = settled(master, 1, 1, first)
    assert told(site, [first, second]) == {old}, master.log()
    config.write_text(CONFIGURED.format(site, "blue"))
    master.ask("upgrade")
    assert told(site, settled(master, 2, 1)) == {new}, master.log()
    config.unlink()
    master.ask("rollback")
    assert told(site, settled(master, 3, 1)) == {old}, master.log()


LOST = "cannot start workers in PLACE/releases/1: No such file or directory"


@pytest.mark.parametrize(("way", "error"), [
    ("absolute", "cannot run PLACE/releases/1/bin/web: command not found"),
    ("relative", "cannot change to the directory PLACE/releases/1: No such file or directory"),
    ("searched", "cannot run PLACE/releases/1/bin/by-env: command not found"),
    ("gunicorn", LOST), ("gunicorn-started", LOST)])
def test_where_a_release_is_gone_one_line_says_so(start: Start, site: Path, way: str,
                                                  error: str) -> None:
    master = start_way(start, site, way)
    settled(master, 1, 1)
    master.ask("scale", to=2)
    other, victim = settled(master, 1, 2)
    recorder = master.record()
    make_current(site, "2")
    shutil.rmtree(site / "releases" / "1")
    os.kill(victim, signal.SIGKILL)
    failed = recorder.wait_for("start-failed", count=2)
    assert failed["error"] == error.replace("PLACE", str(site)), recorder.tail()
    assert [each["pid"] for each in master.status()["workers"] if each["state"] == "ready"] == [
        other]
    master.ask("upgrade")
    pids = settled(master, 2, 2)
    result = master.cli("rollback", "--to", "1")
    assert result.returncode == 5
    assert f"{site}/releases/1" in result.stderr.splitlines()[-1], result.stderr
    assert pids == [each["pid"] for each in master.status()["workers"]]
