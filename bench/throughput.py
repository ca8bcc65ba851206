"""Throughput of einhornpy over plain gunicorn with the same gthread worker, in alternating pairs,
by wrk.

One worker each: with several, how the kernel happens to deal wrk's connections out to them decides
the figure.

    python -m bench.throughput
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys

from .servers import running

PAIRS, SECONDS = 8, 4


def requests_a_second(address: tuple[str, int]) -> float:
    out = subprocess.run(
        ["wrk", "-t1", "-c16", f"-d{SECONDS}s", f"http://{address[0]}:{address[1]}/"], check=True,
        capture_output=True, text=True).stdout
    found = re.search(r"Requests/sec:\s+([0-9.]+)", out)
    assert found is not None, out
    return float(found[1])


def main() -> None:
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: install Debian's package wrk")
    with running("einhornpy, gunicorn gthread", 1,
                 0.0) as ours, running("gunicorn gthread, HUP", 1, 0.0) as theirs:
        ratios = []
        for pair in range(PAIRS):
            order = (ours, theirs) if pair % 2 else (theirs, ours)
            figures = {server.name: requests_a_second(server.address) for server in order}
            ratios.append(figures[ours.name] / figures[theirs.name])
    print(
        f"\neinhornpy over gunicorn, requests a second, {PAIRS} pairs of {SECONDS} s: median ratio "
        f"{statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}", flush=True)


if __name__ == "__main__":
    main()
