"""An ASGI app that answers with its pid; /held holds the whole loop until somebody has written to
the FIFO $FIFO."""

import os


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/held":
        with open(os.environ["FIFO"]) as fifo:
            fifo.read()
    body = f"{os.getpid()}\n".encode()
    await send({
        "type": "http.response.start", "status": 200,
        "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
