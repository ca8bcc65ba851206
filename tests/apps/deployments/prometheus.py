# Metrics of several processes (prometheus_client's own advice): the gauges of a dead one go.
import os

from prometheus_client import multiprocess

workers = 2
timeout = 60
accesslog = "-"


def on_starting(server):
    os.makedirs(os.environ["PROMETHEUS_MULTIPROC_DIR"], exist_ok=True)


def child_exit(server, worker):
    multiprocess.mark_process_dead(worker.pid)
