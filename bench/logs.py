"""100 MB of lines that a worker prints, through each way of `--worker-output`: how many a second,
against `sed` that puts the same prefix on them in a pipe, and what the requests felt meanwhile,
against the same flood written straight to the file.

    python -m bench.logs
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from einhornpy.control.client import Client

from tests.load import Load

from .servers import BIN, free_port, stop

LINE = "x" * 99
BYTES = 100_000_000
LINES = BYTES // (len(LINE) + 1)
FLOOD = f"yes {LINE} | head -c {BYTES}"
RATE, QUIET = 100, 5.0
APP = """
import subprocess

def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/flood":
        # A child of the worker's prints, so that Python's own speed doesn't count.
        subprocess.Popen(["sh", "-c", {flood!r}])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]
"""


def sed(directory: Path) -> float:
    """Lines a second that a filter in C manages."""
    began = time.monotonic()
    prefix = "shop index=0 pid=4711 generation=1 stdout| "
    subprocess.run(["sh", "-c", f"{FLOOD} | sed 's/^/{prefix}/' > sed.log"], cwd=directory,
                   check=True)
    return LINES / (time.monotonic() - began)


def flood(mode: str, directory: Path) -> tuple[float, dict[str, float]]:
    """Run one mode; return lines a second, and the 50th and 99th percentile of latency in seconds,
    quiet and in the flood."""
    (directory / "app.py").write_text(APP.format(flood=FLOOD))
    port, path, log = free_port(), directory / f"{mode}.sock", directory / f"{mode}.log"
    here = str(directory)
    environment = {
        "PATH": f"{BIN}:{os.environ['PATH']}", "XDG_RUNTIME_DIR": here, "HOME": here, "PWD": here}
    with open(log, "wb") as out:
        process = subprocess.Popen([
            "einhornpy", "-n", "2", "-b", f"127.0.0.1:{port}", "-d",
            str(path), "--worker-output", mode, "--", "gunicorn", "-k", "gthread", "--threads", "4",
            "app:wsgi"], cwd=directory, env=environment, stdout=out, stderr=out)
    try:
        subprocess.run(["einhornpy", "status", "--wait", "-d",
                        str(path)], env=environment, check=True, stdout=subprocess.DEVNULL)
        with Load(("127.0.0.1", port), RATE, slow_path="/") as load:
            start = time.monotonic()
            time.sleep(QUIET)
            began = time.monotonic()
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(b"GET /flood HTTP/1.0\r\n\r\n")
                connection.recv(100)
            while log.stat().st_size < BYTES or not whole(log):
                time.sleep(0.02)
            ended = time.monotonic()
        report = load.report
        assert not report.failures, report.why()
        with Client(str(path)) as client:
            assert client.ask("tally")["result"]["log"]["dropped"] == 0
        return LINES / (ended - began), {
            "quiet p50": report.percentile(50, start,
                                           began), "quiet p99": report.percentile(99, start, began),
            "p50": report.percentile(50, began, ended), "p99": report.percentile(99, began, ended)}
    finally:
        stop(process)


def whole(log: Path) -> bool:
    """Whether every line has arrived."""
    found = subprocess.run(["grep", "-c", LINE, str(log)], capture_output=True, text=True).stdout
    return int(found) >= LINES


def main() -> None:
    directory = Path(tempfile.mkdtemp(prefix="bench", dir="/tmp"))
    try:
        filtered = sed(directory)
        print(f"\n100 MB in {LINES:,} lines of 100 bytes; `sed`: {filtered:,.0f} lines/s\n")
        print(
            "| `--worker-output` | lines/s | over `sed` | p50, p99 before | p50, p99 in the flood |"
        )
        print("| --- | --- | --- | --- | --- |")
        for mode in ("inherit", "prefix", "json"):
            speed, felt = flood(mode, directory)
            times = {name: f"{value * 1000:.1f} ms" for name, value in felt.items()}
            print(
                f"| {mode} | {speed:,.0f} | {speed / filtered:.2f} | {times['quiet p50']}, "
                f"{times['quiet p99']} | {times['p50']}, "
                f"{times['p99']} |", flush=True)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
