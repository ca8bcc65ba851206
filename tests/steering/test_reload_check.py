"""Whether a program can go on from a state: whatever is done to one, it is refused in a line, or a
master can really take it over."""

from __future__ import annotations

import contextlib
import copy
import fcntl
import json
import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from einhornpy.supervisor import reload_check
from einhornpy.supervisor.__main__ import load, understand
from einhornpy.supervisor.core import planner
from einhornpy.supervisor.launch.lookups import look_up
from einhornpy.supervisor.launch.traffic_pages import OWN_SIZE
from einhornpy.supervisor.master import Master
from einhornpy.supervisor.settings import sources
from einhornpy.supervisor.settings.sources import BadSetting
from einhornpy.supervisor.settings.table import Settings
from einhornpy.supervisor.sockets.addresses import BadAddress
from einhornpy.supervisor.steering import reloads
from einhornpy.supervisor.system import plain_data
from einhornpy.supervisor.system.own_code import OwnCode
from einhornpy.supervisor.system.plain_data import Unreadable
from einhornpy.supervisor.system.processes import Processes

from ..harness import ROOT

STATES = sorted((ROOT / "tests" / "states").glob("*.json"))
PLAIN = ROOT / "tests" / "states" / "0.1.0.json"
OWN_CODE = OwnCode()
DELETED = object()
HUGE = 10**40
VALUES: list[Any] = [
    DELETED, None, "x", "", -1, 0, HUGE, 999999, 1.5,
    float("nan"), True, [], {}, [1], {"a": 1}, "é☃"]


