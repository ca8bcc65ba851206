"""Fetches one release for a master whose app has asked for it: told what on standard input, as one
line of JSON. Its last line is the release that was meant, or what was wrong."""

from __future__ import annotations

import json
import os
import sys
import time

from ..gate import BAD_RELEASE
from ..terminal import say
from . import fetching, plan, tidying, turns
from .commands import CommandFailed


def main() -> int:
    """Do it; return the exit code."""
    told = json.loads(sys.stdin.readline())
    release, by = told["release"], told["by"]
    try:
        known = plan.of_master(told)
        holder = turns.Holder(by, os.getpid(), time.time(), release)
        with turns.turn(fetching.inside(known), holder, True,
                        lambda whom: say(f"waiting for {whom}")):
            release = fetching.resolve(known, release, say)
            tidying.sweep(known.root)
            if not fetching.is_complete(known, release):
                fetching.fetch(known, release, by, lambda step: None, say)
    except CommandFailed as error:
        said = f": {error.lines[-1]}" if error.lines else ""
        say(f"{error}{said}")
        return BAD_RELEASE
    except (plan.NoPlan, OSError) as error:
        say(str(error))
        return BAD_RELEASE
    say(release)
    return 0


if __name__ == "__main__":
    sys.exit(main())
