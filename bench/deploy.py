"""What a deploy costs beside the upgrade in it: `deploy` of a release that is here already, and
`upgrade` to it, by turns; and with --preload, how long after the fetch all workers run new code.

    python -m bench.deploy [--rounds N] [--workers N] [--import SECONDS]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.harness import BIN, EXAMPLE, Master, adopt_orphans, base_environment

from .preload import spread


@contextlib.contextmanager
def running(workers: int, seconds: float, preload: bool) -> Iterator[Master]:
    """A master of release r0."""
    with tempfile.TemporaryDirectory(prefix="eh") as name:
        place = Path(name)
        root, config = place / "shop", place / "shop.toml"
        root.mkdir()
        config.write_text(
            'command = ["gunicorn", "-k", "gthread", "app:wsgi"]\nbind = ["127.0.0.1:0"]\n'
            f"number = {workers}\n[releases]\nroot = {json.dumps(str(root))}\n"
            f"fetch = 'cp -R {EXAMPLE}/. \"$2\"'\nkeep = 100\n")
        environment = base_environment(place) | {"IMPORT_SECONDS": str(seconds)}
        subprocess.run([BIN / "einhornpy", "deploy", "r0", "--first", "--config", str(config)],
                       env=environment, check=True, capture_output=True)
        flags = ["--preload"] if preload else []
        master = Master(place, ["--config", str(config), *flags],
                        {"IMPORT_SECONDS": str(seconds)})
        try:
            master.wait_ready()
            yield master
            master.stop()
        finally:
            master.close()


def timed(master: Master, *words: str) -> float:
    """Seconds that a command takes."""
    begun = time.monotonic()
    done = master.cli(*words, timeout=300)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - begun


def beside_an_upgrade(workers: int, seconds: float, rounds: int) -> None:
    with running(workers, seconds, preload=False) as master:
        for name in ("a", "b"):
            timed(master, "deploy", name, "--fetch-only")
        deploys, upgrades = [], []
        for number in range(rounds):
            name = "ab"[number % 2]
            deploys.append(timed(master, "deploy", name))
            upgrades.append(timed(master, "upgrade", "--release", name))
    ratios = [deploy / upgrade for deploy, upgrade in zip(deploys, upgrades, strict=True)]
    print(f"{workers} workers, import of {seconds:g} s, {rounds} rounds, medians:\n"
          f"  deploy of a release that is here   {spread(deploys, 's')}\n"
          f"  upgrade to it                      {spread(upgrades, 's')}\n"
          f"  deploy over upgrade                {spread(ratios, '')}", flush=True)


def after_the_fetch(workers: int, seconds: float, rounds: int) -> None:
    """From the moment at which a release is here until the last worker runs it."""
    taken, boots = [], []
    with running(workers, seconds, preload=True) as master:
        for number in range(rounds):
            recorder = master.record()
            timed(master, "deploy", f"p{number}")
            events = recorder.events
            started = next(each for each in events if each["event"] == "upgrade-started")
            ready = [each["seen"] for each in events if each["event"] == "worker-ready"]
            imported = next(each for each in events if each["event"] == "template-ready")
            taken.append(ready[-1] - started["seen"])
            boots.append(imported["imported_seconds"])
    ratios = [each / boot for each, boot in zip(taken, boots, strict=True)]
    print(f"{workers} workers, --preload, import of {seconds:g} s, {rounds} rounds, medians:\n"
          f"  one boot                           {spread(boots, 's')}\n"
          f"  from fetched to all on new code    {spread(taken, 's')}\n"
          f"  over one boot                      {spread(ratios, '')}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--import", type=float, default=3.0, dest="seconds")
    options = parser.parse_args()
    adopt_orphans()
    beside_an_upgrade(4, 1.0, options.rounds)
    after_the_fetch(options.workers, options.seconds, max(1, options.rounds // 2))


if __name__ == "__main__":
    main()
