"""Answers in every way that is counted: by the path, as a WSGI and as an ASGI app, and websockets.
`/streamed` takes 0.3 s until its end, `/held` until there is a file `end`."""

import asyncio
import os
import time

CLASSES = {"/ok": 200, "/missing": 404, "/500": 500}
PIECES = [b"piece "] * 3


def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/fails":
        raise RuntimeError("by intent")
    status = CLASSES.get(path, 200)
    start_response(f"{status} Whatever", [] if path not in CLASSES else [("Content-Length", "4")])
    return [b"well"] if path in CLASSES else pieces(path)


def pieces(path):
    for piece in PIECES:
        time.sleep(0.1)
        yield piece
    while path == "/endless":
        yield b"x" * 1_000_000


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await (websocket if scope["type"] == "websocket" else http)(scope["path"], receive, send)


async def http(path, receive, send):
    if path == "/fails":
        raise RuntimeError("by intent")
    status = CLASSES.get(path, 200)
    await send({"type": "http.response.start", "status": status, "headers": []})
    if path in CLASSES:
        await send({"type": "http.response.body", "body": b"well"})
        return
    for piece in PIECES:
        await asyncio.sleep(0.1 if path == "/streamed" else 0)
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    if path == "/endless":
        await receive()
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    while path == "/held" and not os.path.exists("end"):
        await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": b""})


async def websocket(path, receive, send):
    assert (await receive())["type"] == "websocket.connect"
    if path == "/fails":
        raise RuntimeError("by intent")
    if path == "/refused":
        await send({"type": "websocket.close"})
        await asyncio.sleep(0.3)  # nobody waits for that
        return
    await send({"type": "websocket.accept"})
    if path == "/fails-later":
        assert (await receive())["type"] == "websocket.receive"
        raise RuntimeError("by intent")
    while (await receive())["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "text": "well"})
    if path == "/raises-at-its-end":  # as Starlette does
        raise RuntimeError("the client has left")
