"""The command line: each command a few lines over client and gate. The master is never imported,
only exec'ed.

`einhornpy status` is started every second by deploy tools, so nothing is imported before it is
needed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import select
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import click

from ...shared import printable
from .. import client, finding, gate
from ..terminal import say, say_block, say_json
from . import flags
from .flags import suggest

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from . import unit as unit_of_systemd

# How long `status --wait` looks for a master that isn't there yet, in seconds, where no --timeout
# says so.
PATIENCE = 5.0
LONGEST_TIME = 1e9
HOLD = "a number of seconds such as 90 or 5min, or until-resume"
Function = TypeVar("Function", bound=Callable[..., Any])


class Group(click.Group):
    """Knows `run` too, whose options come from the master's own table of settings and are read only
    for it."""

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return run_command() if name == "run" else super().get_command(context, name)

    def list_commands(self, context: click.Context) -> list[str]:
        return ["run", *super().list_commands(context)]

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """While a shell completes a line, the words before are read here as `main` reads those of a
        whole one."""
        if context.resilient_parsing and args:
            if args[0] == "unit":
                args = ["run", *args[2 if args[1:2] == ["--user"] else 1:]]
            elif args[0] not in (*self.commands, "run"):
                args = ["run", *args]
        return super().parse_args(context, args)

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        if incomplete.startswith("-"):
            return run_command().shell_complete(click.Context(run_command(), parent=context),
                                                incomplete)
        return super().shell_complete(context, incomplete)


class Run(click.Command):
    """A command of ours after options of `run` is no program to be run, unless a `--` says so."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        given = [*args]
        rest = super().parse_args(context, args)
        command = context.params.get("command") or ()
        before = given[:len(given) - len(command)]
        if command and command[0] in (*cli.commands, "run") and before[-1:] != [
                "--"] and not context.resilient_parsing:
            import shlex

            whole = flags.given_only(context.params).keys() <= {
                "command", "command_name", "socket_path"}
            meant = shlex.join(["einhornpy", command[0], *(before if whole else ()), *command[1:]])
            raise click.UsageError(
                f"{command[0]} is a command of einhornpy's own, and comes before its options: did "
                "you mean "
                f"`{meant}`? To run a program of this name: -- {command[0]}", context)
        return rest


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


@click.group(cls=Group,
             context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
def cli() -> None:
    """Keep an app's workers ready on one host, and replace their code without anyone noticing.

    \b
      einhornpy -n 4 -b 127.0.0.1:8000 -- gunicorn app:wsgi    run it
      einhornpy status                                         is this host done?
      einhornpy upgrade                                        roll it

    Without a command's name, `run` is meant.
    """


def which_master(function: Function) -> Function:
    """Add the options that choose a master. Whatever the command can't do with the answer, the
    answer is to blame."""
    function = understood(function)
    for option in (click.option("-d", "--socket-path", metavar="PATH",
                                help="The master's control socket.",
                                shell_complete=suggest("file")),
                   click.option("-c", "--command-name", metavar="NAME",
                                help="The master's name, where several run.",
                                shell_complete=suggest("master")),
                   ):
        function = option(function)
    return function


def understood(function: Function) -> Function:
    """Each command takes an answer for one of the documented form; where it isn't, one line says
    so."""
    @functools.wraps(function)
    def asking(*arguments: Any, **given: Any) -> Any:
        try:
            return function(*arguments, **given)
        except UnicodeError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError,
                RecursionError) as error:
            raise client.MasterGone(
                "whoever answers there is no master, or one of another version: its answer makes "
                "no sense "
                f"({_where(error)})") from error

    return cast(Function, asking)


def connect_patiently(name: str | None, path: str | None, timeout: float | None,
                      verbatim: bool) -> client.Client:
    """`client.connect` for somebody who waits anyhow: a master that has just been started may not
    have its socket yet."""
    deadline = time.monotonic() + (PATIENCE if timeout is None else timeout)
    while True:
        try:
            return client.connect(
                name, path, None if timeout is None else max(0.1, deadline - time.monotonic()),
                verbatim)
        except client.SeveralMasters:
            raise
        except client.NoMaster:
            if time.monotonic() >= deadline:
                raise
        select.select([], [], [], 0.05)


