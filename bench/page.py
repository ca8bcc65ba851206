"""What counting costs: throughput of the example app under einhornpy with its counters, over the
same without them; and what counting one request takes in a tight loop.

One gthread worker each, alternating pairs, by wrk. Without them means that nothing is put around
what handles a request. Two starts of the very same server differ by a few percent, so both are
started anew several times, and the same is done with two that count, as a control: what these
differ by is noise.

    python -m bench.page
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from einhornpy.worker import busy_slot, gunicorn_counters, gunicorn_responses, traffic_slot

from .servers import running
from .throughput import requests_a_second

STARTS, PAIRS = 6, 2
NAME = "einhornpy, gunicorn gthread"
CALLS, LOOPS = 100_000, 9


class Request:
    """Stands in for gunicorn's."""

    method = "GET"


class Response:
    """Stands in for gunicorn's, as it is after an answer."""

    status, status_code, upgrade, response_length, sent = "200 OK", 200, False, 512, 512
    req = Request()


def seconds_a_request() -> tuple[float, float]:
    """What counting one request takes, in seconds: all of it, as gunicorn's workers do it, and of
    this the begin and end in the first page. The medians of several loops."""
    from einhornpy.supervisor.launch import shared_page, traffic_pages
    from gunicorn.http import wsgi

    page = shared_page.SharedPage()
    pages = traffic_pages.TrafficPages(page)
    slot = busy_slot.Slot(page.fd, page.take(1), 0, lambda reason: True)
    traffic = traffic_slot.TrafficSlot((pages.fd, pages.take(1, 1, time.monotonic())))
    answer: tuple[Response, dict[str, str]] = (Response(), {})
    own = wsgi.create

    def handle(req: Any, conn: Any) -> Any:
        return wsgi.create(req)

    def begin_and_end(req: Any, conn: Any) -> None:
        slot.begin()
        slot.end()

    try:
        wsgi.create = lambda req: answer
        without = seconds_a_call(handle)
        gunicorn_responses.remember()
        whole = seconds_a_call(gunicorn_counters.counted(handle, slot, traffic)) - without
    finally:
        wsgi.create = own
    first = seconds_a_call(begin_and_end) - seconds_a_call(lambda req, conn: None)
    page.close()
    pages.close()
    return whole, first


def seconds_a_call(function: Callable[[Any, Any], Any]) -> float:
    req, taken = Request(), []
    for _ in range(LOOPS):
        before = time.perf_counter()
        for _ in range(CALLS):
            function(req, None)
        taken.append((time.perf_counter() - before) / CALLS)
    return statistics.median(taken)


def ratio_of_two_starts(first: str, second: str) -> float:
    """Requests a second of a server with the one code over those of one with the other; median of
    pairs."""
    with running(NAME, 1, 0.0, first) as one, running(NAME, 1, 0.0, second) as other:
        ratios = []
        for pair in range(PAIRS):
            order = (one, other) if pair % 2 else (other, one)
            figures = {server.address: requests_a_second(server.address) for server in order}
            ratios.append(figures[one.address] / figures[other.address])
    return statistics.geometric_mean(ratios)


def without_counters(directory: str) -> None:
    """Put a copy of our package there whose counters do nothing."""
    installed = Path(gunicorn_counters.__file__)
    copy = Path(directory) / "einhornpy"
    shutil.copytree(installed.parents[1], copy, ignore=shutil.ignore_patterns("__pycache__"))
    source = installed.read_text()
    begin = "    way = way_of_counting(type(worker))\n"
    assert begin in source
    (copy / "worker" / installed.name).write_text(source.replace(begin, '    way = ""\n'))


def main() -> None:
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: install Debian's package wrk")
    # Whichever is started first may be a little better off, so each is, every other time.
    with tempfile.TemporaryDirectory() as off:
        without_counters(off)
        costs = [
            ratio_of_two_starts("", off) if start % 2 else 1 / ratio_of_two_starts(off, "")
            for start in range(STARTS)]
    control = [ratio_of_two_starts("", "") for _ in range(STARTS)]
    with running(NAME, 1, 0.0) as server:
        one = 1 / requests_a_second(server.address)
    whole, first = seconds_a_request()
    for what, ratios in (("with counters over without", costs),
                         ("control, with counters over with counters", control)):
        print(
            f"{what}, requests a second, {STARTS} starts of each: geometric mean "
            f"{statistics.geometric_mean(ratios):.3f}, "
            f"from {min(ratios):.2f} to {max(ratios):.2f}", flush=True)
    print(
        f"counting one request: {whole * 1e6:.2f} microseconds (the first page alone: "
        f"{first * 1e6:.2f}), {whole / one:.2%} of one request's {one * 1e6:.0f} microseconds",
        flush=True)


if __name__ == "__main__":
    main()
