# Metrics on a port of their own, served from the arbiter's place.
import os

from prometheus_client import CollectorRegistry, multiprocess, start_http_server

workers = 2
port = int(os.environ["METRICS_PORT"])


def when_ready(server):
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    server.metrics = start_http_server(port, addr="127.0.0.1", registry=registry)
    server.log.info("metrics on %d", port)


def child_exit(server, worker):
    multiprocess.mark_process_dead(worker.pid)
