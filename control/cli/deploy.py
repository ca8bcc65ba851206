"""A release on this host: `deploy` fetches it, has it proven by an upgrade, and tidies up. What
happens on the disk stands in control/deploy/.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import click

from ...shared import reach, releases
from ...shared.frozen import dataclass
from ...shared.releases import State
from .. import client, gate
from ..deploy import commands, fetching, tidying, turns
from ..deploy.commands import CommandFailed
from ..deploy.plan import NoPlan, Plan
from ..finding import Trouble
from . import host
from .course import Course
from .options import Connect, Exit, check_label, which_master
from .upgrade import follow, how_it_ended, with_terms


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody has typed. `back`: to the release before, or `to`. `terms`: of the upgrade."""

    release: str | None
    back: bool
    to: str | None
    fetch_only: bool
    activate_only: bool
    first: bool
    queue: bool
    config: str | None
    terms: Mapping[str, Any]

    def check(self) -> None:
        """Raises click.UsageError: it can't be meant."""
        if self.to is not None and not self.back:
            raise click.UsageError("--to goes with --rollback")
        if self.back and self.release is not None:
            raise click.UsageError("--rollback takes no RELEASE: expected --to RELEASE")
        if not self.back and self.release is None:
            raise click.UsageError("expected a RELEASE, or --rollback")
        check_label("RELEASE", self.release)
        check_label("--to", self.to)
        given = [flag for flag, on in (
            ("--rollback", self.back), ("--fetch-only", self.fetch_only),
            ("--activate-only", self.activate_only), ("--first", self.first)) if on]
        if len(given) > 1 and given != ["--activate-only", "--first"]:
            raise click.UsageError(f"{given[0]} doesn't go with {given[1]}")


@click.command()
@which_master
@click.argument("release", required=False, metavar="RELEASE")
@click.option("--rollback", "back", is_flag=True,
              help="Go back to the release that was proven before this one.")
@click.option("--to", metavar="RELEASE", help="With --rollback: to this one.")
@click.option("--fetch-only", is_flag=True, help="Bring it here, and touch nothing else.")
@click.option("--activate-only", is_flag=True, help="It has to be here already.")
@click.option("--first", is_flag=True,
              help="Where no master runs yet: let a start run this release.")
@click.option("--no-queue", is_flag=True, help="Leave with 75 if another deploy is under way.")
@host.config_option
@with_terms
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON instead of lines.")
def deploy(connect: Connect, release: str | None, back: bool, to: str | None, fetch_only: bool,
           activate_only: bool, first: bool, no_queue: bool, config: str | None,
           terms: dict[str, Any], as_json: bool) -> None:
    """Bring a release to this host and let it serve; what a start runs changes only when all
    workers were ready with it.

    It takes its turn, resolves the name, fetches and prepares the release where it isn't here, has
    the master upgrade to it, and removes old ones. One that serves already is left alone.

    Exit codes: those of upgrade; 65 the release could not be fetched or prepared, or isn't here, 75
    with --no-queue another deploy is under way, 69 no master there, 1 it could not be done, or a
    start would run another release than the one that serves.
    """
    wanted = Wanted(release, back, to, fetch_only, activate_only, first, not no_queue, config,
                    terms)
    wanted.check()
    if commands.MARK in os.environ:
        raise click.UsageError("this is run by a deploy, which has the turn until it ends")
    course = Course(as_json)
    try:
        with _told_to_end():
            _deploy(course, connect, wanted)
    except KeyboardInterrupt:
        course.fail("interrupted", gate.INTERRUPTED, course.interrupted())
    except turns.Taken as error:
        course.fail("busy", gate.BUSY, f"another deploy is under way: {error}")
    except CommandFailed as error:
        course.document |= {"last_lines": [*error.lines], "reason": str(error)}
        course.fail("failed", gate.BAD_RELEASE, error.line)
    except NoPlan as error:
        course.fail("failed", gate.USAGE, str(error))
    except OSError as error:
        where = error.filename2 or error.filename or "here"
        course.fail("failed", 1, f"cannot deploy: {where}: {reach.why(error)}")
    except Trouble as error:
        code, line = _ended(error)
        course.fail("failed", code, line)


