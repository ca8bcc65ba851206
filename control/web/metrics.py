"""/metrics: the status document and the tally in Prometheus's words, and the app's own metrics,
merged over all its workers.

prometheus-client writes and negotiates the formats; names and units follow its conventions. What an
app's metric counted in one generation carries that generation as a label: added up without it, the
end of a generation would look like a counter that jumps back.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import select
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.samples import Sample

from .. import gate
from .feed import Master
from .traffic_metrics import of_traffic

STATES = ("starting", "ready", "retiring")
TEMPLATE_STATES = ("starting", "ready", "leaving", "gone")
# Locked by whoever reads (shared) and by whoever folds the files of the dead together (alone).
LOCK = "lock"
LOCK_PATIENCE = 2.0
# prometheus_client writes some hundred bytes for each sample.
LARGEST_FILE = 64 << 20


class Metrics:
    """A WSGI app. `directory`: of the app's own metrics, or None."""

    def __init__(self, master: Master, directory: str | None) -> None:
        self._master = master
        self._directory = directory
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        self._app: Callable[..., Iterable[bytes]] = make_wsgi_app(registry)

    def __call__(self, environ: Mapping[str, Any],
                 start_response: Callable[..., Any]) -> Iterable[bytes]:
        answer = self._app({**environ, "REQUEST_METHOD": "GET"}, start_response)
        return answer if environ["REQUEST_METHOD"] == "GET" else []

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry must not ask the master while it registers us."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Everything, as of now."""
        status, tally = self._master.ask("status"), self._master.ask("tally")
        yield from of_status(status)
        yield from of_templates(status)
        yield from of_tally(tally)
        yield from of_traffic(tally.get("traffic"))
        if self._directory is not None:
            yield from of_app(self._directory)


def gauge(name: str, about: str, samples: Iterable[tuple[Mapping[str, Any],
                                                         float | None]]) -> Metric:
    """A gauge; samples with the same labels are added up, and those without a value left out."""
    totals: dict[tuple[tuple[str, str], ...], float] = {}
    for labels, value in samples:
        if value is not None:
            key = tuple((label, str(text)) for label, text in labels.items())
            totals[key] = totals.get(key, 0.0) + value
    family = GaugeMetricFamily(name, about)
    for key, value in totals.items():
        family.samples.append(Sample(name, dict(key), value))
    return family


def of_status(status: Mapping[str, Any]) -> Iterator[Metric]:
    """What is."""
    workers = status["workers"]
    generations = sorted({status["generation"], *(worker["generation"] for worker in workers)})
    yield InfoMetricFamily(
        "einhornpy", "The master, and the labels of this host.", {
            **status["labels"], "name": status["name"], "version": status["master"]["version"],
            "release": status["release"] or ""})
    yield gauge("einhornpy_workers", "Workers by state and generation.", [
        *(({"state": state, "generation": number}, 0) for state in STATES
          for number in generations),
        *(({"state": worker["state"], "generation": worker["generation"]}, 1)
          for worker in workers)])
    yield gauge("einhornpy_workers_target", "How many workers are to be ready.",
                [({}, status["target"])])
    yield gauge("einhornpy_workers_ready", "How many workers are ready.", [({}, status["ready"])])
    yield gauge("einhornpy_processes_left_behind",
                "Processes that outlive the workers that have started them.", [
                    ({}, len(status["left_behind"]))])
    yield gauge("einhornpy_generation", "The number of the current generation.",
                [({}, status["generation"])])
    yield gauge("einhornpy_gate", "1 for what the gate says, 0 for what it does not.",
                [({"gate": word}, word == status["gate"]) for word in gate.CODES])
    upgrade = status["upgrade"]
    running = upgrade is not None and upgrade["outcome"] is None
    yield gauge("einhornpy_upgrade_running", "Whether an upgrade runs.", [({}, running)])
    yield gauge("einhornpy_upgrade_replaced_workers",
                "How many ready workers the running upgrade's generation has.", [
                    ({}, upgrade["replaced"] if running else 0)])
    by = [({"index": each["index"], "generation": each["generation"], "state": each["state"]}, each)
          for each in workers]
    yield gauge("einhornpy_worker_memory_bytes", "Proportional set size of a worker process.",
                [(labels, each["memory_bytes"]) for labels, each in by])
    memory = status["memory"]
    yield gauge("einhornpy_memory_bytes",
                "Proportional set size of the master, the templates and the workers together.",
                [({}, memory["total_bytes"])])
    yield gauge("einhornpy_memory_saved_bytes",
                "How much more memory it would be if workers and templates shared no pages.",
                [({}, memory["saved_bytes"])])
    yield gauge("einhornpy_worker_requests_in_flight", "Requests that a worker is busy with.",
                [(labels, each["in_flight"]) for labels, each in by])
    yield gauge("einhornpy_worker_busy_ratio",
                "The part of the last 10 seconds in which a worker had a request.", [
                    (labels, each["busy_share"]) for labels, each in by])
    yield gauge("einhornpy_listener_queue_length",
                "Connections that wait to be accepted, as the kernel counts them.", [
                    ({"address": each["address"]}, each["queue"]) for each in status["listeners"]])
    yield gauge("einhornpy_listener_queue_limit",
                "The most connections that may wait to be accepted.",
                [({"address": each["address"]}, each["backlog"]) for each in status["listeners"]])


