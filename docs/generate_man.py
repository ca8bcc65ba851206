"""Writes docs/man/einhornpy.1 from the click commands; tests/whole/test_docs.py checks that it
is new.

Our own, since click-man makes a page a command and doesn't see `run`, which is no command until
somebody asks for it.
"""

from __future__ import annotations

import re
import textwrap
from importlib.metadata import version
from pathlib import Path

import click
from einhornpy.control import gate
from einhornpy.control.cli.main import cli
from einhornpy.supervisor.settings.declaring import ENVIRONMENT_PREFIX

PAGE = Path(__file__).parent / "man" / "einhornpy.1"
EXIT_CODES = {
    gate.READY: "well; status: ready; run: stopped because it was asked to",
    1: "it could not be done; one line says why", gate.USAGE: "wrong usage",
    gate.NOT_YET: "status: starting, upgrading or paused, or another generation or release is "
                  "ready than the one asked for; run: no "
    "worker ever became ready", gate.DEGRADED: "status: fewer workers are ready than wanted",
    gate.ROLLED_BACK: "the release was refused, aborted or rolled back",
    gate.STOPPING: "the master stops, or stopped meanwhile",
    gate.SUPERSEDED: "the upgrade was superseded by a newer one",
    gate.BAD_RELEASE: "deploy: the release could not be fetched or prepared, or is not here",
    gate.BUSY: "deploy --no-queue: another deploy is under way",
    gate.NO_MASTER: "no master there, or several and none chosen",
    gate.TIMED_OUT: "no answer in time", gate.INTERRUPTED: "interrupted; an upgrade goes on",}


def roff(text: str) -> str:
    """Text as it is: nothing in it is taken for a request or an escape."""
    for character, escaped in (("\\", "\\e"), ("-", "\\-"), ("'", "\\(aq"), ("`", "\\(ga"),
                               ("^", "\\(ha"), ("~", "\\(ti")):
        text = text.replace(character, escaped)
    return re.sub(r"^\.", "\\&.", text, flags=re.MULTILINE)


def bold(text: str) -> str:
    return f"\\fB{roff(text)}\\fR"


def filled(text: str) -> list[str]:
    """A paragraph, in lines of a source that one can read."""
    return [
        roff(line) for line in textwrap.wrap(" ".join(text.split()), 72, break_long_words=False,
                                             break_on_hyphens=False)]


def prose(text: str) -> list[str]:
    """A help text: paragraphs, and as they stand those that click is told not to fill."""
    lines: list[str] = []
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            lines.append(".PP")
        if paragraph.lstrip(" ").startswith("\b"):
            lines += [".nf", *(roff(line.strip()) for line in paragraph.splitlines()[1:]), ".fi"]
        else:
            lines += filled(paragraph)
    return lines


def options(command: click.Command, context: click.Context) -> list[str]:
    """Each option as a tagged paragraph."""
    lines: list[str] = []
    for parameter in command.params:
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None:
            lines += [".TP", bold(record[0]), *filled(record[1])]
    return lines


def described(name: str, parent: click.Context) -> list[str]:
    """One command: its usage, what it does, its options."""
    command = cli.get_command(parent, name)
    assert command is not None
    context = click.Context(command, info_name=name, parent=parent)
    assert command.help is not None
    usage = " ".join(command.collect_usage_pieces(context))
    return [
        f".SS {name}",
        bold(f"einhornpy {name}") + " " + roff(usage), ".PP", *prose(command.help),
        *options(command, context)]


def page() -> str:
    """The whole page."""
    parent = click.Context(cli, info_name="einhornpy")
    assert cli.help is not None
    lines = [
        '.\\" Generated from the program; python docs/generate_man.py writes it anew.',
        f'.TH EINHORNPY 1 "" "einhornpy {version("einhornpy")}" "User Commands"', ".SH NAME",
        *filled(
            "einhornpy - keeps an app's workers ready on one host, and replaces their code without "
            "anyone noticing"
        ), ".SH SYNOPSIS",
        f"{bold('einhornpy')} [\\fIOPTIONS OF RUN\\fR] {bold('--')} \\fIPROGRAM\\fR...", ".br",
        f"{bold('einhornpy')} \\fICOMMAND\\fR [\\fIOPTIONS\\fR]", ".SH DESCRIPTION",
        *prose(cli.help), ".SH COMMANDS", *(line for name in cli.list_commands(parent)
                                            for line in described(name, parent)), ".SH EXIT STATUS"]
    for code, meaning in sorted(EXIT_CODES.items()):
        lines += [".TP", bold(str(code)), *filled(meaning)]
    lines += [".SH ENVIRONMENT"]
    for variable, meaning in ((f"{ENVIRONMENT_PREFIX}COMMAND_NAME",
                               "The name of the master that is meant, as with -c."),
                              (f"{ENVIRONMENT_PREFIX}SOCKET_PATH",
                               "The control socket of the master that is meant, as with -d."),
                              (f"{ENVIRONMENT_PREFIX}NAME",
                               "A setting of run: its option in capital letters, with _ for -."),
                              ("NO_COLOR", "No colours, whatever the terminal can show."),
                              ):
        lines += [".TP", bold(variable), *filled(meaning)]
    lines += [".SH FILES"]
    for path, meaning in (
        ("$XDG_RUNTIME_DIR/einhornpy/NAME.sock",
         "The control socket of the master NAME of a user with such a directory."),
        ("/run/einhornpy/NAME.sock", "That of root's, and below it those of systemd's services."),
        ("/tmp/einhornpy-UID/NAME.sock", "That of anybody else's, or in $TMPDIR instead of /tmp."),
    ):
        lines += [".TP", bold(path), *filled(meaning)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
