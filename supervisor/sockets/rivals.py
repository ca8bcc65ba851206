"""Who else listens? Whether a program that was given our listening sockets binds the same addresses
itself, by what it complains of when it can't, and by the kernel's tables where it can. Changes
nothing.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Sequence

from ..system import descriptors
from .listener import Listener

_IN_USE = re.compile(r"(?i)\baddress already in use\b|\bEADDRINUSE\b")
_LISTENS = "0A"  # TCP_LISTEN of linux/tcp_states.h, as in /proc/net/tcp, see proc(5)


def complained_of(lines: Sequence[str], words: Sequence[str], names: Iterable[str]) -> str | None:
    """Which of these addresses it could not bind, judging by its last lines; None if none.

    Args:
        lines: the end of its standard error.
        words: its command line: some complaints name no address, but then somebody typed it there.
        names: our addresses, `HOST:PORT` or `unix:PATH`.

    Whoever binds another one in vain, of a metrics server for instance, is none.
    """
    if not any(map(_IN_USE.search, lines)):
        return None
    for name in names:
        own = name.removeprefix("unix:") if name.startswith("unix:") else name.rpartition(":")[2]
        named = re.compile(rf"(?<![\w.]){re.escape(own)}(?![\w.])")
        if any(map(named.search, (*lines, *words))):
            return name
    return None


def beside(pids: Iterable[int], ours: Sequence[Listener]) -> str | None:
    """The address at which one of these processes listens beside us, by a socket of its own; None
    if none does. Only where our own socket lets others do so (SO_REUSEPORT, socket(7)); those in
    another network namespace have addresses of their own."""
    shared = {os.fstat(each.socket.fileno()).st_ino: each for each in ours if _may_be_shared(each)}
    if not shared:
        return None
    rows = [row for each in ("tcp", "tcp6") for row in _listening(f"/proc/self/net/{each}")]
    names = {address: shared[inode].name for address, inode in rows if inode in shared}
    own = {os.fstat(each.socket.fileno()).st_ino for each in ours}
    rivals = {f"socket:[{inode}]": names[address] for address, inode in rows
              if address in names and inode not in own}
    held = (link for pid in pids for link in descriptors.of(pid)) if rivals else ()
    return next((rivals[link] for link in held if link in rivals), None)


def listens(pid: int) -> frozenset[int]:
    """The inodes of the sockets at which a process listens."""
    held = {*descriptors.of(pid)}
    tables = [inode for name in ("tcp", "tcp6")
              for _, inode in _listening(f"/proc/{pid}/net/{name}")]
    return frozenset(inode for inode in (*tables, *_listening_unix(f"/proc/{pid}/net/unix"))
                     if f"socket:[{inode}]" in held)


def _may_be_shared(listener: Listener) -> bool:
    sock = listener.socket
    return sock.family != socket.AF_UNIX and bool(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))


def _listening(table: str) -> Iterable[tuple[str, int]]:
    """The address, as the kernel writes it, and the inode of each socket that listens."""
    try:
        with open(table, encoding="ascii") as file:
            fields = [line.split() for line in file.readlines()[1:]]
    except OSError:
        return []
    return [(each[1], int(each[9])) for each in fields if each[3] == _LISTENS]


def _listening_unix(table: str) -> Iterable[int]:
    """The inode of each UNIX socket that listens: __SO_ACCEPTCON of linux/net.h, see proc(5)."""
    try:
        with open(table, encoding="utf-8", errors="replace") as file:
            fields = [line.split() for line in file.readlines()[1:]]
    except OSError:
        return []
    return [int(each[6]) for each in fields if int(each[3], 16) & 0x10000]
