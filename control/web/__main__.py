"""Starts the sidecar, as the master execs it: `python -m einhornpy.control.web JSON`.

Descriptors: 3 the listening socket, 4 the connection to ask on, 5 the one that is told what
happens. JSON: `name`, the master's; `user`, `[uid, gid]` to become, or null; `metrics`, the
directory of the app's own metrics, or null; `hosts`, by which other names it may be asked.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import socket
import stat
import sys
from collections.abc import Mapping
from typing import Any

import setproctitle

from ..client import Client
from ..privileges import become, by_descriptor, die_with
from .app import App
from .feed import MOST_STREAMS, Feed, Master
from .metrics import Metrics
from .serving import Server

LISTENER, ASKING, TOLD = 3, 4, 5
# Read before we become somebody who may not be able to read them.
LAZY = ("concurrent.futures.thread", "prometheus_client.openmetrics.exposition", "gzip",
        "linecache", "tokenize")


def wait_for_no_reader() -> None:
    """Let a log that nobody reads hold none of us."""
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
    parent = os.getppid()
    wait_for_no_reader()
    become(None if told["user"] is None else (told["user"][0], told["user"][1]))
    die_with(parent)
    setproctitle.setproctitle(f"einhornpy: web {told['name']}")
    master = Master(Client.over(socket.socket(fileno=ASKING), verbatim=True), gone)
    feed = Feed(Client.over(socket.socket(fileno=TOLD), timeout=None, verbatim=True), master, gone)
    feed.start()
    app = App(master, feed, Metrics(master, metrics), files)
    asyncio.run(
        Server(socket.socket(fileno=LISTENER), app, App.ASKING, MOST_STREAMS, told["hosts"]).run())


def gone() -> None:
    """The master starts us anew, with new connections: on these half a reply may stand."""
    os._exit(1)


if __name__ == "__main__":
    main()
