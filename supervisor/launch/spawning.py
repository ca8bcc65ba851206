"""How a worker is made of its generation: descriptors, environment, pipes and rights, and the fork
of it. It decides nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..core import worker_environment
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
from ..system.processes import Launch, Processes
from . import recipes
from .prepared import Generations
from .shared_page import SharedPage


@dataclass(frozen=True, slots=True)
class Started:
    """`jitter`: 0 to 1, drawn for this worker. `connection`: our end of the control connection that
    it was born with, if any."""

    pid: int
    jitter: float
    connection: socket.socket | None


class Spawner:
    """`listeners`: what workers get, in the order of their descriptors. `metrics`: what processes
    of a generation are given beside its recipe, for the app's own metrics."""

    def __init__(self, ledger: Ledger, generations: Generations, processes: Processes,
                 page: SharedPage, output: Output, settings: Settings, attributes: Attributes,
                 listeners: Sequence[Listener], place: RuntimeDirectory, notify: NotifySocket,
                 metrics: Callable[[int], dict[str, str]]) -> None:
        self._ledger = ledger
        self._generations = generations
        self._processes = processes
        self._page = page
        self._output = output
        self._settings = settings
        self._attributes = attributes
        self._listeners = listeners
        self._place = place
        self._notify = notify
        self._metrics = metrics

    def spawn(self, action: Spawn, worker: int) -> Started:
        """Start a worker.

        Raises:
            CannotStart, OSError: it can't be started; nothing is left of the attempt.
        """
        jitter = int.from_bytes(os.urandom(4), "little") / (1 << 32)
        with contextlib.ExitStack() as undoing:
            undoing.callback(self._page.give_back, worker)
            wanted = (self._settings.command_socket_as_fd
                      or self._generations.prepared[action.generation].gunicorn is not None)
            ours, theirs = socket.socketpair() if wanted else (None, None)
            if ours is not None and theirs is not None:
                undoing.callback(ours.close)
                undoing.callback(theirs.close)
            ends = self._output.open()
            undoing.callback(self._output.close_all, ends)
            pid = self._processes.start(self._launch(action, worker, jitter, theirs, ends))
            # Nobody knows of it yet: if what is left to do fails, it must not live on unknown.
            undoing.callback(self._processes.signal, pid, signal.SIGKILL, True)
            recipe = self._ledger.pool.generations[action.generation].recipe
            for_good = self._generations.prepared[action.generation].gunicorn is None
            self._output.started(ends, worker,
                                 Source(action.index, pid, action.generation, recipe.release),
                                 for_good)
            undoing.pop_all()
        if theirs is not None:
            theirs.close()
        return Started(pid, jitter, ours)

    def _launch(self, action: Spawn, worker: int, jitter: float, control: socket.socket | None,
                ends: Ends) -> Launch:
        """What a new worker is made of. `control`: its own connection to the control socket, if it
        gets one. `ends`: the pipes to which it writes."""
        settings = self._settings
        pool, prepared = self._ledger.pool, self._generations.prepared[action.generation]
        generation = pool.generations[action.generation]
        descriptors = [listener.socket.fileno() for listener in self._listeners]
        recipe, adapter, control_fd = generation.recipe, None, None
        command, program, interpreter = recipe.words, recipe.program, recipe.interpreter
        if control is not None:
            control_fd = worker_environment.FIRST_FD + len(descriptors)
            descriptors.append(control.fileno())
        if prepared.gunicorn is not None:
            notify_fd = worker_environment.FIRST_FD + len(descriptors)
            descriptors.append(self._notify.way)
            page = (worker_environment.FIRST_FD + len(descriptors), self._page.take(worker))
            descriptors.append(self._page.fd)
            stderr = None
            if settings.worker_output is WorkerOutput.INHERIT:
                stderr = worker_environment.FIRST_FD + len(descriptors)
                descriptors.append(STANDARD_ERROR)
            adapter = recipes.adapter_instructions(prepared, settings, pool.target, page, jitter,
                                                   stderr, control_fd, notify_fd)
            command, program = prepared.gunicorn.adapter, ""
        environment = worker_environment.environment(
            generation, worker=worker, index=action.index, master=os.getpid(),
            control_socket=self._place.path, notify_socket=self._place.notify_path,
            families=[
                socket.AddressFamily(listener.socket.family).name for listener in self._listeners
            ], names=[listener.label for listener in self._listeners
                      ], stop_signal=settings.stop_signal, adapter=adapter,
            control_fd=control_fd if settings.command_socket_as_fd else None,
        ) | self._metrics(action.generation)
        farewell = signal.Signals[settings.stop_signal] if settings.kill_children_on_exit else None
        stdout, stderr_pipe = ends.writers
        return Launch(command or recipe.command, recipe.directory, environment, descriptors,
                      farewell, stdout, stderr_pipe, attributes=self._attributes,
                      seat=action.index, program=program, interpreter=interpreter)