@cli.command()
@which_master
@click.option("--json", "as_json", is_flag=True, help="Print the status document.")
@click.option(
    "--wait", is_flag=True, help=
    "Return as soon as the answer is final; a master that isn't there yet is given --timeout, or 5 "
    "s."
)
@click.option("--serving", is_flag=True,
              help="Exit 0 if all N workers are ready, whatever an upgrade does or did.")
@click.option("--timeout", type=Seconds(0, min_open=True), metavar="SECONDS",
              help="With --wait: exit 124 after this long.")
@click.option("--generation", type=Whole(1), metavar="N",
              help="Ready means: this generation is ready.", shell_complete=suggest("generation"))
@click.option("--release", metavar="NAME", help="Ready means: this release is ready.",
              shell_complete=suggest("release"))
def status(command_name: str | None, socket_path: str | None, as_json: bool, wait: bool,
           serving: bool, timeout: float | None, generation: int | None, release: str | None,
           ) -> None:
    """Say whether this host is done, by table and by exit code.

    Exit codes: 0 ready, 3 starting, upgrading or paused (or another generation or release than the
    one asked for), 4 degraded, 5 rolled back, 6 stopping, 69 no master there (with --wait: none
    came in time), 124 no final answer in time, 2 wrong usage.
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout goes with --wait")
    if serving and (wait or generation or release):
        raise click.UsageError(
            "--serving asks for the present alone: it goes with neither --wait nor --generation "
            "nor --release"
        )
    check_label("--release", release)
    document: dict[str, Any] | None = None
    verdict = None
    late = False
    try:
        with connect_patiently(command_name, socket_path,
                               timeout, as_json) if wait else client.connect(
                                   command_name, socket_path, verbatim=as_json) as master:
            for reply in master.replies("status", follow=wait):
                document = reply["result"]
                verdict = gate.verdict(document, generation, release)
                if verdict.final or not wait:
                    break
    except client.TimedOut:
        if document is None:
            raise
        late = True
    except client.MasterGone:
        if document is None or document["gate"] != "stopping":
            raise
    assert document is not None
    assert verdict is not None
    from .. import show

    tell(document, as_json, show.status)
    if serving and document["ready"] >= document["target"]:
        raise Exit(gate.READY)
    if late:
        raise Exit(gate.TIMED_OUT, f"no final answer within {timeout:g} s: {verdict.reason}")
    if verdict.code and verdict.reason != document["reason"]:
        raise Exit(verdict.code, verdict.reason)
    raise Exit(verdict.code)


@cli.command()
@which_master
@click.option("--release", metavar="NAME", help="Label the new generation.")
@click.option("--fleet", is_flag=True,
              help="Start all new workers first, then let all old ones go.")
@click.option("--canary", type=Whole(1), metavar="N",
              help="Let N new workers serve first, beside the old ones.")
@click.option("--hold", metavar="SECONDS|until-resume",
              help="How long the canaries are watched.  Default: 60.",
              shell_complete=suggest("hold"))
@click.option("--check", metavar="COMMAND",
              help="Run during the hold; if it fails, the release is refused.")
@click.option("--max-failures", type=Whole(0), metavar="N",
              help="Go back at so many failures, this time.")
@click.option("--reload", "reload_first", is_flag=True,
              help="Replace the master first, as reload does.")
@click.option("--no-wait", is_flag=True, help="Return as soon as the upgrade is accepted.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON instead of lines.")
def upgrade(command_name: str | None, socket_path: str | None, release: str | None, fleet: bool,
            canary: int | None, hold: str | None, check: str | None, max_failures: int | None,
            reload_first: bool, no_wait: bool, as_json: bool,
            ) -> None:
    """Replace every worker by one of the new code, and say how it ended.

    Exit codes: 0 done, 3 the master is still preparing its first generation, 5 refused, aborted or
    rolled back, 7 superseded by a newer upgrade, 6 the master stopped, 69 no master there, 2 wrong
    usage. ^C leaves the upgrade running.
    """
    for flag, value in (("--hold", hold), ("--check", check)):
        if value is not None and canary is None:
            raise click.UsageError(f"{flag} goes with --canary")
        if value is not None and not value.strip():
            raise click.UsageError(
                f"{flag}: got {value!r}, expected "
                f"{'a shell command' if flag == '--check' else HOLD}"
            )
    if hold is not None and hold != "until-resume":
        from ...supervisor.settings.table import seconds

        try:
            seconds(hold)
        except ValueError:
            raise click.UsageError(f"--hold: got {hold!r}, expected {HOLD}") from None
    check_label("--release", release)
    given = {
        "release": release, "canary": canary, "hold": hold, "check": check,
        "max_failures": max_failures}
    arguments = {"kind": "fleet" if fleet else "rolling"} | {
        key: value for key, value in given.items() if value is not None}
    with client.connect(command_name, socket_path, 60.0 if reload_first else 10.0,
                        verbatim=as_json) as master:
        if reload_first:
            message = master.ask("reload")["message"]
            if not as_json:
                say(message)
        begin(master, "upgrade", arguments, no_wait, as_json)


@cli.command()
@which_master
@click.option("--to", metavar="N|RELEASE",
              help="This generation, or the newest one of this release.",
              shell_complete=suggest("recipe"))
@click.option("--no-wait", is_flag=True, help="Return as soon as it is accepted.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON instead of lines.")
def rollback(command_name: str | None, socket_path: str | None, to: str | None, no_wait: bool,
             as_json: bool) -> None:
    """Upgrade to the recipe of an earlier generation; by default of the newest proven one before
    the current.

    Command, directory and environment are those of that generation. A number means a generation; a
    release that is a number must be named by its generation. Exit codes as those of upgrade.
    """
    check_label("--to", to)
    wanted = {} if to is None else {"to": int(to) if re.fullmatch("[0-9]{1,9}", to) else to}
    with client.connect(command_name, socket_path, verbatim=as_json) as master:
        begin(master, "rollback", wanted, no_wait, as_json)


@cli.command()
@which_master
def pause(command_name: str | None, socket_path: str | None) -> None:
    """Let the running upgrade stand still: nobody is exchanged until resume or abort."""
    with client.connect(command_name, socket_path) as master:
        say(master.ask("pause")["message"])


@cli.command()
@which_master
def resume(command_name: str | None, socket_path: str | None) -> None:
    """Let a paused upgrade go on, or end a canary's hold."""
    with client.connect(command_name, socket_path) as master:
        say(master.ask("resume")["message"])


