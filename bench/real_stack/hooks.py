"""What gunicorn's `when_ready` may do before the first worker is forked."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.util import setup_testing_defaults

from .traffic import path

REQUESTS, A_FEW = 5000, 100


def try_out(app: Callable[..., Iterable[bytes]]) -> None:
    """Have the WSGI app answer some requests of each kind."""
    for number in range(A_FEW):
        answer(app, path(number))


def warm_up(app: Callable[..., Iterable[bytes]]) -> None:
    """Have the WSGI app answer as many requests as a worker that has served for a while."""
    for number in range(REQUESTS):
        answer(app, path(number))


def answer(app: Callable[..., Iterable[bytes]], target: str) -> None:
    """Ask the WSGI app for one path; raise unless it answers 200."""
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    environ["PATH_INFO"], _, environ["QUERY_STRING"] = target.partition("?")

    def start_response(status: str, headers: object, exc_info: object = None) -> None:
        if not status.startswith("200 "):
            raise RuntimeError(f"{target}: {status}")

    body = app(environ, start_response)
    try:
        for _ in body:
            pass
    finally:
        if hasattr(body, "close"):
            body.close()


def collect(app: Callable[..., Iterable[bytes]]) -> None:
    """Collect garbage, in full."""
    gc.collect()


def freeze(app: Callable[..., Iterable[bytes]]) -> None:
    """Leave what there is now out of every later garbage collection."""
    gc.freeze()
