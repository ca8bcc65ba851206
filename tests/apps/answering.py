"""Answers in every way that is counted, as a WSGI and as an ASGI app: by the path."""

import time

BIG = b"x" * 1_000_000
STATUS = {"/ok": "200 OK", "/moved": "302 Found", "/missing": "404 Not Found", "/500": "500 Oh",
          "/slow": "200 OK", "/big": "200 OK"}


def body(path):
    return BIG if path == "/big" else b"well"


def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/fails":
        raise RuntimeError("by intent")
    if path == "/broken-pipe":
        raise BrokenPipeError(32, "of the database")
    if path in ("/half", "/endless"):
        return pieces(path, start_response)
    if path == "/slow":
        time.sleep(0.05)
    content = body(path)
    start_response(STATUS[path], [("Content-Length", str(len(content)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [content]


def pieces(path, start_response):
    start_response("200 OK", [])
    yield b"piece"
    if path == "/half":
        raise RuntimeError("in the middle")
    while True:
        yield BIG


def storm():
    import tornado.web

    class Answer(tornado.web.RequestHandler):
        async def get(self, path):
            if path == "/fails":
                raise RuntimeError("by intent")
            if path in ("/half", "/endless"):
                self.write(b"piece")
                await self.flush()
                while path == "/endless":
                    self.write(BIG)
                    await self.flush()
                raise RuntimeError("in the middle")
            if path == "/slow":
                time.sleep(0.05)
            self.set_status(int(STATUS[path].split()[0]))
            if self.request.method == "GET":
                self.write(body(path))

        head = get

    return tornado.web.Application([("(.*)", Answer)])


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    path = scope["path"]
    if scope["type"] == "websocket":
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "text": "well"})
        return
    if path == "/fails":
        raise RuntimeError("by intent")
    if path == "/broken-pipe":
        raise BrokenPipeError(32, "of the database")
    if path == "/slow":
        time.sleep(0.05)
    endless = path in ("/half", "/endless")
    content = b"piece" if endless else body(path)
    status = 200 if endless else int(STATUS[path].split()[0])
    headers = [] if endless else [(b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": endless})
    if path == "/half":
        raise RuntimeError("in the middle")
    if endless:
        await receive()
        while (await receive())["type"] != "http.disconnect":
            pass