@cli.command()
@which_master
@click.option("--no-wait", is_flag=True, help="Return as soon as the upgrade goes back.")
def abort(command_name: str | None, socket_path: str | None, no_wait: bool) -> None:
    """Let the running upgrade go back to the last proven generation, and wait until it is there.

    Exit codes: 0 it is back, 1 no upgrade runs, 5 it had gone back already, 6 the master stopped, 7
    a newer upgrade took its place, 69 no master there. Status says rolled-back after 0.
    """
    with client.connect(command_name, socket_path) as master:
        if no_wait:
            say(master.ask("abort", wait=False)["message"])
            return
        result = follow(master, "abort", {}, quiet=False)["result"]
    ended = result["upgrade"]
    if result.get("by") is not None:
        raise Exit(gate.SUPERSEDED, f"upgrade superseded by generation {result['by']}")
    if ended["outcome"] != "aborted":
        raise Exit(gate.OUTCOMES.get(ended["outcome"], gate.ROLLED_BACK),
                   f"upgrade {ended['outcome']}: {ended['reason']}")
    say(f"upgrade to generation {ended['to']} aborted: generation {ended['from']} serves")


@cli.command()
@which_master
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def history(command_name: str | None, socket_path: str | None, as_json: bool) -> None:
    """List the last 50 upgrades and rollbacks, the newest last."""
    from .. import show

    with client.connect(command_name, socket_path, verbatim=as_json) as master:
        upgrades = master.ask("history")["result"]["upgrades"]
    tell(upgrades, as_json, show.history)


