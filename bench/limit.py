"""How many requests are lost under a server that leaves by itself after so many: as it is, and as
docs/servers.md says to run it.

    python -m bench.limit
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from tests.harness import Master
from tests.load import Load
from tests.worker.test_servers import EXAMPLES, typed

RATE, SECONDS, LIMIT = 200.0, 20.0, 400
FLAGS = {"uvicorn": "--limit-max-requests", "hypercorn": "--max-requests"}
ALONE = {
    "uvicorn": ["uvicorn", "--fd", "3"], "hypercorn": ["hypercorn", "-w", "0", "--bind", "fd://3"]}


def lost(words: list[str], environment: dict[str, str]) -> str:
    """Run a master with these words under load; say how many requests got no answer."""
    place = Path(tempfile.mkdtemp(prefix="eh", dir="/tmp"))
    master = Master(place, ["--chdir", str(EXAMPLES), *words], environment)
    try:
        master.wait_ready()
        with Load(master.address, RATE, keep_alive=1.0) as load:
            time.sleep(SECONDS)
        return f"{len(load.report.failures)} of {load.report.sent}"
    finally:
        master.stop()
        master.close()
        shutil.rmtree(place, ignore_errors=True)


def main() -> None:
    print(f"| lost, {RATE:g} requests a second, 2 workers, limit {LIMIT} | alone | as on the page |"
          "\n| --- | --- | --- |")
    for server, flag in FLAGS.items():
        limit = [flag, str(LIMIT)]
        environment, words = typed(server)
        alone = ["-n", "2", "-b", "127.0.0.1:0", "--", *ALONE[server], *limit, "shop:app"]
        ours = {"EINHORNPY_ASGI_KEEP_ALIVE": "2"} | environment
        print(f"| {server} | {lost(alone, {})} | {lost([*words, *limit], ours)} |", flush=True)


if __name__ == "__main__":
    main()
