"""What a master weighs and how often it wakes, at rest with 4 workers: einhornpy's and gunicorn's
in the same run.

    python -m bench.idle
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

from .servers import BIN, Server, children, running, stop

IDLE_SECONDS = 10


def memory(pid: int) -> float:
    """Resident MiB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def switches(pid: int) -> int:
    """How often it went to sleep so far: every wake-up ends in one."""
    found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)",
                      Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def wake_ups(server: Server) -> int:
    before = switches(server.process.pid)
    time.sleep(IDLE_SECONDS)
    return switches(server.process.pid) - before


def proportional(pid: int) -> float:
    """MiB, what is shared with others counted in part (proc(5), smaps_rollup)."""
    found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def companions() -> dict[str, tuple[int, float, int]]:
    """What stands beside a master with `--web` and a worker that isn't gunicorn: processes, their
    MiB, and their wake-ups."""
    with tempfile.TemporaryDirectory(prefix="bench", dir="/tmp") as place:
        environment = {
            "PATH": f"{BIN}:{os.environ['PATH']}", "XDG_RUNTIME_DIR": place, "HOME": place}
        master = subprocess.Popen(["einhornpy", "-n", "1", "-m", "0.2", "--min-ready-seconds", "0",
                                   "-c", "x", "--web", "127.0.0.1:0", "--", "sleep", "1000"],
                                  env=environment, stderr=subprocess.DEVNULL)
        try:
            subprocess.run(["einhornpy", "status", "--wait", "-c", "x"], env=environment,
                           check=True, stdout=subprocess.DEVNULL)
            time.sleep(2)
            named = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in children(master.pid)}
            kinds = {
                "sidecar": [pid for pid, command in named.items() if "web x" in command],
                "keeper": [pid for pid, command in named.items() if "keeper_process" in command]}
            before = {pid: switches(pid) for pid in named}
            time.sleep(IDLE_SECONDS)
            return {
                kind: (len(pids), sum(map(proportional,
                                          pids)), sum(switches(pid) - before[pid] for pid in pids))
                for kind, pids in kinds.items()}
        finally:
            stop(master)


def main() -> None:
    with running("gunicorn gthread, HUP", 4, 0.0) as theirs, running("einhornpy, gunicorn gthread",
                                                                     4, 0.0) as ours:
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
    for kind, (count, weight, wakes_of_all) in companions().items():
        print(
            f"| {kind}: {count} process{'es' if count > 1 else ''} | {weight:.1f} MiB (PSS) | "
            f"{wakes_of_all} |"
        )
    at_rest, afterwards = weights[ours.name] / weights[theirs.name], later / weights[theirs.name]
    print(f"\nratio of memory: {at_rest:.2f}, later {afterwards:.2f}", flush=True)


if __name__ == "__main__":
    main()
