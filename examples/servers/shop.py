"""An ASGI app with a lifespan: / answers with its generation and pid, /slow/0.2 takes 0.2 s, BROKEN=startup fails its startup."""

import asyncio
import os


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        if os.environ.get("BROKEN") == "startup":
            raise RuntimeError("no database")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "http":
        await asyncio.sleep(float(scope["path"].partition("/slow/")[2] or 0))
        body = f"{os.environ['EINHORNPY_GENERATION']} {os.getpid()}\n".encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})
