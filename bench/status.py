"""How long `einhornpy status` takes, whole process, against `python -c 'import click'`,
interleaved.

    python -m bench.status
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from .servers import BIN, running

RUNS = 20


def main() -> None:
    with running("einhornpy, gunicorn sync", 4, 0.0) as server:
        def timed(command: list[str]) -> float:
            before = time.perf_counter()
            subprocess.run(command, env=server.environment, stdout=subprocess.DEVNULL, check=True)
            return time.perf_counter() - before

        status, bare = [], []
        for _ in range(RUNS):
            status.append(timed([str(BIN / "einhornpy"), "status"]))
            bare.append(timed([sys.executable, "-c", "import click"]))
    ratio = statistics.median(status) / statistics.median(bare)
    print(
        f"\n`einhornpy status` over `python -c 'import click'`, medians of {RUNS}: {ratio:.2f} "
        f"({statistics.median(status) * 1000:.0f} ms over {statistics.median(bare) * 1000:.0f} ms)",
        flush=True)


if __name__ == "__main__":
    main()
