"""`einhornpy deploy` against a real master: what it does in which order, and what others of its kind
got wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from einhornpy.control.deploy import commands, removing, tidying
from einhornpy.control.deploy.plan import Plan
from einhornpy.shared import releases
from einhornpy.shared.releases import Record, State

from ..harness import DEADLINE, EINHORNPY, Master, wait_gone
from ..shop import BAD, Shop, serving

Start = Callable[..., Master]


@pytest.fixture
def shop(place: Path) -> Shop:
    shop = Shop(place)
    shop.publish("r1", "r2", "r3", "r4")
    shop.publish("bad", "worse", web=BAD)
    return shop


@pytest.fixture
def master(shop: Shop, start: Start) -> Master:
    """One that runs r1, the first release."""
    return shop.serve(start, "r1")


def well(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_release_from_its_origin_to_its_end(shop: Shop, master: Master) -> None:
    assert (shop.current, shop.state("r1")) == ("r1", State.PROVEN)
    out = well(shop.deploy("r2"))
    assert out.splitlines()[:2] == ["fetch r2", "prepare r2"]
    assert re.search(r"^release r2 serves: .*upgrade [0-9.]+ s$", out, re.MULTILINE)
    assert (serving(master), shop.current, shop.state("r2")) == ("r2", "r2", State.PROVEN)
    assert (shop.root / "releases/r2/prepared").read_text() == "prepared r2\n"
    record = shop.record("r2")
    assert record is not None
    assert record.size is not None
    assert record.size >= 4096
    assert shop.names() == ["r1", "r2"]
    before = master.status()["generation"]
    assert well(shop.deploy("r2")) == "release r2 serves already\n"
    assert master.status()["generation"] == before


def test_a_refused_release_moves_nothing(shop: Shop, master: Master) -> None:
    refused = shop.deploy("bad")
    assert refused.returncode == 5
    assert "exited with code 3 before it was ready" in refused.stderr
    assert refused.stdout.endswith("release r1 serves as before\n")
    assert (serving(master), shop.current, shop.state("bad")) == ("r1", "r1", State.REFUSED)
    record = shop.record("bad")
    assert record is not None
    assert "exited with code 3" in (record.reason or "")
    assert shop.names() == ["bad", "r1"]  # kept, for reading
    # Tried again it is not fetched again, and refused again.
    (shop.origin / "bad" / "web").unlink()
    assert shop.deploy("bad").returncode == 5
    # The one that serves is deployed once more by those who want the gate ready again.
    assert master.status()["gate"] == "rolled-back"
    assert "upgrade done" in well(shop.deploy("r1"))
    assert master.status()["gate"] == "ready"


def test_json_is_one_document_and_nothing_else(shop: Shop, master: Master) -> None:
    done = shop.deploy("r2", "--json")
    document = json.loads(well(done))
    assert "fetch r2" in done.stderr
    assert (document["version"], document["release"], document["outcome"], document["current"],
            document["removed"], document["upgrade"]["to"]) == (1, "r2", "done", "r2", [], 2)
    assert [each["step"] for each in document["steps"]] == [
        "turn", "resolve", "sweep", "fetch", "sync", "rename", "prepare", "sync-prepared",
        "record", "upgrade", "verify", "prune", "end"]
    assert all(each["seconds"] >= 0 for each in document["steps"])
    again = json.loads(well(shop.deploy("r2", "--json")))
    assert (again["outcome"], again["upgrade"]) == ("already", None)
    refused = shop.deploy("bad", "--json")
    document = json.loads(refused.stdout)
    assert (refused.returncode, document["outcome"], document["current"]) == (5, "rolled-back",
                                                                              "r2")
    assert "exited with code 3" in document["reason"]
    assert "no such module" in document["last_lines"]
    lost = shop.deploy("none", "--json")
    document = json.loads(lost.stdout)
    assert (lost.returncode, document["outcome"], document["current"]) == (65, "failed", "r2")
    assert document["reason"] == "fetch exited with code 1"
    assert "cannot stat" in document["last_lines"][-1]


# --- what others got wrong ---


def test_a_fetch_that_fails_touches_no_release(shop: Shop, master: Master) -> None:
    """capistrano#1885: it rolled back one that was good."""
    well(shop.deploy("r2"))
    lost = shop.deploy("none")
    assert lost.returncode == 65
    assert lost.stderr.startswith("einhornpy: fetch exited with code 1: cp: cannot stat ")
    assert (serving(master), shop.current, master.status()["generation"]) == ("r2", "r2", 2)
    assert shop.names() == ["r1", "r2"]


