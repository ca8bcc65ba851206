"""A thousand workers: one plan, then starting, upgrading and stopping as many real processes.

    python -m bench.scale
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from einhornpy.supervisor.core import facts, generation, planner, upgrade
from einhornpy.supervisor.core.observe import new_pool, observe
from einhornpy.supervisor.core.pool import Policy

from .servers import BIN

WORKERS = 1000


def time_plans() -> tuple[float, float]:
    """Median and worst seconds of one plan in the middle of an upgrade."""
    recipe = generation.Recipe(("sleep",), "/")
    pool = new_pool(recipe, WORKERS, Policy(max_surge=50))
    for number in range(WORKERS):
        pool = observe(pool, facts.Spawned(number, number, 1, 1000 + number), 0.0)
        pool = observe(pool, facts.SaidReady(number), 0.0)
    pool = observe(pool, facts.UpgradeRequested(upgrade.Terms(), "bench", 0.0), 0.0)
    pool = observe(pool, facts.UpgradePrepared(2, recipe), 0.0)
    taken = []
    for _ in range(200):
        before = time.perf_counter()
        planner.plan(pool, 0.0)
        taken.append(time.perf_counter() - before)
    return statistics.median(taken), max(taken)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    median, worst = time_plans()
    print(
        f"\none plan over {WORKERS} workers in mid-upgrade: median {median * 1000:.2f} ms, worst "
        "of 200 "
        f"{worst * 1000:.2f} ms")
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        environment = os.environ | {"XDG_RUNTIME_DIR": directory}
        master = subprocess.Popen([
            BIN / "einhornpy", "-q", "-n",
            str(WORKERS), "--max-surge", "50", "-m", "0.2", "--min-ready-seconds", "0", "-c",
            "many", "--ready-timeout", "300", "--", "sleep", "100000"], env=environment)

        def ask(*arguments: str) -> None:
            subprocess.run([BIN / "einhornpy", *arguments, "-c", "many"], env=environment,
                           check=True, stdout=subprocess.DEVNULL)

        print("| | time | master's CPU time a worker |\n| --- | --- | --- |")
        try:
            while not list(Path(directory).glob("einhornpy/*.sock")):
                time.sleep(0.01)
            begun, used = time.monotonic(), 0.0
            for name, arguments in (("start", ("status", "--wait")), ("upgrade", ("upgrade",))):
                ask(*arguments)
                now = cpu_seconds(master.pid)
                print(
                    f"| {name} | {time.monotonic() - begun:.1f} s | "
                    f"{(now - used) * 1000 / WORKERS:.2f} ms |",
                    flush=True)
                begun, used = time.monotonic(), now
            ask("stop", "--no-wait")
            while os.waitid(os.P_PID, master.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                now = cpu_seconds(master.pid)
                time.sleep(0.005)
            print(
                f"| stop | {time.monotonic() - begun:.1f} s | {(now - used) * 1000 / WORKERS:.2f} "
                "ms |",
                flush=True)
            master.wait()
        finally:
            if master.poll() is None:
                master.kill()
                master.wait()


if __name__ == "__main__":
    main()
