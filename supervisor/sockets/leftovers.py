"""Who holds an address after a master was killed: its workers, as long as they finish their
requests. It waits for nobody, and ends nobody."""

from __future__ import annotations

import os
from typing import Any

from ...shared.alive import is_alive
from ..core.worker_environment import MASTER
from .addresses import Address, Kind


def of_dead_masters(address: Address) -> list[str] | None:
    """Those that hold this address, each as `pid 4711 (gunicorn)`, if all of them are what dead
    masters have left behind; otherwise, or where that can't be seen, none. None if nobody holds it
    any more."""
    import psutil  # only needed where an address is in use

    unix = address.kind is Kind.UNIX

    def holds(connection: Any) -> bool:
        if unix:
            return bool(connection.laddr == address.path)
        return bool(connection.status == psutil.CONN_LISTEN
                    and connection.laddr[1:2] == (address.port,))

    try:
        found = psutil.net_connections("unix" if unix else "tcp")
        pids = {connection.pid for connection in found if holds(connection)}
        if not pids:
            return None
        holders = [psutil.Process(pid) for pid in sorted(pid for pid in pids if pid)]
        # Somebody else's has no pid here: not one of it may be missed.
        if not holders or (None in pids and not unix) or not all(map(_is_left_behind, holders)):
            return []
        return [f"pid {each.pid} ({each.name()})" for each in holders]
    except (psutil.Error, OSError):
        return []


def _is_left_behind(process: Any) -> bool:
    """Whether it, or whoever has started it, was the worker of a master that is dead."""
    master = process.environ().get(MASTER, "")
    return master.isdecimal() and (int(master) == os.getpid() or not is_alive(int(master)))
