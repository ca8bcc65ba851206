"""The example app: what a newcomer runs first, and what the tests and benchmarks put under load.

Environment: IMPORT_SECONDS (how long importing it takes, as big apps do), RELEASE (what it calls itself), BROKEN
(`import`: raise at import; `hang`: never finish importing; `unhealthy`: answer /health with 500).
"""

import os
import time

time.sleep(float(os.environ.get("IMPORT_SECONDS", "1")))
if os.environ.get("BROKEN") == "import":
    import module_that_was_not_deployed  # noqa: F401
if os.environ.get("BROKEN") == "hang":
    time.sleep(86400)

RELEASE = os.environ.get("EINHORNPY_RELEASE", os.environ.get("RELEASE", "unnamed"))


def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    if path.startswith("/slow/"):  # /slow/0.2 takes 0.2 s
        time.sleep(float(path.removeprefix("/slow/")))
    unhealthy = path == "/health" and os.environ.get("BROKEN") == "unhealthy"
    body = f"{RELEASE} {os.getpid()}\n".encode()
    start_response(
        "500 Internal Server Error" if unhealthy else "200 OK",
        [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))],
    )
    return [body]
