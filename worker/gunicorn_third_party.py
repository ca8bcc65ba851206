"""How the workers of aiohttp and tornado leave well. Loaded by the template.

Alone they close kept-alive connections the moment they are asked to go, whoever has just sent
something; aiohttp's drops those whom it has just accepted (see accepting.py), and tornado's ends
its loop within two seconds, with whatever is under way.

Plain standard library from Python 3.9 on.
"""

import sys
from typing import Any, Set

from .gunicorn_draining import SETTLE_SECONDS, Draining

# Before the time is over, for what follows when nobody is waited for any more.
LAST_SECONDS = 1.0


def mend(worker: Any, draining: Draining) -> None:
    """Install what the class of `worker` needs; called before it serves."""
    names = {base.__name__ for base in type(worker).__mro__}
    if "GunicornWebWorker" in names:
        mend_aiohttp(worker, draining)
    elif "TornadoWorker" in names:
        mend_tornado(worker, draining)


def mend_aiohttp(worker: Any, draining: Draining) -> None:
    web: Any = sys.modules["aiohttp.web"]
    cleanup = web.BaseRunner.cleanup

    async def leave(runner: Any) -> None:
        if runner.server is not None and not worker.alive and not draining.retiring:
            loop = sys.modules["asyncio"].get_running_loop()
            await draining.begin([
                site._server for site in runner.sites if getattr(site, "_server", None)])
            while runner.server.connections and loop.time() < draining.deadline - LAST_SECONDS:
                await sys.modules["asyncio"].sleep(SETTLE_SECONDS)
            runner._shutdown_timeout = max(0.0, draining.deadline - loop.time())
        await cleanup(runner)

    web.BaseRunner.cleanup = leave
    # What is asked for meanwhile is answered with `Connection: close`.
    web.BaseRequest.keep_alive = property(
        lambda request: not (draining.retiring or request._message.should_close))


def mend_tornado(worker: Any, draining: Draining) -> None:
    server_class: Any = sys.modules["tornado.httpserver"].HTTPServer
    heartbeat, start_request = worker.heartbeat, server_class.start_request
    idle: Set[Any] = set()

    def start(server: Any, server_connection: Any, connection: Any) -> Any:
        delegate = start_request(server, server_connection, connection)
        headers_received = delegate.headers_received

        def received(*arguments: Any) -> Any:
            idle.discard(server_connection)
            return headers_received(*arguments)

        idle.add(server_connection)
        if draining.retiring:
            close_soon(server_connection)
        delegate.headers_received = received
        return delegate

    def close_soon(server_connection: Any) -> None:
        worker.ioloop.call_later(max(1.0, worker.cfg.keepalive), close, server_connection)

    def close(server_connection: Any) -> None:
        if server_connection in idle:
            server_connection.stream.close()

    def leave() -> None:
        """As the worker's own, but for those whom it serves."""
        if worker.alive or not worker.server_alive:
            return heartbeat()  # type: ignore[no-any-return]
        server, loop = worker.server, worker.ioloop
        idle.intersection_update(server._connections)
        if not draining.retiring:
            draining.retiring = True
            draining.deadline = loop.time() + draining.timeout
            server.stop()
            server.conn_params.no_keep_alive = True  # each answer from now on ends its connection
            for each in list(idle):
                close_soon(each)
        if not server._connections or loop.time() >= draining.deadline - LAST_SECONDS:
            worker.server_alive = False
        return None

    server_class.start_request = start
    worker.heartbeat = leave
