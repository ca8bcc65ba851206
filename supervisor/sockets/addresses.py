"""Addresses to listen on, as an operator writes them. Pure but for their names: nothing is opened
here."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ...shared.frozen import dataclass

DEFAULT_BACKLOG = 2048


class BadAddress(ValueError):
    """The text is no address; the message says what was expected."""


class Kind(enum.StrEnum):
    TCP4 = "tcp4"
    TCP6 = "tcp6"
    UNIX = "unix"
    FD = "fd"  # a descriptor that was inherited
    NAME = "name"  # of a socket that systemd gives


@dataclass(frozen=True, slots=True)
class Address:
    """`name`: of a socket that systemd gives. `backlog`: connections. `mode`: permission bits of a
    UNIX socket. `user`, `group`: whose it is, by name or number. `v6only`: every address of the
    host means the IPv6 ones alone."""

    text: str
    kind: Kind
    host: str = ""
    port: int = 0
    path: str = ""
    fd: int = -1
    name: str = ""
    nonblocking: bool = False
    backlog: int = DEFAULT_BACKLOG
    mode: int | None = None
    user: str = ""
    group: str = ""
    v6only: bool = False


# What follows % is the zone: an interface of this host, by any name that the kernel lets it have
# (RFC 4007, section 11).
_HOST_AND_PORT = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+(?:%[^\s\[\]/:%]+)?)\]|([^\s:\[\]/]*)):([0-9]{1,5})")
_COMMA = re.compile(r"(?<!\\),")


def parse_address(text: str, usual_backlog: int = DEFAULT_BACKLOG) -> Address:
    """Parse `HOST:PORT`, `[V6]:PORT`, `:PORT`, `unix:PATH`, `fd://N` or `fd://NAME`, with options
    after commas. A comma in PATH is written `\\,`; a backslash before anything else is itself.

    `usual_backlog`: where the address doesn't say.

    Raises:
        BadAddress: it is none of these, or an option is unknown or out of range.
    """
    base, *options = _COMMA.split(text)
    if "\0" in base:
        raise BadAddress(f"{text!r} is no address: no name holds a zero byte")
    given: dict[str, Any] = {"backlog": usual_backlog}
    for option in options:
        given |= _option(text, base, option)
    if base.startswith("unix:") and len(base) > 5:
        return Address(text, Kind.UNIX, path=base[5:].replace("\\,", ","), **given)
    if match := re.fullmatch(r"fd://([0-9]{1,6})", base):
        return Address(text, Kind.FD, fd=int(match[1]), **given)
    if match := re.fullmatch(r"fd://([A-Za-z][A-Za-z0-9_.@-]*)", base):
        return Address(text, Kind.NAME, name=match[1], **given)
    if (match := _HOST_AND_PORT.fullmatch(base)) and int(match[3]) < 65536:
        kind = Kind.TCP6 if match[1] else Kind.TCP4
        return Address(text, kind, host=match[1] or match[2], port=int(match[3]), **given)
    raise BadAddress(f"{text!r} is no address: expected HOST:PORT, [V6]:PORT, :PORT, unix:PATH, "
                     "fd://N or fd://NAME")


def _option(text: str, base: str, option: str) -> dict[str, Any]:
    """One option of an address, as Einhorn knows them, and the field that it sets."""
    key, _, value = option.partition("=")
    if option.lower() in ("r", "so_reuseaddr", ""):
        return {}
    if option.lower() in ("n", "o_nonblock"):
        return {"nonblocking": True}
    if key == "backlog" and re.fullmatch("[0-9]{1,5}", value) and 1 <= int(value) <= 65535:
        return {"backlog": int(value)}
    if key == "mode" and re.fullmatch("0?[0-7]{3}", value) and base.startswith("unix:"):
        return {"mode": int(value, 8)}
    if key in ("user", "group") and value and base.startswith("unix:"):
        return {key: value}
    if option == "v6only" and base.startswith("["):
        return {"v6only": True}
    raise BadAddress(f"{text!r}: {option!r} is none of the options r, n, backlog=1…65535, "
                     "mode=OCTAL, user=USER, group=GROUP (for UNIX sockets; a comma in the path is "
                     "\\,), v6only (for [V6]:PORT)")


def escaped(path: str) -> str:
    """A path as it stands in an address."""
    return path.replace(",", "\\,")


def told_apart(addresses: Sequence[Address], ipv4_ports: Iterable[int]) -> list[Address]:
    """The addresses, where no IPv6 one takes a port's IPv4 from another one that asks for it.
    `ipv4_ports`: those of sockets that are there already or are opened elsewhere.

    The kernel lets only one socket listen to a port's IPv4.
    """
    taken = ipv4_ports_of(addresses) | {*ipv4_ports}
    return [
        replace(each, v6only=True) if each.kind is Kind.TCP6 and each.port in taken else each
        for each in addresses]


def ipv4_ports_of(addresses: Iterable[Address]) -> set[int]:
    """The ports that these addresses ask for by number, of IPv4."""
    return {each.port for each in addresses if each.kind is Kind.TCP4} - {0}
