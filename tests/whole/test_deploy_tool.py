"""The example deploy tool over two masters, which stand for two hosts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ..harness import EXAMPLE, ROOT, Master, base_environment
from ..load import Load

Start = Callable[..., Master]
FAILING = """
import itertools

number = {}

def wsgi(environ, start_response):
    if number() % 3 == 1:
        raise RuntimeError("a request fails")
    start_response("200 OK", [("Content-Length", "3")])
    return [b"hi\\n"]
"""
TOOL = str(ROOT / "examples" / "deploy_tool" / "deploy.py")


def deploy(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TOOL, "--timeout", "60", *arguments],
                          env=base_environment(place), cwd=place, capture_output=True, text=True,
                          timeout=120, check=False)


@pytest.fixture
def hosts(start: Start, place: Path) -> list[Master]:
    """Two masters, each with a directory and an app of its own."""
    masters = []
    for name in ("one", "two"):
        directory = place / name
        directory.mkdir()
        shutil.copy(EXAMPLE / "app.py", directory / "app.py")
        masters.append(
            start("-n", "2", "-b", "127.0.0.1:0", "--max-failures", "2", "--", "gunicorn",
                  "app:wsgi", directory=directory))
    for master in masters:
        master.wait_ready()
    return masters


def test_a_good_release_reaches_both_in_order(hosts: list[Master], place: Path) -> None:
    paths = [host.path for host in hosts]
    result = deploy(place, "good", *paths)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        line for path in paths for line in (f"{path}: upgrading to good", f"{path}: done")]
    first, second = (host.status() for host in hosts)
    assert first["release"] == second["release"] == "good"
    assert first["upgrade"]["ended_at"] <= second["upgrade"]["started_at"]


def test_a_broken_release_never_reaches_the_second_host(hosts: list[Master], place: Path) -> None:
    before = [{worker["pid"] for worker in host.status()["workers"]} for host in hosts]
    for host in hosts:
        (host.directory / "app.py").write_text('raise RuntimeError("broken")\n')
    result = deploy(place, "bad", *(host.path for host in hosts))
    assert result.returncode == 5
    assert result.stdout == f"{hosts[0].path}: upgrading to bad\n"
    assert result.stderr.startswith(
        f"{hosts[0].path}: it refused the release: generation 2 (release bad) was refused: ")
    assert "RuntimeError: broken" in result.stderr
    assert result.stderr.endswith(f"; left untouched: {hosts[1].path}\n")
    first, second = (host.status() for host in hosts)
    assert (first["gate"], first["generation"], first["newest_generation"]) == ("rolled-back", 1, 2)
    assert (second["gate"], second["generation"], second["newest_generation"]) == ("ready", 1, 1)
    assert second["upgrade"] is None
    assert [{worker["pid"] for worker in document["workers"]}
            for document in (first, second)] == before


def test_a_release_that_answers_worse_never_reaches_the_second_host(
        start: Start, place: Path) -> None:
    """It starts well, and then fails one request in three: only the first host's canary does."""
    masters = []
    for name in ("one", "two"):
        directory = place / name
        for release, answer in (("good", "lambda: 0"), ("bad", "itertools.count().__next__")):
            (directory / release).mkdir(parents=True)
            (directory / release / "app.py").write_text(FAILING.format(answer))
        (directory / "current").symlink_to("good")
        masters.append(start("-n", "2", "-b", "127.0.0.1:0", "--chdir", "current", "--judge-after",
                             "5", "--", "gunicorn", "-k", "gthread", "app:wsgi",
                             directory=directory))
    for master in masters:
        master.wait_ready()
        (master.directory / "next").symlink_to("bad")
        (master.directory / "next").rename(master.directory / "current")
    before = [{worker["pid"] for worker in master.status()["workers"]} for master in masters]
    with Load(masters[0].address, rate=120, slow=0.0, keep_alive=0.3):
        result = deploy(place, "bad", *(master.path for master in masters), "--", "--canary", "1",
                        "--hold", "300", "--judge")
    assert result.returncode == 5, result.stdout + result.stderr
    assert result.stderr.startswith(
        f"{masters[0].path}: it refused the release: generation 2 (release bad) was refused: failed requests ")
    assert " against 0.0 % of " in result.stderr
    assert result.stderr.endswith(f"; left untouched: {masters[1].path}\n")
    first, second = (master.status() for master in masters)
    assert (first["gate"], first["upgrade"]["cause"]) == ("rolled-back", "worse")
    assert (second["gate"], second["newest_generation"], second["upgrade"]) == ("ready", 1, None)
    assert {worker["pid"] for worker in second["workers"]} == before[1]


def test_a_host_that_cannot_be_reached_stops_the_deployment(hosts: list[Master],
                                                            place: Path) -> None:
    for absent, code, line in [
        (f"{place}/none.sock", 69,
         f"no master is there: einhornpy: no master at {place}/none.sock: No such file"),
        ("no-such-ssh web1", 127,
         "exit code 127: [Errno 2] No such file or directory: 'no-such-ssh'"),]:
        result = deploy(place, "good", absent, hosts[0].path)
        assert result.returncode == code
        assert result.stderr.startswith(f"{absent}: {line}")
    assert hosts[0].status()["upgrade"] is None


def test_a_host_may_be_a_command_prefix(hosts: list[Master], place: Path) -> None:
    # `env` stands for `ssh web1`: it runs the rest of the line somewhere else, here in another
    # environment.
    prefix = (
        f"env XDG_RUNTIME_DIR={hosts[0].environment['XDG_RUNTIME_DIR']} EINHORNPY_SOCKET_PATH={hosts[0].path}"
    )
    result = deploy(place, "good", prefix, f"env {hosts[1].path}")
    assert (result.returncode, result.stderr) == (0, "")
    assert [host.status()["release"] for host in hosts] == ["good", "good"]


@pytest.mark.parametrize("arguments", [[], ["good"], ["a b", "/x"], ["$(id)", "/x"], ["good", ""],
                                       ["good", "/x", "--", "--judge", "$(id)"]])
def test_wrong_usage_touches_nothing(place: Path, arguments: list[str]) -> None:
    result = deploy(place, *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert os.listdir(place) == ["run"]
