"""Einhorn's wire as its clients speak it."""

from __future__ import annotations

import json
import socket
import urllib.parse
from typing import Any

import yaml

from .harness import DEADLINE, Master


def escaped(text: str, all_of_it: bool = False) -> bytes:
    """A request as Einhorn's clients send it; some escape more than they must."""
    if all_of_it:
        return urllib.parse.quote(text, safe="").encode() + b"\n"
    return text.replace("%", "%25").replace("\n", "%0A").encode() + b"\n"


def conversation(master: Master, data: bytes) -> list[dict[str, Any]]:
    """Every answer up to the last one, each read as JSON and as YAML."""
    found: list[dict[str, Any]] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(master.path)
        connection.sendall(data)
        with connection.makefile("rb") as answers:
            for line in answers:
                found.append(json.loads(line))
                assert yaml.safe_load(line.decode()) == found[-1]
                if not found[-1].get("wait"):
                    break
    return found


def say(master: Master, command: str, *args: str, **beside: Any) -> str:
    """One command as einhornsh sends it; the message of its only answer."""
    (answer,) = conversation(
        master, escaped(yaml.safe_dump({"id": 3, "command": command, "args": list(args),
                                        **beside})))
    assert answer["request_id"] == 3
    return str(answer["message"])


def state_of(master: Master) -> dict[str, Any]:
    """What Einhorn's `state` says."""
    read: dict[str, Any] = yaml.safe_load(say(master, "state"))[":state"]
    return read
