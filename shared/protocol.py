"""The wire of the control socket: framing and messages, without I/O.

One JSON object a line each way, UTF-8. A request is `{"id": 7, "command": "upgrade", "args": {…}}`,
a reply `{"request_id": 7, "ok": true, "result": {…}, "message": "…"}`, with `"wait": true` on all
but the last reply of a long command. An `error` object with `code` and `message` stands in replies
that aren't ok. Einhorn's requests, in JSON or in percent-escaped YAML, with words for arguments or
arguments at the top, are requests too (see einhorn.py).

Every reply can be read as JSON and as YAML 1.1, and stays the same when a client undoes percent- or
query-encoding.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from typing import Any

from . import einhorn, printable
from .frozen import dataclass

LONGEST_LINE = 1 << 20
LARGEST_ID = 1 << 63
# What a text in a reply may not hold as it is: YAML 1.1 refuses or folds some of these, clients
# decode % and +, and not every reader expects more than ASCII. Beyond 16 bits YAML knows no escape
# that JSON knows too. (No number here has an exponent.)
_UNSAFE = re.compile(r"[^\x20-\x7e\U00010000-\U0010ffff]|[%+]")


class Code(StrEnum):
    """Why an answer is no, for scripts."""

    BAD_JSON = "bad-json"
    BAD_REQUEST = "bad-request"
    TOO_LONG = "too-long"
    UNKNOWN_COMMAND = "unknown-command"
    BAD_ARGUMENT = "bad-argument"
    NOT_ALLOWED = "not-allowed"
    STARTING = "starting"
    STOPPING = "stopping"
    NOT_READY = "not-ready"
    NO_UPGRADE = "no-upgrade"
    NOT_PAUSED = "not-paused"
    UPGRADING = "upgrading"
    RELOAD_REFUSED = "reload-refused"
    INTERNAL_ERROR = "internal-error"


class BadRequest(ValueError):
    """The answer to a request is no; the message is one line for people."""

    def __init__(self, code: Code, message: str, request_id: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.request_id = request_id


@dataclass(frozen=True, slots=True)
class Request:
    """`args`: the arguments by their names. `words`: those of Einhorn's clients, in their order;
    None from anyone else. `beside`: what stood beside `id`, `command` and `args`, as in Einhorn's
    `{"command": "worker:ack", "pid": …}`. `einhorns`: it came from a client of Einhorn's, as its
    form tells: words, or anything but plain JSON."""

    id: Any
    command: str
    args: Mapping[str, Any]
    words: tuple[str, ...] | None = None
    beside: Mapping[str, Any] = field(default_factory=dict)
    einhorns: bool = False


class Framer:
    """Cuts a stream of bytes into lines."""

    def __init__(self, longest: int | None = LONGEST_LINE) -> None:
        self._buffer = bytearray()
        self._longest = longest

    @property
    def begun(self) -> bytes:
        """The beginning of a line that isn't whole yet."""
        return bytes(self._buffer)

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
        if self._longest is not None and any(
                len(line) > self._longest for line in (*lines, self._buffer)):
            self._buffer = bytearray()
            raise BadRequest(Code.TOO_LONG, f"a line is longer than {self._longest} bytes")
        return lines


def parse_request(line: bytes) -> Request:
    """Read one line as a request.

    Raises:
        BadRequest: it is neither JSON nor Einhorn's YAML, or not a request.
    """
    message, plain = _message(line)
    request_id = message.get("id")
    if not isinstance(request_id, int | str | None) or (isinstance(request_id, int)
                                                        and abs(request_id) >= LARGEST_ID):
        raise BadRequest(Code.BAD_REQUEST, "id: expected a whole number below 2**63 or a text")
    command = message.get("command")
    if not isinstance(command, str) or not command:
        raise BadRequest(Code.BAD_REQUEST, "command: expected the name of a command", request_id)
    beside = {
        str(key): value for key, value in message.items() if key not in ("id", "command", "args")}
    match message.get("args"):
        case dict() as args:
            return Request(request_id, command, {str(key): value for key, value in args.items()},
                           None, beside, not plain)
        case None:
            return Request(request_id, command, {}, (), beside, not plain)
        case list() as words if all(isinstance(word, str) for word in words):
            return Request(request_id, command, {}, tuple(words), beside, True)
        case list():
            raise BadRequest(Code.BAD_REQUEST, "args: expected a list of texts, or an object",
                             request_id)
        case _:
            raise BadRequest(Code.BAD_REQUEST, "args: expected an object", request_id)


