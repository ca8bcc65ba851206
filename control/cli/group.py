"""The group of all commands. A module of them is imported when one of its commands is called for:
`status` is in a hurry.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# The module that holds a command is imported when that is called for, and no other.
MODULES = {
    "status": ("status",), "upgrade": ("upgrade", "rollback", "pause", "resume", "abort"),
    "deploy": ("deploy",), "steering": ("scale", "recycle", "signal", "stop", "reload"),
    "looking": ("list", "history", "show", "events", "top", "version"), "releases": ("releases",),
    "shell": ("shell",), "completion": ("completion",), "run": ("run", "unit")}

HELP = ["-h", "--help"]


@functools.cache
def commands_of(module: str) -> dict[str | None, click.Command]:
    """The commands that a module declares."""
    held = vars(importlib.import_module(f".{module}", __package__)).values()
    return {each.name: each for each in held
            if isinstance(each, click.Command) and not isinstance(each, click.Group)}


def command_of(name: str) -> click.Command | None:
    """The command of this name, if there is one."""
    found = (module for module, held in MODULES.items() if name in held)
    return next((commands_of(module)[name] for module in found), None)


def names() -> list[str]:
    """All commands, `run` first."""
    found = (name for held in MODULES.values() for name in held)
    return sorted(found, key=lambda name: (name != "run", name))


class Group(click.Group):
    """Without a command's name, `run` is meant."""

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return command_of(name)

    def list_commands(self, context: click.Context) -> list[str]:
        return names()

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """While a shell completes a line, the words before are read here as `main` reads those of a
        whole one."""
        if context.resilient_parsing and args:
            if args[0] == "unit":
                args = ["run", *args[2 if args[1:2] == ["--user"] else 1:]]
            elif command_of(args[0]) is None:
                args = ["run", *args]
        return super().parse_args(context, args)

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        run = command_of("run") if incomplete.startswith("-") else None
        if run is not None:
            return run.shell_complete(click.Context(run, parent=context), incomplete)
        return super().shell_complete(context, incomplete)


@click.group(cls=Group,
             context_settings={"help_option_names": HELP, "max_content_width": 80})
def cli() -> None:
    """Keep an app's workers ready on one host, and replace their code without anyone noticing.

    \b
      einhornpy -n 4 -b 127.0.0.1:8000 -- gunicorn app:wsgi    run it
      einhornpy status                                         is this host done?
      einhornpy upgrade                                        roll it

    Without a command's name, `run` is meant.
    """