@contextlib.contextmanager
def _told_to_end() -> Iterator[None]:
    """Whoever ends us by TERM or HUP is to find nothing half fetched, as after ^C."""
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    for each, old in before.items():
        if old is not signal.SIG_IGN:
            signal.signal(each, interrupt)
    try:
        yield
    finally:
        for each, old in before.items():
            signal.signal(each, old)


def _deploy(course: Course, connect: Connect, wanted: Wanted) -> None:
    by = _who()
    known, _ = host.of_root(connect, wanted.config)
    holder = turns.Holder(by, os.getpid(), time.time(),
                          wanted.release or wanted.to or "the release before")
    course.step("turn")
    with turns.turn(fetching.inside(known), holder, wanted.queue,
                    lambda whom: course.say(f"waiting for {whom}")):
        course.step("resolve")
        here, reach_master = host.of_root(connect, wanted.config)  # as it is after those before us
        course.here = here
        _check_host(course, here, wanted)
        name = _meant(course, here, wanted)
        if here.ready and here.serving == name and _is_proven(here.root, name):
            course.done("already", f"release {name} serves already")
            return
        course.step("sweep")
        for path in tidying.sweep(here):
            course.say(f"cannot remove {path}")
        if not releases.is_complete(here.root, name):
            if wanted.back or wanted.activate_only:
                raise CommandFailed(f"no release {name!r} in {releases.directory(here.root)}")
            if wanted.first and reach_master is None:
                _check_first(here, name)
            fetching.fetch(here, name, by, course.step, course.heard)
        if wanted.fetch_only:
            _prune(course, here, name, reach_master)
            course.done("fetched", f"release {name} is here{_after(course)}")
        elif reach_master is None:
            _without_master(course, here, name, wanted)
        else:
            _upgrade(course, reach_master, here, name, wanted)


def _check_host(course: Course, here: Plan, wanted: Wanted) -> None:
    if here.barred is not None:
        course.fail("failed", 1, f"the master could not let {here.root}/current lead to a release: "
                   f"{here.barred}")
    if differs := host.what_differs(here, wanted.config):
        course.say(f"einhornpy: {wanted.config} has another {', '.join(differs)} than the master: "
                   "einhornpy reload lets it count")


def _meant(course: Course, here: Plan, wanted: Wanted) -> str:
    """The release that is meant, by the name of its directory."""
    if wanted.back:
        name = _back_to(course, here, wanted.to)
        course.say(f"from release {here.serving or releases.current(here.root) or 'none'} back to "
                   f"{name}")
    else:
        name = fetching.resolve(here, str(wanted.release), course.heard)
        if name != wanted.release:
            course.say(f"{wanted.release} is release {name}")
    course.document["release"] = name
    return name


def _back_to(course: Course, here: Plan, to: str | None) -> str:
    """The release that a rollback means.

    Raises:
        CommandFailed: there is none.
    """
    records = releases.known(here.root)
    if to is None:
        found = releases.before(records, {releases.current(here.root), here.serving})
        if found is None:
            raise CommandFailed("no release was proven here before this one")
        return found
    name = to if to in records else fetching.resolve(here, to, course.heard)
    if name not in records or records[name].proven_at is None:
        raise CommandFailed(f"release {name} was never proven here: einhornpy releases lists those "
                            "that were")
    return name


def _is_proven(root: str, name: str) -> bool:
    record = releases.read(root, name)
    return (record is not None and record.state is State.PROVEN
            and releases.current(root) == name)


def _check_first(here: Plan, name: str) -> None:
    """A start that would run a proven release is left alone.

    Raises:
        CommandFailed: it would.
    """
    current = releases.current(here.root)
    record = None if current is None else releases.read(here.root, current)
    if current != name and record is not None and record.proven_at is not None:
        raise CommandFailed(f"--first: a start would run release {current}, which was proven here: "
                            "start it, then deploy")


