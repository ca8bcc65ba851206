"""What a master weighs and how often it wakes, at rest with 4 workers: einhornpy's and gunicorn's in the same run.

    python -m bench.idle
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from .servers import Server, running

IDLE_SECONDS = 10


def memory(pid: int) -> float:
    """Resident MiB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def switches(pid: int) -> int:
    """How often it went to sleep so far: every wake-up ends in one."""
    found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def wake_ups(server: Server) -> int:
    before = switches(server.process.pid)
    time.sleep(IDLE_SECONDS)
    return switches(server.process.pid) - before


def main() -> None:
    with running("gunicorn gthread, HUP", 4, 0.0) as theirs, running("einhornpy, gunicorn gthread", 4, 0.0) as ours:
        weights = {server.name: memory(server.process.pid) for server in (ours, theirs)}
        wakes = {server.name: wake_ups(server) for server in (ours, theirs)}
        assert ours.einhornpy("upgrade").returncode == 0
        for _ in range(5):
            assert ours.einhornpy("status").returncode == 0
        later, later_wakes = memory(ours.process.pid), wake_ups(ours)
    print("\n| master, 4 workers | RSS | wake-ups in 10 s |\n| --- | --- | --- |")
    print(f"| einhornpy | {weights[ours.name]:.1f} MiB | {wakes[ours.name]} |")
    print(f"| einhornpy, after an upgrade and five `status` | {later:.1f} MiB | {later_wakes} |")
    print(f"| gunicorn | {weights[theirs.name]:.1f} MiB | {wakes[theirs.name]} |")
    at_rest, afterwards = weights[ours.name] / weights[theirs.name], later / weights[theirs.name]
    print(f"\nratio of memory: {at_rest:.2f}, later {afterwards:.2f}", flush=True)


if __name__ == "__main__":
    main()
