"""How an upgrade is to go: what was asked for, and the settings for what was not."""

from __future__ import annotations

from typing import Any

import pytest
from einhornpy.shared import commands
from einhornpy.supervisor.core.slices import Tolerance
from einhornpy.supervisor.core.upgrade import Judging, Kind
from einhornpy.supervisor.settings.parsers import Unsure
from einhornpy.supervisor.settings.table import Settings
from einhornpy.supervisor.steering import upgrade_terms


def settings(**changes: Any) -> Settings:
    from einhornpy.supervisor.settings.sources import load

    flags = {"judge": None} | changes
    return load({key: value for key, value in flags.items() if value is not None}, ("app",), {}, "/")


def asked(of: Settings, **given: Any) -> Any:
    return upgrade_terms.read(commands.BY_NAME["upgrade"].read(given), of)


def test_nobody_is_judged_unless_somebody_says_so() -> None:
    assert asked(settings()).judging is None
    assert upgrade_terms.usual(settings()).judging is None
    assert asked(settings(), judge=True).judging == Judging()


def test_the_settings_count_where_nothing_is_said() -> None:
    told = settings(judge="true", judge_tolerance="1,2", judge_after="5", judge_unsure="refuse",
                    watch="90s")
    judging = Judging(Tolerance(0.01, 2.0), 5, None, True, 90.0)
    assert asked(told).judging == judging
    assert upgrade_terms.usual(told, Kind.FLEET).judging == judging
    assert asked(told, judge=False).judging is None
    own = asked(told, judge_tolerance="0.2,1.1", judge_after=0, judge_unsure="pass",
                canary=1, hold="2min", hold_at_least="2min", watch=0)
    assert own.judging == Judging(Tolerance(0.002, 1.1), 0, 120.0, False, 0.0)
    assert asked(told, canary=1, hold="until-resume", hold_at_least=10).judging.least_hold == 10.0


@pytest.mark.parametrize(("given", "line"), [
    ({"watch": 5}, "--watch goes with --judge"),
    ({"judge": False, "judge_after": 5}, "--judge-after goes with --judge"),
    ({"judge": True, "hold_at_least": "10"}, "--hold-at-least goes with --canary"),
    ({"judge": True, "canary": 1, "hold": 1, "hold_at_least": "10"},
     "--hold-at-least is longer than the hold: 10 s of 1 s"),
    ({"judge": True, "canary": 1, "hold_at_least": "2min"},
     "--hold-at-least is longer than the hold: 120 s of 60 s"),
    ({"judge": True, "judge_tolerance": "5"}, "judge_tolerance: got '5', expected percentage "
     "points of failed requests, a comma, and a factor of at least 1, such as 0.5,1.3"),
    ({"judge": True, "judge_unsure": "wait"}, "judge_unsure: got 'wait', expected pass or refuse"),
    ({"judge": True, "watch": "soon"}, "watch: got 'soon', expected a number of seconds, 0 or "
     "more, or 90s, 10min, 6h, 1d"),
    ({"canary": 1, "hold": "soon"}, "hold: got 'soon', expected a number of seconds, 0 or more, or "
     "90s, 10min, 6h, 1d, or until-resume"),
])
def test_what_is_wrong_is_one_line(given: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError) as caught:
        asked(settings(), **given)
    assert str(caught.value) == line


def test_words_of_the_wire_are_those_of_the_settings() -> None:
    (declared,) = (each for each in commands.BY_NAME["upgrade"].arguments
                   if each.name == "judge_unsure")
    assert declared.expected == " or ".join(Unsure)
