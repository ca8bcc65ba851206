"""The master itself: stop and reload."""

from __future__ import annotations

import contextlib
import os
import select

import click

from .. import client, gate
from ..terminal import say
from .options import Connect, Exit, which_master


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
            str(worker["pid"]) for worker in workers if os.path.exists(f"/proc/{worker['pid']}"))
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
