"""The WSGI app: which path answers what. Looking only: GET and HEAD."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ...shared import printable
from .. import gate
from ..client import Failed, MasterGone, TimedOut
from .feed import Feed, Master
from .metrics import Metrics

Environ = Mapping[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Answer = tuple[str, str, bytes]

# The page needs its own files and its stream, and nothing from anywhere else.
HEADERS = [
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy",
     "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
     "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"), ("X-Content-Type-Options", "nosniff"),]
TEXT = "text/plain; charset=utf-8"
OK, UNAVAILABLE = "200 OK", "503 Service Unavailable"


class App:
    """A WSGI app (PEP 3333). `files`: what `read_file` says of each of `FILES`. `ASKING`: the paths
    for which the master is asked."""

    ASKING = ("/healthz", "/readyz", "/metrics", "/status")

    FILES: Mapping[str, str] = {
        "page.html": "text/html; charset=utf-8", "page.css": "text/css; charset=utf-8",
        **dict.fromkeys(
            ("page.js", *(f"page-{part}.js" for part in (
                "airbag", "charts", "comparison", "draw", "model", "panels", "seats", "stream",
                "templates", "words"))),
            "text/javascript; charset=utf-8"),
    }

    def __init__(self, master: Master, feed: Feed, metrics: Metrics, files: Mapping[str,
                                                                                    bytes]) -> None:
        self._master = master
        self._feed = feed
        self._metrics = metrics
        self._files = files
        self._answers: dict[str, Callable[[Environ], Answer]] = {
            f"/{name.removesuffix('page.html')}": self._serving(name) for name in self.FILES}
        self._answers |= {
            "/status": self._status, "/healthz": self._health, "/readyz": self._readiness}

    @staticmethod
    def read_file(name: str) -> bytes:
        loader: Any = __spec__.loader  # of a file, or of the archive in which we are
        data: bytes = loader.get_data(os.path.join(os.path.dirname(__file__), "page", name))
        return data

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        known = path in self._answers or path in ("/metrics", "/stream")
        if known and method not in ("GET", "HEAD"):
            answer = "405 Method Not Allowed", TEXT, _line("this page only shows: expected GET")
            return _send(answer, start_response, "", [("Allow", "GET, HEAD")])
        if not known:
            pages = [path for path in self._answers if not path.startswith("/page")]
            paths = ", ".join([*pages, "/readyz?serving", "/metrics", "/stream"])
            return _send(("404 Not Found", TEXT, _line(f"no such page: expected one of {paths}")),
                         start_response, method)
        try:
            if path == "/metrics":
                return self._metrics(environ, start_response)
            if path == "/stream":
                return self._stream(start_response, method)
            return _send(self._answers[path](environ), start_response, method)
        except (MasterGone, TimedOut, Failed) as error:
            return _send((UNAVAILABLE, TEXT, _line(f"the master does not answer: {error}")),
                         start_response, method)

    def _serving(self, name: str) -> Callable[[Environ], Answer]:
        return lambda environ: (OK, self.FILES[name], self._files[name])

    def _status(self, environ: Environ) -> Answer:
        return OK, "application/json", printable.as_json(self._master.ask("status"),
                                                         2).encode() + b"\n"

    def _health(self, environ: Environ) -> Answer:
        pong = self._master.ask("ping", patience=5.0)
        return OK, TEXT, _line(f"alive: pid {pong['pid']}, einhornpy {pong['version']}")

    def _readiness(self, environ: Environ) -> Answer:
        document = self._master.ask("status")
        verdict = gate.verdict(document)
        well = verdict.code == gate.READY
        if environ.get("QUERY_STRING") == "serving":
            well = document["ready"] >= document["target"]
        return OK if well else UNAVAILABLE, TEXT, _line(f"{document['gate']}: {verdict.reason}")

    def _stream(self, start_response: StartResponse, method: str) -> Iterable[bytes]:
        stream: Iterable[bytes] | None = self._feed.stream() if method == "GET" else []
        if stream is None:
            answer = UNAVAILABLE, TEXT, _line("too many pages listen already")
            return _send(answer, start_response, method, [("Retry-After", "10")])
        start_response(OK, [("Content-Type", "text/event-stream"), *HEADERS])
        return stream


def _line(text: str) -> bytes:
    """An answer in one line, for people and their terminals."""
    return printable.escaped(text).encode() + b"\n"


def _send(answer: Answer, start_response: StartResponse, method: str,
          more: Iterable[tuple[str, str]] = ()) -> list[bytes]:
    status, kind, body = answer
    start_response(status, [("Content-Type", kind),
                            ("Content-Length", str(len(body))), *HEADERS, *more])
    return [] if method == "HEAD" else [body]
