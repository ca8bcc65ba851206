"""What only looks: which masters there are, what they have done, what happens."""

from __future__ import annotations

import os
import sys

import click

from .. import client, finding, gate
from ..terminal import heard, say, say_json
from .flags import suggest
from .options import Connect, Exit, Whole, tell, which_master


@click.command("list")
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


@click.command()
@which_master
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def history(connect: Connect, as_json: bool) -> None:
    """List the last 50 upgrades and rollbacks, the newest last."""
    from .. import show

    with connect(verbatim=as_json) as master:
        upgrades = master.ask("history")["result"]["upgrades"]
    tell(upgrades, as_json, show.history)


@click.command("show")
@which_master
@click.argument("generation", type=Whole(1), metavar="GENERATION",
                shell_complete=suggest("generation"))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def show_generation(connect: Connect, generation: int, as_json: bool) -> None:
    """Print what a generation was made of, and what differs from the one before. What looks secret
    is masked."""
    from .. import show

    with connect(verbatim=as_json) as master:
        document = master.ask("show", generation=generation)["result"]
    tell(document, as_json, show.generation)


@click.command()
@which_master
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def events(connect: Connect, as_json: bool) -> None:
    """Print every event as it happens, until ^C or the master's end."""
    from .. import show

    with connect(verbatim=as_json) as master:
        try:
            for reply in master.replies("events"):
                master.wait_for_ever()
                if "event" in reply["result"]:
                    event = reply["result"]["event"]
                    if as_json:
                        say_json(event)
                    else:
                        say(show.event(event))
                if not heard():
                    return
        except KeyboardInterrupt:
            return
        except client.MasterGone:
            raise Exit(gate.STOPPING, "the master is gone") from None


@click.command()
@which_master
def top(connect: Connect) -> None:
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
            "goes on")
    try:
        from ..top import app as view
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("textual", "rich"):
            raise
        raise Exit(gate.USAGE,
                   "top: Textual is missing; pip install 'einhornpy[top]' installs it") from None
    with connect() as master:
        master.ask("status")  # whoever may not even look is told so here, in one line
    view.run(master.path)


@click.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    say(f"einhornpy {installed('einhornpy')}")
