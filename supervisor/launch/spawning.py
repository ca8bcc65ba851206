"""How a worker is made of its generation: descriptors, environment, pipes and rights, and the fork
of it. It decides nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from ...shared.frozen import dataclass
from ...worker import template_messages
from ..core import template_rules, worker_environment
from ..core.actions import Spawn
from ..logs.log import STANDARD_ERROR, Source
from ..logs.output import Ends, Output
from ..places.notify_socket import NotifySocket
from ..places.runtime_directory import RuntimeDirectory
from ..settings.parsers import WorkerOutput
from ..settings.table import Settings
from ..sockets.listener import Listener
from ..system.attributes import Attributes
from ..system.ledger import Ledger
from ..system.processes import CannotStart, Launch, Processes
from . import recipes
from .prepared import Generations
from .shared_page import SharedPage
from .template import Fork
from .templates import Templates
from .traffic_pages import TrafficPages


@dataclass(frozen=True, slots=True)
class Started:
    """`pid`: 0 where it is yet to be forked. `jitter`: 0 to 1, drawn for this worker. `connection`:
    our end of the control connection that it was born with, if any."""

    pid: int
    jitter: float
    connection: socket.socket | None


@dataclass(frozen=True, slots=True)
class Given:
    """What a worker is given. `descriptors`: they become 3, 4, …; `environment`: all of it; `life`:
    what one of gunicorn's is told."""

    descriptors: list[int]
    environment: dict[str, str]
    life: dict[str, Any] | None


class Spawner:
    """`listeners`: what workers get, in the order of their descriptors."""

    def __init__(self, ledger: Ledger, generations: Generations, processes: Processes,
                 page: SharedPage, traffic: TrafficPages, output: Output, settings: Settings,
                 attributes: Attributes, listeners: Sequence[Listener], place: RuntimeDirectory,
                 notify: NotifySocket, templates: Templates) -> None:
        self._ledger = ledger
        self._generations = generations
        self._processes = processes
        self._page = page
        self._traffic = traffic
        self._output = output
        self._settings = settings
        self._attributes = attributes
        self._listeners = listeners
        self._place = place
        self._notify = notify
        self._templates = templates

    def spawn(self, action: Spawn, worker: int,
              forked: Callable[[Started, int], None]) -> Started:
        """Start a worker, or ask its generation's template for it. `forked`: told of one that is
        there later than this returns.

        Raises:
            CannotStart, OSError: it can't be started; nothing is left of the attempt.
        """
        jitter = int.from_bytes(os.urandom(4), "little") / (1 << 32)
        gunicorn = self._generations.prepared[action.generation].gunicorn
        forks = template_rules.forks(self._ledger.pool, action.generation)
        with contextlib.ExitStack() as undoing:
            undoing.callback(self._page.give_back, worker)
            undoing.callback(self._traffic.give_back, worker)
            wanted = self._settings.command_socket_as_fd or gunicorn is not None
            ours, theirs = socket.socketpair() if wanted else (None, None)
            if ours is not None and theirs is not None:
                undoing.callback(ours.close)
                undoing.callback(theirs.close)
            ends = self._output.open()
            undoing.callback(self._output.close_all, ends)
            given = self._given(action, worker, jitter, theirs)
            if not forks:
                pid = self._processes.start(self._launch(action, given, ends))
                # Nobody knows of it yet: if what is left to do fails, it must not live on unknown.
                undoing.callback(self._processes.signal, pid, signal.SIGKILL, True)
            else:
                pid = 0
                self._fork(action, worker, given, ends, self._later(worker, jitter, ours, forked))
            recipe = self._ledger.pool.generations[action.generation].recipe
            self._output.started(ends, worker,
                                 Source(action.index, pid, action.generation, recipe.release),
                                 for_good=gunicorn is None)
            undoing.pop_all()
        if theirs is not None:
            theirs.close()
        return Started(pid, jitter, ours)

    def _later(self, worker: int, jitter: float, connection: socket.socket | None,
               forked: Callable[[Started, int], None]) -> Fork:
        """What is to be done when it is there, or will not be."""

        def done(pid: int | None) -> None:
            if pid is not None:
                self._output.named(worker, pid)
                forked(Started(pid, jitter, connection), worker)
                return
            if connection is not None:
                connection.close()
            self._output.worker_is_gone(worker)
            self._page.give_back(worker)
            self._traffic.give_back(worker)

        return Fork(worker, done)

    def _given(self, action: Spawn, worker: int, jitter: float,
               control: socket.socket | None) -> Given:
        """`control`: its own connection to the control socket, if it gets one."""
        settings = self._settings
        pool, prepared = self._ledger.pool, self._generations.prepared[action.generation]
        generation = pool.generations[action.generation]
        descriptors = [listener.socket.fileno() for listener in self._listeners]

        def add(fd: int) -> int:
            descriptors.append(fd)
            return worker_environment.FIRST_FD + len(descriptors) - 1

        life, control_fd = None, None if control is None else add(control.fileno())
        if prepared.gunicorn is not None:
            notify_fd = add(self._notify.way)
            page = (add(self._page.fd), self._page.take(worker))
            traffic = (add(self._traffic.fd),
                       self._traffic.take(worker, action.generation, time.monotonic()))
            inherits = settings.worker_output is WorkerOutput.INHERIT
            life = recipes.life(generation.recipe, settings, pool.target, page, traffic, jitter,
                                add(STANDARD_ERROR) if inherits else None, control_fd, notify_fd)
        environment = worker_environment.environment(
            generation, worker=worker, index=action.index, master=os.getpid(),
            control_socket=self._place.path, notify_socket=self._place.notify_path,
            families=[
                socket.AddressFamily(listener.socket.family).name for listener in self._listeners
            ], names=[listener.label for listener in self._listeners
                      ], stop_signal=settings.stop_signal,
            control_fd=control_fd if settings.command_socket_as_fd else None,
        ) | dict(self._templates.variables(action.generation, generation.recipe.environment))
        return Given(descriptors, environment, life)

    @property
    def _farewell(self) -> signal.Signals | None:
        """What a worker gets when the master dies."""
        stops = self._settings.kill_children_on_exit
        return signal.Signals[self._settings.stop_signal] if stops else None

    def _launch(self, action: Spawn, given: Given, ends: Ends) -> Launch:
        recipe = self._ledger.pool.generations[action.generation].recipe
        stdout, stderr = ends.writers
        return Launch(recipe.words or recipe.command, recipe.directory, given.environment,
                      given.descriptors, self._farewell, stdout, stderr,
                      attributes=self._attributes, seat=action.index, program=recipe.program,
                      interpreter=recipe.interpreter)

    def _fork(self, action: Spawn, worker: int, given: Given, ends: Ends, fork: Fork) -> None:
        recipe = self._ledger.pool.generations[action.generation].recipe
        stdout, stderr = ends.writers
        if len(given.descriptors) + 2 > template_messages.MOST_DESCRIPTORS:
            raise CannotStart(
                f"cannot give a worker of gunicorn's {len(given.descriptors)} descriptors: listen "
                "on fewer addresses")
        cores = self._attributes.cores
        message = template_messages.fork(
            worker, action.index,
            {name: value for name, value in given.environment.items()
             if recipe.environment.get(name) != value},
            len(given.descriptors), stdout is not None, stderr is not None, self._farewell,
            cores[action.index % len(cores)] if cores else None, given.life or {})
        self._templates.fork(action.generation, fork, message, [
            *given.descriptors, *(fd for fd in (stdout, stderr) if fd is not None)])