@cli.command("show")
@which_master
@click.argument("generation", type=Whole(1), metavar="GENERATION",
                shell_complete=suggest("generation"))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def show_generation(command_name: str | None, socket_path: str | None, generation: int,
                    as_json: bool) -> None:
    """Print what a generation was made of, and what differs from the one before. What looks secret
    is masked."""
    from .. import show

    with client.connect(command_name, socket_path, verbatim=as_json) as master:
        document = master.ask("show", generation=generation)["result"]
    tell(document, as_json, show.generation)


def tell(told: Any, as_json: bool, worded: Callable[[Any], str]) -> None:
    """Print what was asked for, as JSON or for people."""
    if as_json:
        say_json(told, indent=2)
    else:
        say_block(worded(told))


def check_label(flag: str, label: str | None) -> None:
    """Refuse here what the master would refuse: a typing error is one even where no master runs."""
    if label is not None and not printable.is_label(label):
        raise click.UsageError(
            f"{flag}: got {label!r}, expected a label of 1 to 200 printable characters")


def begin(master: client.Client, command: str, arguments: dict[str, Any], no_wait: bool,
          as_json: bool) -> None:
    """Ask for an upgrade or rollback and, unless told otherwise, leave with how it ended."""
    if no_wait:
        reply = master.ask(command, wait=False, **arguments)
        if as_json:
            say_json(reply["result"])
        else:
            say(reply["message"])
        return
    result = follow(master, command, arguments, as_json)["result"]
    ended, code = result["upgrade"], gate.OUTCOMES.get(result["outcome"], gate.ROLLED_BACK)
    if as_json:
        say_json(result)
        raise Exit(code)
    if code == gate.READY:
        from .. import show

        say(f"upgrade done: generation {ended['to']} is ready after "
            f"{show.duration(ended['took_seconds'])}"
            )
        return
    if result["outcome"] == "superseded":
        raise Exit(code, f"upgrade superseded by generation {result['by']}")
    if ended.get("last_lines"):
        from .. import show

        say_block("\n".join(show.last_lines(ended["last_lines"], ended["to"], sys.stderr)),
                  sys.stderr)
    why = ": ".join(text for text in (result["reason"], result["error"]) if text)
    raise Exit(code, f"upgrade {result['outcome'].replace('-', ' ')}{f': {why}' if why else ''}")


def follow(master: client.Client, command: str, arguments: dict[str, Any],
           quiet: bool) -> dict[str, Any]:
    """Ask for something that changes an upgrade, show its course, return the last reply."""
    from .. import show

    last: dict[str, Any] = {}
    try:
        with show.PlainProgress() if quiet else show.progress() as progress:
            for last in master.replies(command, **arguments):
                master.wait_for_ever()
                if "event" in last["result"] and not quiet:
                    progress.step(last["result"]["event"])
    except KeyboardInterrupt:
        raise Exit(gate.INTERRUPTED,
                   "the upgrade goes on without you; einhornpy status --wait follows it") from None
    return last


@cli.command(context_settings={"ignore_unknown_options": True})
@which_master
@click.argument("number", metavar="N|+N|-N")
def scale(command_name: str | None, socket_path: str | None, number: str) -> None:
    """Change how many workers are kept ready: to N, or by +N or -N."""
    if not re.fullmatch("[+-]?[0-9]+", number):
        raise click.UsageError(f"scale: got {number!r}, expected N, +N or -N")
    if len(number) > 7:
        raise click.UsageError(f"scale: got {number!r}, expected 1 to 10000 workers")
    key = "by" if number[0] in "+-" else "to"
    if key == "to" and int(number) < 1:
        raise click.UsageError(f"scale: got {number!r}, expected at least one worker")
    with client.connect(command_name, socket_path) as master:
        say(master.ask("scale", **{key: int(number)})["message"])


