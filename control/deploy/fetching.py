"""How a release comes to this host: fetched into `releases/.NAME.partial`, made durable, given its
name, prepared there.

It is prepared under its own name since virtual environments and build tools write their path into
what they make. Until that is over its record says `unprepared`, and nothing runs it; whoever comes
next after a kill takes it away and begins anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Callable, Iterator

from ...shared import reach, releases
from ...shared.releases import State
from . import commands, removing
from .commands import CommandFailed
from .plan import Plan

# Told of each step as it begins, and each line that its command prints.
Step = Callable[[str], None]
Heard = Callable[[str], None]
# Of 255 bytes that a file system has room for, some are for what is put around a name.
LONGEST_NAME = 200


def resolve(plan: Plan, name: str, heard: Heard) -> str:
    """The release that a name means now.

    Raises:
        CommandFailed: nobody can tell, or it can't be the name of a directory.
    """
    if plan.resolve is not None:
        found = commands.run(f"resolve of {name!r}", plan.resolve, (name,), plan.root,
                             {"EINHORNPY_RELEASE": name}, plan.timeout, plan.user, heard,
                             answers=True)
        if found is None:
            raise CommandFailed(f"resolve has printed nothing for {name!r}: expected a release")
        name = found
    if not releases.is_name(name) or not name.isprintable() or (
            len(os.fsencode(name)) > LONGEST_NAME):
        raise CommandFailed(f"no release {name!r}: expected the name of a directory in "
                            f"{releases.directory(plan.root)}")
    return name


def inside(plan: Plan) -> str:
    """Where all releases lie; it is made where it isn't there yet.

    Raises:
        OSError: it can't be.
    """
    place = releases.directory(plan.root)
    with contextlib.suppress(FileExistsError):
        os.mkdir(place)
    return place


def fetch(plan: Plan, name: str, by: str, step: Step, heard: Heard) -> None:
    """Bring a release here and prepare it. Whatever goes wrong, nothing of it is left.

    Raises:
        CommandFailed: one of the commands has failed, or the disk.
    """
    if plan.fetch is None:
        raise CommandFailed(f"no release {name!r} in {releases.directory(plan.root)}, and no "
                            "fetch in [releases] that would bring it")
    partial = f"{releases.directory(plan.root)}/.{name}.partial"
    place = releases.directory(plan.root, name)
    with _nothing_left(plan, name, partial, place) as named:
        step("fetch")
        os.mkdir(partial)
        if plan.user is not None:
            os.chown(partial, plan.user.uid, plan.user.gid)
        _run("fetch", plan.fetch, plan, name, partial, heard)
        if os.path.islink(partial) or not os.path.isdir(partial) or not os.listdir(partial):
            raise CommandFailed(f"fetch has put nothing into {partial}")
        step("sync")
        sync(partial)
        if os.path.lexists(place):
            raise CommandFailed(f"somebody else has put {place} there meanwhile")
        releases.note(plan.root, name, State.UNPREPARED, by, time.time(), new=True)
        named.append(place)
        step("rename")
        os.rename(partial, place)
        if plan.prepare is not None:
            step("prepare")
            _run("prepare", plan.prepare, plan, name, place, heard)
            step("sync-prepared")
            sync(place)
        step("record")
        releases.note(plan.root, name, State.FETCHED, by, time.time(), size=size_of(place))


def _run(what: str, command: str, plan: Plan, name: str, place: str, heard: Heard) -> None:
    serving = releases.current(plan.root)
    environment = {
        "EINHORNPY_RELEASE": name, "EINHORNPY_RELEASE_DIRECTORY": place,
        "EINHORNPY_RELEASES_ROOT": plan.root,
        "EINHORNPY_CURRENT_DIRECTORY": "" if serving is None else releases.directory(
            plan.root, serving), "PWD": place}
    commands.run(what, command, (name, place), place, environment, plan.timeout, plan.user, heard)


@contextlib.contextmanager
def _nothing_left(plan: Plan, name: str, partial: str, place: str) -> Iterator[list[str]]:
    """Whatever goes wrong, take away what has come here: the release itself as soon as its place is
    in the list."""
    named: list[str] = []
    try:
        yield named
    except BaseException as error:
        removing.remove(partial)
        if place in named:
            removing.take_away(plan.root, name)
        if isinstance(error, OSError):
            raise CommandFailed(f"cannot keep release {name} in "
                                f"{releases.directory(plan.root)}: {reach.why(error)}") from None
        raise


def sync(directory: str) -> None:
    """Let everything in a directory's filesystem reach the disk (syncfs(2)).

    Raises:
        OSError: it can't.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), directory)
    finally:
        os.close(fd)


def make_durable(root: str, name: str) -> None:
    """What is known of a release, and `current`, outlive the loss of power from now on; on a disk
    that is full or failing they may not."""
    for path in (releases.record_file(root, name), releases.directory(root), root):
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def size_of(directory: str) -> int:
    """How many bytes a directory takes on the disk."""
    total = 0
    for inside, _, files in os.walk(directory):
        for file in files:
            with contextlib.suppress(OSError):
                total += os.lstat(f"{inside}/{file}").st_blocks * 512
    return total
