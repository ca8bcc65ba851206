"""What gunicorn's arbiter would see and do by itself, told to the templates, which run its hooks:
workers come and go, sockets are others, log files are to be opened anew. A template of another
program passes it over.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from ...worker import template_messages
from ..core.pool import State
from ..system.ledger import Ledger
from .templates import Templates


class ArbiterHooks:
    def __init__(self, ledger: Ledger, templates: Templates) -> None:
        self._ledger = ledger
        self._templates = templates
        self._said = (0, 0)

    def call(self, generation: int, name: str, *arguments: int,
             listeners: Sequence[socket.socket] = ()) -> None:
        """Let a template run one of the arbiter's server hooks, where it is there."""
        self._templates.send(
            generation, template_messages.hook(name, *arguments, listeners=len(listeners)),
            [each.fileno() for each in listeners])

    def worker_is_gone(self, generation: int, pid: int) -> None:
        self.call(generation, "child_exit", pid)

    def say_how_many(self) -> None:
        """Tell the current template how many workers there are, if that has changed."""
        pool = self._ledger.pool
        count = sum(worker.state is not State.RETIRING and worker.pid > 0
                    for worker in pool.workers.values())
        if (pool.current, count) != self._said:
            self._said = (pool.current, count)
            self._templates.send(pool.current, template_messages.workers(count))

    def give_listeners(self, listeners: Sequence[socket.socket]) -> None:
        """They are others by now: who has older ones is to let go of them."""
        for number, template in self._ledger.pool.templates.items():
            if template.told:
                self._templates.send(number, template_messages.listeners(len(listeners)),
                                     [each.fileno() for each in listeners])

    def reopen_logs(self) -> None:
        for number in self._ledger.pool.templates:
            self._templates.send(number, template_messages.reopen())
