"""What a host's deploys are made of: the settings of its releases, as its master has them or, where
none runs, its configuration says."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from typing import Any

from ...shared.frozen import dataclass
from ..client import Client
from .commands import User


class NoPlan(RuntimeError):
    """There is nothing to deploy here; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`fetch`, `prepare`, `resolve`: the operator's commands, run as `user` (None: as us). `keep`:
    how many proven releases are kept. `timeout`: seconds for each command. `live`: the releases
    whose code is in memory. `serving`: the one of the current generation; `running`: those of
    which a worker is ready. `ready`: whether the gate says so. `under_way`: the release, or
    generation, to which an upgrade runs. `barred`: why the master can neither record anything nor
    move `current`."""

    root: str
    fetch: str | None
    prepare: str | None
    resolve: str | None
    timeout: float
    keep: int
    user: User | None
    live: frozenset[str] = frozenset()
    serving: str | None = None
    running: frozenset[str] = frozenset()
    ready: bool = False
    under_way: str | None = None
    barred: str | None = None

    def differs(self, other: Plan) -> list[str]:
        """The names of the settings that the other one has otherwise."""
        return [name for name in ("fetch", "prepare", "resolve", "timeout", "keep")
                if getattr(self, name) != getattr(other, name)]


def told(master: Client) -> dict[str, Any]:
    """What a master says of its releases. Raises as `Client.ask` does."""
    answer: dict[str, Any] = master.ask("releases")["result"]
    return answer


def of_master(told: Mapping[str, Any]) -> Plan:
    """The plan of a running master, by its answer to `releases`.

    Raises:
        NoPlan: it knows of no releases.
    """
    if told["root"] is None:
        raise NoPlan("the master knows of no releases: expected [releases] root in its "
                     "configuration, or --releases-root")
    if not told["run"]:
        raise NoPlan("nothing of a release would run: expected {release} in the master's --chdir "
                     "or command")
    return Plan(told["root"], told["fetch"], told["prepare"], told["resolve"], told["timeout"],
                told["keep"], _if_else(User(told["user"]["uid"], told["user"]["gid"],
                                            tuple(told["user"]["groups"]))),
                frozenset(told["live"]), told["serving"], frozenset(told["running"]),
                told["ready"], told["under_way"], told["barred"])


def of_settings(settings: Any) -> Plan:
    """The plan where no master runs.

    Raises:
        NoPlan: there is nothing about releases among these settings.
    """
    if settings.releases_root is None:
        raise NoPlan("no master runs, and nothing says where its releases are: expected "
                     "--config FILE with [releases] root")
    return Plan(settings.releases_root, settings.releases_fetch, settings.releases_prepare,
                settings.releases_resolve, settings.releases_timeout, settings.releases_keep,
                None if settings.user is None else _named(settings.user))


def _if_else(user: User) -> User | None:
    """The user, where that is somebody else than us, and we may become it."""
    return user if os.geteuid() == 0 and user.uid != 0 else None


def _named(name: str) -> User | None:
    """The workers' user, by name or number."""
    try:
        found = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        if name.isdigit():
            return _if_else(User(int(name), int(name), ()))
        raise NoPlan(f"--user: no user {name!r}") from None
    groups = os.getgrouplist(found.pw_name, found.pw_gid)
    return _if_else(User(found.pw_uid, found.pw_gid, tuple(groups)))
