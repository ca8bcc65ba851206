"""Fetches one release for a master whose app has asked for it: told what on standard input, as one
line of JSON. Its last line is the release that was meant, or what was wrong."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time

from ...shared import releases
from ..client import Client
from ..finding import Trouble
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
        holder = turns.Holder(by.partition(" (")[0], os.getpid(), time.time(), release)
        with turns.turn(fetching.inside(known), holder, True,
                        lambda whom: say(f"waiting for {whom}")):
            release = fetching.resolve(known, release, say)
            tidying.sweep(known)
            if not releases.is_complete(known.root, release):
                fetching.fetch(known, release, by, lambda step: None, say)
            with contextlib.suppress(Trouble, plan.NoPlan, OSError):  # the next one may do it
                tidying.prune(known, lambda: live(told["socket"]) | {release})
    except CommandFailed as error:
        say(error.line)
        return BAD_RELEASE
    except (plan.NoPlan, OSError) as error:
        say(str(error))
        return BAD_RELEASE
    say(release)
    return 0


def live(path: str) -> frozenset[str]:
    """The releases that the master uses."""
    with Client(path, verbatim=True) as master:
        return plan.of_master(plan.told(master)).live


if __name__ == "__main__":
    sys.exit(main())
