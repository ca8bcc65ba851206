"""The app of `python -m tests.chaos`: it says whose code it is: `LIFE.GENERATION.CODE PID`.

CODE is written into each release's copy, so it is the code itself that speaks, not a label. HOW: `good`, or how the release is
broken: `import`, `hang`, `unhealthy`, `exit`.
"""

import os
import time

CODE = "@CODE@"
HOW = "@HOW@"

time.sleep(0.1)
if HOW == "import":
    raise RuntimeError("this release is broken")
if HOW == "hang":
    time.sleep(86400)
if HOW == "exit":
    os._exit(9)


def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    if path.startswith("/slow/"):
        time.sleep(float(path.removeprefix("/slow/")))
    status = "500 Internal Server Error" if HOW == "unhealthy" else "200 OK"
    body = f"{os.environ['CHAOS_LIFE']}.{os.environ['EINHORNPY_GENERATION']}.{CODE} {os.getpid()}\n".encode()
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
