"""What changes the code that runs: upgrade and rollback, and what steers one that is under way."""

from __future__ import annotations

import contextlib
import functools
import re
import sys
from collections.abc import Callable
from typing import Any

import click

from ...shared import commands
from .. import client, gate
from ..terminal import say, say_block, say_json
from .flags import suggest
from .options import Connect, Exit, Whole, check_label, which_master

HOLD = f"a number of seconds such as 90 or 5min, or {commands.UNTIL_RESUME}"


# How an upgrade is to go, for every command that asks for one.
_TERMS = (
    click.option("--fleet", is_flag=True,
                 help="Start all new workers first, then let all old ones go."),
    click.option("--canary", type=Whole(1), metavar="N",
                 help="Let N new workers serve first, beside the old ones."),
    click.option("--hold", metavar="SECONDS|until-resume",
                 help="How long the canaries are watched.  Default: 60.",
                 shell_complete=suggest("hold")),
    click.option("--check", metavar="COMMAND",
                 help="Run during the hold; if it fails, the release is refused."),
    click.option("--max-failures", type=Whole(0), metavar="N",
                 help="Go back at so many failures, this time."),
    click.option("--judge/--no-judge", default=None,
                 help="Compare new workers with old ones; go back if they do worse beyond doubt."),
    click.option("--hold-at-least", metavar="SECONDS",
                 help="The hold may end after this, if they do well beyond doubt."),
    click.option("--judge-tolerance", metavar="POINTS,FACTOR",
                 help="How much worse they may do: percentage points of failed requests, and how "
                 "many times slower.  Default: 0.5,1.3."),
    click.option("--judge-after", type=Whole(0), metavar="N",
                 help="Leave out so many requests of each worker.  Default: 20."),
    click.option("--judge-unsure", type=click.Choice(["pass", "refuse"]),
                 help="What becomes of a canary of which too little was seen to tell.  "
                 "Default: pass."),
    click.option("--watch", metavar="SECONDS",
                 help="For how long it can still go back after its end.  Default: 10min."))


