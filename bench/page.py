"""What the shared page costs: throughput of the example app under einhornpy with its counters, over
the same without them.

One gthread worker each, alternating pairs, by wrk. Without them means that the worker's `begin` and
`end` do nothing. Two starts of the very same server differ by a few percent, so both are started
anew several times, and the same is done with two that count, as a control: what these differ by is
noise.

    python -m bench.page
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from einhornpy.worker import gunicorn_counters

from .servers import running
from .throughput import requests_a_second

STARTS, PAIRS = 6, 2
NAME = "einhornpy, gunicorn gthread"
CALLS = 200_000


def seconds_a_request() -> float:
    """What one begin and end take, in seconds: the median of five loops."""
    from einhornpy.supervisor.launch import shared_page

    page = shared_page.SharedPage()
    slot = gunicorn_counters.Slot(page.fd, page.take(1), 0, lambda reason: True)
    taken = []
    for _ in range(5):
        before = time.perf_counter()
        for _ in range(CALLS):
            slot.begin()
            slot.end()
        taken.append((time.perf_counter() - before) / CALLS)
    page.close()
    return statistics.median(taken)


def ratio_of_two_starts(first: str, second: str) -> float:
    """Requests a second of a server with the one code over those of one with the other; median of
    pairs."""
    with running(NAME, 1, 0.0, first) as one, running(NAME, 1, 0.0, second) as other:
        ratios = []
        for pair in range(PAIRS):
            order = (one, other) if pair % 2 else (other, one)
            figures = {server.address: requests_a_second(server.address) for server in order}
            ratios.append(figures[one.address] / figures[other.address])
    return statistics.geometric_mean(ratios)


def without_counters(directory: str) -> None:
    """Put a copy of our package there whose counters do nothing."""
    installed = Path(gunicorn_counters.__file__)
    copy = Path(directory) / "einhornpy"
    shutil.copytree(installed.parents[1], copy, ignore=shutil.ignore_patterns("__pycache__"))
    source = installed.read_text()
    off = source
    for method in ("    def begin(self) -> None:\n", "    def end(self) -> None:\n"):
        off = off.replace(method, method + "        return\n")
    assert off.count("        return\n") >= source.count("        return\n") + 2
    (copy / "worker" / installed.name).write_text(off)


def main() -> None:
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: install Debian's package wrk")
    # Whichever is started first may be a little better off, so each is, every other time.
    with tempfile.TemporaryDirectory() as off:
        without_counters(off)
        costs = [
            ratio_of_two_starts("", off) if start % 2 else 1 / ratio_of_two_starts(off, "")
            for start in range(STARTS)]
    control = [ratio_of_two_starts("", "") for _ in range(STARTS)]
    with running(NAME, 1, 0.0) as server:
        one = 1 / requests_a_second(server.address)
    cost = seconds_a_request()
    for what, ratios in (("with counters over without", costs),
                         ("control, with counters over with counters", control)):
        print(
            f"{what}, requests a second, {STARTS} starts of each: geometric mean "
            f"{statistics.geometric_mean(ratios):.3f}, "
            f"from {min(ratios):.2f} to {max(ratios):.2f}", flush=True)
    print(
        f"begin and end of one request: {cost * 1e6:.2f} microseconds, {cost / one:.2%} of one "
        f"request's {one * 1e6:.0f} "
        "microseconds", flush=True)


if __name__ == "__main__":
    main()