def test_a_release_that_cannot_be_prepared_leaves_nothing(shop: Shop, master: Master) -> None:
    (shop.origin / "r2" / "unpreparable").touch()
    assert shop.deploy("r2").stderr.startswith("einhornpy: prepare exited with code 1")
    assert (shop.names(), shop.current) == (["r1"], "r1")
    (shop.origin / "r2" / "unpreparable").unlink()
    well(shop.deploy("r2"))


@pytest.mark.parametrize("failed", [("bad",), ("bad", "worse")])
def test_the_one_before_is_never_one_that_failed(shop: Shop, master: Master,
                                                 failed: tuple[str, ...]) -> None:
    """capistrano#154, #314, #514: "previous" was the last failed one; rocketeer#115: after a second
    failure so was `current`."""
    well(shop.deploy("r2"))
    for name in failed:
        assert shop.deploy(name).returncode == 5
        assert shop.current == "r2"
    assert "from release r2 back to r1" in well(shop.deploy("--rollback"))
    assert (serving(master), shop.current) == ("r1", "r1")


def test_back_and_forth_as_often_as_one_likes(shop: Shop, master: Master) -> None:
    """deployer#903: every second rollback broke the link."""
    well(shop.deploy("r2"))
    well(shop.deploy("r3"))
    for name in ("r2", "r3", "r2", "r3", "r2"):
        well(shop.deploy("--rollback"))
        assert (serving(master), shop.current) == (name, name)
        assert os.readlink(shop.root / "current") == f"releases/{name}"
    well(shop.deploy("--rollback", "--to", "r1"))
    assert shop.current == "r1"


def test_two_at_once_take_turns(shop: Shop, master: Master) -> None:
    """capistrano#1424: they ran into each other."""
    shop.configure(fetch=f'cp -R "{shop.origin}/$1/." "$2"; echo fetched; '
                         f'while test -e "{shop.place}/hold"; do sleep 0.05; done')
    assert master.cli("reload").returncode == 0
    (shop.place / "hold").touch()
    with shop.begin("r2") as first:
        assert first.stdout is not None
        while first.stdout.readline() != "  fetched\n":
            pass
        busy = shop.deploy("r3", "--no-queue")
        assert busy.returncode == 75
        assert re.search(r"another deploy is under way: \w+ \(pid [0-9]+\), who deploys r2 since ",
                         busy.stderr)
        with shop.begin("r3") as second:
            assert second.stdout is not None
            assert re.match(rf"waiting for \w+ \(pid {first.pid}\), who deploys r2 since ",
                            second.stdout.readline())
            (shop.place / "hold").unlink()
            assert first.wait(DEADLINE) == 0
            second.communicate(timeout=DEADLINE)
            assert second.returncode == 0
    assert (serving(master), shop.current) == ("r3", "r3")
    assert [each["outcome"] for each in master.ask("history")["result"]["upgrades"]] == ["done"] * 2
    assert shop.names() == ["r1", "r2", "r3"]


def test_a_release_that_goes_back_while_it_is_watched_takes_current_with_it(
        shop: Shop, master: Master) -> None:
    """It was done, and `current` led to it: what a start runs must not be what was refused since."""
    shop.publish("dies", web="#!/bin/sh\nsleep 0.5; while test ! -e die; do sleep 0.05; done; "
                             "exit 1\n")
    well(shop.deploy("dies", "--judge", "--watch", "1h", "--max-failures", "1"))
    assert (shop.current, shop.state("dies")) == ("dies", State.PROVEN)
    (shop.root / "releases/dies/die").touch()
    master.wait_status(lambda status: status["gate"] == "rolled-back", "it goes back")
    assert (serving(master), shop.current, shop.state("dies")) == ("r1", "r1", State.REFUSED)


