"""The flags of `run`, made from the master's own table of settings, and settings as one would type
them. It runs nothing, and reads the table only when the flags are asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# What a shell may offer for a setting, by the word that stands for its value.
KINDS = {
    "DIR": "dir", "PATH": "file", "USER": "user", "GROUP": "group", "SIGNAL": "signal",
    "MODE": "mode", "spread|LIST": "cores"}
# Options of Einhorn's that can't mean anything here, and why; the last flag of each is its name.
REFUSED = {
    ("-p", "--preload"): "it loads Ruby code into the master, which is no Ruby: workers import their "
                         "code themselves",
    ("--gc-before-fork",): "it tunes Ruby's memory before a fork, and workers are exec'ed"}


def suggest(
        what: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]:
    """Let a shell offer words of a kind (see completion.py)."""

    def suggestions(context: click.Context, parameter: click.Parameter,
                    incomplete: str) -> list[CompletionItem[str]]:
        from . import completion

        return completion.suggestions(what, context, incomplete)

    return suggestions


def parameters() -> list[click.Parameter]:
    """Everything that `run` takes: its flags and the command."""
    from ...supervisor.settings.table import OPTIONS

    return [
        click.Option(["--config"], metavar="FILE", help="Read settings from this TOML file too.",
                     shell_complete=suggest("file")),
        *(_flag(option) for option in OPTIONS),
        *(click.Option([*names], hidden=True, expose_value=False, is_flag=len(names) == 1,
                       callback=functools.partial(_refuse, names[-1], why))
          for names, why in REFUSED.items()),
        click.Argument(["command"], nargs=-1, type=click.UNPROCESSED,
                       shell_complete=suggest("program"))]


def _flag(option: Any) -> click.Option:
    """One setting as an option of click's."""
    names = [*option.flags]
    if option.name == "kill_children_on_exit":
        names = ["-k/ ", "--kill-children-on-exit/--keep-children-on-exit"]
    shown = "" if option.default in (None, ()) or option.switch else f"  Default: {option.default:g}." \
        if isinstance(option.default, int | float) else f"  Default: {option.default}."
    offered = KINDS.get(option.metavar, option.metavar)
    return click.Option([option.name, *names], is_flag=option.switch, default=None,
                        multiple=option.many, metavar=None if option.switch else option.metavar,
                        help=option.help + ("" if "Default:" in option.help else shown),
                        shell_complete=suggest(offered)
                        if option.metavar in KINDS or "|" in option.metavar else None)


def _refuse(flag: str, why: str, context: click.Context, parameter: click.Parameter,
            value: Any) -> None:
    if value:
        raise click.UsageError(f"{flag}: {why}; leave it out", context)


def given_only(parameters: dict[str, Any]) -> dict[str, Any]:
    """The options that somebody gave."""
    return {key: value for key, value in parameters.items() if value not in (None, ())}


def words_of(option: Any, value: Any) -> list[str]:
    """An option of run as one would type it."""
    if value in (None, ()):
        return []
    if option.switch:
        return [option.flags[-1]] if value else [
            "--keep-children-on-exit"] if option.name == "kill_children_on_exit" else []
    return [
        word for each in (value if option.many else [value])
        for word in (option.flags[-1], str(each))]