def test_which_settings_stay_as_they_were() -> None:
    def settings(**flags: Any) -> Settings:
        return sources.load(flags, ["app"], {}, "/")

    before = reloads.kept(settings(number="2"))
    assert reloads.ignored(settings(number="2", max_surge="2", timeout="9"), before) == []
    assert reloads.ignored(settings(number="3", quiet=True), before) == ["number", "quiet"]
    # a master of the version before has kept fewer
    assert reloads.ignored(settings(number="3", quiet=True), {"number": 2}) == ["number"]


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document; of a list of alike things the first and the last."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, each in value.items():
            yield from paths(each, (*path, key))
    if isinstance(value, list):
        for number in sorted({0, len(value) - 1}) if value else ():
            yield from paths(value[number], (*path, number))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with something else at one place."""
    made = copy.deepcopy(document)
    parent = made
    for step in path[:-1]:
        parent = parent[step]
    if value is DELETED:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return made


def stand_ins(found: dict[str, Any], opened: list[int]) -> None:
    """Give every descriptor of a state something to stand for, and take away the pids: they are
    somebody else's by now."""

    def pair() -> int:
        one, other = socket.socketpair()
        other.close()
        opened.append(one.detach())
        return opened[-1]

    def pipe() -> int:
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.close(writer)
        opened.append(reader)
        return reader

    for each in (*found["listeners"], *found["sessions"],
                 *(each for each in (found["web"], found["keeper"]) if each)):
        each["fd"] = pair()
    found["notify"] = pair()
    if found.get("notify_way"):
        found["notify_way"] |= {"ours": pair(), "theirs": pair()}
    found["place"] |= {
        "listener": pair(), "lock": pipe(), "path": "/nowhere/x.sock",
        "notify_path": "/nowhere/x.notify"}
    def page(size: int) -> int:
        opened.append(os.memfd_create("page", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        os.ftruncate(opened[-1], min(size, 1 << 20))
        fcntl.fcntl(opened[-1], fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return opened[-1]

    if found["place"].get("for_good") is not None:
        found["place"]["for_good"] = pair()
    found["page"]["fd"] = page(found["page"]["size"])
    if traffic := found.get("traffic"):
        traffic["fd"] = page(traffic["size"])
        for each in traffic["slots"].values():
            each["fd"] = None if each["fd"] is None else page(OWN_SIZE)
    found["processes"]["errors"] = [pipe(), pipe()]
    for each in found["output"]:
        each["fd"] = pipe() if each["fd"] >= 0 else -1
    for each in found["errands"]["running"]:
        each["output"] = None if each["output"] is None else pipe()


def taken_over(document: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a real master take over from a state, and plan and report once. It starts and signals
    nobody."""
    wanted, found = understand(document)
    opened: list[int] = []
    stand_ins(found, opened)
    master = Master(wanted, {}, found["given"], look_up(wanted), OWN_CODE, {}, found)
    try:
        parts = master.parts
        parts.take_over(master._state)
        json.dumps(parts.answers.status())
        json.dumps(parts.state())
        json.dumps(parts.answers.tally())
        planner.plan(parts.ledger.pool, time.monotonic())
        parts.systemd.on_time(time.monotonic())
        parts.judge.on_time(time.monotonic())
    finally:
        master._clean_up()
        for fd in opened:
            with contextlib.suppress(OSError):
                os.close(fd)


@pytest.fixture
def harmless(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Whoever takes over in this process must not start, signal or reap anybody, nor keep our
    signals."""
    monkeypatch.setattr(Processes, "start", lambda self, launch: 1 << 22)
    monkeypatch.setattr(Processes, "end", lambda self, pid: True)
    monkeypatch.setattr(Processes, "signal", lambda self, pid, number, group=False: False)
    monkeypatch.setattr("einhornpy.supervisor.outside.web.AppMetrics", lambda *arguments: None)
    monkeypatch.setattr("einhornpy.supervisor.logs.log.Log.entry", lambda self, entry, wall: None)
    monkeypatch.setattr("einhornpy.supervisor.parts.set_title", lambda title: None)
    before = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    yield monkeypatch
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.parametrize("path", STATES, ids=lambda path: path.stem)
def test_a_state_that_something_was_done_to_is_refused_or_taken_over(
        path: Path, harmless: pytest.MonkeyPatch) -> None:
    document = json.loads(path.read_text())
    dice = random.Random(path.stem)
    refused = accepted = 0
    # Of those with a verdict, what no other has; in the others that is as in the first.
    known = set() if "judge" not in path.stem and "watch" not in path.stem else {
        *paths(json.loads(PLAIN.read_text()))}
    for place in (each for each in paths(document) if each not in known):
        for value in dice.sample(VALUES, 1 if known else 2):
            made = json.loads(json.dumps(changed(document, place, value)))
            try:
                understand(made)
            except (Unreadable, BadSetting, BadAddress) as error:
                assert "\n" not in str(error), f"{place} = {value!r}"
                refused += 1
                continue
            except Exception as error:
                raise AssertionError(
                    f"{place} = {value!r} is neither refused nor understood: {error!r}") from error
            accepted += 1
            if dice.random() < 0.2 or place[0] not in ("given", "recent", "kept", "pool"):
                try:
                    taken_over(made, harmless)
                except Exception as error:
                    raise AssertionError(
                        f"{place} = {value!r} was understood, but can't be taken over: {error!r}"
                    ) from error
    assert refused > (80 if known else 150)
    assert accepted > 30


def test_what_a_later_version_adds_is_no_obstacle_anywhere(harmless: pytest.MonkeyPatch) -> None:
    document = json.loads(STATES[-1].read_text())

    def add(value: Any) -> None:
        if isinstance(value, list):
            for each in value:
                add(each)
        if isinstance(value, dict):
            for each in value.values():
                add(each)
            if value and not all(key.isdigit() for key in value):
                value["invented_later"] = {"a": [1]}

    # names that somebody gave
    keep = {name: copy.deepcopy(document[name]) for name in ("given", "labels", "announcements")}
    add(document)
    document |= keep
    for each in document["tally"]["upgrades"], document["tally"]["exits"]:
        each["invented_later"] = 1
    for recipe in document["pool"]["generations"].values():
        recipe["recipe"]["environment"].pop("invented_later")
    for recipe in document["pool"]["remembered"].values():
        recipe["recipe"]["environment"].pop("invented_later")
    for errand in document["errands"]["waiting"]:
        errand["launch"]["environment"].pop("invented_later", None)
    taken_over(document, harmless)


@pytest.mark.parametrize(("change", "line"), [
    (lambda state: state["pool"]["workers"]["4"].update(generation=9), "generation 9 of"),
    (lambda state: state["pool"].update(current=9), "current 9 of"),
    (lambda state: state["pool"]["history"][0].update(outcome=None),
     "an upgrade that is over has ended as None"),
    (lambda state: state["pool"]["upgrade"].update(from_generation=7), "an upgrade from 7"),
    (lambda state: state["prepared"].pop("3"), "are prepared"),
    (lambda state: state.update(next_worker=1), "the next worker is 1"),
    (lambda state: state["output"][0].update(fd=state["notify"]), "descriptors"),
    (lambda state: state["processes"].update(pids=[]), "are ours"),
    (lambda state: state["page"].update(size=100), "a page of 100 bytes"),
    (lambda state: state["output"][0].update(rest="☃"), "is no bytes"),
    (lambda state: state.update(announcements={"announce": ["{}"]}),
     "an announcement for 'announce'"),])
def test_what_contradicts_itself_is_refused(change: Any, line: str) -> None:
    document = json.loads(STATES[-1].read_text())
    change(document)
    with pytest.raises(Unreadable, match=line.replace("(", r"\(")):
        understand(document)


def test_whatever_planning_it_raises_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(pool: Any, now: float) -> None:
        raise KeyError("a rule")

    monkeypatch.setattr(planner, "plan", broken)
    with pytest.raises(Unreadable, match="cannot go on from the state: KeyError: 'a rule'"):
        understand(json.loads(STATES[-1].read_text()))


def test_a_descriptor_that_is_not_there_refuses_it() -> None:
    _, found = understand(json.loads(STATES[-1].read_text()))
    found["place"]["lock"] = 999
    with pytest.raises(Unreadable, match="descriptor"):
        reload_check.check_descriptors(found)
    assert load(found["given"]).command
    assert plain_data.FORMAT == 1
