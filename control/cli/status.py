"""`status`: whether this host is done, by table and by exit code. Deploy tools start it every
second, so it imports nothing before that is needed.
"""

from __future__ import annotations

import functools
import select
import time
from collections.abc import Callable
from typing import Any

import click

from .. import client, gate
from .flags import suggest
from .options import Connect, Exit, Seconds, Whole, check_label, tell, which_master

# How long `status --wait` looks for a master that isn't there yet, in seconds, where no --timeout
# says so.
PATIENCE = 5.0


def patiently(connect: Connect, timeout: float | None, verbatim: bool) -> client.Client:
    """Connect for somebody who waits anyhow: a master that has just been started may not have its
    socket yet."""
    deadline = time.monotonic() + (PATIENCE if timeout is None else timeout)
    while True:
        try:
            return connect(None if timeout is None else max(0.1, deadline - time.monotonic()),
                           verbatim)
        except client.SeveralMasters:
            raise
        except client.NoMaster:
            if time.monotonic() >= deadline:
                raise
        select.select([], [], [], 0.05)


@click.command()
@which_master
@click.option("--json", "as_json", is_flag=True, help="Print the status document.")
@click.option("--wait", is_flag=True, help="Return as soon as the answer is final; a master that "
              "isn't there yet is given --timeout, or 5 s.")
@click.option("--serving", is_flag=True,
              help="Exit 0 if all N workers are ready, whatever an upgrade does or did.")
@click.option("--timeout", type=Seconds(0, min_open=True), metavar="SECONDS",
              help="With --wait: exit 124 after this long.")
@click.option("--generation", type=Whole(1), metavar="N",
              help="Ready means: this generation is ready.", shell_complete=suggest("generation"))
@click.option("--release", metavar="NAME", help="Ready means: this release is ready.",
              shell_complete=suggest("release"))
def status(connect: Connect, as_json: bool, wait: bool, serving: bool, timeout: float | None,
           generation: int | None, release: str | None) -> None:
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
            "nor --release")
    check_label("--release", release)
    judge = functools.partial(gate.verdict, generation=generation, release=release)
    document, late = seen(functools.partial(patiently, connect, timeout) if wait else connect,
                          as_json, judge if wait else None)
    verdict = judge(document)
    from .. import show

    tell(document, as_json, show.status)
    if serving and document["ready"] >= document["target"]:
        raise Exit(gate.READY)
    if late:
        raise Exit(gate.TIMED_OUT, f"no final answer within {timeout:g} s: {verdict.reason}")
    worded = verdict.reason if verdict.code and verdict.reason != document["reason"] else None
    raise Exit(verdict.code, worded)


def seen(connect: Connect, verbatim: bool, judge: Callable[[dict[str, Any]], gate.Verdict] | None
         ) -> tuple[dict[str, Any], bool]:
    """The status document, and whether time was over before one that `judge` calls final; without
    it the first one is. Raises as `Client.replies` does."""
    document: dict[str, Any] | None = None
    try:
        with connect(verbatim=verbatim) as master:
            for reply in master.replies("status", follow=judge is not None):
                document = reply["result"]
                if judge is None or judge(reply["result"]).final:
                    break
    except client.TimedOut:
        if document is None:
            raise
        return document, True
    except client.MasterGone:
        if document is None or document["gate"] != "stopping":
            raise
    assert document is not None
    return document, False
