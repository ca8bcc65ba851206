"""Listeners of a test's own for what a server sends elsewhere: statsd's datagrams, Sentry's
envelopes."""

from __future__ import annotations

import gzip
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import TracebackType
from typing import Any, Self

METRIC = re.compile(r"([\w.]+):(-?[\d.]+)\|(\w+)")


class Datagrams:
    """statsd's server: keeps every metric that it is told of."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.metrics: list[tuple[str, float, str]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)

    def _read(self) -> None:
        while data := self._socket.recv(65536):
            self.metrics += [(name, float(value), kind)
                             for name, value, kind in METRIC.findall(data.decode())]

    def values(self, name: str) -> list[float]:
        return [value for each, value, _ in self.metrics if each == name]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()


class Envelopes:
    """Sentry's server: keeps the text of every envelope."""

    def __init__(self) -> None:
        texts: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                zipped = self.headers.get("Content-Encoding") == "gzip"
                texts.append((gzip.decompress(data) if zipped else data).decode())
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *arguments: Any) -> None:
                pass

        self.texts = texts
        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
