"""Side by side: one graceful reload under the same open load, then the same with a release that
raises at import.

    python -m bench.reload
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.load import Load, Report

from .servers import Server, commands, running

WORKERS = 4
IMPORT_SECONDS = 2.0
BEFORE, DURING = 8.0, 14.0


@dataclass
class Row:
    name: str
    report: Report
    start: float
    reload: float
    end: float
    said: str = ""


def measure(name: str, broken: bool) -> Row:
    """Run one contender through one reload."""
    with running(name, WORKERS, IMPORT_SECONDS) as server:
        with Load(server.address, 100) as load:
            start = time.monotonic()
            time.sleep(BEFORE)
            if broken:
                app = server.directory / "app.py"
                app.write_text('raise RuntimeError("broken release")\n' + app.read_text())
            reload = time.monotonic()
            said = finish(server)
            end = time.monotonic()
        return Row(name, load.report, start, reload, end, said)


def finish(server: Server) -> str:
    """Reload, wait until it is over, and say how it ended."""
    started = time.monotonic()
    command = server.reload()
    said = ""
    if command is not None:
        out, _ = command.communicate(timeout=120)
        said = f"exit code {command.returncode}"
        if command.returncode:
            said += f": {out.strip().splitlines()[-1]}"
    # The others don't say when they have finished: all get the same time.
    time.sleep(max(0.0, DURING - (time.monotonic() - started)))
    if command is None:
        left = server.process.poll()
        said = ("server still runs, says so in its log" if left is None
                else f"server exited with {left}")
    return said


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 100 else "for ever"


def table(rows: list[Row], broken: bool) -> str:
    lines = ["| | failed | longest without an answer, before | during | p99 before | p99 during |"
             + (" what it said |" if broken else ""), "| --- " * (7 if broken else 6) + "|"]
    for row in rows:
        report = row.report
        before, during = (row.start, row.reload), (row.reload, row.end)
        figures = [
            report.longest_gap(*before),
            report.longest_gap(*during),
            report.percentile(99, *before),
            report.percentile(99, *during)]
        cells = [row.name, f"{len(report.failures)} of {report.sent}", *map(seconds, figures)]
        lines.append(f"| {' | '.join([*cells, row.said[:140]] if broken else cells)} |")
    return "\n".join(lines)


def main() -> None:
    for broken in (False, True):
        rows = [measure(name, broken) for name in commands(WORKERS, 0)]
        title = "A release that raises at import" if broken else "A good release"
        print(f"\n{title}:\n\n{table(rows, broken)}", flush=True)


if __name__ == "__main__":
    main()