def of_templates(status: Mapping[str, Any]) -> Iterator[Metric]:
    """The processes from which workers are forked, and what they have that isn't safe to fork."""
    templates = status["templates"]
    by = [({"generation": each["generation"]}, each) for each in templates]
    yield gauge("einhornpy_templates", "Templates by state and generation.", [
        (labels | {"state": state}, state == each["state"])
        for labels, each in by for state in TEMPLATE_STATES])
    yield gauge("einhornpy_template_age_seconds", "For how long a template has been in its state.",
                [(labels, each["age_seconds"]) for labels, each in by])
    yield gauge("einhornpy_template_import_seconds",
                "How long the import of the app took in a template that has imported it.",
                [(labels, each["import_seconds"]) for labels, each in by])
    yield gauge("einhornpy_template_memory_bytes", "Proportional set size of a template.",
                [(labels, each["memory_bytes"]) for labels, each in by])
    forks = CounterMetricFamily("einhornpy_template_forks", "Workers that a template has forked.",
                                labels=["generation"])
    for each in templates:
        forks.add_metric([str(each["generation"])], each["forks"])
    yield forks
    # Not that of a release that was refused, and runs nowhere.
    generations = {status["generation"], *(each["generation"] for each in templates),
                   *(worker["generation"] for worker in status["workers"])}
    found = [each["generation"] for each in status["findings"]]
    yield gauge("einhornpy_not_safe_to_fork",
                "How much a generation has, after the import of the app, that is not safe to fork.",
                [({"generation": number}, found.count(number)) for number in sorted(generations)])


def of_tally(tally: Mapping[str, Any]) -> Iterator[Metric]:
    """What has happened since the first master started."""
    upgrades = CounterMetricFamily("einhornpy_upgrades", "Upgrades that have ended, by outcome.",
                                   labels=["outcome"])
    for outcome, count in tally["upgrades"].items():
        upgrades.add_metric([outcome], count)
    yield upgrades
    exits = CounterMetricFamily("einhornpy_worker_exits",
                                "Workers that are gone, by what they left for.", labels=["reason"])
    for reason, count in tally["exits"].items():
        exits.add_metric([reason], count)
    yield exits
    yield CounterMetricFamily("einhornpy_requests", "Requests served by workers that count them.",
                              tally["requests"])
    yield histogram("einhornpy_upgrade_duration_seconds", "How long upgrades took.",
                    tally["upgrade_seconds"])
    yield histogram("einhornpy_worker_ready_duration_seconds",
                    "From a worker's start until it was ready.", tally["ready_seconds"])
    yield histogram("einhornpy_master_loop_lag_seconds",
                    "For how long the master's loop let everybody wait, each time it ran.",
                    tally["lag_seconds"])
    log = tally["log"]
    yield CounterMetricFamily("einhornpy_log_lines",
                              "Lines for the log, of the master and, through it, of workers.",
                              log["lines"])
    yield CounterMetricFamily("einhornpy_log_lines_dropped", "Log lines that nobody took in time.",
                              log["dropped"])
    master = tally["master"]
    yield CounterMetricFamily("einhornpy_master_cpu_seconds", "Processor time of the master.",
                              master["cpu_seconds"])
    yield gauge("einhornpy_master_memory_bytes", "Proportional set size of the master.",
                [({}, master["memory_bytes"])])
    yield gauge("einhornpy_master_start_time_seconds", "When the master started, since the epoch.",
                [({}, master["started_at"])])
    yield CounterMetricFamily("einhornpy_master_errors",
                              "Exceptions in the master that nobody had foreseen; it went on.",
                              tally.get("errors", 0))
    yield CounterMetricFamily("einhornpy_master_reloads",
                              "How often the master has replaced itself.", master["reloads"])


