"""Starts the sidecar, as the master execs it: `python -m einhornpy.control.web JSON`.

Descriptors: 3 the listening socket, 4 the connection to ask on, 5 the one that is told what happens. JSON: `name`, the master's;
`user`, `[uid, gid]` to become, or null; `metrics`, the directory of the app's own metrics, or null.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

# gunicorn, since whoever installs einhornpy has it; gthread, since each stream of the page waits in a thread of its own.
from gunicorn.app.base import BaseApplication

from ..client import Client
from .app import App
from .feed import MOST_STREAMS, Feed, Master
from .metrics import Metrics

LISTENER, ASKING, TOLD = 3, 4, 5
# Read before we become somebody who may not be able to read them.
LAZY = ("gunicorn.workers.gthread", "gunicorn.glogging", "gunicorn.http.parser", "gunicorn.http.wsgi", "gunicorn.util",
        "concurrent.futures.thread", "logging.config", "encodings.idna", "prometheus_client.openmetrics.exposition", "gzip",
        "traceback")
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
KERNEL = ctypes.CDLL(None, use_errno=True)  # the standard library has no prctl


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
            "keepalive": 5, "graceful_timeout": 1, "loglevel": "warning", "control_socket_disable": True,
            "proc_name": f"einhornpy: web {self._name}", "child_exit": end_with_the_worker,
        }.items():
            self.cfg.set(setting, value)

    def load(self) -> Callable[..., Any]:
        return self._serve()


def end_with_the_worker(arbiter: Any, worker: Any) -> None:
    """A new worker could not go on with connections on which half a reply may stand: the master starts us anew."""
    os.kill(os.getpid(), signal.SIGTERM)


def become(user: tuple[int, int] | None) -> None:
    """Become this user for good, unable to gain any right."""
    if user is not None:
        try:
            os.setgroups([])
            os.setresgid(user[1], user[1], user[1])
            os.setresuid(user[0], user[0], user[0])
        except PermissionError:
            # A container's root without any capability: it owns as little as anybody there.
            print(f"einhornpy: web: cannot become user {user[0]}, stays user {os.geteuid()}", file=sys.stderr)
    KERNEL.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def die_with(parent: int) -> None:
    """Be killed when the parent is gone: nothing here needs an end, and whoever lingers keeps the address, and its streams open."""
    # The kernel forgets it when the user changes (prctl(2)).
    KERNEL.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def main() -> None:
    told: Mapping[str, Any] = json.loads(sys.argv[1])
    for module in LAZY:
        importlib.import_module(module)
    files = {name: App.read_file(name) for name in App.FILES}
    # Named by its descriptor, it can be entered by whoever may not pass the directories above it.
    metrics = None if told["metrics"] is None else f"/proc/self/fd/{os.open(told['metrics'], os.O_RDONLY | os.O_DIRECTORY)}"
    parent, arbiter = os.getppid(), os.getpid()
    become(None if told["user"] is None else (told["user"][0], told["user"][1]))
    die_with(parent)

    def serve() -> Callable[..., Any]:
        die_with(arbiter)
        master = Master(Client.over(socket.socket(fileno=ASKING)))
        feed = Feed(Client.over(socket.socket(fileno=TOLD), timeout=None), master, lambda: os.kill(arbiter, signal.SIGTERM))
        feed.start()
        return App(master, feed, Metrics(master, metrics), files)

    Server(told["name"], serve).run()


if __name__ == "__main__":
    main()