def test_current_never_leads_to_a_release_that_is_not_proven(shop: Shop, start: Start,
                                                             master: Master) -> None:
    """Tried by hand: `current` moved, the upgrade was refused, the master was killed, and the next
    start had nothing to run."""
    recorder = master.record()
    with shop.begin("bad") as deploy:
        recorder.wait_for("worker-starting", generation=2)
        master.process.kill()
        deploy.communicate(timeout=DEADLINE)
        assert deploy.returncode in (5, 6)
    master.process.wait(DEADLINE)
    assert shop.current == "r1"
    again = start("--config", str(shop.config))
    again.wait_ready()
    assert serving(again) == "r1"
    well(shop.deploy("r2"))


# --- what is on the disk ---


def test_the_records_outlive_the_master(shop: Shop, start: Start, master: Master) -> None:
    well(shop.deploy("r2"))
    assert shop.deploy("bad").returncode == 5
    master.stop()
    again = start("--config", str(shop.config))
    again.wait_ready()
    assert serving(again) == "r2"
    well(shop.deploy("--rollback"))
    assert serving(again) == "r1"
    rows = json.loads(well(shop.run("releases", "--json")))
    assert [(each["release"], each["state"], each["current"], each["serves"]) for each in rows] == [
        ("r1", "proven", True, True), ("bad", "refused", False, False),
        ("r2", "proven", False, False)]
    table = well(shop.run("releases"))
    assert re.search(r"^r1 +proven .* \(serves, current\)$", table, re.MULTILINE)
    assert "exited with code 3" in table
    assert max(map(len, table.splitlines())) <= 80 + len("(serves, current)")


def test_old_releases_go_and_no_other(shop: Shop, master: Master) -> None:
    shop.configure(keep=2)
    assert master.cli("reload").returncode == 0
    (shop.root / "releases" / "by-hand").mkdir()  # nothing is known of it: somebody else's
    for name in ("r2", "r3"):
        well(shop.deploy(name))
    for name in ("bad", "worse"):
        assert shop.deploy(name).returncode == 5
    assert shop.names() == ["by-hand", "r2", "r3", "worse"]  # refused ones don't gather either
    assert "removed r2\n" in well(shop.deploy("r4"))
    assert shop.names() == ["by-hand", "r3", "r4", "worse"]
    assert shop.deploy("--rollback", "--to", "r1").returncode == 65
    well(shop.deploy("--rollback"))
    assert shop.current == "r3"


def test_which_releases_go() -> None:
    def records(*told: tuple[str, State]) -> dict[str, Record]:
        return {name: Record(name, state, order) for order, (name, state) in enumerate(told)}

    known = records(("p1", State.PROVEN), ("p2", State.PROVEN), ("x1", State.REFUSED),
                    ("p3", State.PROVEN), ("f1", State.FETCHED), ("x2", State.REFUSED),
                    ("f2", State.FETCHED))
    assert tidying.superfluous(known, 1, frozenset()) == ["p2", "p1", "f1", "x1"]
    assert tidying.superfluous(known, 2, frozenset()) == ["p1", "x1"]
    assert tidying.superfluous(known, 1, frozenset({"p1", "x1", "f1"})) == ["p2"]
    assert tidying.superfluous(known, 9, frozenset()) == ["x1"]


def test_fetched_everywhere_first_then_switched_in_seconds(shop: Shop, master: Master) -> None:
    assert "release r2 is here" in well(shop.deploy("r2", "--fetch-only"))
    assert (serving(master), shop.current, shop.state("r2")) == ("r1", "r1", State.FETCHED)
    well(shop.deploy("r2", "--fetch-only"))
    assert shop.deploy("r3", "--activate-only").returncode == 65
    (shop.origin / "r2" / "web").unlink()
    well(shop.deploy("r2", "--activate-only"))
    assert (serving(master), shop.current) == ("r2", "r2")


def test_a_branch_is_the_revision_that_it_means(shop: Shop, master: Master) -> None:
    shop.configure(resolve='echo "looking for $1" >&2; test "$1" = main/line && echo r3')
    assert master.cli("reload").returncode == 0
    out = well(shop.deploy("main/line"))
    assert "  looking for main/line\n" in out
    assert "main/line is release r3\n" in out
    assert (serving(master), shop.current) == ("r3", "r3")
    well(shop.deploy("--rollback"))
    assert "from release r1 back to r3" in well(shop.deploy("--rollback", "--to", "main/line"))
    lost = shop.deploy("other")
    assert (lost.returncode, lost.stderr) == (
        65, "einhornpy: resolve of 'other' exited with code 1: looking for other\n")


