"""Addresses of listening sockets, as people write them. Pure: none is opened here (listeners.py)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

DEFAULT_BACKLOG = 2048
_DESCRIPTOR = re.compile(r"fd://(?:([0-9]{1,6})|([A-Za-z][A-Za-z0-9_.@-]*))")
_TCP = re.compile(r"(?:\[([0-9A-Fa-f:.%a-z]+)\]|([^\s:\[\]/]*)):([0-9]{1,5})")


class BadAddress(ValueError):
    """The text is no address; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class Address:
    """`kind`: tcp4, tcp6, unix, fd or name. `name`: of a socket that systemd gives. `backlog`:
    connections. `mode`: permission bits of a UNIX socket."""

    text: str
    kind: str
    host: str = ""
    port: int = 0
    path: str = ""
    fd: int = -1
    name: str = ""
    nonblocking: bool = False
    backlog: int = DEFAULT_BACKLOG
    mode: int | None = None


def parse_address(text: str, usual_backlog: int = DEFAULT_BACKLOG) -> Address:
    """Parse `HOST:PORT`, `[V6]:PORT`, `:PORT`, `unix:PATH`, `fd://N` or `fd://NAME`, with options
    after commas.

    `usual_backlog`: where the address doesn't say.

    Raises:
        BadAddress: it is none of these, or an option is unknown or out of range.
    """
    base, *options = text.split(",")
    if "\0" in base:
        raise BadAddress(f"{text!r} is no address: no name holds a zero byte")
    fields: dict[str, Any] = {"backlog": usual_backlog, **_options(text, base, options)}
    if base.startswith("unix:") and len(base) > 5:
        return Address(text, "unix", path=base[5:], **fields)
    if found := _DESCRIPTOR.fullmatch(base):
        if found[1]:
            return Address(text, "fd", fd=int(found[1]), **fields)
        return Address(text, "name", name=found[2], **fields)
    if (found := _TCP.fullmatch(base)) and int(found[3]) < 65536:
        return Address(text, "tcp6" if found[1] else "tcp4", host=found[1] or found[2],
                       port=int(found[3]), **fields)
    raise BadAddress(
        f"{text!r} is no address: expected HOST:PORT, [V6]:PORT, :PORT, unix:PATH, fd://N or "
        "fd://NAME")


def _options(text: str, base: str, options: Iterable[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for option in options:
        key, _, value = option.partition("=")
        if option.lower() in ("r", "so_reuseaddr", ""):
            continue
        if option.lower() in ("n", "o_nonblock"):
            fields["nonblocking"] = True
        elif key == "backlog" and re.fullmatch("[0-9]{1,5}", value) and 1 <= int(value) <= 65535:
            fields["backlog"] = int(value)
        elif key == "mode" and re.fullmatch("0?[0-7]{3}", value) and base.startswith("unix:"):
            fields["mode"] = int(value, 8)
        else:
            raise BadAddress(f"{text!r}: {option!r} is none of the options r, n, backlog=1…65535, "
                             "mode=OCTAL (for UNIX sockets)")
    return fields
