"""Starts the master, in one of three ways: `python -m einhornpy.supervisor`

    … JSON            as the command line execs it; JSON holds `flags`, `command` and `directory`
    … --take-over FD  as a master execs the next one; FD is a file with its state
    … --check-state   says whether this program could take over from the state on standard input
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

from ..shared import standard_descriptors
from .launch.lookups import look_up
from .logs import log
from .logs.sinks import CannotLog
from .master import VERSION, CannotRun, Master, fail
from .reload_check import check_descriptors, readable
from .settings import sources
from .settings.policy import policy_of
from .settings.sources import BadSetting
from .settings.table import Settings
from .sockets.addresses import BadAddress, parse_address
from .steering.reloads import CHECK_STATE, TAKE_OVER, Given, answer
from .system import descriptors, plain_data
from .system.attributes import Refused, renice
from .system.own_code import OwnCode


def main() -> int:
    standard_descriptors.fill()
    left_open = descriptors.inherited()
    # Whoever ignores the ends of his children would have us never see those of ours.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Or a terminal could stop us before we serve: see terminal_signals.py.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTIN, signal.SIGTTOU))
    system = os.uname()
    if not _runs_on(system):
        return fail(
            f"cannot run on {system.sysname} {system.release}: expected Linux, kernel 5.4 or newer",
            1)
    words = sys.argv[1:]
    try:
        if words[0] == CHECK_STATE:
            document = plain_data.read(0)
            wanted, _ = understand(document)
            log.check(wanted)
            look_up(wanted)
            print(answer(VERSION, document.get("how") is True))
            return 0
        if words[0] == TAKE_OVER:
            return take_over(int(words[1]), words[2] if len(words) > 2 else None, left_open)
        given = json.loads(words[0])
        wanted = load(given)
        log.check(wanted)
        if wanted.nice is not None:
            renice(wanted.nice[0])  # first, since what workers may have depends on it
        return Master(wanted, os.environ, given, look_up(wanted), _own_code(), left_open).run()
    except BadSetting as error:
        return fail(str(error), 2, as_it_is=True)
    except (BadAddress, Refused, CannotLog) as error:
        return fail(str(error), 2)
    except plain_data.Unreadable as error:
        return fail(f"cannot take over: {error}", 1)
    except CannotRun as error:
        return fail(str(error), error.code)


def _runs_on(system: os.uname_result) -> bool:
    kernel = tuple(int(number) for number in re.findall(r"[0-9]+", system.release)[:2])
    return system.sysname == "Linux" and kernel >= (5, 4)


def take_over(fd: int, failed: str | None, left_open: Mapping[int, tuple[int, int]]) -> int:
    """Go on where the master before us was. `fd`: its state, which stays open until we have
    settled. `failed`: why the master that should have gone on in our place didn't, where we are the
    way back. `left_open`: the descriptors that we have found.

    Raises:
        SystemExit: we can't; nothing was touched, and the one before can.
    """
    try:
        document = plain_data.read(fd)
        # On the way back, what has become of the configuration since is what the one that failed
        # may have failed of.
        before = (document.get("way_back")
                  or {}).get("configuration") if failed is not None else None
        wanted, inherited = understand(document, before)
        check_descriptors(inherited)
        # A master that takes over has workers: it goes on without its log, where that can't be
        # written any more.
        copy = inherited["way_back"] and inherited["way_back"]["copy"]
        own_code = _own_code(None if failed is None else copy)
        if failed is None and copy is not None:
            os.set_inheritable(copy, False)
        master = Master(wanted, os.environ, inherited["given"], look_up(wanted), own_code,
                        left_open, inherited)
    except (BadSetting, BadAddress, Refused, plain_data.Unreadable, CannotRun) as error:
        raise SystemExit(f"cannot take over: {error}") from None
    return master.take_over(fd, failed)


def _own_code(inherited: int | None = None) -> OwnCode:
    try:
        return OwnCode(inherited)
    except OSError as error:
        raise CannotRun(f"cannot copy its own files: {error}", 1) from None


def understand(document: Mapping[str, Any],
               configuration: str | None = None) -> tuple[Settings, dict[str, Any]]:
    """Read a state and try it. `configuration`: the text of the TOML file, where it was read
    before.

    Raises:
        BadSetting, BadAddress, Unreadable: this program can't go on from it.
    """
    given = plain_data.to_plain(plain_data.from_plain(Given, document.get("given", {})))
    try:
        wanted = load(given, configuration)
    except (BadSetting, BadAddress):
        raise
    except Exception as error:  # no command line of ours, then
        raise plain_data.Unreadable(
            f"the command line of the state: {type(error).__name__}: {error}") from error
    return wanted, readable(document, policy_of(wanted), time.monotonic())


def load(given: Mapping[str, Any], configuration: str | None = None) -> Settings:
    """The settings that these flags, this command and the environment give, and `configuration`, or
    the TOML file as it is now.

    Raises:
        BadSetting, BadAddress: one of them is wrong.
    """
    wanted = sources.load(given["flags"], given["command"], os.environ, given["directory"],
                        configuration)
    for setting, addresses in (("bind", wanted.bind), ("web", [wanted.web] if wanted.web else [])):
        for address in addresses:
            try:
                parse_address(address)
            except BadAddress as error:
                raise BadAddress(f"{wanted.origin[setting]}: {error}") from None
    return wanted


if __name__ == "__main__":
    sys.exit(main())
