"""What the shared page costs: throughput of the example app under einhornpy with its counters, over the same without them.

One gthread worker each, alternating pairs, by wrk. Without them means that the worker's `begin` and `end` do nothing.

    python -m bench.page
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from pathlib import Path

from einhornpy.worker import gunicorn_counters

from .servers import running
from .throughput import requests_a_second

PAIRS = 8
CALLS = 200_000


def seconds_a_request() -> float:
    """What one begin and end take, in seconds: the median of five loops."""
    from einhornpy.supervisor import watch

    page = watch.Page()
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


def main() -> None:
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: install Debian's package wrk")
    name = "einhornpy, gunicorn gthread"
    file = Path(gunicorn_counters.__file__)
    source = file.read_text()
    off = source.replace("    def begin(self) -> None:\n", "    def begin(self) -> None:\n        return\n").replace(
        "    def end(self) -> None:\n", "    def end(self) -> None:\n        return\n")
    assert off.count("        return\n") >= 2
    with running(name, 1, 0.0) as counting:
        try:
            file.write_text(off)
            with running(name, 1, 0.0) as silent:
                file.write_text(source)
                ratios = []
                for pair in range(PAIRS):
                    order = (counting, silent) if pair % 2 else (silent, counting)
                    figures = {server.address: requests_a_second(server.address) for server in order}
                    ratios.append(figures[counting.address] / figures[silent.address])
                one = 1 / max(figures.values())
        finally:
            file.write_text(source)
    cost = seconds_a_request()
    print(f"\nwith counters over without, requests a second, {PAIRS} pairs: median ratio {statistics.median(ratios):.3f}, from "
          f"{min(ratios):.2f} to {max(ratios):.2f}\nbegin and end of one request: {cost * 1e6:.2f} microseconds, "
          f"{cost / one:.2%} of one request's {one * 1e6:.0f} microseconds", flush=True)


if __name__ == "__main__":
    main()
