"""What a setting is, and how one is declared: as the default of a field of a dataclass. Which there
are stands in table.py."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from typing import Any, TypeVar

from ...shared.frozen import dataclass
from . import parsers
from .parsers import Word

ENVIRONMENT_PREFIX = "EINHORNPY_"
T = TypeVar("T")


class Counts(enum.Enum):
    """Where a setting counts: as a field of the planner's `Policy`, of a generation's `Recipe`, or
    wherever somebody reads it."""

    POLICY = "policy"
    RECIPE = "recipe"
    ELSEWHERE = "elsewhere"


class Reload(enum.Enum):
    """When a value counts that has changed before a reload. At once: what workers are given, for
    workers started from then on."""

    AT_ONCE = "at once"
    NEXT_GENERATION = "next generation"
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class Setting:
    """All that is known of one setting. `parse` takes the text (or, from TOML, the value) and
    returns the value or raises ValueError with what was expected. `default`: the value, or what
    makes it from the command and the settings declared before. `choices`: words that it may be, for
    completion. `many`: may be given several times, each parsed alone. `switch`: takes no value;
    `off`: the flag that says no to it. `secret`: is not to stand in a message. `alone`: what
    the flag means without a value, which is else given as FLAG=VALUE. `counts_as`: the field of the
    policy or recipe."""

    flags: tuple[str, ...]
    parse: Callable[[Any], Any]
    default: Any
    help: str
    metavar: str = "TEXT"
    choices: tuple[str, ...] = ()
    many: bool = False
    switch: bool = False
    off: str | None = None
    secret: bool = False
    alone: str = ""
    counts_in: Counts = Counts.ELSEWHERE
    counts_as: str = ""
    reload: Reload = Reload.AT_ONCE
    name: str = ""

    @property
    def key(self) -> str:
        """Its name in a file."""
        return self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return ENVIRONMENT_PREFIX + self.name.upper()

    @property
    def shown_default(self) -> str | None:
        """The default as somebody would type it, or what the help says of it; None: there is
        none."""
        if "Default: " in self.help:
            return self.help.rpartition("Default: ")[2].rstrip(".")
        if self.default in (None, ()):
            return None
        if self.switch:
            return str(self.default).lower()
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    def default_after(self, values: Mapping[str, Any]) -> Any:
        """The default. `values`: the command, and every setting that was declared before."""
        return self.default(values) if callable(self.default) else self.default


def setting(default: T | Callable[[Mapping[str, Any]], T], *flags: str,
            parse: Callable[[Any], T], **about: Any) -> T:
    """Declare a setting: the default of a field of `Settings`. `about`: see `Setting`."""
    about.setdefault("metavar", {int: "N", float: "SECONDS"}.get(type(default), "TEXT"))
    declared: T = _declared(Setting(flags, parse, default, **about))
    return declared


def several(*flags: str, parse: Callable[[Any], T], **about: Any) -> tuple[T, ...]:
    """Declare a setting that may be given several times, each parsed alone; by default never."""
    declared: tuple[T, ...] = _declared(Setting(flags, parse, (), many=True, **about))
    return declared


def switch(default: bool, *flags: str, **about: Any) -> bool:
    """Declare a setting that takes no value as a flag."""
    declared: bool = _declared(Setting(flags, parsers.yes_or_no, default, switch=True, **about))
    return declared


def choice(default: Word, *flags: str, **about: Any) -> Word:
    """Declare a setting that is one word out of a closed set."""
    words = type(default)
    return setting(default, *flags, parse=parsers.one_of(words), metavar="|".join(words),
                   choices=(*words,), **about)


def _declared(about: Setting) -> Any:
    if about.counts_in is Counts.RECIPE:
        about = replace(about, reload=Reload.NEXT_GENERATION)
    without = {} if callable(about.default) else {"default": about.default}
    return field(**without, metadata={"setting": about})
