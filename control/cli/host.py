"""Which master deploys a root's releases, and what it, or a configuration, says of them."""

from __future__ import annotations

import functools
import os
from typing import Any

import click

from ...shared.protocol import Code
from .. import client, finding
from ..deploy import plan
from ..deploy.plan import NoPlan, Plan
from .flags import suggest
from .options import Connect

config_option = click.option(
    "--config", metavar="FILE",
    help="The TOML file with [releases]: where no master runs, or several do.",
    shell_complete=suggest("file"))


def of_root(connect: Connect, config: str | None) -> tuple[Plan, Connect | None]:
    """The plan of this host, and how to reach its master; None where none runs.

    A configuration says which master is meant: the one that has its releases in the same root.

    Raises:
        NoPlan: there is nothing to deploy. Trouble: it can't be told which master is meant.
    """
    config = config or os.environ.get("EINHORNPY_CONFIG")
    if config is None:
        try:
            return ask(connect), connect
        except finding.SeveralMasters:
            raise
        except client.NoMaster as error:
            raise client.NoMaster(f"{error}; where none runs, --config FILE says where the "
                                  "releases are") from None
    wanted = plan.of_settings(_settings(config))
    chosen = {"EINHORNPY_COMMAND_NAME", "EINHORNPY_SOCKET_PATH"} & os.environ.keys()
    if chosen or any(getattr(connect, "args", ())):
        try:
            told = _told(connect)
        except client.NoMaster:
            return wanted, None
        if not _same(told["root"], wanted.root):
            raise NoPlan(f"the master has its releases in {told['root']}, and {config} says "
                         f"{wanted.root}")
        return plan.of_master(told), connect
    for each in finding.running():
        reach_it: Connect = functools.partial(client.connect, None, each.path)
        try:
            told = _told(reach_it)
        except client.Failed as error:
            if error.code == Code.STARTING:
                raise  # it may be the one
            continue  # it knows of no releases, or is none of ours
        except (client.NoMaster, client.MasterGone):
            continue
        if _same(told["root"], wanted.root):
            return plan.of_master(told), reach_it
    return wanted, None


def what_differs(here: Plan, config: str | None) -> list[str]:
    """What a configuration says otherwise than the master: a reload lets it count."""
    return [] if config is None else here.differs(plan.of_settings(_settings(config)))


def ask(connect: Connect) -> Plan:
    """The plan of a master. Raises as `of_root` does."""
    return plan.of_master(_told(connect))


def _told(connect: Connect) -> dict[str, Any]:
    with connect(verbatim=True) as master:
        return plan.told(master)


def _same(one: str | None, other: str) -> bool:
    return one is not None and os.path.realpath(one) == os.path.realpath(other)


def _settings(config: str) -> Any:
    """The settings of a file, whatever command it is for.

    Raises:
        NoPlan: one is wrong.
    """
    from ...supervisor.settings.sources import BadSetting, load

    try:
        try:
            return load({"config": config}, (), os.environ, os.getcwd())
        except BadSetting as error:
            if not str(error).startswith("no command"):
                raise
            return load({"config": config}, ("unknown",), os.environ, os.getcwd())
    except BadSetting as error:
        raise NoPlan(str(error)) from None
