"""Worker classes as others write them for gunicorn, and apps for them. Each class is one way to
keep, or not to keep, what gunicorn asks of a worker."""

import asyncio
import os
import select
import signal
import socket
import time

from gunicorn.workers.base import Worker
from gunicorn.workers.sync import SyncWorker


def wsgi(environ, start_response):
    time.sleep(float(environ["PATH_INFO"].partition("/slow/")[2] or 0))
    body = f"{os.environ.get('EINHORNPY_GENERATION')} {os.getpid()}\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


class Own(Worker):
    """A whole server of its own kind: it takes a listener, speaks HTTP and beats by itself, as
    meinheld's does; its `run` is all that gunicorn asks for."""

    def run(self):
        for listener in self.sockets:
            listener.setblocking(False)
        while self.alive:
            self.beat()
            readable, _, _ = select.select([*self.sockets, self.PIPE[0]], [], [], 1.0)
            for listener in readable:
                if listener is not self.PIPE[0]:
                    self.answer(listener)

    def beat(self):
        self.notify()

    def answer(self, listener):
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            return
        with client:
            client.settimeout(5)
            head = b""
            while b"\r\n\r\n" not in head:
                chunk = client.recv(65536)
                if not chunk:
                    return
                head += chunk
            told = []
            environ = {"PATH_INFO": head.split()[1].decode(), "REQUEST_METHOD": "GET"}
            body = b"".join(self.wsgi(environ, lambda *given: told.append(given)))
            lines = [f"HTTP/1.1 {told[0][0]}", "Connection: close",
                     *(f"{name}: {value}" for name, value in told[0][1])]
            client.sendall("\r\n".join([*lines, "", ""]).encode() + body)
            client.shutdown(socket.SHUT_WR)


class OwnProcess(Own):
    """Its own `init_process`, in which it does what the base class does, and opens something."""

    def init_process(self):
        self.opened = os.open("/dev/null", os.O_RDONLY)
        super().init_process()


class OwnSignals(SyncWorker):
    """Its own `init_signals`, which calls nobody else's."""

    def init_signals(self):
        signal.signal(signal.SIGTERM, self.handle_exit)
        signal.signal(signal.SIGINT, self.handle_quit)
        signal.set_wakeup_fd(self.PIPE[1])


class Silent(Own):
    """Never calls `notify`, as a server in C that knows nothing of gunicorn."""

    def beat(self):
        pass


class LateSilent(Own):
    """The same, but its code looks as if it did."""

    def beat(self):
        if self.app is None:
            self.notify()


class Compiled(Silent):
    """The same, but one of its methods can't be read."""

    append = bytearray.append


class Calls(Silent):
    """It calls what it overrides."""

    def beat(self):
        Own.beat(self)


class ByName(Silent):
    def beat(self):
        getattr(self, "notify")()  # noqa: B009


class WithoutReadyPath(Own):
    """Its `init_process` never comes to that of gunicorn's: no app is imported, nobody runs."""

    def init_process(self):
        pass


class Deaf(Own):
    """Goes on when it is asked to go."""

    def init_signals(self):
        super().init_signals()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Careless(Own):
    """Leaves SIGTERM to the kernel, which ends it in the middle of a request."""

    def init_signals(self):
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)


class Choosy(Own):
    """Whose check_config refuses."""

    @classmethod
    def check_config(cls, cfg, log):
        raise RuntimeError("it wants threads = 1, and nothing else")


def tornado_app():
    import tornado.web

    class Main(tornado.web.RequestHandler):
        async def get(self):
            await asyncio.sleep(float(self.request.path.partition("/slow/")[2] or 0))
            self.write(f"{os.environ.get('EINHORNPY_GENERATION')} {os.getpid()}\n")

    return tornado.web.Application([(".*", Main)])


async def aiohttp_app():
    from aiohttp import web

    async def answer(request):
        await asyncio.sleep(float(request.path.partition("/slow/")[2] or 0))
        return web.Response(text=f"{os.environ.get('EINHORNPY_GENERATION')} {os.getpid()}\n")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    return app
