"""Warm-up: the app answers some requests inside its new worker before that says ready. Loaded by the adapter.

Plain standard library from Python 3.9 on; asyncio is imported by the worker class before anything here needs it.
"""

import sys
from typing import Any, Callable, Dict, List


class WarmUpFailed(Exception):
    pass


def warm_up(
    worker: Any, state: Dict[str, Any], paths: List[str], ready: Callable[[], None], fail: Callable[[str, BaseException], None]
) -> None:
    """Let the app answer every warm-up request, then say ready. WSGI at once, ASGI as a task of the running loop."""
    asyncio = sys.modules.get("asyncio")
    loop = asyncio._get_running_loop() if asyncio is not None else None
    if not paths:
        ready()
    elif loop is None:
        try:
            for path in paths:
                warm_up_wsgi(worker, path)
        except BaseException as error:
            fail(path, error)
        ready()
    else:
        app = getattr(getattr(worker, "config", None), "loaded_app", None) or getattr(worker, "asgi", None) or worker.wsgi
        lifespan = state["lifespan"]
        shared = lifespan.state if lifespan is not None else getattr(worker, "state", {})

        async def all_paths() -> None:
            path = None
            try:
                for path in paths:
                    await warm_up_asgi(app, path, dict(shared))
            except BaseException as error:
                fail(path, error)
            ready()

        state["task"] = loop.create_task(all_paths())


def check_status(status: int) -> None:
    if not 200 <= status < 400:
        raise WarmUpFailed("the app answered %d" % status)


def warm_up_wsgi(worker: Any, path: str) -> None:
    import io

    path_info, _, query = path.partition("?")
    environ = {
        "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path_info, "QUERY_STRING": query, "RAW_URI": path,
        "SERVER_NAME": "localhost", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "localhost", "HTTP_USER_AGENT": "einhornpy-warm-up", "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr, "wsgi.multithread": False,
        "wsgi.multiprocess": True, "wsgi.run_once": False,
    }
    answered: List[int] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], None]:
        answered.append(int(status.split()[0]))
        return lambda data: None

    body = worker.wsgi(environ, start_response)
    try:
        for _ in body:
            pass
    finally:
        if hasattr(body, "close"):
            body.close()
    if not answered:
        raise WarmUpFailed("the app never called start_response")
    check_status(answered[-1])


async def warm_up_asgi(app: Any, path: str, shared: Dict[str, Any]) -> None:
    path_info, _, query = path.partition("?")
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": path_info, "raw_path": path_info.encode(), "query_string": query.encode(),
        "root_path": "", "headers": [(b"host", b"localhost"), (b"user-agent", b"einhornpy-warm-up")],
        "client": ("127.0.0.1", 0), "server": ("localhost", 80), "state": shared,
    }
    answered: List[int] = []
    sent: List[bool] = []

    async def receive() -> Dict[str, Any]:
        if sent:
            return {"type": "http.disconnect"}
        sent.append(True)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answered.append(message["status"])

    await app(scope, receive, send)
    if not answered:
        raise WarmUpFailed("the app never started a response")
    check_status(answered[-1])
