"""The commands that take a command line of `run`: `run` itself, which execs the master and never
imports it, and `unit`, which prints a service of systemd's for it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any, NoReturn

import click

from ...supervisor.settings.sources import BadSetting, load
from ...supervisor.settings.table import SETTINGS, Settings
from ..terminal import say_block
from . import flags, unit
from .group import HELP, command_of
from .options import in_utf8


class Run(click.Command):
    """A command of ours after options of `run` is no program to be run, unless a `--` says so.
    `--upgrade-check` is Einhorn's: whether we could be started."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        given = [*args]
        rest = super().parse_args(context, flags.with_values(context, args, self.params))
        command: tuple[str, ...] = context.params.get("command") or ()
        if context.params.pop("upgrade_check", False):
            _answer_einhorn(context, command)
        before = given[:len(given) - len(command)]
        if (command and before[-1:] != ["--"] and not context.resilient_parsing
                and command_of(command[0]) is not None):
            import shlex

            whole = flags.given_only(context.params).keys() <= {
                "command", "command_name", "socket_path"}
            meant = shlex.join(["einhornpy", command[0], *(before if whole else ()), *command[1:]])
            raise click.UsageError(
                f"{command[0]} is a command of einhornpy's own, and comes before its options: did "
                f"you mean `{meant}`? To run a program of this name: -- {command[0]}", context)
        return rest


def _answer_einhorn(context: click.Context, command: tuple[str, ...]) -> NoReturn:
    """Say whether we can be started: yes, since we run. A master of Einhorn's own asks with its
    command whether we can go on in its place: no, its state is none of ours.

    Raises:
        UsageError: this is such a one.
    """
    if command:
        raise click.UsageError("--upgrade-check: a master of Einhorn's own cannot be replaced by "
                               "this one while it runs: stop it, then start this one", context)
    context.exit(0)


def start(command: tuple[str, ...], **given: Any) -> NoReturn:
    """Hand everything over to a fresh process that is the master and nothing else: click
    would weigh on one made of this process for ever. It gets the words as they were given, and
    reads them by the table that the flags are made from."""
    from .main import become_master

    become_master(json.dumps({
        "flags": flags.given_only(given), "command": command,
        "directory": in_utf8(logical_directory())}))


run = Run(
    "run", params=flags.parameters(), callback=start,
    # `unit` has its words read without the group; click remembers the option that it makes then.
    context_settings={"allow_interspersed_args": False, "help_option_names": HELP},
    options_metavar="[OPTIONS] --",
    short_help="Run a command's workers; the master stays in the foreground.",
    help="Run COMMAND's workers under a master that stays in the foreground.\n\n"
    "Every option can also be set as EINHORNPY_NAME in the environment (EINHORNPY_MAX_SURGE=2) or "
    "as a key of a TOML file (max-surge = 2); the command line wins, then the environment, then "
    "the file.\n\n"
    "Exit codes: 0 after an asked-for stop, 1 it could not start, 2 wrong usage, 3 no worker ever "
    "became ready.",
)


def logical_directory() -> str:
    """The current directory by the name that the shell gave it, so that a symbolic link in it can
    be followed anew.

    Raises:
        click.ClickException: it is gone.
    """
    named = os.environ.get("PWD", "")
    try:
        if named.startswith("/") and os.path.samefile(named, "."):
            return named
    except OSError:
        pass
    try:
        return os.getcwd()
    except OSError as error:
        raise click.ClickException(
            f"cannot start in the current directory: {error.strerror} (it was removed: change to "
            "one that is there)") from None


@click.command("unit", options_metavar="[--user]", context_settings={
    "ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS OF RUN] -- COMMAND")
def print_unit(words: tuple[str, ...]) -> None:
    """Print a hardened systemd unit for this command line; with --user first, one for a user's own
    service manager.

    \b
      einhornpy unit -c shop -n 4 -b :8000 --chdir /srv/shop -- gunicorn app:wsgi
      einhornpy unit --user -- gunicorn app:wsgi

    For the system's manager, run's own --user and --group become the unit's User= and Group=:
    nothing runs as root then.
    """
    of_user = words[:1] == ("--user",)
    if of_user and words[1:] and not words[1].startswith("-"):
        raise click.UsageError(
            "--user as the first word means a user's own service manager: put run's --user after "
            "another option"
        )
    say_block(unit.unit(service(words[1:] if of_user else words, of_user), of_user))


def service(words: tuple[str, ...], of_user: bool) -> unit.Service:
    """What a unit needs to know of a command line of run.

    Raises:
        click.UsageError: no unit can be made of it.
    """
    given = run.make_context("unit", list(words), resilient_parsing=False).params
    command = given.pop("command")
    try:
        wanted = load(flags.given_only(given), command, {}, logical_directory())
    except BadSetting as error:
        raise click.UsageError(str(error)) from None
    _refuse_what_a_unit_lacks(wanted)
    by_unit = ("command_name", "socket_path", *(() if of_user else ("user", "group")))
    rest = [
        word for name, setting in SETTINGS.items() if name in given and name not in by_unit
        for word in flags.words_of(setting, given[name])]
    if given.get("config"):
        rest += ["--config", os.path.join(logical_directory(), given["config"])]
    return unit.Service(
        executable=os.path.abspath(sys.argv[0]), name=wanted.command_name,
        words=[*rest, "--", _program(wanted.command[0]), *wanted.command[1:]],
        directory=wanted.releases_root or wanted.chdir, listeners=max(len(wanted.bind), 1),
        ready_timeout=wanted.ready_timeout, graceful_timeout=wanted.graceful_timeout,
        low_port=any(map(_is_low, wanted.bind)),
        polite=wanted.stop_signal == "SIGTERM",
        most_files=max((max(soft, hard) for name, soft, hard in wanted.rlimit
                        if name == "nofile"), default=0),
        user=None if of_user else wanted.user, group=None if of_user else wanted.group)


def _refuse_what_a_unit_lacks(wanted: Settings) -> None:
    """Raise UsageError for a setting that needs more rights than the unit gives, or a name that it
    can't hold."""
    for name, value, directive in (
        ("nice", min(wanted.nice[0], wanted.nice[1] or 0) if wanted.nice else 0, "Nice="),
        ("oom-score-adj", wanted.oom_score_adj or 0, "OOMScoreAdjust="),
    ):
        if value < 0:
            raise click.UsageError(f"--{name}: {value} needs rights that the unit lacks: leave it "
                                   f"out, add {directive} to it")
    if not wanted.chdir.isprintable():
        raise click.UsageError(
            f"--chdir: got {wanted.chdir!r}, expected a printable path: a unit can name no other")


def _is_low(address: str) -> bool:
    """Whether binding it takes rights that only root has."""
    port = re.search(r":([0-9]+)(,|$)", address)
    return port is not None and 0 < int(port[1]) < 1024


def _program(word: str) -> str:
    """The path of the program, since systemd looks in other places for it."""
    import shutil

    found = word if "/" in word else shutil.which(word)
    if found is None:
        raise click.UsageError(f"cannot find {word!r} in PATH: systemd has another one, so the "
                               "unit must name its path")
    return found
