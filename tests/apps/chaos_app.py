"""The app of `python -m tests.chaos`: it says whose code it is: `LIFE.GENERATION.CODE PID`.

CODE is written into each release's copy, so it is the code itself that speaks, not a label. HOW:
`good`, `slow`, or how the release is broken: `import`, `hang`, `unhealthy`, `exit`.
"""

import asyncio
import os
import time

CODE = "@CODE@"
HOW = "@HOW@"
SLOW = 0.08 if HOW == "slow" else 0.0

time.sleep(0.1)
if HOW == "import":
    raise RuntimeError("this release is broken")
if HOW == "hang":
    time.sleep(86400)
if HOW == "exit":
    os._exit(9)


def answer():
    status = 500 if HOW == "unhealthy" else 200
    return status, f"{os.environ['CHAOS_LIFE']}.{os.environ['EINHORNPY_GENERATION']}.{CODE} {os.getpid()}\n".encode(
    )


def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    if path.startswith("/slow/"):
        time.sleep(float(path.removeprefix("/slow/")))
    time.sleep(SLOW)
    status, body = answer()
    start_response(f"{status} Anything", [("Content-Type", "text/plain"),
                                          ("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope, receive, send):
    while scope["type"] == "lifespan":
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
    if scope["path"].startswith("/slow/"):
        await asyncio.sleep(float(scope["path"].removeprefix("/slow/")))
    await asyncio.sleep(SLOW)
    status, body = answer()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