def test_what_else_is_under_way_is_said(shop: Shop, master: Master) -> None:
    """An upgrade whose place a deploy takes, and a file that the master hasn't read yet."""
    well(shop.deploy("r2", "--fetch-only"))
    assert master.cli("upgrade", "--release", "r2", "--canary", "1", "--hold", "until-resume",
                      "--no-wait").returncode == 0
    master.wait_status(lambda status: (status["upgrade"] or {}).get("phase") == "held")
    rows = json.loads(well(shop.run("releases", "--json")))
    assert {each["release"] for each in rows if each["serves"]} == {"r1", "r2"}
    shop.configure(keep=7, prepare="true")
    out = well(shop.deploy("r3", "--config", str(shop.config)))
    assert "this takes the place of the upgrade to r2, which is under way\n" in out
    assert "has another prepare, keep than the master: einhornpy reload lets it count\n" in out
    assert (shop.root / "releases/r3/prepared").exists()


def test_a_rollback_is_not_judged(shop: Shop, start: Start) -> None:
    shop.configure(settings={"judge": True, "watch": 0})
    shop.serve(start, "r1")
    for words, judged in ((("r2",), True), (("--rollback",), False)):
        done = shop.deploy(*words, "--json")
        assert json.loads(well(done))["upgrade"]["judged"] is judged


@pytest.mark.parametrize(("resolve", "why"), [
    ("true", "resolve has printed nothing for 'x': expected a release"),
    ("echo ../r1", "no release '../r1': expected the name of a directory in "),
    ("echo .r1", "no release '.r1': expected"), (None, "fetch exited with code 1")])
def test_names_that_are_none(shop: Shop, resolve: str | None, why: str) -> None:
    shop.configure(resolve=resolve)
    lost = shop.deploy("x", "--config", str(shop.config))
    assert lost.returncode == 65
    assert why in lost.stderr
    assert shop.names() == []


def test_without_a_master(shop: Shop, start: Start) -> None:
    config = ("--config", str(shop.config))
    nobody = shop.deploy("r1")
    assert nobody.returncode == 69
    assert "no master runs here" in nobody.stderr
    fetched = shop.deploy("r1", *config)
    assert fetched.returncode == 69
    assert "release r1 is here, and a start would run none: --first changes that" in fetched.stderr
    assert not (shop.root / "current").exists()
    out = well(shop.deploy("r1", "--first", environment={"EINHORNPY_CONFIG": str(shop.config)}))
    assert "a start runs release r1 now" in out
    shop.deploy("r2", "--first", *config)  # nothing has proven r1 yet
    assert shop.current == "r2"
    master = start(*config)
    master.wait_ready()
    assert serving(master) == "r2"
    master.stop()
    refused = shop.deploy("r3", "--first", *config)
    assert refused.returncode == 65
    assert "a start would run release r2, which was proven here: start it" in refused.stderr
    assert shop.current == "r2"
    assert json.loads(well(shop.run("releases", "--json", *config)))[0]["state"] == "proven"


@pytest.mark.parametrize(("words", "why"), [
    ((), "expected a RELEASE, or --rollback"), (("r1", "--rollback"), "--rollback takes no RELEASE"),
    (("r1", "--to", "r2"), "--to goes with --rollback"),
    (("r1", "--fetch-only", "--first"), "--fetch-only doesn't go with --first"),
    (("--rollback", "--activate-only"), "--rollback doesn't go with --activate-only"),
    (("r1", "--hold", "5"), "--hold goes with --canary"), (("",), "RELEASE: got ''"),
    (("r1", "--config", "none.toml"), "cannot read the configuration")])
def test_what_cannot_be_meant(shop: Shop, words: tuple[str, ...], why: str) -> None:
    refused = shop.deploy(*words)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert why in refused.stderr
    assert refused.stderr.count("\n") <= 3
    assert not (shop.root / "releases").exists()


def test_a_master_that_knows_of_no_releases(place: Path, start: Start) -> None:
    master = start("-n", "1", "-m", "0.1", "--min-ready-seconds", "0", "--", "sleep", "1000")
    master.wait_ready()
    refused = master.cli("deploy", "r1")
    assert refused.returncode == 2
    assert "expected [releases] root in its configuration, or --releases-root" in refused.stderr


