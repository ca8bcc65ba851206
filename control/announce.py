"""Tells one deploy event to one place: `python -m einhornpy.control.announce`, as the master sends
it, with JSON on standard input: `kind` (statsd, graphite or webhook), `to`, `metric`, `unix_time`,
`document`, and `user` ([uid, gid] to become, or null).

StatsD gets a counter (one datagram), Graphite a point of value 1 (plaintext protocol over TCP), a
webhook the document (POST, JSON).
"""

from __future__ import annotations

import http.client
import importlib
import json
import os
import select
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from .privileges import become, die_with
from .terminal import say

# Seconds. All of it stays below the master's patience (supervisor/outside/announcements.py).
TIMEOUT, PAUSES = 5.0, (1.0, 3.0)


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows none: a POST would become a GET without the event, and be answered well."""

    def redirect_request(self, *request: Any) -> None:
        return None


def tell(told: Mapping[str, Any]) -> None:
    """Tell it once.

    Raises:
        OSError: nobody took it (for StatsD, which answers nothing: nobody has this name). urllib's
            HTTPError is one too.
    """
    if told["kind"] == "webhook":
        request = urllib.request.Request(told["to"], json.dumps(told["document"]).encode(), {
            "Content-Type": "application/json", "User-Agent": "einhornpy"})
        with urllib.request.build_opener(NoRedirect).open(request, timeout=TIMEOUT) as answer:
            answer.read(1 << 16)
        return
    host, _, port = told["to"].rpartition(":")
    host = host.strip("[]")
    if told["kind"] == "statsd":
        family, kind, protocol, _, address = socket.getaddrinfo(host, int(port),
                                                                type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as out:
            out.sendto(f"{told['metric']}:1|c".encode(), address)
    else:
        with socket.create_connection((host, int(port)), TIMEOUT) as connection:
            connection.sendall(f"{told['metric']} 1 {int(told['unix_time'])}\n".encode())


def main() -> int:
    parent, told = os.getppid(), json.load(sys.stdin)
    # while we are somebody who may read this Python's files
    importlib.import_module("encodings.idna")
    become(None if told["user"] is None else (told["user"][0], told["user"][1]))
    die_with(parent)
    reason = ""
    for pause in (0.0, *PAUSES):
        select.select([], [], [], pause)
        try:
            tell(told)
            return 0
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = f"{type(error).__name__}: {error}"
            # What it doesn't want now, or not here, it won't want later.
            if isinstance(
                    error,
                    urllib.error.HTTPError) and 300 <= error.code < 500 and error.code not in (408,
                                                                                               429):
                break
    say(reason)
    return 1


if __name__ == "__main__":
    sys.exit(main())