@cli.command()
@which_master
@click.argument("index", type=Whole(0), metavar="INDEX", shell_complete=suggest("seat"))
@click.option("--wait", is_flag=True,
              help="Return when it is gone and another one is ready in its place.")
@click.option("--timeout", type=Seconds(0, min_open=True), metavar="SECONDS",
              help="With --wait: exit 124 after this long.")
def recycle(command_name: str | None, socket_path: str | None, index: int, wait: bool,
            timeout: float | None) -> None:
    """Replace one worker, that of seat INDEX, by another of the same code: it leaves when the other
    one is ready.

    Exit codes: 0 it is due (with --wait: replaced and gone), 1 nobody there is ready, or it is due
    already, 6 the master stopped meanwhile, 69 no master there, 124 not replaced in time, 2 wrong
    usage.
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout goes with --wait")
    with client.connect(command_name, socket_path) as master:
        asked = master.ask("recycle", index=index)
        say(asked["message"])
        pid = asked["result"]["pid"]
        if not wait:
            return
        if timeout is None:
            master.wait_for_ever()
        else:
            master.allow(timeout)
        document: dict[str, Any] = {"workers": []}
        try:
            for reply in master.replies("status", follow=True):
                document = reply["result"]
                left = any(worker["pid"] == pid for worker in document["workers"])
                if not left and document["ready"] >= document["target"]:
                    say(f"worker {index} (pid {pid}) is gone: {document['reason']}")
                    return
        except client.TimedOut:
            replaced = any(
                worker["index"] == index and worker["state"] == "ready" and worker["pid"] != pid
                for worker in document["workers"])
            how = "is replaced, but not gone" if replaced else "is not replaced"
            raise Exit(gate.TIMED_OUT,
                       f"worker {index} (pid {pid}) {how} within {timeout:g} s") from None
        except KeyboardInterrupt:
            raise Exit(gate.INTERRUPTED, "it is replaced without you") from None


@cli.command("signal")
@which_master
@click.argument("name", metavar="SIGNAL", shell_complete=suggest("signal"))
def send_signal(command_name: str | None, socket_path: str | None, name: str) -> None:
    """Send a signal to every worker."""
    from ...supervisor.settings.table import signal_name

    try:
        signal_name(name)
    except ValueError as error:
        raise click.UsageError(f"signal: got {name!r}, expected {error}") from None
    with client.connect(command_name, socket_path) as master:
        say(master.ask("signal", signal=name)["message"])


@cli.command()
@which_master
@click.option("--now", is_flag=True, help="Kill the workers at once.")
@click.option("--no-wait", is_flag=True, help="Return as soon as the master has agreed.")
def stop(command_name: str | None, socket_path: str | None, now: bool, no_wait: bool) -> None:
    """Stop the master and its workers; by default gracefully, waiting until it is gone.

    Exit codes: 0 stopped, 1 the master was killed meanwhile, and its workers may live, 69 no master
    there, 2 wrong usage.
    """
    clean = False
    with client.connect(command_name, socket_path) as master:
        replies = master.replies("events")
        workers = next(replies)["result"]["status"]["workers"]
        master.wait_for_ever()
        with client.connect(command_name, socket_path) as speaker:
            process = None if no_wait else speaker.process()
            message = speaker.ask("stop", how="now" if now else "graceful")["message"]
        if no_wait:
            say(message)
            return
        try:
            with contextlib.suppress(client.MasterGone):
                for reply in replies:
                    clean = clean or reply["result"].get("event",
                                                         {}).get("event") == "master-stopped"
            if process is not None:  # its socket is gone before it is
                select.select([process], [], [])
        except KeyboardInterrupt:
            raise Exit(gate.INTERRUPTED, "the stop goes on without you") from None
    if not clean:
        alive = ", ".join(
            str(worker["pid"]) for worker in workers if os.path.exists(f"/proc/{worker['pid']}"))
        raise Exit(
            1, "not stopped cleanly: the master ended without its last word, so it was killed; " +
            (f"of its workers there are still pid {alive}" if alive else "its workers are gone"))
    say("stopped")


@cli.command()
@which_master
def reload(command_name: str | None, socket_path: str | None) -> None:
    """Replace the master by the einhornpy that is installed now: same pid, same workers, same
    sockets.

    It reads its settings anew. Name, addresses, control socket and pidfile stay. If the new program
    can't be started or can't go on from here, the old one does. Exit codes: 0 replaced, 1 refused,
    6 the master stops, 69 no master there.
    """
    with client.connect(command_name, socket_path, 60.0) as master:
        say(master.ask("reload")["message"])


@cli.command()
@which_master
@click.option("-e", "--execute", "lines", metavar="COMMANDS", multiple=True,
              help="Give these commands, then leave.")
def shell(command_name: str | None, socket_path: str | None, lines: tuple[str, ...]) -> None:
    """Give commands of the control socket by hand, as einhornsh does; help lists them.

    Words after a command are its arguments, NAME=VALUE ones by name; a semicolon ends one. On a
    terminal there is history and completion. Exit codes: 0 all of them were carried out, 1 the last
    one that wasn't, 69 no master there.
    """
    from . import shell as interactive

    with client.connect(command_name, socket_path, None, verbatim=True) as master:
        raise Exit(interactive.run(master, lines))


@cli.command()
@which_master
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def events(command_name: str | None, socket_path: str | None, as_json: bool) -> None:
    """Print every event as it happens, until ^C or the master's end."""
    from .. import show

    with client.connect(command_name, socket_path, verbatim=as_json) as master:
        try:
            for reply in master.replies("events"):
                master.wait_for_ever()
                if "event" in reply["result"]:
                    event = reply["result"]["event"]
                    if as_json:
                        say_json(event)
                    else:
                        say(show.event(event))
        except KeyboardInterrupt:
            return
        except client.MasterGone:
            raise Exit(gate.STOPPING, "the master is gone") from None