def test_what_runs_is_not_of_a_release(shop: Shop, start: Start) -> None:
    shop.configure(settings={"command": ["sleep", "1000"], "chdir": "/"})
    start("--config", str(shop.config)).wait_ready()
    refused = shop.deploy("r1")
    assert (refused.returncode, "nothing of a release would run" in refused.stderr) == (2, True)


# --- the operator's commands ---


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(
        shop: Shop, master: Master) -> None:
    shop.configure(fetch="sleep 1000 & echo $! >&2; sleep 1000", timeout=0.5)
    assert master.cli("reload").returncode == 0
    late = shop.deploy("r2")
    assert (late.returncode, "fetch took longer than 0.5 s" in late.stderr) == (65, True)
    wait_gone(int(late.stdout.splitlines()[1]))
    assert shop.names() == ["r1"]


def test_what_a_command_leaves_in_the_background_is_ended(shop: Shop, master: Master) -> None:
    shop.configure(fetch=f'cp -R "{shop.origin}/$1/." "$2"; sleep 1000 & echo $!')
    assert master.cli("reload").returncode == 0
    out = well(shop.deploy("r2"))
    wait_gone(int(out.splitlines()[1]))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_told_to_end_in_mid_fetch_it_leaves_nothing(shop: Shop, master: Master,
                                                    number: signal.Signals) -> None:
    shop.configure(fetch="touch half; echo $$; exec sleep 1000")
    assert master.cli("reload").returncode == 0
    with shop.begin("r2") as deploy:
        assert deploy.stdout is not None
        assert deploy.stdout.readline() == "fetch r2\n"
        pid = int(deploy.stdout.readline())
        assert ".r2.partial" in shop.names()
        deploy.send_signal(number)
        assert deploy.wait(DEADLINE) == 130
        assert deploy.stderr is not None
        assert deploy.stderr.read() == (
            "einhornpy: interrupted: what was half here is taken away by the next deploy at the "
            "latest\n")
    wait_gone(pid)
    assert shop.names() == ["r1"]


def test_killed_in_mid_fetch_the_next_one_ends_what_still_fetches(shop: Shop,
                                                                  master: Master) -> None:
    """It would write on into the directory that the next one fetches into."""
    shop.configure(fetch=f"if test -e {shop.place}/second; then cp -R {shop.origin}/$1/. $2; else "
                         "(trap '' HUP; sleep 1000) & echo $!; wait; fi")
    assert master.cli("reload").returncode == 0
    with shop.begin("r2") as deploy:
        assert deploy.stdout is not None
        assert deploy.stdout.readline() == "fetch r2\n"
        pid = int(deploy.stdout.readline())
        deploy.kill()
    (shop.place / "second").touch()
    well(shop.deploy("r2"))
    wait_gone(pid)
    assert shop.names() == ["r1", "r2"]


def test_what_commands_are_told(shop: Shop, master: Master) -> None:
    shop.configure(fetch=f'cp -R "{shop.origin}/$1/." "$2"; env > environment; pwd > here; '
                         'echo "$@" > words', prepare=None)
    assert master.cli("reload").returncode == 0
    well(shop.deploy("r2", environment={"TOKEN": "of the operator"}))
    place = shop.root / "releases"
    told = dict(line.partition("=")[::2]
                for line in (place / "r2/environment").read_text().splitlines())
    partial = f"{place}/.r2.partial"
    assert (told["EINHORNPY_RELEASE"], told["EINHORNPY_RELEASE_DIRECTORY"],
            told["EINHORNPY_RELEASES_ROOT"], told["EINHORNPY_CURRENT_DIRECTORY"],
            told["TOKEN"]) == ("r2", partial, str(shop.root), f"{place}/r1", "of the operator")
    assert (place / "r2/here").read_text() == f"{partial}\n"
    assert (place / "r2/words").read_text() == f"r2 {partial}\n"


def test_a_fetch_that_brings_nothing(shop: Shop, master: Master) -> None:
    shop.configure(fetch="true")
    assert master.cli("reload").returncode == 0
    empty = shop.deploy("r2")
    assert (empty.returncode, "fetch has put nothing into" in empty.stderr) == (65, True)
    shop.configure(fetch=None)
    assert master.cli("reload").returncode == 0
    missing = shop.deploy("r2")
    assert (missing.returncode, "and no fetch in [releases]" in missing.stderr) == (65, True)
    # Somebody else may bring it.
    subprocess.run(["cp", "-R", shop.origin / "r2", shop.root / "releases" / "r2"], check=True)
    well(shop.deploy("r2"))
    assert shop.state("r2") is State.PROVEN


