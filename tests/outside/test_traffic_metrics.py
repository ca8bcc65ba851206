"""What was answered, in Prometheus's words: rate, errors and duration as the RED dashboards want
them, from the tally alone."""

from __future__ import annotations

from collections.abc import Iterator

from einhornpy.control.web.traffic_metrics import of_traffic
from einhornpy.supervisor.core.traffic import BOUNDS, NO_LATENCIES, Traffic
from einhornpy.supervisor.reporting.signals import counts
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from .test_monitoring import promtool

# Four well, one badly, one whose client left; the slowest took 1.5 s, and one more than a minute.
LATENCIES = list(NO_LATENCIES)
for bound in (0.001, 0.0012, 0.0022, 1.5):
    LATENCIES[BOUNDS.index(bound)] += 1
LATENCIES[-1] += 1
OLD = Traffic(6, (0, 4, 0, 0, 1), 1, 1, 1, 5000, 70.25, tuple(LATENCIES))


class Fixed:
    """A collector of these metrics."""

    def __init__(self, generations: dict[int, Traffic]) -> None:
        self._traffic = counts(generations)

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        return of_traffic(self._traffic)


def samples(generations: dict[int, Traffic]) -> dict[tuple[str, ...], float]:
    return {(each.name, *each.labels.values()): each.value
            for family in of_traffic(counts(generations)) for each in family.samples}


def test_rate_errors_and_duration() -> None:
    found = samples({1: OLD, 2: Traffic()})
    assert {key[1:]: value for key, value in found.items()
            if key[0] == "einhornpy_http_requests_total" and value} == {
                ("2xx", "1"): 4, ("5xx", "1"): 1, ("none", "1"): 1}
    assert {key[0]: value for key, value in found.items() if key[1:] == ("1",)} == {
        "einhornpy_http_request_duration_seconds_count": 5,
        "einhornpy_http_request_duration_seconds_sum": 70.25,
        "einhornpy_http_failed_requests_total": 1, "einhornpy_http_exceptions_total": 1,
        "einhornpy_http_aborted_total": 1, "einhornpy_http_response_bytes_total": 5000}


def test_the_buckets_are_few_and_add_up() -> None:
    bucket = "einhornpy_http_request_duration_seconds_bucket"
    upto = {key[2]: value for key, value in samples({1: OLD}).items() if key[0] == bucket}
    assert upto == {"0.001": 1} | dict.fromkeys((
        "0.0022", "0.0047", "0.01", "0.022", "0.047", "0.1", "0.22", "0.47", "1.0"), 3) | (
        dict.fromkeys(("2.2", "4.7", "10.0", "22.0", "47.0"), 4)) | {"+Inf": 5}


def test_promtool_finds_nothing_to_say() -> None:
    for generations in ({}, {1: OLD, 2: Traffic()}):
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Fixed(generations))
        promtool("check", "metrics", given=generate_latest(registry).decode())
        text: bytes = openmetrics(registry)  # type: ignore[no-untyped-call]
        assert text.endswith(b"# EOF\n")


def test_a_master_that_counts_nothing() -> None:
    assert [each.samples for each in of_traffic(None)] == [[]] * 6
