"""What the commands share: the options that choose a master, types of values, how a command ends
and tells. It knows no command.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import click

from ...shared import printable
from .. import client
from ..terminal import say_block, say_json
from .flags import suggest

LONGEST_TIME = 1e9
Connect = Callable[..., client.Client]


class Whole(click.IntRange):
    """A whole number of at least `min`, refused in words."""

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"whole number of at least {self.min}"


class Seconds(click.FloatRange):
    """A number of seconds that a clock can wait for."""

    name = "number of seconds above 0"

    def convert(self, value: Any, param: click.Parameter | None,
                context: click.Context | None) -> float:
        number: float = super().convert(value, param, context)
        if not number < LONGEST_TIME:  # nor NaN
            self.fail(f"{value!r} is not below {LONGEST_TIME:.0f}.", param, context)
        return number


class Exit(Exception):
    """Leave with this code, after one line on standard error if there is one."""

    def __init__(self, code: int, message: str | None = None) -> None:
        super().__init__(message or "")
        self.code = code
        self.message = message


def which_master(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose a master; the command gets `connect`, which does so: see
    `client.connect`. Whatever it can't do with the answer, the answer is to blame: it is not of the
    documented form."""
    @click.option("-c", "--command-name", metavar="NAME",
                  help="The master's name, where several run.", shell_complete=suggest("master"))
    @click.option("-d", "--socket-path", metavar="PATH", help="The master's control socket.",
                  shell_complete=suggest("file"))
    @functools.wraps(function)
    def asking(command_name: str | None, socket_path: str | None, **given: Any) -> None:
        try:
            function(functools.partial(client.connect, command_name, socket_path), **given)
        except UnicodeError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError,
                RecursionError) as error:
            raise client.MasterGone(
                "whoever answers there is no master, or one of another version: its answer makes "
                f"no sense ({where(error)})") from error

    return asking


def tell(told: Any, as_json: bool, worded: Callable[[Any], str]) -> None:
    """Print what was asked for, as JSON or for people."""
    if as_json:
        say_json(told, indent=2)
    else:
        say_block(worded(told))


def check_label(flag: str, label: str | None) -> None:
    """Refuse here what the master would refuse: a typing error is one even where no master runs."""
    if label is not None and not printable.is_label(label):
        raise click.UsageError(f"{flag}: got {label!r}, expected {printable.LABEL}")


def in_utf8(text: str) -> str:
    """A word or path that the system gave us, as UTF-8, in which the master and its clients speak
    whatever the locale is."""
    return os.fsencode(text).decode("utf-8", "surrogateescape")


def where(error: BaseException) -> str:
    """What an exception says, and where it was raised."""
    import traceback

    place = traceback.extract_tb(error.__traceback__)[-1]
    file = os.path.basename(place.filename)
    return f"{type(error).__name__} in {file}, line {place.lineno}: {error}"
