"""Einhorn's state, as its clients read it: our own, under Einhorn's keys. Pure.

What differs from Einhorn stands in docs/einhorn.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..core.generation import Recipe
from ..core.pool import Pool, State, Worker
from ..core.upgrade import Kind
from ..core.view import is_exchanged
from ..reporting import generations
from ..settings.table import Settings

if TYPE_CHECKING:
    from datetime import datetime


def state_document(pool: Pool, status: Mapping[str, Any], settings: Settings, now: float,
                   wall: float) -> dict[str, Any]:
    """Einhorn's state, with its keys (lib/einhorn.rb); `status`: our own status document. What has
    no meaning here is left empty. Sets are lists: a safe YAML reader takes nothing else."""
    recipe = pool.generations[pool.current].recipe
    newest = max(pool.workers.values(), key=lambda worker: worker.spawned_at, default=None)
    told = generations.redaction(pool)
    binds = [_bind(each["address"]) for each in status["listeners"]]
    state = {
        "children": {worker.pid: _child(worker, pool.farewell, now, wall)
                     for worker in pool.workers.values() if worker.pid},
        "config": {
            ":number": pool.target, ":backlog": settings.backlog,
            ":seconds": _number(settings.seconds),
            ":max_unacked": settings.max_unacked, ":max_upgrade_additional": settings.max_surge},
        "versions": {},
        "version": pool.current,
        "sockets": {},
        "orig_cmd": told.command(settings.command),
        "cmd": told.command(recipe.command),
        "script_name": None,
        "bind": binds,
        "bind_fds": [each["fd"] for each in status["listeners"]],
        "bound_ports": [port for _, port, _ in binds],
        "respawn": pool.stopping is None,
        **_of_upgrade(pool),
        "path": None,
        "cmd_name": status["name"],
        "verbosity": 2 if settings.quiet else 0 if settings.verbose else 1,
        "generation": status["master"]["reloads"],
        "last_spinup": None if newest is None else _when(newest.spawned_at, now, wall),
        "ack_mode": _ack_mode(settings, recipe),
        "kill_children_on_exit": settings.kill_children_on_exit,
        "command_socket_as_fd": settings.command_socket_as_fd,
        "socket_path": status["master"]["socket"],
        "pidfile": settings.pidfile,
        "lockfile": settings.lockfile,
        "consecutive_deaths_before_ack": pool.generations[pool.current].failures_in_a_row,
        "nice": dict(zip((":master", ":worker"), settings.nice or (None, None), strict=True))
        | {":renice_cmd": None},
        "reexec_commandline": settings.reexec_as and told.command(settings.reexec_as),
        "drop_environment_variables": list(settings.drop_env_var),
        "signal_timeout": _number(recipe.graceful_timeout),
        "preloaded": pool.generations[pool.current].preloads,
    }
    return {
        ":state": {f":{key}": value for key, value in state.items()}, ":persistent_descriptors": []}


def _of_upgrade(pool: Pool) -> dict[str, Any]:
    upgrade = pool.running_upgrade
    begun = [*pool.history, *(() if upgrade is None else (upgrade,))]
    return {
        "upgrading": upgrade is not None and not is_exchanged(pool),
        "smooth_upgrade": upgrade is None or upgrade.terms.kind is Kind.ROLLING,
        "reloading_for_upgrade": upgrade is not None and upgrade.preparing,
        "last_upgraded": _date(begun[-1].started_wall) if begun else None,
    }


def _ack_mode(settings: Settings, recipe: Recipe) -> dict[str, Any]:
    if settings.ack_mode in ("manual", "notify"):
        return {":type": ":manual"}
    return {":type": ":timer", ":timeout": _number(recipe.ack_seconds)}


def _bind(address: str) -> list[Any]:
    """An address as Einhorn has it: host, port, options. A UNIX socket, which it doesn't know, has
    no port."""
    if address.startswith("unix:"):
        return [address, None, []]
    host, _, port = address.rpartition(":")
    return [host.strip("[]"), int(port), []]


def _number(value: float | None) -> float | None:
    """Seconds; whole ones as somebody would write them."""
    return int(value) if value is not None and value.is_integer() else value


def _child(worker: Worker, farewell: str, now: float, wall: float) -> dict[str, Any]:
    """One worker; `farewell`: the signal that asks one to leave."""
    forced = {"ABRT": worker.aborted_at, "KILL": worker.killed_at}
    # whoever was not asked to go before is noted as retired all the same
    asked = None if worker.retired_at in forced.values() else worker.retired_at
    signals = {farewell.removeprefix("SIG"): asked} | forced
    signaled = {name: at for name, at in signals.items() if at is not None}
    return {
        ":type": ":worker",
        ":version": worker.generation,
        ":acked": worker.state is State.READY or worker.ready_at is not None,
        ":signaled": [*signaled],
        ":last_signaled_at": _when(max(signaled.values(), default=None), now, wall),
        ":index": worker.index,
        ":spinup_time": _when(worker.spawned_at, now, wall),
        ":pinged_at": _when(worker.heartbeat_at, now, wall),
        ":pinged_request_id": worker.pinged_request_id,
    }


def _when(at: float | None, now: float, wall: float) -> datetime | None:
    """A time of the monotonic clock as a date; None stays None."""
    return None if at is None else _date(wall - (now - at))


def _date(wall: float) -> datetime:
    """Seconds since the epoch as what YAML has for a time."""
    from datetime import UTC, datetime  # would weigh on a master that needs none

    return datetime.fromtimestamp(wall, UTC)
