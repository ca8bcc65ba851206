"""Recycling: by requests, by age, by memory; the replacement comes first, one at a time, and no
request is lost."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import pytest

from ..airbag import check
from ..harness import APPS, EXAMPLE, Master, Recorder, get, wait_until
from ..load import Load
from ..whole.test_no_lost_request import CLASSES

Start = Callable[..., Master]
WORKER = [sys.executable, str(APPS / "worker.py"), "notify"]


def recycled(recorder: Recorder) -> list[float]:
    """When each worker that was due was asked to go."""
    return [event["seen"] for event in recorder.events
            if event["event"] == "worker-retiring" and "it is recycled" in event["reason"]]


def most_at_once(moments: list[float], parts: int) -> int:
    """How many of the moments fall into the fullest of `parts` equal parts of their span."""
    if not moments:
        return 0
    span = (moments[-1] - moments[0]) / parts or 1.0
    return max(sum(begin <= moment < begin + span for moment in moments) for begin in moments)


def serve_many(start: Start, worker_class: str, limit: int, requests: int,
               rate: float) -> tuple[Recorder, int]:
    """Let 4 workers that are recycled after `limit` requests serve so many; return the events and
    the number served."""
    master = start("-n", "4", "-b", "127.0.0.1:0", "--max-requests", str(limit), "--chdir",
                   str(EXAMPLE), "--", "gunicorn", "--log-level", "warning", *CLASSES[worker_class],
                   environment={"IMPORT_SECONDS": "0.2"})
    master.wait_ready()
    recorder = master.record()
    with Load(master.address, rate, slow_path="/slow/0.01") as load:
        # Each request is counted by its worker. On a busy machine the client may be late, and
        # recycling slow.
        wait_until(
            lambda: load.elapsed() * rate >= requests and master.ask("tally")["result"][
                "requests"] >= requests and len(recycled(recorder)) >= requests / limit / 4,
            "all requests, and recycling", patience=requests / rate + 90)
    report = load.report
    assert not report.failures, (
        f"{len(report.failures)} of {report.sent} failed\n{report.why()}\n{master.log()}")
    check(recorder, 4)
    moments = recycled(recorder)
    print(
        f"\n{worker_class}: {report.sent} requests, {len(report.failures)} failed, {len(moments)} "
        "recycles, ready never below 4, "
        f"live never above 5, the fullest tenth of the time had {most_at_once(moments, 10)} "
        "recycles"
    )
    return recorder, report.sent


@pytest.mark.parametrize("worker_class", ["gthread", "asgi"])
def test_recycling_by_requests_loses_none(start: Start, worker_class: str) -> None:
    serve_many(start, worker_class, 60, 1500, 250)


@pytest.mark.soak
@pytest.mark.parametrize("worker_class", ["gthread", "asgi"])
def test_soak_of_recycling_by_requests(start: Start, worker_class: str) -> None:
    recorder, _ = serve_many(start, worker_class, 500, 60_000, 500)
    moments = recycled(recorder)
    # Spread evenly it would be a tenth; the first workers, which all began together, are closest to
    # each other.
    assert most_at_once(moments, 10) <= len(moments) * 0.3, moments


@pytest.mark.parametrize("number", [1, 3])
def test_recycling_by_age(start: Start, number: int) -> None:
    master = start("-n", str(number), "-m", "notify", "--max-lifetime", "1.5",
                   "--max-lifetime-jitter", "0.5", "--", *WORKER)
    first = {worker["pid"] for worker in master.wait_ready()["workers"]}
    recorder = master.record()
    for pid in first:
        recorder.wait_for("worker-due", pid=pid)
        recorder.wait_for("worker-gone", pid=pid)
    check(recorder, number)
    assert all(event["gate"] == "ready" for event in recorder.events)


def test_recycling_by_memory_counts_the_whole_group(start: Start, place: object) -> None:
    code = (
        "import os, sys, signal, socket, subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'x = bytearray(120 << 20); import signal; "
        "signal.pause()'])\n"
        "with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:\n"
        "    notify.connect(os.environ['NOTIFY_SOCKET']); notify.send(b'READY=1')\n"
        "signal.pause()\n")
    master = start("-n", "1", "-m", "notify", "--max-memory", "100M", "--", sys.executable, "-c",
                   code)
    pid = master.wait_ready()["workers"][0]["pid"]
    recorder = master.record()
    assert "and is due from 100 MiB on" in recorder.wait_for("worker-due", pid=pid)["reason"]
    recorder.wait_for("worker-gone", pid=pid)
    check(recorder, 1)


def test_beyond_the_hard_limit_it_is_killed(start: Start) -> None:
    master = start("-n", "1", "-m", "notify", "--max-memory", "50M", "--max-memory-hard", "100M",
                   "--", *WORKER, "eat=150")
    pid = master.wait_ready()["workers"][0]["pid"]
    recorder = master.record()
    assert "the most is 100 MiB" in recorder.wait_for("worker-killed", pid=pid)["reason"]
    recorder.wait_for("worker-ready")


def test_a_host_short_of_memory_breaks_before_it_makes_and_says_so(start: Start) -> None:
    master = start("-n", "2", "-m", "notify", "--max-lifetime", "2", "--max-lifetime-jitter", "0.1",
                   "--min-available-memory", "1000T", "--", *WORKER)
    first = [worker["pid"] for worker in master.wait_ready()["workers"]]
    recorder = master.record()
    for pid in first:
        recorder.wait_for("worker-gone", pid=pid)
    master.wait_log("host short of memory")
    master.wait_log("it is recycled before it is replaced, the host is short of memory")
    assert min(event["ready"] for event in recorder.events) == 1
    assert max(event["live"] for event in recorder.events) == 2
    assert any("short of memory" in event["gate_reason"] for event in recorder.events
               if event["gate"] == "degraded")


def test_recycling_during_an_upgrade_keeps_to_the_surge(start: Start) -> None:
    master = start("-n", "3", "-m", "notify", "--max-lifetime", "1", "--min-ready-seconds", "0.5",
                   "--", *WORKER)
    master.wait_ready()
    recorder = master.record()
    assert master.cli("upgrade").returncode == 0
    check(recorder, 3)
    recorder.wait_for("worker-due", generation=2)


def test_gunicorns_own_settings_of_recycling_count(start: Start, place: object) -> None:
    master = start("-n", "1", "-b", "127.0.0.1:0", "--chdir", str(EXAMPLE), "--", "gunicorn",
                   "--max-requests", "3", "--max-requests-jitter", "0", "app:wsgi",
                   environment={"IMPORT_SECONDS": "0"})
    pid = master.wait_ready()["workers"][0]["pid"]
    recorder = master.record()
    for _ in range(3):
        assert get(master.address)[0] == 200
    assert recorder.wait_for("worker-due", pid=pid)["reason"] == "served 3 requests"
    recorder.wait_for("worker-gone", pid=pid)
    check(recorder, 1)


def test_only_gunicorns_workers_count_requests(start: Start) -> None:
    master = start("-n", "1", "--max-requests", "5", "--", *WORKER)
    assert master.wait_exit() == 2
    assert "only gunicorn's workers count their requests" in master.log()


def test_one_that_is_replaced_and_does_not_go_is_called_that(start: Start) -> None:
    master = start("-n", "1", "-m", "notify", "--", *WORKER)
    old = master.wait_ready()["workers"][0]["pid"]
    os.kill(old, signal.SIGSTOP)
    late = master.cli("recycle", "0", "--wait", "--timeout", "3")
    assert (late.returncode, late.stderr) == (
        124, f"einhornpy: worker 0 (pid {old}) is replaced, but not gone within 3 s\n")
    os.kill(old, signal.SIGCONT)


def test_one_worker_is_recycled_by_hand(start: Start) -> None:
    master = start("-n", "2", "-m", "notify", "--", *WORKER)
    document = master.wait_ready()
    recorder = master.record()
    old = document["workers"][1]["pid"]
    done = master.cli("recycle", "1")
    assert (done.returncode, done.stdout) == (
        0, f"worker 1 (pid {old}) leaves as soon as another one is ready in its place\n")
    recorder.wait_for("worker-gone", pid=old)
    new = master.wait_ready()["workers"]
    assert [worker["index"] for worker in new] == [0, 1]
    assert new[0]["pid"] == document["workers"][0]["pid"]
    assert new[1]["pid"] != old
    check(recorder, 2)
    refused = master.cli("recycle", "7")
    assert (refused.returncode, refused.stderr) == (1,
                                                    "einhornpy: no worker with index 7 is ready\n")
    assert master.cli("recycle", "x").returncode == 2
    # Whoever comes later is told of it too.
    late = master.record()
    with_pid = [event["event"] for event in late.recent if event.get("pid") == old]
    assert with_pid[-3:] == ["worker-due", "worker-retiring", "worker-gone"]