@cli.command()
@which_master
def top(command_name: str | None, socket_path: str | None) -> None:
    """Watch a master live on the terminal, and steer it by keys; ? lists them.

    It wants Textual: pip install 'einhornpy[top]'. Exit codes: 0 you left, 2 wrong usage, no
    terminal or no Textual, 69 no master there.
    """
    # Textual draws on standard error.
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)) or os.environ.get(
            "TERM", "dumb") == "dumb":
        raise Exit(
            gate.USAGE,
            "top: it wants a terminal; einhornpy status prints the same once, einhornpy events "
            "goes on"
        )
    try:
        from ..top import app as view
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("textual", "rich"):
            raise
        raise Exit(gate.USAGE,
                   "top: Textual is missing; pip install 'einhornpy[top]' installs it") from None
    with client.connect(command_name, socket_path) as master:
        master.ask("status")  # whoever may not even look is told so here, in one line
    view.run(master.path)


@cli.command("unit",
             context_settings={"ignore_unknown_options": True,
                               "allow_interspersed_args": False}, options_metavar="[--user]")
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
    from . import unit

    of_user = words[:1] == ("--user",)
    if of_user and words[1:] and not words[1].startswith("-"):
        raise click.UsageError(
            "--user as the first word means a user's own service manager: put run's --user after "
            "another option"
        )
    say_block(unit.unit(service(words[1:] if of_user else words, of_user), of_user))


