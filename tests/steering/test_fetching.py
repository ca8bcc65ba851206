"""Releases that aren't here when an upgrade wants them: the master has them fetched before their
generation is made, whoever asks for them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from einhornpy.shared.releases import State

from ..harness import Master, wait_gone, wait_until
from ..shop import BAD, Shop, serving

Start = Callable[..., Master]
# A worker that asks for the release in the file `wanted` when it is told to by USR1, and writes down
# what it was told.
ASKING = f"""#!{sys.executable}
import os, pathlib, signal
from einhornpy import worker

def ask(*_):
    try:
        answer = worker.request_upgrade(pathlib.Path("PLACE/wanted").read_text())
    except worker.UpgradeRefused as refused:
        answer = refused
    pathlib.Path("PLACE/answer.new").write_text(str(answer))
    os.rename("PLACE/answer.new", "PLACE/answer")

signal.signal(signal.SIGUSR1, ask)
worker.ready()
while True:
    signal.pause()
"""


@pytest.fixture
def shop(place: Path) -> Shop:
    shop = Shop(place)
    shop.configure(settings={"ack-mode": "notify", "number": 1})
    shop.publish("r1", "r2", "r3", web=ASKING.replace("PLACE", str(place)))
    shop.publish("bad", web=BAD)
    return shop


@pytest.fixture
def master(shop: Shop, start: Start) -> Master:
    return shop.serve(start, "r1")


def ask(shop: Shop, master: Master, release: str) -> None:
    """Let the worker ask for a release."""
    (shop.place / "wanted").write_text(release)
    master.ask("signal", signal="USR1")


def ended(master: Master, count: int) -> dict[str, Any]:
    """Wait for the end of so many upgrades; return the last one."""
    wait_until(lambda: len(upgrades(master)) >= count and upgrades(master)[-1]["outcome"],
               "the upgrade's end", master.log)
    return upgrades(master)[-1]


def upgrades(master: Master) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = master.ask("history")["result"]["upgrades"]
    return found


def test_an_app_asks_for_a_release_that_is_not_here(shop: Shop, master: Master) -> None:
    recorder = master.record()
    ask(shop, master, "r2")
    upgrade = ended(master, 1)
    assert (upgrade["outcome"], upgrade["release"]) == ("done", "r2")
    assert re.fullmatch(r"worker 0 \(pid [0-9]+\)", upgrade["requested_by"])
    assert (shop.place / "answer").read_text() == "2"
    assert (serving(master), shop.current, shop.state("r2")) == ("r2", "r2", State.PROVEN)
    assert (shop.root / "releases/r2/prepared").exists()
    names = [event["event"] for event in recorder.events]
    assert names.index("release-fetching") < names.index("generation-prepared")
    record = shop.record("r2")
    assert record is not None
    assert record.by == upgrade["requested_by"]


def test_what_cannot_be_fetched_refuses_the_upgrade_and_is_in_the_log(shop: Shop,
                                                                      master: Master) -> None:
    shop.configure(settings={"ack-mode": "notify", "number": 1},
                   fetch="echo looking; echo there is none >&2; exit 4")
    assert master.cli("reload").returncode == 0
    ask(shop, master, "r9")
    upgrade = ended(master, 1)
    assert (upgrade["outcome"], upgrade["cause"], upgrade["reason"], upgrade["error"]) == (
        "rolled-back", "not-prepared", "the release could not be fetched",
        "fetch exited with code 4: there is none")
    assert (serving(master), shop.current, shop.names()) == ("r1", "r1", ["r1"])
    master.wait_log("release fetch says line=looking")
    # A command line's upgrade is told the same.
    refused = master.cli("upgrade", "--release", "r9")
    assert refused.returncode == 5
    assert "could not be fetched: fetch exited with code 4: there is none" in refused.stderr
    assert "looking" in refused.stdout


def test_a_branch_that_an_app_asks_for(shop: Shop, master: Master) -> None:
    shop.configure(settings={"ack-mode": "notify", "number": 1},
                   resolve="test $1 = some/branch && echo r3")
    assert master.cli("reload").returncode == 0
    ask(shop, master, "some/branch")
    assert ended(master, 1)["release"] == "r3"
    assert (serving(master), shop.current) == ("r3", "r3")


def test_the_loop_waits_for_no_fetch_and_a_newer_upgrade_ends_it(shop: Shop,
                                                                 master: Master) -> None:
    shop.configure(settings={"ack-mode": "notify", "number": 1},
                   fetch=f'test $1 != r2 || {{ echo $$ > {shop.place}/pid; sleep 1000; }}; '
                         f'cp -R {shop.origin}/$1/. $2')
    assert master.cli("reload").returncode == 0
    recorder = master.record()
    assert master.cli("upgrade", "--release", "r2", "--no-wait").returncode == 0
    recorder.wait_for("release-fetching", release="r2")
    wait_until(lambda: (shop.place / "pid").exists() and (shop.place / "pid").read_text(),
               "the fetch", master.log)
    assert master.status()["reason"] == "generation 2 (release r2) is being prepared"
    assert master.cli("reload").returncode == 0  # the next master goes on waiting for it
    assert master.cli("upgrade", "--release", "r3").returncode == 0
    wait_gone(int((shop.place / "pid").read_text()))
    assert [each["outcome"] for each in upgrades(master)] == ["superseded", "done"]
    assert (serving(master), shop.current, shop.names()) == ("r3", "r3", ["r1", "r3"])


def test_a_fetch_goes_on_while_the_master_is_replaced(shop: Shop, master: Master) -> None:
    shop.configure(settings={"ack-mode": "notify", "number": 1},
                   fetch=f'touch {shop.place}/begun; while test ! -e {shop.place}/go; do '
                         f'sleep 0.05; done; echo late; cp -R {shop.origin}/$1/. $2')
    assert master.cli("reload").returncode == 0
    upgrade = subprocess.Popen([sys.executable, "-m", "einhornpy.control.cli.main", "upgrade",
                                "--release", "r2"], env=master.environment, cwd=master.directory,
                               stdout=subprocess.PIPE, text=True)
    wait_until((shop.place / "begun").exists, "the fetch", master.log)
    assert master.cli("reload").returncode == 0
    (shop.place / "go").touch()
    out, _ = upgrade.communicate(timeout=90)
    assert (upgrade.returncode, "late" in out) == (0, True)
    assert (serving(master), shop.current) == ("r2", "r2")


def test_a_release_that_is_refused_was_fetched_all_the_same(shop: Shop, master: Master) -> None:
    ask(shop, master, "bad")
    assert ended(master, 1)["outcome"] == "rolled-back"
    assert (shop.state("bad"), shop.current) == (State.REFUSED, "r1")
    assert master.status()["reason"].startswith("generation 2 (release bad) was refused: ")


def test_a_hook_that_says_no_leaves_what_was_proven(shop: Shop, master: Master) -> None:
    """Nothing was tried: a freeze must not take away the way back."""
    assert shop.deploy("r2").returncode == 0
    shop.configure(settings={"ack-mode": "notify", "number": 1,
                             "on-upgrade-start": "echo frozen; exit 1"})
    assert master.cli("reload").returncode == 0
    frozen = shop.deploy("--rollback")
    assert (frozen.returncode, "frozen" in frozen.stderr) == (5, True)
    assert shop.state("r1") is State.PROVEN
    assert shop.deploy("r3").returncode == 5
    assert shop.current == "r2"
    shop.configure(settings={"ack-mode": "notify", "number": 1})
    assert master.cli("reload").returncode == 0
    assert shop.deploy("--rollback").returncode == 0
    assert shop.current == "r1"