def _message(line: bytes) -> tuple[dict[Any, Any], bool]:
    """What it says, and whether it was plain JSON."""
    plain = True
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        message, plain = _from_einhorn(line), False
    if not isinstance(message, dict):
        raise BadRequest(Code.BAD_REQUEST, "cannot read the request: expected a JSON object")
    return message, plain


def _from_einhorn(line: bytes) -> Any:
    text = einhorn.unescape(line)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        message = einhorn.read_yaml(text)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise BadRequest(
            Code.BAD_JSON,
            "cannot read the request: expected one JSON object, or Einhorn's escaped YAML, on one "
            "line"
        )
    return message


def encode(message: Mapping[str, Any]) -> bytes:
    """Make one line of a message."""
    text = json.dumps(message, ensure_ascii=False)
    # As nearly all are, and many times as quick: a status of a thousand workers is a megabyte.
    if text.isascii() and text.isprintable():
        text = text.replace("%", "\\u0025").replace("+", "\\u002b")
    else:
        text = _UNSAFE.sub(_escape, text)
    return text.encode() + b"\n"


def _escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    # Half a surrogate pair stands for a byte of a name that is no text.
    return "\\ufffd" if 0xD800 <= number <= 0xDFFF else f"\\u{number:04x}"


def request(command: str, args: Mapping[str, Any], request_id: int = 1) -> dict[str, Any]:
    """Build a request."""
    return {"id": request_id, "command": command, "args": dict(args)}


def reply(request_id: Any, message: str, result: Mapping[str, Any] | None = None,
          wait: bool = False) -> dict[str, Any]:
    """Build a good reply; `wait`: more follows. The message is for people: it can be printed as it
    is, line by line."""
    message = printable.escaped(message, but="\n")
    built: dict[str, Any] = {
        "request_id": request_id, "ok": True, "result": dict(result or {}), "message": message}
    return built | {"wait": True} if wait else built


def failure(request_id: Any, code: Code, message: str,
            result: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Build the reply of a command that failed, with one line for people."""
    message = printable.escaped(message)
    return {
        "request_id": request_id, "ok": False, "result": dict(result or {}), "message": message,
        "error": {"code": code, "message": message},
    }


SYSTEM_DIRECTORY = "/run/einhornpy"
# Below these are the directories that last as long as a user is logged in.
OF_LOGINS = ("/run/user/", "/var/run/user/")
# What a user's own is called where everybody may make one.
TEMPORARY = "einhornpy-{}"


def socket_directories(environ: Mapping[str, str], uid: int) -> list[str]:
    """Where masters' control sockets may be by default, to look in. (Clients look in
    `SYSTEM_DIRECTORY` and one level below too, where systemd makes directories for its
    services.)"""
    directories = []
    if environ.get("XDG_RUNTIME_DIR", "").startswith("/"):
        directories.append(f"{environ['XDG_RUNTIME_DIR']}/einhornpy")
    if uid == 0:
        directories.append(SYSTEM_DIRECTORY)
    temporary = environ.get("TMPDIR", "")
    directories.append(
        f"{temporary if temporary.startswith('/') else '/tmp'}/{TEMPORARY.format(uid)}")
    return directories


def places_for_sockets(environ: Mapping[str, str], uid: int) -> list[str]:
    """Those of them where a new master puts its control socket: the first that can be had. Root's
    is none that the end of a login session removes (pam_systemd(8), XDG_RUNTIME_DIR)."""
    return [directory for directory in socket_directories(environ, uid)
            if uid != 0 or not directory.startswith(OF_LOGINS)]
