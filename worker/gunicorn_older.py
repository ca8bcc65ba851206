"""gthread of a gunicorn before 24: told to leave, it drops whoever it has accepted and who has yet
to speak, with the connection. Here they are answered first.

Plain standard library from Python 3.9 on.
"""

import time
from typing import Any

# So many seconds, and those of gunicorn's keepalive, somebody has to speak who was accepted.
SPEAKS_WITHIN = 1.0
LOOK = 0.1


def mend(worker: Any) -> None:
    """Called before the worker serves."""
    make = worker.get_thread_pool

    def make_and_mend() -> Any:
        pool = make()
        shutdown = pool.shutdown

        def shutdown_after_all(*arguments: Any, **named: Any) -> None:
            answer_who_was_accepted(worker)
            shutdown(*arguments, **named)

        pool.shutdown = shutdown_after_all
        return pool

    def quit_at_once(*arguments: Any) -> None:
        del worker.tpool.shutdown  # it calls the same, and waits for nobody
        handle_quit(*arguments)

    handle_quit = worker.handle_quit
    worker.get_thread_pool, worker.handle_quit = make_and_mend, quit_at_once


def answer_who_was_accepted(worker: Any) -> None:
    """Called when the worker has stopped accepting, and before its threads take no more."""
    with worker._lock:
        for listener in worker.sockets:
            worker.poller.unregister(listener)
    until = time.monotonic() + SPEAKS_WITHIN + worker.cfg.keepalive
    while time.monotonic() < until:
        with worker._lock:
            if not worker.poller.get_map():
                return
        worker.notify()
        for key, _ in worker.poller.select(LOOK):
            key.data(key.fileobj)
        worker.murder_keepalived()
