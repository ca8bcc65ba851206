"""A systemd unit for a command line of `run`: text in, text out; see systemd.service(5),
systemd.exec(5), systemd.kill(5).

It asks for what einhornpy can do (notify, watchdog, descriptor store) and gives the service no more
rights than it needs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from ...shared.frozen import dataclass

# A little more than einhornpy itself allows, so that systemd's patience never ends first.
MARGIN = 15
_HARDENED = ("NoNewPrivileges=yes", "LockPersonality=yes", "RestrictSUIDSGID=yes",
             "RestrictRealtime=yes", "RestrictNamespaces=yes", "SystemCallArchitectures=native",
             "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
             )
# What a user's own service manager has no right to set up.
_HARDENED_BY_ROOT = ("PrivateTmp=yes", "PrivateDevices=yes", "ProtectSystem=full",
                     "ProtectHome=read-only", "ProtectControlGroups=yes",
                     "ProtectKernelTunables=yes", "ProtectKernelModules=yes",
                     "ProtectKernelLogs=yes", "ProtectClock=yes", "ProtectHostname=yes",
                     )


@dataclass(frozen=True, slots=True)
class Service:
    """What a unit is made of. `words`: the command line after `einhornpy`, without what the unit
    says itself. Times in seconds. `low_port`: it binds a port below 1024. `polite`: SIGTERM is what
    its workers take for "finish and leave". `most_files`: a limit of open files that it asks
    for."""

    executable: str
    name: str
    words: Sequence[str]
    directory: str
    listeners: int
    ready_timeout: float
    graceful_timeout: float
    low_port: bool
    polite: bool
    most_files: int = 0
    user: str | None = None
    group: str | None = None


def unit(service: Service, of_user: bool) -> str:
    """The unit file, for the system's manager or for a user's own."""
    socket = f"{'%t' if of_user else '/run'}/einhornpy/{service.name}/{service.name}.sock"
    start = [
        _quoted(service.executable), "-c",
        _quoted(service.name), "-d", socket, *map(_quoted, service.words)]
    lines = [
        "[Unit]",
        f"Description={service.name} under einhornpy",
        "After=network.target",
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        f"WorkingDirectory={_plain(service.directory)}",
        f"ExecStart={' '.join(start)}",
        f"ExecReload={_quoted(service.executable)} upgrade -d {socket}",
        # An upgrade, which ExecReload waits for, may take that long for each worker; it extends the
        # limit by itself.
        f"TimeoutStartSec={math.ceil(service.ready_timeout) + MARGIN}",
        f"TimeoutStopSec={math.ceil(service.graceful_timeout) + MARGIN}",
        # Where the master is killed, its workers are to finish what they do: they get SIGTERM, not
        # SIGKILL.
        f"KillMode={'control-group' if service.polite else 'mixed'}",
        "Restart=on-failure",
        "RestartSec=1",
        "RestartPreventExitStatus=2",
        "WatchdogSec=30",
        "OOMPolicy=continue",
        f"RuntimeDirectory=einhornpy/{service.name}",
        f"LimitNOFILE={max(65536, service.most_files)}",
    ]
    if service.listeners:
        lines.append(f"FileDescriptorStoreMax={service.listeners}")
    if not of_user:
        if service.user is None:
            lines.append("# It runs as root: name somebody else if it can be.")
        lines += [f"{'#' if service.user is None else ''}User={service.user or service.name}"]
        if service.group is not None:
            lines.append(f"Group={service.group}")
        capability = "CAP_NET_BIND_SERVICE" if service.low_port else ""
        lines.append(f"CapabilityBoundingSet={capability}")
        if service.low_port and service.user is not None:
            lines.append(f"AmbientCapabilities={capability}")
    lines += [*_HARDENED, *(() if of_user else _HARDENED_BY_ROOT)]
    lines += ["", "[Install]", f"WantedBy={'default' if of_user else 'multi-user'}.target"]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    """A word of a command line, as systemd.service(5) reads it: `%` and `$` are doubled, the rest
    is quoted where needed."""
    text = _plain(word).replace("$", "$$")
    if re.fullmatch(r"[A-Za-z0-9_./:,=@+%$-]+", text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(each if each.isprintable() else _escape(ord(each))
                         for each in escaped) + '"'


def _escape(number: int) -> str:
    """As systemd.syntax(7) reads it: `\\x` means a byte, the other two a character."""
    if number < 0x80:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
