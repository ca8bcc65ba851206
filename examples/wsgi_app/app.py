"""The example app: what a newcomer runs first, and what the tests and benchmarks put under load.

POST /deploy/RELEASE lets einhornpy upgrade to a release, for whoever has the token.

Environment: IMPORT_SECONDS (how long importing it takes, as big apps do), RELEASE (what it calls
itself), BROKEN (`import`: raise at import; `hang`: never finish importing; `unhealthy`: answer
/health with 500), DEPLOY_TOKEN (where there is none, nobody has it).
"""

import os
import time

time.sleep(float(os.environ.get("IMPORT_SECONDS", "1")))
if os.environ.get("BROKEN") == "import":
    import module_that_was_not_deployed  # noqa: F401
if os.environ.get("BROKEN") == "hang":
    time.sleep(86400)

TOKEN = os.environ.get("DEPLOY_TOKEN", "")
RELEASE = os.environ.get("EINHORNPY_RELEASE", os.environ.get("RELEASE", "unnamed"))


def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    if path.startswith("/slow/"):  # /slow/0.2 takes 0.2 s
        time.sleep(float(path.removeprefix("/slow/")))
    if path.startswith("/deploy/") and environ["REQUEST_METHOD"] == "POST":
        return deploy(environ, start_response, path.removeprefix("/deploy/"))
    unhealthy = path == "/health" and os.environ.get("BROKEN") == "unhealthy"
    body = f"{RELEASE} {os.getpid()}\n".encode()
    start_response(
        "500 Internal Server Error" if unhealthy else "200 OK",
        [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))],
    )
    return [body]


def deploy(environ, start_response, release):
    """Ask for an upgrade to a release. einhornpy must be installed in the app's own environment."""
    import hmac

    from einhornpy import worker

    given = environ.get("HTTP_AUTHORIZATION", "")
    if not TOKEN or not hmac.compare_digest(given.encode(), f"Bearer {TOKEN}".encode()):
        status, text = "403 Forbidden", "who are you?"
    else:
        try:
            status, text = "202 Accepted", f"generation {worker.request_upgrade(release)}"
        except worker.UpgradeRefused as refused:
            status, text = "409 Conflict", str(refused)
    start_response(status, [("Content-Type", "text/plain")])
    return [f"{text}\n".encode()]
