"""How a worker leaves well: the little that gunicorn's and uvicorn's own workers lack. Loaded by
the adapter.

They answer what was begun, and what still comes on a kept-alive connection, with `Connection:
close`. But

- uvicorn closes idle connections and websockets the moment it is asked to go, which resets whoever
  has just sent something;
- gunicorn's ASGI worker closes connections that it had just promised to keep, and looks for them
  before the loop has shown it those that it accepted a moment ago;
- asyncio drops those whom it accepted in the very turn in which its server is closed (see
  accepting.py);
- neither of the ASGI workers waits for a TLS handshake that has begun, and gevent forgets what to
  do with the connection after it;
- neither of the ASGI workers ends websockets politely when the time is over.

sync needs nothing; for gthread see gunicorn_lingering.py, for HTTP/2 gunicorn_http2.py.

Plain standard library from Python 3.9 on; asyncio is imported by the worker class before anything
here needs it.
"""

import sys
from typing import Any, Callable, Dict, Set

from .accepting import announcing_the_end, handshakes, stop_listening, tls_options

# RFC 6455, section 7.4.1, as registered since: the service restarts.
SERVICE_RESTART = 1012
# Until so long after the listeners are closed, the loop may show connections that were accepted
# before.
SETTLE_SECONDS = 0.05
# So long a TLS handshake that has begun may take: some round trips.
HANDSHAKE_SECONDS = 3.0


class Draining:
    """One worker's. `timeout`: seconds that requests get; just before, websockets are closed."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.retiring = False
        self.deadline = 0.0
        self.websockets: Set[Any] = set()
        # What is to be done again and again meanwhile, and once more when the time is over.
        self.look: Callable[[bool], None] = lambda time_is_over: None

    def around(self, app: Any) -> Any:
        """An ASGI app around `app`: its answers announce the end while we retire, and its
        websockets are known."""

        async def drained(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "websocket":
                self.websockets.add(send)
                try:
                    await app(scope, receive, send)
                finally:
                    self.websockets.discard(send)
            elif scope["type"] == "http" and not scope["http_version"].startswith("2"):
                await app(scope, receive, self.announcing(send))
            else:
                await app(scope, receive, send)

        return drained

    def announcing(self, send: Any) -> Any:
        async def announce(message: Dict[str, Any]) -> None:
            await send(announcing_the_end(message) if self.retiring else message)

        return announce

    async def begin(self, servers: Any) -> None:
        """Stop listening, and get to know whoever was accepted before."""
        asyncio = sys.modules["asyncio"]
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.retiring = True
        self.deadline = began + self.timeout
        loop.call_at(self.deadline - min(1.0, self.timeout / 10),
                     lambda: asyncio.ensure_future(self.close_websockets()))
        stop_listening(loop, servers)
        await asyncio.sleep(SETTLE_SECONDS)
        until = began + min(HANDSHAKE_SECONDS, self.timeout / 2)
        while handshakes(loop) and loop.time() < until:
            self.look(False)
            await asyncio.sleep(SETTLE_SECONDS)

    async def close_websockets(self) -> None:
        for send in list(self.websockets):
            try:
                await send({
                    "type": "websocket.close", "code": SERVICE_RESTART,
                    "reason": "the server restarts"})
            except Exception:
                pass  # it has just been closed from elsewhere


def mend(worker: Any, draining: Draining) -> None:
    """Install what the class of `worker` needs; called before it serves."""
    if hasattr(getattr(worker, "config", None), "load"):
        mend_uvicorn(worker, draining)
    elif hasattr(worker, "_shutdown"):
        mend_gunicorn_asgi(worker, draining)
    elif "gevent.baseserver" in sys.modules:
        mend_gevent(sys.modules["gevent.baseserver"].BaseServer)


def mend_gevent(server: Any) -> None:
    close = server.close

    def close_and_know_what_to_do(closing: Any) -> None:
        handle = closing.__dict__.get("handle")
        close(closing)
        if handle is not None:
            closing.handle = handle

    server.close = close_and_know_what_to_do


def mend_gunicorn_asgi(worker: Any, draining: Draining) -> None:
    asyncio = sys.modules["asyncio"]
    handle_exit_signal, shutdown = worker.handle_exit_signal, worker._shutdown
    tasks = []

    async def leave() -> None:
        await draining.begin(worker.servers)
        # As soon as `alive` is false, gunicorn closes a connection after an answer that had
        # promised to keep it. So that comes last: until then our own header ends each connection.
        # It is noticed within a second.
        last = draining.deadline - min(1.0, draining.timeout / 2)
        while worker.nr_conns > 0 and worker.loop.time() < last:
            draining.look(False)
            await asyncio.sleep(SETTLE_SECONDS)
        draining.look(True)
        handle_exit_signal()

    def begin_at_once() -> None:
        if draining.retiring:
            handle_exit_signal()
        else:
            tasks.append(worker.loop.create_task(leave()))

    async def shutdown_in_time() -> None:
        if draining.retiring:
            # Closed long ago. From Python 3.12 on, waiting for that is waiting for their
            # connections: half a second beyond the time.
            worker.servers.clear()
            worker.cfg.settings["graceful_timeout"].value = max(
                0.0, draining.deadline - worker.loop.time())
        await shutdown()

    set_up_loop = worker._setup_event_loop

    def set_up_loop_for_tls() -> None:
        set_up_loop()
        create_server = worker.loop.create_server
        worker.loop.create_server = lambda *arguments, **options: create_server(
            *arguments, **tls_options(options))

    worker._setup_event_loop = set_up_loop_for_tls
    worker.handle_exit_signal = begin_at_once
    worker._shutdown = shutdown_in_time


def mend_uvicorn(worker: Any, draining: Draining) -> None:
    from uvicorn.server import Server

    shutdown: Callable[..., Any] = Server.shutdown

    async def gentle_shutdown(server: Any, sockets: Any = None) -> None:
        await draining.begin(server.servers)
        # uvicorn would wait for ever for whoever doesn't end, until SIGKILL.
        left = draining.deadline - sys.modules["asyncio"].get_running_loop().time()
        worker.config.timeout_graceful_shutdown = max(0.0, left)
        for connection in list(server.server_state.connections):
            linger(connection)
        await shutdown(server, sockets)

    setattr(Server, "shutdown", gentle_shutdown)  # noqa: B010


def linger(connection: Any) -> None:
    """Keep uvicorn from closing a connection at once. A websocket stays until `close_websockets`. A
    kept-alive one is closed by its own timer, unless another request comes, whose answer ends it;
    one that never had a request gets such a timer."""
    connection.shutdown = lambda: None
    if not hasattr(connection, "cycle"):
        return

    def close_if_unused() -> None:
        if connection.cycle is None and not connection.transport.is_closing():
            connection.transport.close()

    if connection.cycle is None:
        connection.loop.call_later(connection.timeout_keep_alive, close_if_unused)
