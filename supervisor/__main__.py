"""Starts the master, in one of three ways.

    python -m einhornpy.supervisor JSON            as the command line execs it; JSON holds `flags`, `command` and `directory`
    python -m einhornpy.supervisor --take-over FD  as a master execs the next one; FD is a file with its state
    python -m einhornpy.supervisor --check-state   says whether this program could take over from the state on standard input
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

from . import handover, log, settings
from .attributes import Refused, renice
from .known import look_up
from .listeners import BadAddress, parse_address
from .master import VERSION, CannotRun, Master, fail
from .reloads import CAN_TAKE_OVER, CHECK_STATE, TAKE_OVER
from .sinks import CannotLog
from .succession import check_state


def main() -> int:
    fill_standard_descriptors()
    system = os.uname()
    kernel = tuple(int(number) for number in re.findall(r"[0-9]+", system.release)[:2])
    if system.sysname != "Linux" or kernel < (5, 4):
        return fail(f"cannot run on {system.sysname} {system.release}: expected Linux, kernel 5.4 or newer", 1)
    words = sys.argv[1:]
    try:
        if words[0] == CHECK_STATE:
            state = handover.read(0)
            check_state(state)
            wanted = load(state["given"])
            log.check(wanted)
            look_up(wanted)
            print(CAN_TAKE_OVER.format(VERSION))
            return 0
        inherited = None
        if words[0] == TAKE_OVER:
            inherited = handover.read(int(words[1]))
            os.close(int(words[1]))
        given = json.loads(words[0]) if inherited is None else inherited["given"]
        wanted = load(given)
        if inherited is None:
            log.check(wanted)  # a master that takes over has workers: it goes on without its log
            if wanted.nice is not None:
                renice(wanted.nice[0])  # first, since what workers may have depends on it
        return Master(wanted, os.environ, given, look_up(wanted), inherited).run()
    except (settings.BadSetting, BadAddress, Refused, CannotLog) as error:
        return fail(str(error), 2)
    except handover.Unreadable as error:
        return fail(f"cannot take over: {error}", 1)
    except CannotRun as error:
        return fail(str(error), error.code)


def fill_standard_descriptors() -> None:
    """Where somebody started us without standard input, output or error, nothing else of ours may land on their numbers."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            os.set_inheritable(fd, True)


def load(given: Mapping[str, Any]) -> settings.Settings:
    """The settings that these flags, this command and the environment give.

    Raises:
        BadSetting, BadAddress: one of them is wrong.
    """
    wanted = settings.load(given["flags"], given["command"], os.environ, given["directory"])
    for setting, addresses in (("bind", wanted.bind), ("web", [wanted.web] if wanted.web else [])):
        for address in addresses:
            try:
                parse_address(address)
            except BadAddress as error:
                raise BadAddress(f"{wanted.origin[setting]}: {error}") from None
    return wanted


if __name__ == "__main__":
    sys.exit(main())