def test_the_lines_of_a_command(tmp_path: Path) -> None:
    heard: list[str] = []

    def run(command: str, limit: float = DEADLINE) -> str | None:
        heard.clear()
        return commands.run("it", command, ("a", "b c"), str(tmp_path), {"X": "1"}, limit, None,
                            heard.append, answers=True)

    assert run('echo "$1/$2/$X/$PWD"; echo no >&2; printf end') == "end"
    assert heard == ["no"]
    assert run("printf 'half\\rwhole\\n'; exit 0") == "whole"
    assert run("true") is None
    left = run("sleep 1000 & echo $!")  # its outputs are open still
    wait_gone(int(left or 0))
    for command, why in (("exit 7", "it exited with code 7"), ("kill -9 $$", "killed by SIGKILL"),
                         ("no-such-program", "it exited with code 127")):
        with pytest.raises(commands.CommandFailed, match=why):
            run(command)
    with pytest.raises(commands.CommandFailed, match=r"took longer than 0\.2 s") as late:
        run("seq 100; sleep 1000", 0.2)
    assert late.value.lines == tuple(map(str, range(81, 101)))


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@as_root
def test_a_master_that_may_not_write_there_is_known_before_anything_happens(
        shop: Shop, start: Start) -> None:
    shop.first("r1")
    caps = "-dac_override,-dac_read_search"
    less = shop.place / "less"
    less.write_text(f"#!/bin/sh\nexec setpriv --bounding-set={caps} --inh-caps={caps} {EINHORNPY} "
                    '"$@"\n')
    less.chmod(0o755)
    os.chown(shop.root, 65534, -1)
    start("--config", str(shop.config), program=str(less)).wait_ready()
    refused = shop.deploy("r2")
    assert refused.returncode == 1
    assert "proven" in well(shop.run("releases"))
    assert re.search(r"the master could not let .*/current lead to a release: user root may not "
                     r"write in", refused.stderr)
    assert shop.names() == ["r1"]


@as_root
def test_commands_are_run_by_the_workers_user(shop: Shop, start: Start) -> None:
    shop.place.chmod(0o755)
    shop.configure(settings={"user": "nobody"}, resolve='test "$(id -u)" = 65534 && echo "$1"')
    shop.serve(start, "r1")
    well(shop.deploy("r2"))
    for name in ("r1", "r2"):
        assert (shop.root / "releases" / name / "prepared").owner() == "nobody"
        assert (shop.root / "releases" / f".{name}.json").owner() == "root"


def test_a_configuration_says_which_master_is_meant(shop: Shop, place: Path, start: Start) -> None:
    """With one app's file never another app's master, may it be the only one that runs."""
    config = ("--config", str(shop.config))
    (place / "other").mkdir()
    other = Shop(place / "other")
    other.publish("r1", "r2")
    other.place = place  # where its master is found
    other.first("r1")
    theirs = start("--config", str(other.config), "-c", "other")
    theirs.wait_ready()
    nobody = shop.deploy("r1", *config)
    assert (nobody.returncode, "no master runs" in nobody.stderr) == (69, True)
    shop.first("r1")
    ours = start("--config", str(shop.config), "-c", "ours")
    ours.wait_ready()
    well(shop.deploy("r2", *config))
    assert (serving(ours), serving(theirs)) == ("r2", "r1")
    several = shop.deploy("r1")
    assert (several.returncode, "several masters run here" in several.stderr) == (69, True)
    wrong = shop.deploy("r1", *config, "-c", "other")
    assert wrong.returncode == 2
    assert f"the master has its releases in {other.root}, and {shop.config} says" in wrong.stderr


def test_a_proven_release_that_cannot_be_started_any_more(shop: Shop, master: Master,
                                                          start: Start) -> None:
    """The host is down, and what is known of its releases shows the way out."""
    well(shop.deploy("r2"))
    master.stop()
    (shop.root / "releases/r2/web").write_text(BAD)
    broken = start("--config", str(shop.config))
    assert broken.wait_exit() == 3
    better = f"einhornpy deploy --rollback --config {shop.config}"
    assert f'better="{better} goes back to release r1, which was proven here"' in broken.log()
    out = well(shop.deploy("--rollback", "--config", str(shop.config)))
    assert "a start runs release r1 now" in out
    again = start("--config", str(shop.config))
    again.wait_ready()
    assert serving(again) == "r1"


