"""What the master does for `--web`: the sidecar, and the directories with the app's own metrics,
which the sidecar shows."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ...shared.frozen import dataclass
from ..core import facts, worker_environment
from ..core.pool import Pool
from ..places.runtime_directory import RuntimeDirectory
from ..reporting.events import Entry, Event
from ..sockets.listener import Listener
from ..sockets.listener_repair import KeptListener, plain_listener
from ..sockets.listeners import close_all
from ..system.attributes import Attributes
from ..system.errands import Ended, Errand, Errands
from ..system.ledger import Ledger
from ..system.own_code import OwnCode
from ..system.part import Keep, Part, State
from ..system.processes import Exit, Processes
from .app_metrics import VARIABLE, AppMetrics
from .sidecar import Sidecar

FOLD_TIMEOUT = 60.0
# Addresses that mean every one of this host's.
EVERYWHERE = ("0.0.0.0", "::", "::ffff:0.0.0.0")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptWeb(KeptListener):
    """The sidecar's listener, and its process if it runs."""

    pid: int | None

    def process_ids(self) -> Iterable[int]:
        return [] if self.pid is None else [self.pid]


class Web(Part):
    """`user`: who serves it, None for us. `attributes`: of the workers. There is none before
    `open`, and none at all where nobody wants it."""

    name = "web"
    keeps = {"web": Keep(KeptWeb | None)}

    def __init__(self, ledger: Ledger, processes: Processes, errands: Errands,
                 environ: Mapping[str, str], place: RuntimeDirectory,
                 user: tuple[int, int] | None, hosts: Sequence[str] | None,
                 attributes: Attributes, admit: Callable[[socket.socket], None],
                 own_code: OwnCode) -> None:
        """`hosts`: by which other names it may be asked; None: nobody wants it. `admit`: takes one
        end of a connection that may only look."""
        self._ledger = ledger
        self._processes = processes
        self._errands = errands
        self._environ = worker_environment.inherited(environ)
        self._place = place
        self._user = user
        self._hosts = hosts or ()
        self._coming = hosts is not None
        self._admit = admit
        self._own_code = own_code
        self._owner = None
        if attributes.other_user:
            self._owner = (os.geteuid() if attributes.uid is None else attributes.uid,
                           os.getegid() if attributes.gid is None else attributes.gid)
        self._metrics: AppMetrics | None = None
        self._sidecar: Sidecar | None = None

    def open(self, listener: Listener) -> None:
        """Begin to serve there."""
        self._begin(listener, fresh=True)
        if listener.socket.family != socket.AF_UNIX and listener.socket.getsockname(
        )[0] in EVERYWHERE:
            self._ledger.log(Entry(Event.WEB_OPEN_TO_EVERYBODY, {
                "listen": listener.name, "so": "whoever reaches this host may look",
                "better": "127.0.0.1, [::1] or unix:PATH"}))

    def _begin(self, listener: Listener, fresh: bool) -> Sidecar:
        self._coming = False
        try:
            self._metrics = AppMetrics(self._place.path.removesuffix(".sock") + ".metrics",
                                       self._owner, fresh)
        except OSError as error:
            self._ledger.log(Entry(Event.NO_APP_METRICS, {"reason": str(error)}))
        self._sidecar = Sidecar(self._processes, listener, self._environ, self._place.master,
                                self._user, None if self._metrics is None else self._metrics.path,
                                self._hosts, self._admit, self._ledger.log, self._own_code)
        return self._sidecar

    def hand_over(self) -> dict[str, Any]:
        sidecar = self._sidecar
        return {"web": None if sidecar is None else plain_listener(sidecar.listener) | {
            "pid": sidecar.pid}}

    def take_over(self, state: State) -> None:
        kept: KeptWeb | None = state["web"]
        if kept is not None:
            self._begin(kept.listener(), fresh=False).take_over(kept.pid)

    @property
    def deadline(self) -> float | None:
        return None if self._sidecar is None else self._sidecar.deadline

    def on_time(self, now: float) -> None:
        if self._sidecar is not None:
            self._sidecar.on_time(now)

    def on_exit(self, exit: Exit) -> bool:
        return self._sidecar is not None and self._sidecar.on_exit(exit)

    def environment(self, generation: int, environment: Mapping[str, str]) -> dict[str, str]:
        """What processes of a generation are given for the app's own metrics; nothing where their
        environment names a place already."""
        if VARIABLE in environment:
            return {}
        if self._metrics is None:
            # The library looks for the variable as soon as it is imported, by a settings file of
            # gunicorn's for instance, which may say what we are called and so where our place is.
            return {VARIABLE: self._some_directory()} if self._coming else {}
        try:
            return {VARIABLE: self._metrics.directory(generation)}
        except OSError as error:
            self._ledger.log(
                Entry(Event.NO_APP_METRICS, {"generation": generation, "reason": str(error)}))
            return {}

    def _some_directory(self) -> str:
        """Where somebody can write. The module tempfile would weigh on a master for ever."""
        places = (self._environ.get("TMPDIR", ""), "/tmp", "/var/tmp")
        return next((each for each in places if os.access(each, os.W_OK)), "/")

    def worker_is_gone(self, generation: int, pid: int) -> None:
        """Tidy up what its process has left; where that has become much, let it be folded
        together."""
        if self._metrics is None or not self._metrics.worker_is_gone(generation, pid):
            return
        told = json.dumps({"directory": f"{self._metrics.path}/{generation}", "user": self._owner})
        launch = self._own_code.launch("control.web.fold", [told], self._environ, (),
                                       signal.SIGKILL)
        # In no line: a reload would leave it there with our descriptors.
        self._errands.send(Errand("fold-metrics", launch, FOLD_TIMEOUT, self._folded, "", 0.0,
                                  urgent=True))

    def _folded(self, ended: Ended) -> None:
        if ended.reason is not None:
            self._ledger.log(Entry(Event.METRICS_NOT_FOLDED, {
                "reason": ended.reason, "last_line": ended.last_line}))

    def observe(self, before: Pool, event: facts.Event, after: Pool, now: float) -> None:
        """Some generations may be over, or there are new ones."""
        if self._metrics is not None and after.generations.keys() != before.generations.keys():
            self._metrics.generations_left([after.newest, *after.generations])

    def close(self) -> None:
        if self._sidecar is not None:
            self._sidecar.close()
            close_all([self._sidecar.listener])
        if self._metrics is not None:
            self._metrics.close()
