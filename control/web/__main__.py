"""Starts the sidecar, as the master execs it: `python -m einhornpy.control.web JSON`.

Descriptors: 3 the listening socket, 4 the connection to ask on, 5 the one that is told what happens. JSON: `name`, the master's;
`user`, `[uid, gid]` to become, or null; `metrics`, the directory of the app's own metrics, or null.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import stat
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any

# gunicorn, since whoever installs einhornpy has it; gthread, since each stream of the page waits in a thread of its own.
from gunicorn.app.base import BaseApplication
from gunicorn.workers import gthread

from ..client import Client
from ..privileges import become, by_descriptor, die_with
from .app import App
from .feed import MOST_STREAMS, Feed, Master
from .metrics import Metrics

LISTENER, ASKING, TOLD = 3, 4, 5
CLIENT_TIMEOUT = 10  # seconds
# Read before we become somebody who may not be able to read them.
LAZY = ("gunicorn.glogging", "gunicorn.http.parser", "gunicorn.http.wsgi", "gunicorn.util",
        "concurrent.futures.thread", "logging.config", "encodings.idna", "prometheus_client.openmetrics.exposition", "gzip",
        "traceback")


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn with settings of ours alone. `serve` is called in its one worker."""

    def __init__(self, name: str, serve: Callable[[], Callable[..., Any]]) -> None:
        self._name = name
        self._serve = serve
        super().__init__()

    def load_config(self) -> None:
        for setting, value in {
            # gunicorn noted who we were when it was loaded.
            "user": os.geteuid(), "group": os.getegid(),
            "bind": [f"fd://{LISTENER}"], "workers": 1, "worker_class": "gthread", "threads": MOST_STREAMS + 8,
            "keepalive": 5, "graceful_timeout": 1, "loglevel": "error", "control_socket_disable": True,
            "proc_name": f"einhornpy: web {self._name}", "child_exit": end_with_the_worker,
        }.items():
            self.cfg.set(setting, value)

    def load(self) -> Callable[..., Any]:
        return self._serve()


def end_with_the_worker(arbiter: Any, worker: Any) -> None:
    """A new worker could not go on with connections on which half a reply may stand: the master starts us anew."""
    os.kill(os.getpid(), signal.SIGTERM)


def be_patient_with_nobody() -> None:
    """Let neither a client that says half a request or reads nothing, nor a log that nobody reads, hold a thread of ours."""
    with socket.socket(fileno=os.dup(LISTENER)) as listener:
        # Inherited by what is accepted (socket(7)): struct timeval.
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            listener.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", CLIENT_TIMEOUT, 0))
    # gunicorn's one loop would wait up to 2 s for each such client to hang up.
    close = gthread.TConn.close
    gthread.TConn.close = lambda connection, graceful=False: close(connection)
    if stat.S_ISREG(os.fstat(2).st_mode):
        return  # it never blocks, and a description of our own would write over what others write
    try:
        # A description of our own: whether it blocks is nobody else's business.
        own = os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_APPEND)
    except OSError:
        return  # a socket, of systemd's for instance
    os.dup2(own, 2)
    os.close(own)


def main() -> None:
    told: Mapping[str, Any] = json.loads(sys.argv[1])
    for module in LAZY:
        importlib.import_module(module)
    files = {name: App.read_file(name) for name in App.FILES}
    try:
        metrics = None if told["metrics"] is None else by_descriptor(told["metrics"])
    except OSError:
        metrics = None  # taken away: everything else is still worth showing
    parent, arbiter = os.getppid(), os.getpid()
    be_patient_with_nobody()
    become(None if told["user"] is None else (told["user"][0], told["user"][1]))
    die_with(parent)

    def serve() -> Callable[..., Any]:
        die_with(arbiter)

        def gone() -> None:
            os.kill(arbiter, signal.SIGTERM)  # the master starts us anew, with new connections

        master = Master(Client.over(socket.socket(fileno=ASKING), verbatim=True), gone)
        feed = Feed(Client.over(socket.socket(fileno=TOLD), timeout=None, verbatim=True), master, gone)
        feed.start()
        return App(master, feed, Metrics(master, metrics), files)

    Server(told["name"], serve).run()


if __name__ == "__main__":
    main()
