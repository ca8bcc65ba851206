"""Einhorn's commands for Einhorn's clients: their words in, our own commands carried out, a
sentence or YAML out.

Nothing is decided here that our own commands don't decide. What differs from Einhorn stands in
docs/einhorn.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from ...shared import commands, einhorn
from ...shared.protocol import BadRequest, Code, Request
from ..core.pool import Stopping
from ..logs.log import Log
from ..settings.parsers import signal_name
from ..settings.table import Settings
from ..system.ledger import Ledger
from .answers import Answers
from .einhorn_state import state_document
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
