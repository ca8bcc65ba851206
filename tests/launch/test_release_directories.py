"""Generations whose directory is that of their release, in ROOT/releases/NAME: which one a start, an
upgrade and a rollback mean."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from einhornpy.supervisor.launch.recognition import Refused
from einhornpy.supervisor.launch.release_directories import placed

from ..harness import Master, get

Start = Callable[..., Master]
APP = """
def wsgi(environ, start_response):
    body = b"NAME"
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
HERE = ("{root}/releases/{release}/bin/web", "--name={release}")


@pytest.fixture
def root(place: Path) -> Path:
    """Two releases, of which `current` leads to the first."""
    for name in ("r1", "r2"):
        (place / "releases" / name).mkdir(parents=True)
        (place / "releases" / name / "app.py").write_text(APP.replace("NAME", name))
    (place / "current").symlink_to("releases/r1")
    return place


def test_a_release_is_its_directory(root: Path) -> None:
    releases = f"{root}/releases"
    assert placed(str(root), HERE, "{root}/releases/{release}", "r2") == (
        (f"{releases}/r2/bin/web", "--name=r2"), f"{releases}/r2", "r2")
    assert placed(str(root), HERE, "/srv", None) == (
        (f"{releases}/r1/bin/web", "--name=r1"), "/srv", "r1")
    # Where nothing names the release it is a label, as ever.
    assert placed(str(root), ("web",), "/srv", "a label") == (("web",), "/srv", "a label")
    assert placed(str(root), ("{root}/web",), "/srv", None) == ((f"{root}/web",), "/srv", None)


@pytest.mark.parametrize(("release", "why"), [
    ("none", "no release 'none' in ROOT/releases"),
    ("../r1", "no release '../r1': expected the name of a directory in ROOT/releases"),
    (".r1", "no release '.r1': expected the name of a directory in ROOT/releases"),
    ("file", "no release 'file' in ROOT/releases")])
def test_what_is_no_release_is_refused(root: Path, release: str, why: str) -> None:
    (root / "releases" / "file").touch()
    with pytest.raises(Refused) as raised:
        placed(str(root), HERE, "/", release)
    assert str(raised.value) == why.replace("ROOT", str(root))


@pytest.mark.parametrize(("target", "why"), [
    (None, "No such file or directory"), ("current", "Too many levels of symbolic links"),
    ("releases/gone", "No such file or directory"),
    ("/", "got /, expected a directory in ROOT/releases"),
    ("releases/.partial", "")])
def test_a_current_that_leads_nowhere_is_refused(root: Path, target: str | None, why: str) -> None:
    (root / "releases" / ".partial").mkdir()
    (root / "current").unlink()
    if target is not None:
        (root / "current").symlink_to(target)
    with pytest.raises(Refused, match=r"ROOT|release") as raised:
        placed(str(root), HERE, "/", None)
    assert why.replace("ROOT", str(root)) in str(raised.value)


def answer(master: Master) -> str:
    status, body = get(master.address)
    assert status == 200
    return body.strip()


def test_a_start_means_current_and_an_upgrade_its_release(start: Start, root: Path) -> None:
    (root / "shop.toml").write_text(f"[releases]\nroot = '{root}'\n")
    master = start("--config", str(root / "shop.toml"), "-n", "1", "-b", "127.0.0.1:0", "--",
                   "gunicorn", "-k", "gthread", "app:wsgi")
    master.wait_ready()
    document = master.status()
    assert (document["release"], answer(master)) == ("r1", "r1")
    assert master.cli("upgrade", "--release", "r2").returncode == 0
    assert (master.status()["release"], answer(master)) == ("r2", "r2")
    assert os.readlink(root / "current") == "releases/r2"  # it is proven: a start would run it too
    assert master.cli("rollback").returncode == 0
    assert os.readlink(root / "current") == "releases/r1"
    assert (master.status()["release"], answer(master)) == ("r1", "r1")
    refused = master.cli("upgrade", "--release", "none")
    assert refused.returncode == 5
    assert f"no release 'none' in {root}/releases" in refused.stderr
    # Without a name, what `current` leads to by then is meant.
    (root / "next").symlink_to("releases/r2")
    (root / "next").rename(root / "current")
    assert master.cli("upgrade").returncode == 0
    assert (master.status()["release"], answer(master)) == ("r2", "r2")


def test_the_program_may_lie_in_the_release(start: Start, root: Path) -> None:
    for name in ("r1", "r2"):
        web = root / "releases" / name / "web"
        web.write_text("#!/bin/sh\nexec sleep 1000\n")
        web.chmod(0o755)
    master = start("--releases-root", str(root), "-n", "1", "-m", "0.1", "--min-ready-seconds",
                   "0", "--chdir", "/", "--", "{root}/releases/{release}/web")
    master.wait_ready()
    assert master.cli("upgrade", "--release", "r2").returncode == 0
    shutil.rmtree(root / "releases" / "r1")
    (worker,) = master.status()["workers"]
    assert os.readlink(f"/proc/{worker['pid']}/cwd") == "/"
    assert f"{root}/releases/r2/web" in master.cli("show", "2", "--json").stdout


def test_a_first_start_without_a_release_says_what_is_missing(start: Start, root: Path) -> None:
    (root / "current").unlink()
    master = start("--releases-root", str(root), "--", "gunicorn", "app:wsgi")
    assert master.process.wait(60) == 1
    assert f"cannot start the release that {root}/current leads to: No such file" in master.log()


def test_a_release_in_chdir_needs_a_root(start: Start, place: Path) -> None:
    master = start("--chdir", "releases/{release}", "--", "gunicorn", "app:wsgi")
    assert master.process.wait(60) == 2
    assert "expected --releases-root, where the releases are, too" in master.log()
