"""The wire of the control socket: framing and messages, without I/O.

One JSON object a line each way, UTF-8. A request is `{"id": 7, "command": "upgrade", "args": {…}}`, a reply
`{"request_id": 7, "ok": true, "result": {…}, "message": "…"}`, with `"wait": true` on all but the last reply of a long
command. An `error` object with `code` and `message` stands in replies that aren't ok. Einhorn's own `{"command":
"worker:ack", "pid": …}`, with its arguments at the top, is a request too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LONGEST_LINE = 1 << 20
# What a worker says about itself; answered by closing the connection, as Einhorn does. worker:upgrade alone has a reply.
WORKER_COMMANDS = frozenset({"worker:ack", "worker:ping", "worker:failed", "worker:upgrade"})


class BadRequest(ValueError):
    """`code` is for scripts: bad-json, bad-request, too-long, unknown-command, bad-argument, not-allowed, stopping."""

    def __init__(self, code: str, message: str, request_id: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.request_id = request_id


@dataclass(frozen=True, slots=True)
class Request:
    id: Any
    command: str
    args: Mapping[str, Any]


class Framer:
    """Cuts a stream of bytes into lines."""

    def __init__(self, longest: int | None = LONGEST_LINE) -> None:
        self._buffer = bytearray()
        self._longest = longest

    def feed(self, data: bytes) -> list[bytes]:
        """Take what has arrived; return the lines that are now whole, without their ends.

        Raises:
            BadRequest: a line is longer than allowed; nothing after it can be trusted.
        """
        seen = len(self._buffer)
        self._buffer += data
        if self._buffer.find(b"\n", seen) < 0:
            lines: list[bytes] = []
        else:
            *whole, rest = self._buffer.split(b"\n")
            lines, self._buffer = [bytes(line) for line in whole], bytearray(rest)
        if self._longest is not None and any(len(line) > self._longest for line in (*lines, self._buffer)):
            raise BadRequest("too-long", f"a line is longer than {self._longest} bytes")
        return lines


def parse_request(line: bytes) -> Request:
    """Read one line as a request.

    Raises:
        BadRequest: it isn't JSON, or not a request.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise BadRequest("bad-json", "cannot read the request: expected one JSON object on one line") from None
    if not isinstance(message, dict):
        raise BadRequest("bad-request", "cannot read the request: expected a JSON object")
    request_id = message.get("id")
    if isinstance(request_id, dict | list):
        raise BadRequest("bad-request", "id: expected a number or a text")
    command = message.get("command")
    if not isinstance(command, str) or not command:
        raise BadRequest("bad-request", "command: expected the name of a command", request_id)
    args = message.get("args", {})
    if not isinstance(args, dict):
        raise BadRequest("bad-request", "args: expected an object", request_id)
    if command in WORKER_COMMANDS:
        args = {key: value for key, value in message.items() if key not in ("id", "command", "args")} | args
    return Request(request_id, command, args)


def encode(message: Mapping[str, Any]) -> bytes:
    """Make one line of a message."""
    return json.dumps(message, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def request(command: str, args: Mapping[str, Any], request_id: int = 1) -> dict[str, Any]:
    """Build a request."""
    return {"id": request_id, "command": command, "args": dict(args)}


def reply(request_id: Any, message: str, result: Mapping[str, Any] | None = None, wait: bool = False) -> dict[str, Any]:
    """Build a good reply; `wait`: more follows."""
    built: dict[str, Any] = {"request_id": request_id, "ok": True, "result": dict(result or {}), "message": message}
    return built | {"wait": True} if wait else built


def failure(request_id: Any, code: str, message: str, result: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Build the reply of a command that failed."""
    return {
        "request_id": request_id, "ok": False, "result": dict(result or {}), "message": message,
        "error": {"code": code, "message": message},
    }


def socket_directories(environ: Mapping[str, str], uid: int) -> list[str]:
    """Where masters put their control sockets by default: the first for a new one, all of them to look in."""
    directories = []
    if environ.get("XDG_RUNTIME_DIR", "").startswith("/"):
        directories.append(f"{environ['XDG_RUNTIME_DIR']}/einhornpy")
    if uid == 0:
        directories.append("/run/einhornpy")
    temporary = environ.get("TMPDIR", "")
    directories.append(f"{temporary if temporary.startswith('/') else '/tmp'}/einhornpy-{uid}")
    return directories
