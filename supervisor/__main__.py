"""Starts the master: `python -m einhornpy.supervisor JSON`, as the command line execs it.

The one argument holds what was given on the command line: `flags`, `command` and the `directory` it was given in.
"""

from __future__ import annotations

import json
import os
import re
import sys

from . import settings
from .listeners import BadAddress, parse_address
from .master import CannotRun, Master, fail


def main() -> int:
    system = os.uname()
    kernel = tuple(int(number) for number in re.findall(r"[0-9]+", system.release)[:2])
    if system.sysname != "Linux" or kernel < (5, 4):
        return fail(f"cannot run on {system.sysname} {system.release}: expected Linux, kernel 5.4 or newer", 1)
    given = json.loads(sys.argv[1])
    try:
        wanted = settings.load(given["flags"], given["command"], os.environ, given["directory"])
        for address in wanted.bind:
            parse_address(address)
    except settings.BadSetting as error:
        return fail(str(error), 2)
    except BadAddress as error:
        return fail(f"{wanted.origin['bind']}: {error}", 2)
    try:
        return Master(wanted, os.environ).run()
    except CannotRun as error:
        return fail(str(error), error.code)


if __name__ == "__main__":
    sys.exit(main())
