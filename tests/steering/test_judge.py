"""An upgrade that is judged, with real apps under load: what is refused, by which figures, and who
beats the judge. How sure a verdict is: tests/core/test_evidence.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..harness import Master, wait_until
from ..load import Load

Start = Callable[..., Master]
# What a release is like is read at import; each has a directory of its own, as it should.
APP = """
import itertools, os, time

LIKE = open("like").read()
count = itertools.count(1)

def wsgi(environ, start_response):
    if LIKE == "failing" and next(count) % 3 == 0:
        raise RuntimeError("a request fails")
    if LIKE == "hanging" and next(count) % 3 == 0:
        time.sleep(1000)
    if LIKE == "slow":
        time.sleep(0.05)
    if os.path.exists("../outage") and LIKE == "fragile":
        raise RuntimeError("it goes bad later")
    time.sleep(0.002)
    start_response("200 OK", [("Content-Length", "3")])
    return [b"hi\\n"]
"""
CANARY = ("--canary", "1", "--hold", "300")


@pytest.fixture
def shop(place: Path) -> Callable[[str], None]:
    """Deploys a release that is like that."""

    def deploy(like: str) -> None:
        (place / like).mkdir(exist_ok=True)
        (place / like / "app.py").write_text(APP)
        (place / like / "like").write_text(like)
        (place / "next").symlink_to(like)
        (place / "next").rename(place / "current")

    deploy("fine")
    return deploy


def started(start: Start, *flags: str) -> Master:
    master = start("-n", "2", "-b", "127.0.0.1:0", "--judge-after", "5", "--chdir", "current",
                   *flags, "--", "gunicorn", "-k", "gthread", "--threads", "4", "app:wsgi")
    master.wait_ready()
    return master


def loaded(master: Master) -> Load:
    return Load(master.address, rate=120, slow=0.0, keep_alive=0.3)


def has_answered(master: Master, requests: int) -> None:
    """Its workers have answered so many requests: what they do is known."""
    wait_until(lambda: sum(worker["requests"] or 0 for worker in master.status()["workers"])
               >= requests, f"{requests} requests", master.log)


def verdict(master: Master) -> dict[str, Any]:
    found = (master.status()["upgrade"] or {}).get("verdict")
    return found if isinstance(found, dict) else {}


@pytest.mark.parametrize(("like", "measures"),
                         [("failing", {"failed"}), ("slow", {"p50", "p99"})])
def test_a_release_that_does_worse_is_refused_by_its_figures(
        start: Start, shop: Callable[[str], None], like: str,
        measures: set[str]) -> None:
    master = started(start)
    recorder = master.record()
    with loaded(master) as load:
        shop(like)
        result = master.cli("upgrade", "--judge", *CANARY)
        assert result.returncode == 5, result.stdout + result.stderr + master.log()
        document = master.wait_status(lambda each: each["gate"] == "rolled-back", "rolled back")
    upgrade = document["upgrade"]
    assert (upgrade["outcome"], upgrade["cause"]) == ("rolled-back", "worse")
    found = upgrade["verdict"]
    assert found["word"] == "worse"
    assert found["reason"] == upgrade["reason"]
    assert found["reason"] in result.stderr
    assert " against " in found["reason"]
    figures = [each for each in found["measures"] if each["measure"] in measures]
    assert all(each["new"] > each["old"] for each in figures)
    assert min(each["p_worse"] for each in figures) < 0.01
    (kept,) = master.ask("history")["result"]["upgrades"]
    assert kept["verdict"] == found
    ended = recorder.wait_for("upgrade-ended")
    assert (ended["verdict"], ended["figures"]) == ("worse", found["reason"])
    # Only the canary ever answered so, and every seat is taken.
    assert load.report.sent > 0
    assert sorted(each["index"] for each in document["workers"]
                  if each["state"] == "ready" and each["recycling"] is None) == [0, 1]


def test_a_release_that_answers_ever_fewer_is_refused(
        start: Start, shop: Callable[[str], None]) -> None:
    """One request in three never ends, so that soon no thread is left: none of them ever counts as
    answered."""
    master = started(start, "--graceful-timeout", "1")
    with loaded(master):
        shop("hanging")
        result = master.cli("upgrade", "--judge", *CANARY)
        assert result.returncode == 5, result.stdout + result.stderr + master.log()
    upgrade = master.wait_status(lambda each: each["gate"] == "rolled-back", "back")["upgrade"]
    assert upgrade["cause"] == "worse"
    assert upgrade["reason"].startswith("requests without an answer "), upgrade["reason"]
    assert upgrade["verdict"]["requests"] < 100


def test_a_release_that_goes_bad_after_its_upgrade_goes_back_by_itself(
        start: Start, shop: Callable[[str], None], place: Path) -> None:
    master = started(start, "--judge", "--watch", "300")
    with loaded(master) as load:
        has_answered(master, 800)
        shop("fragile")
        result = master.cli("upgrade")
        assert result.returncode == 0, result.stderr
        document = master.status()
        assert (document["gate"], document["upgrade"]["phase"]) == ("ready", "watched")
        assert document["upgrade"]["watch_left_seconds"] > 0
        # Enough is known of both, and nothing is worse.
        master.wait_status(lambda each: each["upgrade"]["verdict"]["requests"] > 200, "compared")
        (place / "outage").touch()
        document = master.wait_status(lambda each: each["gate"] == "rolled-back", "rolled back")
    assert (document["generation"], document["upgrade"]["cause"]) == (1, "worse")
    assert len(master.ask("history")["result"]["upgrades"]) == 1
    assert load.report.sent > 0


def test_who_resumes_a_hold_beats_the_judge(start: Start, shop: Callable[[str], None]) -> None:
    master = started(start)
    with loaded(master):
        shop("failing")
        master.ask("upgrade", judge=True, canary=1, hold=300, wait=False)
        document = master.wait_status(lambda each: each["upgrade"]["phase"] == "held", "held")
        (baseline,) = [each for each in document["workers"] if each["baseline"]]
        assert baseline["index"] == document["upgrade"]["baseline"]
        assert baseline["generation"] == document["upgrade"]["from"]
        assert master.ask("pause")["ok"]
        master.wait_status(lambda each: verdict(master).get("word") == "worse", "worse")
        assert master.status()["gate"] == "paused", "a pause beats the judge"
        assert master.ask("resume")["ok"]
        document = master.wait_status(lambda each: each["gate"] == "rolled-back", "rolled back")
        assert document["upgrade"]["cause"] == "worse"
        master.ask("upgrade", judge=True, canary=1, hold=300, wait=False)
        master.wait_status(lambda each: each["upgrade"]["phase"] == "held", "held")
        assert master.ask("resume")["ok"]
        document = master.wait_status(lambda each: each["gate"] == "ready", "ready")
    assert document["upgrade"]["outcome"] == "done"
    assert not any(each["baseline"] for each in document["workers"])
    assert document["upgrade"]["verdict"]["overruled_by"]
    assert document["upgrade"]["watch_left_seconds"] is None


def test_without_traffic_it_says_so_and_does_what_it_was_told(
        start: Start, shop: Callable[[str], None]) -> None:
    master = started(start, "--judge")
    result = master.cli("upgrade", "--canary", "1", "--hold", "1", "--judge-unsure", "refuse")
    assert result.returncode == 5
    assert "too little traffic to tell: 0 requests" in result.stderr
    result = master.cli("upgrade", "--canary", "1", "--hold", "1", "--watch", "0")
    assert result.returncode == 0, result.stderr
    document = master.status()["upgrade"]
    assert (document["verdict"]["word"], document["phase"]) == ("unsure", "ended")


def test_a_reload_keeps_what_is_known(start: Start, shop: Callable[[str], None]) -> None:
    master = started(start, "--judge")
    with loaded(master):
        assert master.cli("upgrade", *CANARY, "--no-wait").returncode == 0
        before = master.wait_status(
            lambda each: (each["upgrade"]["verdict"] or {}).get("requests", 0) > 20, "compared")
        assert master.cli("reload").returncode == 0
        after = master.wait_status(
            lambda each: each["upgrade"]["verdict"]["requests"]
            > before["upgrade"]["verdict"]["requests"], "it goes on")
    assert after["upgrade"]["phase"] == "held"


@pytest.mark.parametrize(("flags", "line"), [
    (["--judge-after", "5"], "judge_after: goes with judge"),
    (["--no-judge", "--watch", "5"], "--watch goes with --judge"),
    (["--judge", "--judge-tolerance", "5"],
     "--judge-tolerance: got '5', expected percentage points of failed requests, a comma, and a "
     "factor of at least 1, such as 0.5,1.3"),
    (["--judge", "--hold-at-least", "soon"],
     "--hold-at-least: got 'soon', expected a number of seconds, 0 or more, or 90s, 10min, 6h, "
     "1d")])
def test_wrong_usage_is_one_line(start: Start, shop: Callable[[str], None], flags: list[str],
                                 line: str) -> None:
    master = started(start)
    result = master.cli("upgrade", *flags)
    assert result.returncode == 2
    assert line in result.stderr.splitlines()[-1]
    assert master.status()["upgrade"] is None
