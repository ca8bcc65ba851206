"""Writes docs/reference.md from the click commands and the table of settings; tests/test_docs.py checks that it is new."""

from __future__ import annotations

from pathlib import Path

import click
from einhornpy.control.cli import cli
from einhornpy.supervisor.settings import ENVIRONMENT_PREFIX, OPTIONS


def command_help(name: str) -> str:
    """The help text of one command at 80 columns."""
    parent = click.Context(cli, info_name="einhornpy", terminal_width=80, max_content_width=80)
    command = cli.get_command(parent, name)
    assert command is not None
    context = click.Context(command, info_name=name, parent=parent, terminal_width=80, max_content_width=80)
    return command.get_help(context)


def settings_table() -> str:
    """Every setting with its three names and its default."""
    rows = ["| flag | environment | TOML key | default |", "| --- | --- | --- | --- |"]
    for option in OPTIONS:
        flags = ", ".join(f"`{flag}`" for flag in option.flags)
        default = "" if option.default in (None, ()) else str(option.default).lower()
        key = option.name.replace("_", "-")
        rows.append(f"| {flags} | `{ENVIRONMENT_PREFIX}{option.name.upper()}` | `{key}` | {default} |")
    rows.append(f"| after `--` | `{ENVIRONMENT_PREFIX}COMMAND` | `command` | |")
    return "\n".join(rows)


def reference() -> str:
    """The whole page."""
    context = click.Context(cli)
    parts = ["# Reference", "Generated from the program; `python docs/generate_reference.py` writes it anew.",
             "## Settings of `run`", settings_table()]
    for name in cli.list_commands(context):
        parts += [f"## einhornpy {name}", f"```\n{command_help(name)}\n```"]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "reference.md").write_text(reference())
