"""Answers what a scrape of the port says; where advised, one server for all, of what all wrote."""

import os
import tempfile
import urllib.request

if "ADVISED" in os.environ:
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(dir=os.environ["PLACE"]))

from prometheus_client import CollectorRegistry, Counter, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

COUNTER = Counter("answers", "Answers.", ["token"])
port = int(os.environ["PORT"])
if "ADVISED" not in os.environ:
    start_http_server(port, addr="127.0.0.1")


def when_ready():
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    start_http_server(port, addr="127.0.0.1", registry=registry)


def answer(token):
    COUNTER.labels(token).inc()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
        return token if f'"{token}"' in page.read().decode() else "not in what is scraped"
