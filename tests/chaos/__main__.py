"""`python -m tests.chaos`: random faults on a loaded host; exit 1 if anything was wrong that must
never be."""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from ..harness import adopt_orphans, reap_leftovers
from .clients import WEIGHTS
from .driver import CLASSES, KINDS, Plan, run
from .story import Story


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int,
                        help="What happens, by number; drawn and printed where it isn't given.")
    parser.add_argument("--seconds", type=float, default=1200.0,
                        help="New rounds begin for so long.  Default: 1200.")
    parser.add_argument("--round", type=int, help="Only this round.")
    parser.add_argument("--first", type=int, default=0, help="Begin with this round.")
    parser.add_argument(
        "--without", action="append", default=[], choices=[*KINDS, *WEIGHTS], metavar="KIND",
        help=f"Leave out a kind of fault or operation: {', '.join([*KINDS, *WEIGHTS])}.")
    parser.add_argument("--only", action="append", default=[], choices=[*KINDS], metavar="KIND",
                        help="These kinds of faults alone.")
    parser.add_argument("--class", dest="worker_class", choices=CLASSES, default="gthread",
                        help="gunicorn's worker class.")
    parser.add_argument("--preload", choices=("off", "warn", "strict", "auto"), default="off",
                        help="How the app is preloaded.  Default: off.")
    parser.add_argument("--rate", type=float, default=60.0, help="Requests a second.  Default: 60.")
    parser.add_argument("--clients", type=int, default=3,
                        help="How many give commands at the same time.  Default: 3.")
    parser.add_argument("--longest", type=float, default=60.0, metavar="SECONDS",
                        help="No fault lasts for longer.")
    parser.add_argument("-x", "--stop-at-first", action="store_true",
                        help="Stop at the first round that goes wrong.")
    parser.add_argument("-v", "--verbose", action="store_true",
                        help="Print what happens as it happens.")
    given = parser.parse_args()
    seed = random.randrange(1 << 30) if given.seed is None else given.seed
    print(f"chaos: seed {seed}", flush=True)
    plan = Plan(seed, given.seconds, given.only or list(KINDS), frozenset(given.without),
                given.first if given.round is None else given.round,
                None if given.round is None else 1, clients=given.clients, rate=given.rate,
                worker_class=given.worker_class, preload=given.preload, stop_at_first=given.stop_at_first,
                longest=given.longest)
    story = Story(seed, given.verbose)
    adopt_orphans()
    # what was begun is cleaned up
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    directory = Path(tempfile.mkdtemp(prefix="eh", dir="/tmp"))
    try:
        run(plan, directory, story)
    finally:
        left = reap_leftovers()
        if left:
            story.wrong(f"processes left behind at the end: {left}")
        shutil.rmtree(directory, ignore_errors=True)
    print("\n".join(["", story.figures(), *(f"WRONG {each}" for each in story.violations)]))
    return 1 if story.violations else 0


if __name__ == "__main__":
    sys.exit(main())
