"""What a shell may offer for a word that is being typed, where click doesn't know: names, seats,
generations, programs.

Imported only while a shell asks. Nothing here may fail or take long: no suggestion is a good answer
too.
"""

from __future__ import annotations

import grp
import os
import pwd
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click
from click.shell_completion import (
    CompletionItem,
    FishComplete,
    add_completion_class,
    get_completion_class,
)

from .. import client, finding
from ..terminal import say_block
from .group import cli

PATIENCE = 1.0


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def print_completion(shell: str) -> None:
    """Print what makes a shell complete einhornpy's commands, options and masters with the Tab key.

    \b
      eval "$(einhornpy completion bash)"                 in ~/.bashrc
      eval "$(einhornpy completion zsh)"                  in ~/.zshrc, after compinit
      einhornpy completion fish | source                  in ~/.config/fish/config.fish
    """
    made_by = get_completion_class(shell)
    assert made_by is not None
    say_block(made_by(cli, {}, "einhornpy", "_EINHORNPY_COMPLETE").source())


@add_completion_class
class Fish(FishComplete):
    """fish, with descriptions whole: click's own script cuts them at the first comma."""

    def format_completion(self, item: CompletionItem[Any]) -> str:
        return super().format_completion(
            CompletionItem(item.value, item.type, item.help and item.help.replace(",", ";")))


def suggestions(what: str | tuple[str, ...], context: click.Context,
                incomplete: str) -> list[CompletionItem[str]]:
    """The words of a kind, or out of these, that begin with `incomplete`."""
    if what in ("file", "dir"):  # the shell knows these itself
        return [CompletionItem(incomplete, type=what)]
    if what == "program" and (context.params.get("command") or "/" in incomplete):
        return [CompletionItem(incomplete, type="file")]
    try:
        words = _KINDS[what](context) if isinstance(what, str) else [(word, None) for word in what]
        found = [
            CompletionItem(word, help=about) for word, about in words
            if word.startswith(incomplete)]
    except (OSError, client.NoMaster, client.MasterGone, client.TimedOut, client.Failed):
        found = []
    return found


def _masters(context: click.Context) -> Iterator[tuple[str, str | None]]:
    for each in finding.running():
        yield each.name, f"pid {each.pid}" if each.pid else "no answer"


def _ask(context: click.Context, command: str) -> dict[str, Any]:
    """Ask the master that the words so far choose."""
    with client.connect(context.params.get("command_name"), context.params.get("socket_path"),
                        PATIENCE) as master:
        result: dict[str, Any] = master.ask(command)["result"]
        return result


def _seats(context: click.Context) -> Iterator[tuple[str, str | None]]:
    for worker in _ask(context, "status")["workers"]:
        yield str(worker["index"]
                  ), f"pid {worker['pid']}, generation {worker['generation']}, {worker['state']}"


def _generations(context: click.Context) -> Iterator[tuple[str, str | None]]:
    document = _ask(context, "status")
    labels: dict[int, str | None] = {}
    for upgrade in _ask(context, "history")["upgrades"]:
        labels.setdefault(upgrade["from"], None)
        labels[upgrade["to"]] = upgrade["release"]
    labels[document["generation"]] = document["release"]
    for number, release in sorted(labels.items(), reverse=True):
        yield str(number), release


def _releases(context: click.Context) -> Iterator[tuple[str, str | None]]:
    for number, release in _generations(context):
        if release is not None:
            yield release, f"generation {number}"


def _recipes(context: click.Context) -> Iterator[tuple[str, str | None]]:
    yield from _generations(context)
    yield from _releases(context)


def _signals(context: click.Context) -> Iterable[tuple[str, str | None]]:
    return [(each.name.removeprefix("SIG"), signal.strsignal(each)) for each in signal.Signals]


def _programs(context: click.Context) -> Iterator[tuple[str, str | None]]:
    """What could be run, by its name in PATH."""
    seen = set()
    for directory in os.get_exec_path():
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue
        for name in names:
            if name not in seen:
                seen.add(name)
                yield name, None


_KINDS: dict[str, Callable[[click.Context], Iterable[tuple[str, str | None]]]] = {
    "master": _masters, "seat": _seats, "generation": _generations, "release": _releases,
    "recipe": _recipes, "signal": _signals, "program": _programs, "user": lambda context: [
        (each.pw_name, None) for each in pwd.getpwall()], "group": lambda context: [
            (each.gr_name, None) for each in grp.getgrall()],
    "hold": lambda context: [("until-resume", None)]}