def service(words: tuple[str, ...], of_user: bool) -> unit_of_systemd.Service:
    """What a unit needs to know of a command line of run."""
    import shutil

    from ...supervisor.settings import table
    from . import unit

    parameters = run_command().make_context("unit", list(words), resilient_parsing=False).params
    command = parameters.pop("command")
    try:
        wanted = table.load(flags.given_only(parameters), command, {}, logical_directory())
    except table.BadSetting as error:
        raise click.UsageError(str(error)) from None
    left_out = {"command_name": 1, "socket_path": 1} | ({} if of_user else {"user": 1, "group": 1})
    rest = [
        word for option in table.OPTIONS
        if option.name in parameters and option.name not in left_out
        for word in flags.words_of(option, parameters[option.name])]
    if parameters.get("config"):
        rest += ["--config", os.path.join(logical_directory(), parameters["config"])]
    for name, value, directive in (
        ("nice", min(wanted.nice[0], wanted.nice[1] or 0) if wanted.nice else 0, "Nice="),
        ("oom-score-adj", wanted.oom_score_adj or 0, "OOMScoreAdjust="),
    ):
        if value < 0:
            raise click.UsageError(
                f"--{name}: {value} needs rights that the unit lacks: leave it out, add "
                f"{directive} to it"
            )
    if not wanted.chdir.isprintable():
        raise click.UsageError(
            f"--chdir: got {wanted.chdir!r}, expected a printable path: a unit can name no other")
    program = wanted.command[0] if "/" in wanted.command[0] else shutil.which(wanted.command[0])
    if program is None:
        raise click.UsageError(
            f"cannot find {wanted.command[0]!r} in PATH: systemd has another one, so the unit must "
            "name its path"
        )
    most_files = max((max(soft, hard) for name, soft, hard in wanted.rlimit if name == "nofile"),
                     default=0)
    ports = [re.search(r":([0-9]+)(,|$)", address) for address in wanted.bind]
    return unit.Service(os.path.abspath(sys.argv[0]), wanted.command_name,
                        [*rest, "--", program, *wanted.command[1:]], wanted.chdir,
                        max(len(wanted.bind), 1), wanted.ready_timeout, wanted.graceful_timeout,
                        any(port is not None and 0 < int(port[1]) < 1024
                            for port in ports), wanted.stop_signal == "SIGTERM", most_files,
                        None if of_user else wanted.user, None if of_user else wanted.group)


@cli.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def print_completion(shell: str) -> None:
    """Print what makes a shell complete einhornpy's commands, options and masters with the Tab key.

    \b
      eval "$(einhornpy completion bash)"                 in ~/.bashrc
      eval "$(einhornpy completion zsh)"                  in ~/.zshrc, after compinit
      einhornpy completion fish | source                  in ~/.config/fish/config.fish
    """
    from . import completion

    say_block(completion.script(cli, shell))


@cli.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_masters(as_json: bool) -> None:
    """List the masters of this host that this user may ask."""
    masters = finding.running()
    if as_json:
        say_json([{"name": each.name, "pid": each.pid, "socket": each.path} for each in masters])
        return
    for each in masters:
        say(f"{each.name:<20} {f'pid {each.pid}' if each.pid else 'no answer':<12} {each.path}")
    if not masters:
        raise Exit(gate.NO_MASTER, "no master runs here")


@cli.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    say(f"einhornpy {installed('einhornpy')}")


def run_command() -> click.Command:
    """`run`: hand everything over to a fresh process that is the master and nothing else."""
    def run(command: tuple[str, ...], **given: Any) -> NoReturn:
        handed_over = json.dumps({
            "flags": flags.given_only(given), "command": command, "directory": logical_directory()})
        become_master(handed_over)

    return Run(
        "run", params=flags.parameters(), callback=run,
        context_settings={"allow_interspersed_args": False}, options_metavar="[OPTIONS] --",
        short_help="Run a command's workers; the master stays in the foreground.",
        help="Run COMMAND's workers under a master that stays in the foreground.\n\n"
        "Every option can also be set as EINHORNPY_NAME in the environment (EINHORNPY_MAX_SURGE=2) "
        "or as a key of "
        "a TOML file (max-surge = 2); the command line wins, then the environment, then the "
        "file.\n\n"
        "Exit codes: 0 after an asked-for stop, 1 it could not start, 2 wrong usage, 3 no worker "
        "ever became ready.",
    )


