"""Einhorn's commands for Einhorn's clients: their words in, our own commands carried out, a
sentence or YAML out.

Nothing is decided here that our own commands don't decide. What differs from Einhorn stands in
docs/einhorn.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from ...shared import commands, einhorn
from ...shared.protocol import BadRequest, Code, Request
from ..core.generation import Recipe
from ..core.pool import Pool, State, Stopping, Worker
from ..core.upgrade import Kind
from ..core.view import is_exchanged
from ..logs.log import Log
from ..reporting import generations
from ..settings.parsers import signal_name
from ..settings.table import Settings
from ..system.ledger import Ledger
from .answers import Answers
from .orders import Orders
from .signals import STOPS

# What Einhorn's own `die` does, by the signal that is asked for: what that would do to us.
_STOPS = {number.name: how for number, how in STOPS.items()} | {"SIGKILL": Stopping.NOW}


class EinhornCommands:
    """Einhorn's commands, which shared/commands.py declares: `do_NAME` takes a request with as many
    words as declared, and returns its one answer."""

    def __init__(self, ledger: Ledger, answers: Answers, orders: Orders, log: Log,
                 settings: Settings) -> None:
        self._ledger = ledger
        self._answers = answers
        self._orders = orders
        self._log = log
        self._settings = settings

    def answer(self, request: Request) -> str:
        """Carry out one request; return the message of its answer.

        Raises:
            ValueError: an argument is wrong; nothing was done.
        """
        declared = commands.EINHORNS_BY_NAME[request.command]
        if declared.words is not None:
            request = replace(request, words=declared.words.read(declared.name, request.words))
        act: Callable[[Request], str] = getattr(self, f"do_{declared.name}")
        return act(request)

    def do_ehlo(self, request: Request) -> str:
        who = self._answers.identity()
        user = f", {request.beside['user']}" if request.beside.get("user") else ""
        return (f"Welcome{user}! This is the master {who['name']}, pid {who['pid']}, of einhornpy "
                f"{who['version']}.")

    def do_state(self, request: Request) -> str:
        return einhorn.write_yaml(
            state_document(self._ledger.pool, self._answers.status(), self._settings,
                           now=time.monotonic(), wall=time.time()))

    def _scale(self, target: int) -> str:
        before = self._ledger.pool.target
        if target != before:
            self._orders.scale(target)
        return f"number of workers: {before} -> {target}"

    def do_inc(self, request: Request) -> str:
        return self._scale(self._ledger.pool.target + 1)

    def do_dec(self, request: Request) -> str:
        return self._scale(self._ledger.pool.target - 1)

    def do_set_workers(self, request: Request) -> str:
        (word,) = request.words or ()
        if not word.isdecimal() or len(word) > 6:
            raise ValueError(f"set_workers: got {word!r}, expected a whole number")
        return self._scale(int(word))

    def do_signal(self, request: Request) -> str:
        names = [self._signal_name(word) for word in request.words or ()]
        return "\n".join(f"{name} sent to {self._orders.signal_workers(name)} workers"
                         for name in names)

    def do_die(self, request: Request) -> str:
        words = request.words or ()
        name = self._signal_name(words[0]) if words else "SIGUSR2"
        if name not in _STOPS:
            raise ValueError(f"die: got {words[0]!r}, expected one of {', '.join(_STOPS)}")
        self._orders.stop(_STOPS[name])
        return f"stopping ({_STOPS[name]})"

    def do_config(self, request: Request) -> str:
        text = " ".join(request.words or ())
        given = einhorn.read_yaml(text.encode())
        if not isinstance(given, dict):
            raise ValueError(f"config: got {text!r}, expected a YAML mapping")
        plain = {str(key).lstrip(":"): value for key, value in given.items()}
        if isinstance(plain.get("config"), dict):
            plain = {str(key).lstrip(":"): value for key, value in plain["config"].items()}
        number = plain.pop("number", None)
        if plain:
            raise ValueError(
                f"config: {', '.join(plain)} cannot change while the master runs: expected number "
                "alone"
            )
        if isinstance(number, bool) or not isinstance(number, int):
            raise ValueError(f"config: number: got {number!r}, expected a whole number")
        return self._scale(number)

    def do_quieter(self, request: Request) -> str:
        return self._log.change_verbosity(+1)

    def do_louder(self, request: Request) -> str:
        return self._log.change_verbosity(-1)

    def _signal_name(self, word: str) -> str:
        try:
            return signal_name(word)
        except ValueError as error:
            raise ValueError(f"got {word!r}, expected {error}") from None


def follows(request: Request) -> bool:
    """Whether the answers of a long command are to be streamed: Einhorn sends a client without an
    id the first one only."""
    return request.words is None or request.id is not None


def refuse_words(request: Request) -> None:
    """Our own commands take their arguments by name.

    Raises:
        BadRequest: there are words.
    """
    if request.words:
        raise BadRequest(
            Code.BAD_ARGUMENT,
            f"{request.command} takes no words, got {' '.join(request.words)[:100]!r}", request.id)


def state_document(pool: Pool, status: Mapping[str, Any], settings: Settings, now: float,
                   wall: float) -> dict[str, Any]:
    """Einhorn's state, with its keys (lib/einhorn.rb); `status`: our own status document. What has
    no meaning here is left empty. Sets are lists: a safe YAML reader takes nothing else."""
    upgrade = pool.running_upgrade
    recipe = pool.generations[pool.current].recipe
    newest = max(pool.workers.values(), key=lambda worker: worker.spawned_at, default=None)
    begun = [*pool.history, *(() if upgrade is None else (upgrade,))]
    told = generations.redaction(pool)
    state = {
        "children": {worker.pid: _child(worker, pool.farewell, now, wall)
                     for worker in pool.workers.values()},
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
        "bind": [_bind(each["address"]) for each in status["listeners"]],
        "bind_fds": [each["fd"] for each in status["listeners"]],
        "bound_ports": [_bind(each["address"])[1] for each in status["listeners"]],
        "respawn": pool.stopping is None,
        "upgrading": upgrade is not None and not is_exchanged(pool),
        "smooth_upgrade": upgrade is None or upgrade.terms.kind is Kind.ROLLING,
        "reloading_for_upgrade": upgrade is not None and upgrade.preparing,
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
        "last_upgraded": _date(begun[-1].started_wall) if begun else None,
        "nice": dict(zip((":master", ":worker"), settings.nice or (None, None), strict=True))
        | {":renice_cmd": None},
        "reexec_commandline": settings.reexec_as and told.command(settings.reexec_as),
        "drop_environment_variables": list(settings.drop_env_var),
        "signal_timeout": _number(recipe.graceful_timeout),
        "preloaded": False,
    }
    return {
        ":state": {f":{key}": value for key, value in state.items()}, ":persistent_descriptors": []}


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
    return datetime.fromtimestamp(wall, UTC)