def _without_master(course: Course, here: Plan, name: str, wanted: Wanted) -> None:
    current = releases.current(here.root)
    if not (wanted.first or wanted.back):
        better = "start that, then deploy" if current else "--first changes that"
        course.fail("fetched", gate.NO_MASTER, f"no master runs: release {name} is here, and a "
                   f"start would run {current or 'none'}: {better}")
    if wanted.first:
        _check_first(here, name)
    course.step("link")
    releases.link(here.root, name)
    fetching.make_durable(here.root, name)
    start = (f"einhornpy --config {wanted.config}" if wanted.config else
             "its unit, or einhornpy")
    course.done("linked", f"a start runs release {name} now: {start}")


def _upgrade(course: Course, connect: Connect, here: Plan, name: str, wanted: Wanted) -> None:
    course.step("upgrade")
    if here.under_way is not None:
        course.say(f"this takes the place of the upgrade to {here.under_way}, which is under way")
    # As the master's own rollback, which nobody judges either.
    usual = {"judge": False} if wanted.back else {}
    try:
        with connect(verbatim=course.as_json) as master:
            result = follow(master, "upgrade", {**usual, **wanted.terms, "release": name},
                            course.as_json)["result"]
    except Exit as interrupted:
        course.here = None  # nobody knows yet what will serve
        course.fail("interrupted", interrupted.code, str(interrupted))
    except (client.NoMaster, client.MasterGone) as gone:
        course.here = replace(here, serving=None)
        code, line = _ended(gone)
        course.fail("failed", code, f"{line}; release {name} is here, and a start would run "
                   f"{releases.current(here.root) or 'none'}")
    course.document["upgrade"] = result["upgrade"]
    code = gate.OUTCOMES.get(result["outcome"], gate.ROLLED_BACK)
    line = how_it_ended(result)
    course.step("verify")
    if code != gate.READY:
        course.here = replace(here, serving=_serving(connect))
        course.document |= {key: result.get(key) for key in ("reason", "error")}
        course.document["last_lines"] = result["upgrade"].get("last_lines") or []
        _prune(course, here, name, connect)
        course.fail(result["outcome"], code, line)
    course.say(line)
    course.here = replace(here, serving=None)  # what serves from now on, each line says itself
    current = releases.current(here.root)
    if current != name:
        course.fail("done", 1, f"release {name} serves, but a start would run {current or 'none'}: "
                   "the master's log says why")
    fetching.make_durable(here.root, name)
    _prune(course, here, name, connect)
    now = _serving(connect)
    if now not in (None, name):
        course.fail("superseded", gate.SUPERSEDED, f"release {name} was done, and {now} serves now")
    course.done("done", f"release {name} serves{_after(course)}")


def _prune(course: Course, here: Plan, name: str, connect: Connect | None) -> None:
    """Remove what is old, but for the release of this deploy. Without a master nobody can tell what
    is in use."""
    if connect is None:
        return
    course.step("prune")
    removed: list[str] = []
    # What isn't removed now, the next deploy removes.
    with contextlib.suppress(Trouble, NoPlan, OSError):
        removed = tidying.prune(here, lambda: host.ask(connect).live | {name})
    course.document["removed"] = removed
    if removed:
        course.say(f"removed {', '.join(removed)}")


def _ended(error: Trouble) -> tuple[int, str]:
    """The exit code and the line for trouble with a master."""
    from .main import ended

    code, line = ended(error)
    return code, line or ""


def _serving(connect: Connect) -> str | None:
    try:
        return host.ask(connect).serving
    except Trouble:
        return None


def _after(course: Course) -> str:
    course.step("end")
    took = course.took()
    return f": {took}" if took else ""


def _who() -> str:
    """Who deploys, for those who wait for him."""
    try:
        return os.environ.get("SUDO_USER") or pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
