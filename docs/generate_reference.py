"""Writes docs/reference.md from the commands and the settings; tests/whole/test_docs.py checks that
it is new."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from einhornpy.control.cli.main import cli
from einhornpy.shared import commands
from einhornpy.supervisor.settings.declaring import ENVIRONMENT_PREFIX, Reload
from einhornpy.supervisor.settings.table import SETTINGS

WIDTH = 80


def help_of(name: str | None) -> str:
    """The help text of one command, or of einhornpy itself, at 80 columns."""
    width: dict[str, Any] = {"terminal_width": WIDTH, "max_content_width": WIDTH}
    parent = click.Context(cli, info_name="einhornpy", **{**cli.context_settings, **width})
    if name is None:
        return cli.get_help(parent)
    command = cli.get_command(parent, name)
    assert command is not None
    return command.get_help(
        click.Context(command, info_name=name, parent=parent,
                      **{**command.context_settings, **width}))


def settings_table() -> str:
    """Every setting with its three names and its default."""
    rows = ["| flag | environment | TOML key | default | after a reload |",
            "| --- | --- | --- | --- | --- |",
            f"| `--config` | `{ENVIRONMENT_PREFIX}CONFIG` | | none | read anew |"]
    for setting in SETTINGS.values():
        flags = ", ".join(f"`{flag}`" for flag in setting.flags)
        default = (setting.shown_default or "none").replace("|", "\\|")
        rows.append(f"| {flags} | `{setting.variable}` | `{setting.key}` | {default} | "
                    f"{setting.reload.value} |")
    rows.append(
        f"| after `--` | `{ENVIRONMENT_PREFIX}COMMAND` | `command` | must be given somewhere | "
        f"{Reload.NEXT_GENERATION.value} |")
    return "\n".join(rows)


def commands_table(declared: tuple[commands.Command, ...]) -> str:
    """Commands of the control socket, with their arguments and answers."""
    rows = ["| command | what it does | arguments | who may | answers |",
            "| --- | --- | --- | --- | --- |"]
    for command in declared:
        waits = f". Waits {command.waits}" if command.waits else ""
        arguments = [argument_of(each) for each in command.arguments]
        if command.words is not None:
            arguments.append(command.words.expected)
        given = (" or<br>" if command.one_of else "<br>").join(arguments)
        rows.append(f"| `{command.name}` | {command.about} | {given or 'none'} | {command.who} | "
                    f"{command.answers}{waits} |")
    return "\n".join(rows)


def argument_of(argument: commands.Argument) -> str:
    """One argument: what may be given, and what counts where nothing is."""
    default = argument.default
    if isinstance(default, bool):
        default = str(default).lower()
    notes = [f"by default {default:g}" if isinstance(default, float) else f"by default {default}"
             ] if default is not None else []
    notes += ["required"] if argument.required else []
    notes += [f"with `{argument.needs}`"] if argument.needs else []
    beside = f" ({', '.join(notes)})" if notes else ""
    return f"`{argument.name}`: {argument.expected}{beside}"


def reference() -> str:
    """The whole page."""
    parts = [
        "# Reference",
        "Generated from the program; `python docs/generate_reference.py` writes it anew.",
        "## Settings of `run`",
        settings_table(),
        "Times are seconds. Settings that may be given several times are lists in TOML and words, "
        "as a shell reads them, in the\nenvironment; `env` may be a table in TOML. A value that "
        "has changed when `einhornpy reload` reads the file anew\ncounts at once (for what workers "
        "are given: for workers started from then on), with the next generation, or only\nafter a "
        "restart of the master. More on each in [running](running.md) and "
        "[readiness](readiness.md).",
        "## einhornpy", f"```\n{help_of(None)}\n```"]
    for name in cli.list_commands(click.Context(cli)):
        parts += [f"## einhornpy {name}", f"```\n{help_of(name)}\n```"]
    parts += [
        "## Commands of the control socket", "One JSON object a line each way. The request\n"
        '`{"id": 7, "command": "upgrade", "args": {"release": "x"}}` is answered by\n'
        '`{"request_id": 7, "ok": true, "result": {…}, "message": "…"}`, with `"wait": true` on '
        "all but the last reply of a\ncommand that waits, and with an `error` of `code` and "
        "`message` "
        "where `ok` is false. YAML is taken too, see\n[einhorn](einhorn.md#the-wire).",
        "The owner of the master and root may give every command, observers those that only look, "
        "and a worker speaks of itself;\nthe kernel says who is who. Whoever may ask for nothing "
        "is told so, and hung up on. A client that doesn't read its\nanswers isn't read either, "
        "gets only the newest status, and is cut off after 4 MiB of anything else. Where there "
        "are\ntoo many, somebody makes room, first of the same user or worker.",
        commands_table(commands.OURS),
        "Einhorn's, which take words ([einhorn](einhorn.md#commands)); `signal` is one of theirs "
        "where it has words:",
        commands_table(commands.EINHORNS), "What a worker says of itself:",
        commands_table(commands.WORKERS)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "reference.md").write_text(reference())
