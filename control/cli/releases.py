"""Which releases there are on this host."""

from __future__ import annotations

import os
from dataclasses import asdict

import click

from ...shared import releases
from .. import gate
from ..deploy.plan import NoPlan
from . import host
from .options import Connect, Exit, tell, which_master


@click.command("releases")
@which_master
@host.config_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_releases(connect: Connect, config: str | None, as_json: bool) -> None:
    """List the releases of this host, the newest first: which were proven, by whom, which one a
    start would run, and which one serves."""
    from .. import show

    try:
        here, _ = host.of_root(connect, config)
        records = releases.known(here.root)
        names = [entry for entry in os.listdir(releases.directory(here.root))
                 if releases.is_there(here.root, entry)]
    except NoPlan as error:
        raise Exit(gate.USAGE, str(error)) from None
    current = releases.current(here.root)
    rows = []
    for name in sorted(names, key=lambda name: (-records[name].order if name in records else 1,
                                                name)):
        record = records.get(name)
        known = {} if record is None else asdict(record)
        rows.append({"release": name, "state": None, "at": None, "by": None, "reason": None,
                     "proven_at": None, "size": None} | known | {
                         "current": name == current, "serves": name in here.running})
    for row in rows:
        row.pop("order", None)
    tell(rows, as_json, show.releases)
