"""What workers have answered, in Prometheus's words: rate, errors and duration of HTTP requests for
the dashboards that ask for these, by generation. It must not ask anybody: it is given the tally.

The histogram is a classic one. prometheus_client writes native ones in OpenMetrics 2.0 alone, and
Prometheus reads them from protobuf, which it doesn't write; but Prometheus makes native ones of
classic ones by itself (`convert_classic_histograms_to_nhcb`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

# The page has twelve buckets a decade; every fourth of them is enough for a scrape, 16 a
# generation: 1 ms, 2.2 ms, 4.7 ms, 10 ms and so on, the preferred numbers E3.
EVERY = 4
# Of requests that were given no status: their clients had left, or the app had failed by then.
NO_CLASS = "none"
COUNTERS = {
    "failed": ("einhornpy_http_failed_requests",
               "HTTP requests that were answered by 5xx or ended in an exception, each once."),
    "exceptions": ("einhornpy_http_exceptions", "Exceptions of the app that reached its server."),
    "aborted": ("einhornpy_http_aborted",
                "HTTP requests whose client left before it had its answer."),
    "bytes_out": ("einhornpy_http_response_bytes", "Bytes of bodies of HTTP answers."),
}


def of_traffic(traffic: Mapping[str, Any] | None) -> Iterator[Metric]:
    """Rate, errors and duration by generation; the same families, without samples, where nobody
    counts."""
    generations = [] if traffic is None else traffic["generations"]
    requests = CounterMetricFamily(
        "einhornpy_http_requests", "HTTP requests that are done, by the class of their answer.",
        labels=["class", "generation"])
    for each in generations:
        unanswered = each["requests"] - sum(each["responses"].values())
        for word, count in [*each["responses"].items(), (NO_CLASS, max(0, unanswered))]:
            requests.add_metric([word, str(each["generation"])], count)
    yield requests
    yield _durations(traffic or {"bounds": []}, generations)
    for key, (name, about) in COUNTERS.items():
        family = CounterMetricFamily(name, about, labels=["generation"])
        for each in generations:
            family.add_metric([str(each["generation"])], each[key])
        yield family


def _durations(traffic: Mapping[str, Any], generations: list[Mapping[str, Any]]) -> Metric:
    family = HistogramMetricFamily(
        "einhornpy_http_request_duration_seconds",
        "From the beginning of an HTTP request to the end of its answer.", labels=["generation"])
    for each in generations:
        upto = list(accumulate(each["latencies"]))
        buckets = [*zip(map(str, traffic["bounds"][::EVERY]), upto[::EVERY], strict=True),
                   ("+Inf", upto[-1])]
        family.add_metric([str(each["generation"])], buckets, each["seconds"])
    return family