def with_terms(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say how an upgrade is to go; the command gets `terms`, arguments of the
    master's command `upgrade`, as far as somebody has given them."""
    @functools.wraps(function)
    def asking(connect: Connect, *, fleet: bool, canary: int | None, hold: str | None,
               check: str | None, max_failures: int | None, judge: bool | None,
               hold_at_least: str | None, judge_tolerance: str | None, judge_after: int | None,
               judge_unsure: str | None, watch: str | None, **given: Any) -> None:
        check_canary(canary, hold, check)
        judging = {
            "judge": judge, "hold_at_least": hold_at_least, "judge_tolerance": judge_tolerance,
            "judge_after": judge_after, "judge_unsure": judge_unsure, "watch": watch}
        check_judging(judging, canary, hold)
        terms = {"kind": "fleet" if fleet else "rolling", "canary": canary, "hold": hold,
                 "check": check, "max_failures": max_failures, **judging}
        function(connect, terms={key: value for key, value in terms.items() if value is not None},
                 **given)

    for option in reversed(_TERMS):
        asking = option(asking)
    return asking


@click.command()
@which_master
@click.option("--release", metavar="NAME", help="Label the new generation.")
@with_terms
@click.option("--reload", "reload_first", is_flag=True,
              help="Replace the master first, as reload does.")
@click.option("--no-wait", is_flag=True, help="Return as soon as the upgrade is accepted.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON instead of lines.")
def upgrade(connect: Connect, release: str | None, terms: dict[str, Any], reload_first: bool,
            no_wait: bool, as_json: bool) -> None:
    """Replace every worker by one of the new code, and say how it ended.

    Exit codes: 0 done, 3 the master is still preparing its first generation, 5 refused, aborted or
    rolled back, 7 superseded by a newer upgrade, 6 the master stopped, 69 no master there, 2 wrong
    usage. ^C leaves the upgrade running.
    """
    check_label("--release", release)
    arguments = terms | ({} if release is None else {"release": release})
    with connect(60.0 if reload_first else 10.0, verbatim=as_json) as master:
        if reload_first:
            message = master.ask("reload")["message"]
            if not as_json:
                say(message)
        begin(master, "upgrade", arguments, no_wait, as_json)


def check_canary(canary: int | None, hold: str | None, check: str | None) -> None:
    """Refuse here what the master would refuse, by the name of its flag.

    Raises:
        click.UsageError: one of them is wrong, or given without a canary.
    """
    for flag, value, expected in (("--hold", hold, HOLD), ("--check", check, "a shell command")):
        if value is not None and canary is None:
            raise click.UsageError(f"{flag} goes with --canary")
        if value is not None and not value.strip():
            raise click.UsageError(f"{flag}: got {value!r}, expected {expected}")
    if hold is not None and hold != commands.UNTIL_RESUME:
        from ...supervisor.settings.parsers import seconds

        try:
            seconds(hold)
        except ValueError:
            raise click.UsageError(f"--hold: got {hold!r}, expected {HOLD}") from None


def check_judging(judging: dict[str, Any], canary: int | None, hold: str | None) -> None:
    """Refuse here what the master would refuse, by the name of its flag.

    Raises:
        click.UsageError: one of them is wrong, or given with --no-judge, or makes no sense with
            this hold.
    """
    from ...supervisor.settings.parsers import seconds
    from ...supervisor.settings.table import SETTINGS

    for name, value in judging.items():
        if value is None or name == "judge":
            continue
        flag = f"--{name.replace('_', '-')}"
        if judging["judge"] is False:
            raise click.UsageError(f"{flag} goes with --judge")
        try:
            (SETTINGS[name].parse if name in SETTINGS else seconds)(value)
        except ValueError as error:
            raise click.UsageError(f"{flag}: got {value!r}, expected {error}") from None
    least = judging["hold_at_least"]
    held = (None if hold == commands.UNTIL_RESUME else
            seconds(commands.DEFAULT_HOLD if hold is None else hold))
    try:
        commands.check_least_hold(None if least is None else seconds(least), canary, held)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@click.command()
@which_master
@click.option("--to", metavar="N|RELEASE",
              help="This generation, or the newest one of this release.",
              shell_complete=suggest("recipe"))
@click.option("--no-wait", is_flag=True, help="Return as soon as it is accepted.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON instead of lines.")
def rollback(connect: Connect, to: str | None, no_wait: bool, as_json: bool) -> None:
    """Upgrade to the recipe of an earlier generation; by default of the newest proven one before
    the current.

    Command, directory and environment are those of that generation. A number means a generation; a
    release that is a number must be named by its generation. Exit codes as those of upgrade.
    """
    check_label("--to", to)
    wanted = {} if to is None else {"to": int(to) if re.fullmatch("[0-9]{1,9}", to) else to}
    with connect(verbatim=as_json) as master:
        begin(master, "rollback", wanted, no_wait, as_json)


@click.command()
@which_master
def pause(connect: Connect) -> None:
    """Let the running upgrade stand still: nobody is exchanged until resume or abort."""
    with connect() as master:
        say(master.ask("pause")["message"])


@click.command()
@which_master
def resume(connect: Connect) -> None:
    """Let a paused upgrade go on, or end a canary's hold, whatever the judge says; where an
    upgrade that has ended is watched, end that."""
    with connect() as master:
        say(master.ask("resume")["message"])


@click.command()
@which_master
@click.option("--no-wait", is_flag=True, help="Return as soon as the upgrade goes back.")
def abort(connect: Connect, no_wait: bool) -> None:
    """Let the running upgrade go back to the last proven generation, and wait until it is there.

    Exit codes: 0 it is back, 1 no upgrade runs, 5 it had gone back already, 6 the master stopped, 7
    a newer upgrade took its place, 69 no master there. Status says rolled-back after 0.
    """
    with connect() as master:
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
    code = gate.OUTCOMES.get(result["outcome"], gate.ROLLED_BACK)
    if as_json:
        say_json(result)
        raise Exit(code)
    why = how_it_ended(result)
    if code != gate.READY:
        raise Exit(code, why)
    say(why)


def how_it_ended(result: dict[str, Any]) -> str:
    """The last reply about an upgrade as one line; the last lines of a start that failed go to
    standard error."""
    from .. import show, traffic

    ended = result["upgrade"]
    if result["outcome"] == "done":
        left = traffic.watched(ended)
        watch = "" if left is None else f", watched for another {show.duration(left)}"
        return (f"upgrade done: generation {ended['to']} is ready after "
                f"{show.duration(ended['took_seconds'])}{watch}")
    if result["outcome"] == "superseded":
        return f"upgrade superseded by generation {result['by']}"
    if ended.get("last_lines"):
        say_block("\n".join(show.last_lines(ended["last_lines"], ended["to"], sys.stderr)),
                  sys.stderr)
    why = ": ".join(text for text in (result["reason"], result["error"]) if text)
    return f"upgrade {result['outcome'].replace('-', ' ')}{f': {why}' if why else ''}"


def follow(master: client.Client, command: str, arguments: dict[str, Any],
           quiet: bool) -> dict[str, Any]:
    """Ask for something that changes an upgrade, show its course, return the last reply."""
    from .. import progress

    last: dict[str, Any] = {}
    try:
        with contextlib.nullcontext() if quiet else progress.display() as show:
            for last in master.replies(command, **arguments):
                master.wait_for_ever()
                if "event" in last["result"] and show is not None:
                    show(last["result"]["event"])
    except KeyboardInterrupt:
        raise Exit(gate.INTERRUPTED, "the upgrade goes on without you; einhornpy status "
                   f"-d {master.path} --wait follows it") from None
    return last
