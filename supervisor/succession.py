"""What of a state every program must be able to read before it may take over, and how some of it is written down.

The state as a whole is put together and taken apart by `Master.state` and `Master._take_over`.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from . import systemd
from .handover import Unreadable, made, plain
from .listeners import Address, Listener
from .pool import Pool
from .recognition import Gunicorn
from .settings import Settings

# What a reload can't change, or scaling has changed since.
KEPT = ("number", "bind", "backlog", "command_name", "socket_path", "socket_mode", "socket_group", "lockfile", "pidfile", "web")
# What every version has written so far; the rest may be missing.
_NEEDED = {"version", "given", "name", "started_at", "reloads", "next_worker", "least_weight", "pool", "prepared", "listeners",
           "place", "notify", "pidfile", "page", "processes", "errands", "sessions", "systemd"}


def check_state(state: Mapping[str, Any]) -> Pool:
    """Read the pool of a state, and look whether the rest of it is there.

    Raises:
        Unreadable: something isn't.
    """
    missing = _NEEDED - state.keys()
    if missing:
        raise Unreadable(f"the state has no {', '.join(sorted(missing))}")
    for each in state["listeners"]:
        made(Address, each["address"])
    for each in state["prepared"].values():
        made(Gunicorn | None, each["gunicorn"])
    made(systemd.Told, state["systemd"])
    found: Pool = made(Pool, state["pool"])
    return found


def listener_state(listener: Listener) -> dict[str, Any]:
    """A listener as plain data. `fd` must stay open."""
    return {"fd": listener.socket.fileno(), "address": plain(listener.address), "made": listener.made, "label": listener.label}


def listener_of(state: Mapping[str, Any]) -> Listener:
    """The opposite."""
    return Listener(made(Address, state["address"]), socket.socket(fileno=state["fd"]),
                    state["made"] and (state["made"][0], state["made"][1]), state["label"])


def kept(settings: Settings) -> dict[str, Any]:
    """The settings that a reload keeps, as plain data."""
    return {name: plain(getattr(settings, name)) for name in KEPT}


def ignored(settings: Settings, kept_before: Mapping[str, Any]) -> list[str]:
    """The names of those that have been changed since, for nothing."""
    return [name.replace("_", "-") for name in kept_before if plain(getattr(settings, name)) != kept_before[name]]
