"""The flags of `run`, made from the master's own table of settings, and settings as one would type
them. It runs nothing, and reads the table only when the flags are asked for.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..terminal import say

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ...supervisor.settings.declaring import Setting

# What a shell may offer for a setting, by the word that stands for its value.
KINDS = {"DIR": "dir", "PATH": "file", "USER": "user", "GROUP": "group", "SIGNAL": "signal"}
# Options of Einhorn's that can't mean anything here, and why; the last flag of each is its name.
# Without them workers are the same, but for what they cost: called by Einhorn's name, we say so and
# go on.
REFUSED = {
    ("--gc-before-fork",): "it tunes Ruby's memory; a template that preloads collects "
                            "garbage before it forks"}


def with_values(context: click.Context, arguments: list[str],
                parameters: Sequence[click.Parameter]) -> list[str]:
    """A command line of `run` in which each flag that may stand alone has its value, as click needs
    it: `--preload -- gunicorn` and `--preload=strict`. Einhorn's `--preload FILE` is our
    `--preload-file`.

    Raises:
        click.UsageError: a value of such a flag stands behind a blank.
    """
    from ...supervisor.settings.table import SETTINGS

    alone = {setting.flags[-1]: setting for setting in SETTINGS.values() if setting.alone}
    takes = {flag for each in parameters if isinstance(each, click.Option) and not each.is_flag
             for flag in each.opts}
    words, done = [*arguments], list[str]()
    while words and words[0].startswith("-") and words[0] not in ("-", "--"):
        flag, equals, value = words.pop(0).partition("=")
        if flag == "--preload" and "--einhorn" in done:
            flag = "--preload-file"
        if flag in alone and not equals:
            if words and words[0] in alone[flag].choices:
                raise click.UsageError(f"{flag}: its mode is joined by an equals sign: "
                                       f"{flag}={words[0]}", context)
            equals, value = "=", alone[flag].alone
        done.append(f"{flag}{equals}{value}")
        # Of short flags in one word the first that takes a value takes the rest, if there is any.
        first = flag if flag.startswith("--") else next(
            (f"-{letter}" for letter in flag[1:] if f"-{letter}" in takes), "")
        if first in takes and flag.endswith(first[1:]) and not equals and words:
            done.append(words.pop(0))
    return [*done, *words]


def suggest(what: str | tuple[str, ...]) -> Callable[
        [click.Context, click.Parameter, str], list[CompletionItem[str]]]:
    """Let a shell offer words of a kind (see completion.py), or these."""

    def suggestions(context: click.Context, parameter: click.Parameter,
                    incomplete: str) -> list[CompletionItem[str]]:
        from . import completion

        return completion.suggestions(what, context, incomplete)

    return suggestions


def parameters() -> list[click.Parameter]:
    """Everything that `run` takes: its flags and the command."""
    from ...supervisor.settings.table import SETTINGS

    return [
        click.Option(["--config"], metavar="FILE", help="Read settings from this TOML file too.",
                     shell_complete=suggest("file")),
        *(_flag(setting) for setting in SETTINGS.values()),
        *(click.Option([*names], hidden=True, expose_value=False, is_flag=len(names) == 1,
                       callback=functools.partial(_refuse, names[-1], why))
          for names, why in REFUSED.items()),
        click.Option(["--upgrade-check"], is_flag=True, hidden=True),
        click.Argument(["command"], nargs=-1, type=click.UNPROCESSED,
                       shell_complete=suggest("program"))]


def _flag(setting: Setting) -> click.Option:
    """One setting as an option of click's."""
    names, default = [*setting.flags], setting.shown_default
    if setting.off is not None:  # only the long flag has an opposite
        names = [*(f"{flag}/ " for flag in names[:-1]), f"{names[-1]}/{setting.off}"]
    said = default is None or setting.switch or "Default:" in setting.help
    offered = setting.choices or KINDS.get(setting.metavar)
    kind = WithMode if setting.alone else click.Option
    return kind([setting.name, *names], is_flag=setting.switch, default=None,
                        multiple=setting.many, metavar=None if setting.switch else setting.metavar,
                        help=setting.help if said else f"{setting.help}  Default: {default}.",
                        shell_complete=suggest(offered) if offered else None)


class WithMode(click.Option):
    """One that may stand alone, or has its value behind an equals sign."""

    def get_help_record(self, context: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(context)
        return None if record is None else (record[0].replace(" [=", "[="), record[1])


def _refuse(flag: str, why: str, context: click.Context, parameter: click.Parameter,
            value: Any) -> None:
    if value and context.params.get("einhorn"):
        say(f"einhornpy: {flag}: passed over: {why}", sys.stderr)
    elif value:
        raise click.UsageError(f"{flag}: {why}; leave it out", context)


def given_only(parameters: dict[str, Any]) -> dict[str, Any]:
    """The options that somebody gave."""
    return {key: value for key, value in parameters.items() if value not in (None, ())}


def words_of(setting: Setting, value: Any) -> list[str]:
    """A setting of run as one would type it."""
    if value in (None, ()):
        return []
    if setting.switch:
        return [setting.flags[-1]] if value else [setting.off] if setting.off else []
    return [
        word for each in (value if setting.many else [value])
        for word in (setting.flags[-1], str(each))]
