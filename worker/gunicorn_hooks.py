"""The server hooks of gunicorn's arbiter, which isn't there: each runs in a short-lived process of
its own. Loaded by the adapter.

Plain standard library from Python 3.9 on.
"""

import os
from typing import Any, Dict, List

# Those that make sense without the arbiter.
ARBITER_HOOKS = ("on_starting", "on_reload", "when_ready", "child_exit", "nworkers_changed",
                 "on_exit")


class Arbiter:
    """What server hooks get in place of gunicorn's arbiter: its settings and names, none of its
    powers."""

    def __init__(self, app: Any, instructions: Dict[str, Any], log: Any = None) -> None:
        self.app = app
        self.cfg = app.cfg
        self.log = log or app.cfg.logger_class(app.cfg)
        self.pid = instructions.get("master", os.getppid())
        self.num_workers = instructions.get("workers", app.cfg.workers)
        self.address = app.cfg.address
        self.timeout = app.cfg.timeout
        self.proc_name = app.cfg.proc_name
        self.worker_class = app.cfg.worker_class
        self.LISTENERS: List[Any] = []
        self.WORKERS: Dict[int, Any] = {}
        self.master_name = "Master"
        self.master_pid = 0


class GoneWorker:
    """The worker that the child_exit hook gets: it is gone, so only its pid and age are left."""

    def __init__(self, pid: int, age: int) -> None:
        self.pid = pid
        self.age = age


def run(instructions: Dict[str, Any]) -> int:
    """Run one hook; return the exit code. Raises what the hook raises."""
    from .gunicorn_settings import make_app

    app, _ = make_app()
    name, arguments = instructions["hook"], instructions["arguments"]
    if name == "child_exit":
        arguments = [GoneWorker(*arguments[0])]
    getattr(app.cfg, name)(Arbiter(app, instructions), *arguments)
    return 0
