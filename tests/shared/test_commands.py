"""What the declarations of commands make of arguments, and that each of them has its act."""

from __future__ import annotations

from typing import Any

import pytest
from einhornpy.control.cli import shell
from einhornpy.shared import commands
from einhornpy.shared.commands import Who
from einhornpy.supervisor.core.pool import Stopping
from einhornpy.supervisor.core.upgrade import Kind
from einhornpy.supervisor.steering.commands import Commands
from einhornpy.supervisor.steering.einhorn import EinhornCommands


def acts(of: type) -> set[str]:
    return {name.removeprefix("do_") for name in vars(of) if name.startswith("do_")}


def test_each_command_has_its_act_and_each_act_its_command() -> None:
    assert acts(Commands) == commands.BY_NAME.keys()
    assert acts(EinhornCommands) == commands.EINHORNS_BY_NAME.keys()


def test_a_name_that_two_have_means_the_same_rights() -> None:
    for name in commands.BY_NAME.keys() & commands.EINHORNS_BY_NAME.keys():
        assert commands.BY_NAME[name].who is commands.EINHORNS_BY_NAME[name].who


def test_who_may() -> None:
    looking = {"ping", "help", "status", "history", "show", "tally", "events", "ehlo", "state"}
    speaking = {"worker:ack", "worker:ping", "worker:failed", "worker:upgrade"}
    every = {*commands.ABOUT, *commands.WORKERS_BY_NAME, "no such"}
    assert {name for name in every if commands.who_may(name) is Who.OBSERVERS} == looking
    assert {name for name in every if commands.who_may(name) is Who.WORKERS} == speaking


def test_what_is_heard_before_there_are_workers() -> None:
    assert commands.EARLY == ["events", "help", "history", "ping", "status", "stop", "tally"]


def test_words_that_are_told_apart_later_are_those_that_are_declared() -> None:
    for name, argument, words in (
            ("upgrade", "kind", (Kind.ROLLING, Kind.FLEET)), ("stop", "how", tuple(Stopping))):
        for word in words:
            assert commands.BY_NAME[name].read({argument: word.value})[argument] == word.value
        (declared,) = (each for each in commands.BY_NAME[name].arguments if each.name == argument)
        assert {*declared.expected.replace(" or ", ", ").split(", ")} == {*words}


# Where nothing is said of the judge, the settings count.
NOT_SAID = dict.fromkeys(("judge", "judge_tolerance", "judge_after", "judge_unsure",
                          "hold_at_least", "watch"))


def test_defaults() -> None:
    assert commands.BY_NAME["upgrade"].read({}) == {
        "kind": "rolling", "release": None, "canary": 0, "hold": 60.0, "check": None,
        "max_failures": None, "wait": True} | NOT_SAID
    assert commands.BY_NAME["upgrade"].read({"release": None, "canary": 1, "check": None}) == {
        "kind": "rolling", "release": None, "canary": 1, "hold": 60.0, "check": None,
        "max_failures": None, "wait": True} | NOT_SAID
    assert commands.BY_NAME["stop"].read({}) == {"how": "graceful"}


@pytest.mark.parametrize(("name", "given", "line"), [
    ("ping", {"x": 1}, "ping takes no 'x'; expected no arguments"),
    ("scale", {"of": 1}, "scale takes no 'of'; expected to, by"),
    ("scale", {}, "scale: expected either to or by"),
    ("scale", {"to": 1, "by": 1}, "scale: expected either to or by"),
    ("scale", {"to": True}, "to: got True, expected a whole number"),
    ("scale", {"by": None}, "by: got None, expected a whole number"),
    ("show", {}, "generation: got None, expected its number"),
    ("show", {"generation": True}, "generation: got True, expected its number"),
    ("recycle", {"index": -1}, "index: got -1, expected the number of a seat, 0 or more"),
    ("rollback", {"to": [2]}, "to: got [2], expected the number of a generation or a release"),
    ("stop", {"how": "x"}, "how: got 'x', expected graceful, terminate or now"),
    ("status", {"follow": 1}, "follow: got 1, expected true or false"),
    ("upgrade", {"wait": None}, "wait: got None, expected true or false"),
    ("upgrade", {"kind": ["fleet"]}, "kind: got ['fleet'], expected rolling or fleet"),
    ("upgrade", {"canary": -1}, "canary: got -1, expected a whole number from 0 to 1000000000"),
    ("upgrade", {"max_failures": None},
     "max_failures: got None, expected a whole number from 0 to 1000000000"),
    ("upgrade", {"check": "true"}, "check: goes with a canary"),
    ("upgrade", {"hold": 1, "canary": 0}, "hold: goes with a canary"),
    ("upgrade", {"check": " ", "canary": 1}, "check: expected a shell command"),
    ("upgrade", {"check": "a\0b", "canary": 1}, "check: expected a shell command"),
    ("upgrade", {"judge": "yes"}, "judge: got 'yes', expected true or false"),
    ("upgrade", {"release": ""}, "release: expected a label of 1 to 200 printable characters")])
def test_wrong_arguments(name: str, given: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError) as caught:
        commands.BY_NAME[name].read(given)
    assert str(caught.value) == line


def test_words_of_einhorns_clients() -> None:
    words = commands.EINHORNS_BY_NAME["die"].words
    assert words is not None
    assert (words.read("die", None), words.read("die", ("KILL",))) == ((), ("KILL",))
    with pytest.raises(ValueError, match="die: got 2 arguments, expected at most one signal"):
        words.read("die", ("KILL", "INT"))


def test_what_the_shell_offers() -> None:
    known = ["ping", "status", "stop", "scale"]
    assert shell.offered("", "st", known) == ["status", "stop"]
    assert shell.offered("ping; ", "sc", known) == ["scale"]
    assert shell.offered("scale ", "", known) == ["to=", "by="]
    assert shell.offered("upgrade kind=fleet ", "ca", known) == ["canary="]
    assert shell.offered("no-such ", "", known) == []