def become_master(*words: str) -> NoReturn:
    from .. import (
        privileges,  # done here, since it needs ctypes, which would weigh on a master for ever
    )

    privileges.adopt_orphans()
    # -P: a file of the app's in the current directory must not shadow a module of the master's.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "einhornpy.supervisor", *words])


def logical_directory() -> str:
    """The current directory by the name that the shell gave it, so that a symbolic link in it can
    be followed anew."""
    named = os.environ.get("PWD", "")
    try:
        if named.startswith("/") and os.path.samefile(named, "."):
            return named
    except OSError:
        pass
    return os.getcwd()


def _unforeseen(error: Exception) -> str:
    """One line for scripts, as everything else is told, with the place for whoever is to mend
    it."""
    return f"unforeseen {_where(error)}"


def _where(error: Exception) -> str:
    import traceback

    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {os.path.basename(place.filename)}, line {place.lineno}: {error}"


def _check_spelling(word: str) -> None:
    """A program needs no `--` before it; but one that doesn't exist, and is nearly called as a
    command of ours, is one mistyped.

    Raises:
        click.UsageError: so it is.
    """
    import shutil

    if shutil.which(word) is not None:
        return
    import difflib  # a start that is well needs it not

    near = difflib.get_close_matches(word, [*cli.commands, "run"], 1, 0.75)
    if near:
        raise click.UsageError(f"no such command: {word!r}, did you mean {near[0]!r}? "
                               f"To run a program of this name: einhornpy -- {word}")


def main(arguments: list[str] | None = None) -> NoReturn:
    """The entry point of `einhornpy`; leaves by SystemExit."""
    words = sys.argv[1:] if arguments is None else arguments
    if "_EINHORNPY_COMPLETE" in os.environ:
        from . import completion  # noqa: F401  it teaches click how fish wants it
    # a master execs us as its next one (--reexec-as)
    if words and words[0] in ("--take-over", "--check-state"):
        become_master(*words)
    if sys.stdout is None:  # closed: whoever asks for the exit code alone gets the true one
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if not words:
        configured = os.environ.get("EINHORNPY_COMMAND") or os.environ.get("EINHORNPY_CONFIG")
        words = ["run"] if configured else ["--help"]
    elif words[0] == "--version":
        words = ["version"]
    if words[0] == "unit" and words[1:2] not in (["-h"], ["--help"]):
        # what follows is a command line of run, with a -- of its own
        words = ["unit", "--", *words[1:]]
    code, message = 0, None
    try:
        if words[0] not in (*cli.commands, "run", "-h", "--help"):
            if not words[0].startswith("-"):
                _check_spelling(words[0])
            words = ["run", *words]
        cli.main(words, prog_name="einhornpy", standalone_mode=False)
    except Exit as left:
        code, message = left.code, left.message
    except click.UsageError as error:
        where = f" (see einhornpy {error.ctx.info_name} --help)" if error.ctx and error.ctx.parent else ""
        code, message = gate.USAGE, f"{' '.join(error.format_message().split())}{where}"
    except click.ClickException as error:
        code, message = 1, error.format_message()
    except client.NoMaster as error:
        code, message = gate.NO_MASTER, str(error)
    except client.MasterGone as error:
        code, message = gate.STOPPING, str(error)
    except client.TimedOut as error:
        code, message = gate.TIMED_OUT, f"the master does not answer: {error}"
    except client.Failed as error:
        codes = {"bad-argument": gate.USAGE, "stopping": gate.STOPPING, "starting": gate.NOT_YET}
        code, message = codes.get(error.code, 1), str(error)
    except (KeyboardInterrupt, click.Abort):
        code = gate.INTERRUPTED
    except OSError as error:
        # whoever read us has left; say nothing more, to anyone
        if not isinstance(error, BrokenPipeError):
            code, message = 1, f"cannot go on: {error}"
        # what is left unsaid finds no room at the end either
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except Exception as error:
        code, message = 1, _unforeseen(error)
    if message is not None:
        from .. import show

        say_block(
            "\n".join(show.wrapped(f"einhornpy: {printable.escaped(message)}", 2, "", sys.stderr)),
            sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
