"""An ASGI app of long things: /ws echoes, /stream never ends, /app answers with its pid. What ended
is noted in $NOTES."""

import asyncio
import os


def note(text):
    with open(os.environ["NOTES"], "a") as file:
        file.write(text + "\n")


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                note("lifespan over")
                return
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                note(f"websocket over {message.get('code')}")
                return
            await send({"type": "websocket.send", "text": f"{os.getpid()} {message.get('text')}"})
    elif scope["path"] == "/stream":
        await send({
            "type": "http.response.start", "status": 200,
            "headers": [(b"content-type", b"text/plain")]})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"tick\n", "more_body": True})
                await asyncio.sleep(0.05)
        finally:
            note("stream over")
    else:
        body = f"{os.getpid()}\n".encode()
        await send({
            "type": "http.response.start", "status": 200,
            "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})
