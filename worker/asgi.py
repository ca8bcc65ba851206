"""Lets an ASGI app under uvicorn or hypercorn say ready by itself, and lose nobody when it is asked
to leave.

In code: `app = ready_when_started(app)`. Without touching the app: serve
`einhornpy.worker.asgi:app` and name yours in EINHORNPY_ASGI_APP=module:attribute. Standard library
from Python 3.9 on; the server must run in this very process.

It reaches no server's insides, but for a limit of requests (asgi_limit.py) and hypercorn's graceful
timeout (asgi_http2.py): it waits for `loop.create_server`, takes SIGTERM by the loop and hands it
on as SIGINT. So it holds for any asyncio server that leaves on SIGINT, in any version.
"""

import asyncio
import importlib
import os
import signal
import sys
import time
import traceback
from typing import Any, Awaitable, Callable, List

from . import _notify, asgi_counting, asgi_http2, info, own_page, ready
from .accepting import announcing_the_end, stop_listening, tls_options
from .asgi_limit import Limit

__all__ = ["ready_when_started"]

App = Callable[[Any, Any, Any], Awaitable[None]]
# What uvicorn and hypercorn give an idle connection, unless told otherwise.
KEEP_ALIVE = 5.0
# A connection that was accepted last may still have to send its first request.
LEAST_LINGER = 1.0


def ready_when_started(app: App, keep_alive: float = KEEP_ALIVE) -> App:
    """Return an ASGI app that does what `app` does and, in a worker of einhornpy's,

    - says ready when the startup of `app` is complete (or it knows no lifespan) and the server then
      listens;
    - fails the start when the startup raises, where the servers would go on without lifespan;
    - on SIGTERM, SIGUSR2 or the master's `--stop-signal` (SIGINT is the server's) accepts nobody
      any more, ends each answer with `Connection: close` and each HTTP/2 connection with a GOAWAY,
      and sends the server the SIGINT on which it leaves only when the connections that it promised
      to keep are over;
    - counts what it answers, for the master to read;
    - takes over the server's limit of requests (uvicorn's --limit-max-requests, hypercorn's
      --max-requests): having served so many, it asks for a replacement and serves on until then.

    In any other process, and under gunicorn, where the adapter does it, nothing is different.

    Args:
        keep_alive: seconds after which the server closes an idle connection.
    """
    async def serve(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            version = scope.get("http_version", "1.1")
            request = asgi_http2.request_begun() if version.startswith("2") else None
            try:
                await app(scope, receive, worker.answering(scope, send, request))
            finally:
                if request is not None:
                    request.over()
                worker.limit.served_one()
        else:
            await app(scope, receive, send)

    worker = _Worker(keep_alive, serve)

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await worker.live(app, scope, receive, send)
        else:
            await worker.serve(scope, receive, send)

    return wrapped


class _Worker:
    """This process, as far as one app knows it. `serve`: what serves requests and websockets,
    counted as soon as this is known to be a worker."""

    def __init__(self, keep_alive: float, serve: App) -> None:
        self.keep_alive, self.serve = keep_alive, serve
        self.servers: List[Any] = []
        self.http2 = asgi_http2.Goodbyes()
        self.config: Any = None  # the server's
        self.limit = Limit(lambda reason: _notify(b"X_EINHORNPY_DUE=" + reason.encode()))
        self.retiring = self.left = False
        # when the last answer ended that promised to keep its connection
        self.promised = float("-inf")

    async def live(self, app: App, scope: Any, receive: Any, send: Any) -> None:
        """Pass the lifespan on, and look at how the startup ends."""
        asked = answered = False

        async def ask() -> Any:
            nonlocal asked
            message = await receive()
            asked = True
            return message

        async def answer(message: Any) -> None:
            nonlocal answered
            answered = True
            if message["type"] == "lifespan.startup.complete":
                self.started(receive)
            await send(message)

        try:
            await app(scope, ask, answer)
        except Exception:
            if asked and not answered:
                # The servers would take it for an app that knows no lifespan, and serve.
                await send({"type": "lifespan.startup.failed", "message": traceback.format_exc()})
            elif not answered:
                self.started(receive)
            raise
        if not answered:
            self.started(receive)

    def started(self, receive: Any) -> None:
        """The app is: say ready as soon as the server listens, which is its next step, and take
        over the retiring. `receive`: what the server gave the lifespan."""
        if info() is None:
            if "EINHORN_MASTER_PID" in os.environ:
                print(
                    "einhornpy: not ready: pid %d serves, but is a child of the worker; run the "
                    "server with one process"
                    % os.getpid(), file=sys.stderr, flush=True)
            return
        if os.path.basename(getattr(sys.modules["__main__"], "__file__", None)
                            or "") == "gunicorn_adapter.py":
            return
        page = own_page.open_page(_notify, busy=True)
        if page is not None:
            self.serve = asgi_counting.counted(self.serve, page.busy, page.traffic)
        self.config = getattr(getattr(receive, "__self__", None), "config", None)
        self.limit.take_over(self.config)
        try:
            loop: Any = asyncio.get_running_loop()
        except RuntimeError:  # trio
            ready()
            return
        create_server = loop.create_server

        async def create_and_say(factory: Any, *arguments: Any, **options: Any) -> Any:
            server = await create_server(self.http2.around(factory), *arguments,
                                         **tls_options(options))
            self.servers.append(server)
            ready()
            return server

        loop.create_server = create_and_say
        for name in {"SIGTERM", "SIGUSR2",
                     os.environ.get("EINHORNPY_RETIRE_SIGNAL", "SIGTERM")} - {"SIGINT"}:
            loop.add_signal_handler(signal.Signals[name], self.retire, loop)

    def retire(self, loop: Any) -> None:
        if self.retiring:
            self.leave()  # asked twice: somebody is in a hurry
            return
        self.retiring = True
        stop_listening(loop, self.servers)
        self.http2.begin(loop)
        self.linger(loop, LEAST_LINGER)

    def linger(self, loop: Any, least: float = 0.0) -> None:
        """Leave when the last promise is over: an answer that began before we were asked to go may
        still make one."""
        left = max(least, self.promised + self.keep_alive - time.monotonic())
        if left > 0:
            loop.call_later(left, self.linger, loop)
        else:
            self.http2.when_finished(loop, self.config, self.leave)

    def leave(self) -> None:
        if not self.left:
            self.left = True
            signal.raise_signal(signal.SIGINT)

    def answering(self, scope: Any, send: Any, request: Any) -> Any:
        """`send` for one request: it announces the end while we retire, else it notes the
        promise. `request`: as HTTP/2 knows it."""
        version = scope.get("http_version", "1.1")
        http1 = version in ("1.0", "1.1")
        ends = version == "1.0" or (b"connection", b"close") in [
            (name, value.lower()) for name, value in scope["headers"]]
        # HTTP/2 has no such header, and whom a GOAWAY will be sent to was promised nothing.
        ends = ends or request is not None

        async def answer(message: Any) -> None:
            nonlocal ends
            if http1 and self.retiring and message["type"] == "http.response.start":
                message, ends = announcing_the_end(message), True
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body",
                                                                           False) and not ends:
                self.promised = time.monotonic()

        return answer


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in (attribute or "app").split("."):
        found = getattr(found, part)
    return found


if "EINHORNPY_ASGI_APP" in os.environ:
    app = ready_when_started(_load(os.environ["EINHORNPY_ASGI_APP"]),
                             float(os.environ.get("EINHORNPY_ASGI_KEEP_ALIVE", KEEP_ALIVE)))