# --- what an attacker has found ---


def test_a_release_to_which_somebody_upgrades_just_now_is_not_removed(shop: Shop) -> None:
    """It was asked once which releases run, and then removed for minutes."""
    config = ("--config", str(shop.config))
    for name in ("r1", "r2", "r3", "r4"):
        assert shop.deploy(name, *config, "--fetch-only").returncode == 0
    plan = Plan(str(shop.root), None, None, None, 9.0, 1, None)
    asked: list[State | None] = []

    def live() -> frozenset[str]:
        asked.append(shop.state("r2"))
        return frozenset({"r2"} if State.UNPREPARED in asked else ())

    # No upgrade to one that is marked can begin; one that had begun before is seen.
    assert tidying.prune(plan, live) == ["r3", "r1"]
    assert (shop.names(), shop.state("r2")) == (["r2", "r4"], State.FETCHED)
    assert State.UNPREPARED in asked
    # Whoever is killed in between leaves the mark: what runs stays all the same.
    releases.note(str(shop.root), "r2", State.UNPREPARED, "x", 1.0)
    tidying.sweep(Plan(str(shop.root), None, None, None, 9.0, 1, None, frozenset({"r2"})))
    assert shop.names() == ["r2", "r4"]
    tidying.sweep(plan)
    assert shop.names() == ["r4"]


def test_what_somebody_else_brings_meanwhile_stays(shop: Shop, master: Master) -> None:
    for code in (1, 0):
        shop.configure(fetch=f'cp -R "{shop.origin}/$1/." "$2"; cp -R "{shop.origin}/$1" '
                             f'"{shop.root}/releases/$1"; exit {code}')
        assert master.cli("reload").returncode == 0
        lost = shop.deploy(f"r{2 + code}")
        assert lost.returncode == 65
        assert ("somebody else has put" in lost.stderr) == (code == 0)
    assert shop.names() == ["r1", "r2", "r3"]
    well(shop.deploy("r2"))


def test_a_link_is_no_release(shop: Shop, master: Master) -> None:
    """`current` would lead past it, and the next start would have nothing to run."""
    shop.configure(fetch=f'rm -rf "$2"; ln -s "{shop.origin}/$1" "$2"')
    assert master.cli("reload").returncode == 0
    for _ in range(2):
        lost = shop.deploy("r2")
        assert (lost.returncode, "fetch has put nothing into" in lost.stderr) == (65, True)
    assert shop.names() == ["r1"]
    (shop.root / "releases" / "r3").symlink_to(shop.origin / "r3")
    refused = master.cli("upgrade", "--release", "r3")
    assert (refused.returncode, shop.current) == (5, "r1")


def test_what_prints_on_and_on_or_hides_is_ended(tmp_path: Path) -> None:
    def run(command: str) -> list[str]:
        heard: list[str] = []
        commands.run("it", command, (), str(tmp_path), {}, DEADLINE, None, heard.append)
        return heard

    assert "y" in run("yes & yes & sleep 0.2; exit 0")
    (pid,) = run("setsid env -i sleep 1000 > /dev/null 2>&1 & echo $!")
    wait_gone(int(pid))


@pytest.mark.parametrize("what", ["link", "file", "directory", "locked"])
def test_nothing_is_in_the_way_of_the_next_fetch(tmp_path: Path, what: str) -> None:
    path = tmp_path / ".r1.partial"
    if what == "link":
        path.symlink_to("/")
    elif what == "file":
        path.touch()
    else:
        (path / "a" / "b").mkdir(parents=True)
        (path / "a" / "b").chmod(0o755 if what == "directory" else 0o500)
    assert removing.remove(str(path))
    assert os.listdir(tmp_path) == []


def test_a_deploy_in_a_deploy_would_wait_for_itself(shop: Shop, master: Master) -> None:
    shop.configure(prepare="einhornpy deploy r3")
    assert master.cli("reload").returncode == 0
    refused = shop.deploy("r2")
    assert (refused.returncode, "which has the turn until it ends" in refused.stderr) == (65, True)
