"""What changes the workers, but not their code (scale, recycle, signal), and the master itself
(stop, reload).
"""

from __future__ import annotations

import contextlib
import re
import select
from typing import Any

import click

from ...shared import commands
from ...shared.alive import is_alive
from .. import client, gate
from ..terminal import say
from .flags import suggest
from .options import Connect, Exit, Seconds, Whole, which_master


@click.command(context_settings={"ignore_unknown_options": True})
@which_master
@click.argument("number", metavar="N|+N|-N")
def scale(connect: Connect, number: str) -> None:
    """Change how many workers are kept ready: to N, or by +N or -N."""
    if not re.fullmatch("[+-]?[0-9]+", number):
        raise click.UsageError(f"scale: got {number!r}, expected N, +N or -N")
    if len(number) > 7:
        raise click.UsageError(
            f"scale: got {number!r}, expected 1 to {commands.MOST_WORKERS} workers")
    key = "by" if number[0] in "+-" else "to"
    if key == "to" and int(number) < 1:
        raise click.UsageError(f"scale: got {number!r}, expected at least one worker")
    with connect() as master:
        say(master.ask("scale", **{key: int(number)})["message"])


@click.command()
@which_master
@click.argument("index", type=Whole(0), metavar="INDEX", shell_complete=suggest("seat"))
@click.option("--wait", is_flag=True,
              help="Return when it is gone and another one is ready in its place.")
@click.option("--timeout", type=Seconds(0, min_open=True), metavar="SECONDS",
              help="With --wait: exit 124 after this long.")
def recycle(connect: Connect, index: int, wait: bool, timeout: float | None) -> None:
    """Replace one worker, that of seat INDEX, by another of the same code: it leaves when the other
    one is ready.

    Exit codes: 0 it is due (with --wait: replaced and gone), 1 nobody there is ready, or it is due
    already, 6 the master stopped meanwhile, 69 no master there, 124 not replaced in time, 2 wrong
    usage.
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout goes with --wait")
    with connect() as master:
        asked = master.ask("recycle", index=index)
        say(asked["message"])
        pid = asked["result"]["pid"]
        if not wait:
            return
        wait_until_replaced(master, index, pid, timeout)


def wait_until_replaced(master: client.Client, index: int, pid: int,
                        timeout: float | None) -> None:
    """Return when this worker is gone and all that are wanted are ready.

    Raises:
        Exit: it isn't within so many seconds, or nobody waits for it any more.
    """
    if timeout is None:
        master.wait_for_ever()
    else:
        master.allow(timeout)
    workers: list[dict[str, Any]] = []
    try:
        for reply in master.replies("status", follow=True):
            document = reply["result"]
            workers = document["workers"]
            left = any(worker["pid"] == pid for worker in workers)
            if not left and document["ready"] >= document["target"]:
                how = "replaced and gone" if is_replaced(workers, index, pid) else "gone"
                say(f"worker {index} (pid {pid}) is {how}")
                # How the host is says nothing of this worker: a release may have been refused.
                say(f"{document['name']}: {document['gate']}: {document['reason']}")
                return
    except client.TimedOut:
        how = ("is replaced, but not gone" if is_replaced(workers, index, pid) else
               "is not replaced")
        raise Exit(gate.TIMED_OUT,
                   f"worker {index} (pid {pid}) {how} within {timeout:g} s") from None
    except KeyboardInterrupt:
        raise Exit(gate.INTERRUPTED, "it is replaced without you") from None


def is_replaced(workers: list[dict[str, Any]], index: int, pid: int) -> bool:
    """Whether another worker is ready in the seat of this one."""
    return any(worker["index"] == index and worker["state"] == "ready" and worker["pid"] != pid
               for worker in workers)


@click.command("signal")
@which_master
@click.argument("name", metavar="SIGNAL", shell_complete=suggest("signal"))
def send_signal(connect: Connect, name: str) -> None:
    """Send a signal to every worker."""
    from ...supervisor.settings.parsers import signal_name

    try:
        signal_name(name)
    except ValueError as error:
        raise click.UsageError(f"signal: got {name!r}, expected {error}") from None
    with connect() as master:
        say(master.ask("signal", signal=name)["message"])


@click.command()
@which_master
@click.option("--now", is_flag=True, help="Kill the workers at once.")
@click.option("--no-wait", is_flag=True, help="Return as soon as the master has agreed.")
def stop(connect: Connect, now: bool, no_wait: bool) -> None:
    """Stop the master and its workers; by default gracefully, waiting until it is gone.

    Exit codes: 0 stopped, 1 the master was killed meanwhile, and its workers may live, 69 no master
    there, 2 wrong usage.
    """
    clean = False
    with connect() as master:
        replies = master.replies("events")
        workers = next(replies)["result"]["status"]["workers"]
        master.wait_for_ever()
        with connect() as speaker:
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
            str(worker["pid"]) for worker in workers if is_alive(worker["pid"]))
        raise Exit(
            1, "not stopped cleanly: the master ended without its last word, so it was killed; " +
            (f"of its workers there are still pid {alive}" if alive else "its workers are gone"))
    say("stopped")


@click.command()
@which_master
def reload(connect: Connect) -> None:
    """Replace the master by the einhornpy that is installed now: same pid, same workers, same
    sockets.

    It reads its settings anew. Name, addresses, control socket and pidfile stay. If the new program
    can't be started or can't go on from here, the old one does. Exit codes: 0 replaced, 1 refused,
    6 the master stops, 69 no master there.
    """
    with connect(60.0) as master:
        say(master.ask("reload")["message"])
