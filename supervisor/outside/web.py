"""What the master does for `--web`: the sidecar, and the directories with the app's own metrics,
which the sidecar shows."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ..core import pool, worker_environment
from ..reporting.events import Entry, Event
from ..sockets.listener import Listener
from ..system.attributes import Attributes
from ..system.errands import Ended, Errand, Errands
from ..system.processes import Exit, Launch, Processes, own_program
from .app_metrics import VARIABLE, AppMetrics
from .sidecar import Sidecar

FOLD_TIMEOUT = 60.0
# Addresses that mean every one of this host's.
EVERYWHERE = ("0.0.0.0", "::", "::ffff:0.0.0.0")


class Host(Protocol):
    """What this module needs of the master."""

    pool: pool.Pool

    def log(self, entry: Entry) -> None: ...
    def identity(self) -> dict[str, Any]: ...


class Web:
    """`listener`: where the page is served. `user`: who serves it, None for us. `attributes`: of
    the workers."""

    def __init__(self, host: Host, processes: Processes, errands: Errands,
                 environ: Mapping[str, str], listener: Listener, user: tuple[int, int] | None,
                 hosts: Sequence[str], attributes: Attributes, admit: Callable[[socket.socket],
                                                                               None],
                 inherited: Mapping[str, Any] | None) -> None:
        """`hosts`: by which other names it may be asked. `inherited`: what `hand_over` of the
        master before us said."""
        self._host = host
        self._errands = errands
        self._environ = worker_environment.inherited(environ)
        self._owner = None
        if attributes.other_user:
            self._owner = (os.geteuid() if attributes.uid is None else attributes.uid,
                           os.getegid() if attributes.gid is None else attributes.gid)
        self._metrics: AppMetrics | None = None
        identity = host.identity()
        try:
            self._metrics = AppMetrics(identity["socket"].removesuffix(".sock") + ".metrics",
                                       self._owner, inherited is None)
        except OSError as error:
            host.log(Entry(Event.NO_APP_METRICS, {"reason": str(error)}))
        self._sidecar = Sidecar(processes, listener, self._environ, identity["name"], user,
                                None if self._metrics is None else self._metrics.path, hosts, admit,
                                host.log)
        if inherited is not None:
            self._sidecar.take_over(inherited)
        elif listener.socket.family != socket.AF_UNIX and listener.socket.getsockname(
        )[0] in EVERYWHERE:
            host.log(Entry(Event.WEB_OPEN_TO_EVERYBODY, {
                "listen": listener.name, "so": "whoever reaches this host may look",
                "better": "127.0.0.1, [::1] or unix:PATH"}))

    @property
    def deadline(self) -> float | None:
        return self._sidecar.deadline

    def on_time(self, now: float) -> None:
        self._sidecar.on_time(now)

    def on_exit(self, exit: Exit) -> bool:
        """Note that a child has exited; return whether it was the sidecar."""
        return self._sidecar.on_exit(exit)

    def environment(self, generation: int) -> dict[str, str]:
        """What processes of a generation are given for the app's own metrics; nothing where they
        have a place already."""
        if self._metrics is None or VARIABLE in self._host.pool.generations[
                generation].recipe.environment:
            return {}
        try:
            return {VARIABLE: self._metrics.directory(generation)}
        except OSError as error:
            self._host.log(
                Entry(Event.NO_APP_METRICS, {"generation": generation, "reason": str(error)}))
            return {}

    def worker_is_gone(self, generation: int, pid: int) -> None:
        """Tidy up what its process has left; where that has become much, let it be folded
        together."""
        if self._metrics is None or not self._metrics.worker_is_gone(generation, pid):
            return
        told = json.dumps({"directory": f"{self._metrics.path}/{generation}", "user": self._owner})
        launch = Launch(own_program("control.web.fold", told), "/", self._environ, (),
                        signal.SIGKILL)
        self._errands.send(Errand("fold-metrics", launch, FOLD_TIMEOUT, self._folded, "", 0.0))

    def _folded(self, ended: Ended) -> None:
        if ended.reason is not None:
            self._host.log(
                Entry(Event.METRICS_NOT_FOLDED,
                      {"reason": ended.reason, "last_line": ended.last_line}))

    def generations_changed(self) -> None:
        """Some are over, or there are new ones."""
        if self._metrics is not None:
            self._metrics.generations_left([self._host.pool.newest, *self._host.pool.generations])

    def hand_over(self) -> dict[str, Any]:
        """What the next master needs to know."""
        return self._sidecar.hand_over()

    def close(self) -> None:
        self._sidecar.close()
        if self._metrics is not None:
            self._metrics.close()
