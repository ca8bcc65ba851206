import os
import tempfile

os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(dir=os.environ["PLACE"]))

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

COUNTER = Counter("answers", "Answers.", ["token"])
TOTAL = Counter("total", "Answers.")
TOTAL.inc(1000)
registry = CollectorRegistry()
MultiProcessCollector(registry)


def answer(token):
    COUNTER.labels(token).inc()
    TOTAL.inc()
    seen = generate_latest(registry).decode()
    total = float(seen.split("\ntotal_total ")[1].split()[0])
    right = f'answers_total{{token="{token}"}} 1.0' in seen and 1000 < total < 2000
    return token if right else f"no: {total}"
