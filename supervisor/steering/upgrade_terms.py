"""How an upgrade is to go: what was asked for, and the settings for what was not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...shared import commands
from ..core.slices import Tolerance
from ..core.upgrade import Judging, Kind, Terms
from ..settings import parsers
from ..settings.parsers import Unsure
from ..settings.table import SETTINGS, Settings

# What of an upgrade's arguments says how it is judged: where one isn't given, the setting of its
# name counts, if there is one.
_OF_JUDGE: Mapping[str, Callable[[Any], Any]] = {
    **{name: SETTINGS[name].parse
       for name in ("judge_tolerance", "judge_after", "judge_unsure", "watch")},
    "hold_at_least": parsers.seconds,
}


def usual(settings: Settings, kind: Kind = Kind.ROLLING, release: str | None = None) -> Terms:
    """The terms of an upgrade of which nothing else was said."""
    return Terms(kind, release, judging=_judging({}, settings))


def read(args: Mapping[str, Any], settings: Settings) -> Terms:
    """The terms that the arguments of `upgrade` ask for.

    Raises:
        ValueError: one of them is wrong, or makes no sense without another one.
    """
    hold = None if args["hold"] == commands.UNTIL_RESUME else _read(
        "hold", args["hold"], parsers.seconds, f", or {commands.UNTIL_RESUME}")
    judging, canary = _judging(args, settings), args["canary"]
    commands.check_least_hold(None if judging is None else judging.least_hold, canary, hold)
    return Terms(Kind(args["kind"]), args["release"], canary, hold if canary else 0.0,
                 args["check"], args["max_failures"], judging=judging)


def _judging(args: Mapping[str, Any], settings: Settings) -> Judging | None:
    asked = args.get("judge")
    given = [name for name in _OF_JUDGE if args.get(name) is not None]
    if not (settings.judge if asked is None else asked):
        if given:
            raise ValueError(f"--{given[0].replace('_', '-')} goes with --judge")
        return None
    values: dict[str, Any] = {name: getattr(settings, name, None) for name in _OF_JUDGE}
    values |= {name: _read(name, args[name], _OF_JUDGE[name]) for name in given}
    failed, ratio = values["judge_tolerance"]
    return Judging(Tolerance(failed / 100, ratio), values["judge_after"], values["hold_at_least"],
                   values["judge_unsure"] is Unsure.REFUSE, values["watch"])


def _read(name: str, value: Any, parse: Callable[[Any], Any], more: str = "") -> Any:
    try:
        return parse(value)
    except ValueError as error:
        raise ValueError(f"{name}: got {value!r}, expected {error}{more}") from None
