"""The example app as ASGI, with a lifespan; the same paths and environment as app.py."""

import asyncio
import os

from app import RELEASE


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                if "state" in scope:
                    scope["state"]["started"] = True
                await send({"type": "lifespan.startup.complete"})
            else:
                await send({"type": "lifespan.shutdown.complete"})
                return
    if scope["type"] != "http":
        return
    path = scope["path"]
    if path.startswith("/slow/"):
        await asyncio.sleep(float(path.removeprefix("/slow/")))
    unhealthy = path == "/health" and os.environ.get("BROKEN") == "unhealthy"
    body = f"{RELEASE} {os.getpid()}\n".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 500 if unhealthy else 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
