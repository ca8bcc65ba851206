"""A deploy to which something happens at one of its marked points: it is killed, or the master, or
both, or the disk is full. Afterwards a start from scratch runs a proven release, and the next
deploy succeeds without help."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from einhornpy.shared.releases import State

from ..harness import APPS, DEADLINE, Master, wait_gone
from ..shop import Shop, serving

Start = Callable[..., Master]
STEPS = ("turn", "resolve", "sweep", "fetch", "sync", "rename", "prepare", "sync-prepared",
         "record", "upgrade", "half-way", "verify", "prune", "end")
VICTIMS = ("self", "master.pid", "master.pid self")
MASTERS = [f"master:{function}:{when}" for function in ("note", "link", "write")
           for when in ("before", "after")]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk that is small")


def marked(points: list[tuple[str, str]], few: Callable[[int], bool]) -> list[object]:
    """All of them, of which the suite runs a few."""
    return [pytest.param(*point, marks=() if few(number) else pytest.mark.soak,
                         id=f"{point[0]} {point[1]}") for number, point in enumerate(points)]


EVERY = [(f"deploy:{step}", victims) for step in STEPS for victims in VICTIMS]
# Each step once, with other victims by turns.
ROUND = {(f"deploy:{step}", VICTIMS[number % 3]) for number, step in enumerate(STEPS)}


def struck(shop: Shop, point: str, what: str) -> dict[str, str]:
    return {"PYTHONPATH": str(APPS / "killing"), "STRIKE_AT": point, "STRIKE": what,
            "STRUCK": str(shop.place / "struck")}


@contextlib.contextmanager
def running(shop: Shop, start: Start, environment: dict[str, str]) -> Iterator[Master]:
    """A master of the first release, which is killed in the end if it lives still."""
    shop.first("r1")
    master = start("--config", str(shop.config), environment=environment)
    workers = [each["pid"] for each in master.wait_ready()["workers"]]
    yield master
    master.process.kill()
    master.process.wait(DEADLINE)
    for pid in workers:
        wait_gone(pid)


def check(shop: Shop, start: Start, then: Callable[[], object] = lambda: None) -> None:
    """What must be so, whatever has happened."""
    assert shop.current is not None
    assert shop.state(shop.current) is State.PROVEN
    current = shop.current
    master = start("--config", str(shop.config))
    master.wait_ready()
    assert serving(master) == current
    then()
    done = shop.deploy("r2")
    assert done.returncode == 0, done.stderr + master.log()
    assert (serving(master), shop.current) == ("r2", "r2")
    assert shop.names() == ["r1", "r2"]
    assert sorted(os.listdir(shop.root)) == ["current", "releases"]


@pytest.mark.parametrize(("point", "victims"),
                         marked(EVERY, lambda number: EVERY[number] in ROUND))
def test_killed_at_a_step(place: Path, start: Start, point: str, victims: str) -> None:
    shop = Shop(place)
    shop.configure(settings={"pidfile": f"{place}/master.pid"})
    shop.publish("r1", "r2")
    whom = victims.replace("master.pid", f"{place}/master.pid")
    with running(shop, start, {}) as master:
        ended = shop.deploy("r2", environment=struck(shop, point, whom))
        assert (place / "struck").exists(), ended.stdout + ended.stderr
        if "self" in victims:
            assert ended.returncode == -9
        else:
            # Once all is proven nobody is asked any more, but for which releases are in use.
            assert ended.returncode in ((0, 69) if point in ("deploy:verify", "deploy:prune",
                                                             "deploy:end") else (6, 69))
        if "master.pid" in victims:
            assert master.process.wait(DEADLINE) == -9
        else:
            assert master.process.poll() is None
    check(shop, start)


@pytest.mark.parametrize("point", MASTERS)
def test_the_master_killed_while_it_records(place: Path, start: Start, point: str) -> None:
    shop = Shop(place)
    shop.publish("r1", "r2")
    with running(shop, start, struck(shop, point, "self")):
        ended = shop.deploy("r2")
        assert (place / "struck").exists()
        assert ended.returncode in (6, 69)
    check(shop, start)


@as_root
@pytest.mark.parametrize("point", [
    *(pytest.param(f"deploy:{step}", marks=() if number % 3 == 0 else pytest.mark.soak)
      for number, step in enumerate(STEPS)), "master:note:before", "master:link:before"])
def test_a_full_disk(place: Path, start: Start, point: str) -> None:
    shop = Shop(place)
    shop.publish("r1", "r2")
    filler = shop.root / "filler"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(shop.root)], check=True)
    try:
        where = struck(shop, point, f"fill:{filler}")
        of_master = point.startswith("master")
        with running(shop, start, where if of_master else {}):
            ended = shop.deploy("r2", environment={} if of_master else where)
            assert filler.exists(), ended.stdout + ended.stderr
            assert ended.returncode in (0, 1, 65)
            if ended.returncode == 65:
                assert "No space left on device" in ended.stderr or "I/O error" in ended.stderr
                assert [each for each in shop.names() if each != "r1"] == []
            # The way back must be possible on a disk that is full.
            if shop.current == "r2":
                back = shop.deploy("--rollback")
                assert back.returncode == 0, back.stderr
                assert shop.current == "r1"
        check(shop, start, filler.unlink)
    finally:
        subprocess.run(["umount", "-l", str(shop.root)], check=True)
