"""A WSGI app that counts its requests with prometheus_client, as apps do."""

import os

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("shop_requests", "Requests of the shop.", ["path"])
SECONDS = Histogram("shop_seconds", "How long they took.", buckets=(0.5, 1.0))
LIVE = Gauge("shop_live", "Workers that live.", multiprocess_mode="livesum")
MOST = Gauge("shop_most", "The most.", multiprocess_mode="max")
OWN = Counter("shop_own", "With a label that clashes.", ["generation"])
LIVE.set(1)


def wsgi(environ, start_response):
    REQUESTS.labels(environ["PATH_INFO"]).inc()
    SECONDS.observe(0.7)
    MOST.set(7)
    OWN.labels("first").inc()
    if environ["PATH_INFO"] == "/spoil":
        with open(os.path.join(os.environ["PROMETHEUS_MULTIPROC_DIR"], "counter_99.db"),
                  "wb") as file:
            file.write(b"\x01" * 200)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok\n"]