def histogram(name: str, about: str, document: Mapping[str, Any]) -> Metric:
    """A histogram of the tally in Prometheus's form, whose buckets add up."""
    buckets, total = [], 0
    for bound, count in zip([*document["bounds"], "+Inf"], document["counts"], strict=True):
        total += count
        buckets.append((str(bound), total))
    return HistogramMetricFamily(name, about, buckets, document["sum"])


def of_app(directory: str) -> Iterator[Metric]:
    """The app's own metrics, of every generation that has workers, each sample with its
    generation."""
    families: dict[str, Metric] = {}
    could: list[tuple[Mapping[str, Any], float | None]] = []
    # The newest first: where two releases disagree on what a metric is, its word counts.
    for number in sorted((int(name) for name in os.listdir(directory) if name.isdecimal()),
                         reverse=True):
        try:
            metrics = _of_generation(f"{directory}/{number}")
        # whatever an app has written there must not take the master's own metrics away
        except Exception:
            metrics = []
            could.append(({"generation": number}, 0))
        else:
            could.append(({"generation": number}, 1))
        for metric in metrics:
            family = families.setdefault(metric.name,
                                         Metric(metric.name, metric.documentation, metric.type))
            if family.type != metric.type:
                continue
            for each in metric.samples:
                labels = {
                    "exported_generation" if label == "generation" else label: text
                    for label, text in each.labels.items()}
                family.samples.append(each._replace(labels={**labels, "generation": str(number)}))
    yield from families.values()
    yield gauge("einhornpy_app_metrics_readable",
                "Whether the files with the app's own metrics could be read.", could)


def _of_generation(directory: str) -> list[Metric]:
    """The merged metrics of one generation.

    Raises:
        Exception: of many kinds, where an app has written something else there.
    """
    if not os.path.isdir(directory):
        return []  # its last worker has just gone
    with locked(directory, fcntl.LOCK_SH):
        files = [path for path in glob.glob(f"{directory}/*.db") if readable(path)]
        merged: list[Metric] = list(
            MultiProcessCollector.merge(files))  # type: ignore[no-untyped-call]
    for metric in merged:
        if not isinstance(metric.documentation, str) or not isinstance(metric.name, str):
            raise ValueError(f"{metric.name!r} is no metric")
        for sample in metric.samples:
            if not all(
                    isinstance(each, str)
                    for each in (sample.name, *sample.labels, *sample.labels.values())):
                raise ValueError(f"{sample!r} is no sample")
            # or nobody could be told
            "".join((metric.documentation, sample.name, *sample.labels,
                     *sample.labels.values())).encode()
    return merged


@contextlib.contextmanager
def locked(directory: str, how: int) -> Iterator[None]:
    """Hold a generation's lock, shared or alone.

    Raises:
        OSError: it is no lock, or not to be had for long.
    """
    lock = os.open(f"{directory}/{LOCK}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(lock).st_mode):
            raise FileNotFoundError(errno.ENOENT, "the lock is no file")
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(lock, how | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                select.select([], [], [], 0.02)
        yield
    finally:
        os.close(lock)


def readable(path: str) -> bool:
    """Whether it is a file of prometheus_client's at all, and of a size that an app's metrics may
    have.

    Raises:
        ValueError: it is much too large.
    """
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        return False
    if found.st_size > LARGEST_FILE:
        raise ValueError(f"{path} is larger than {LARGEST_FILE} bytes")
    return True
