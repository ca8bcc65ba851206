"""What the deployments of tests/worker/test_side_by_side.py serve."""

import json
import logging
import os

IMPORTED_BY = os.getpid()


def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/boom":
        raise RuntimeError("boom")
    count(path)
    body = "ok"
    if path == "/environment":
        body = json.dumps({
            key: value for key, value in sorted(os.environ.items())
            if key.startswith(("SHOP_", "SERVER_")) or key == "TZ"})
    elif path == "/log":
        logging.getLogger("shop").info("asked for %s", path)
    elif path == "/scheme":
        body = environ["wsgi.url_scheme"]
    elif path == "/print":
        print("printed by the app", flush=True)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body.encode()]


def count(path):
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        COUNTERS["requests"].labels(path).inc()


COUNTERS = {}
if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    from prometheus_client import Counter, Gauge

    COUNTERS["requests"] = Counter("shop_requests", "Requests of the shop.", ["path"])
    COUNTERS["live"] = Gauge("shop_live", "Workers.", multiprocess_mode="livesum")
    COUNTERS["live"].set(1)
