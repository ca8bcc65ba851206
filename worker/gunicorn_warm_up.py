"""Warm-up: the app answers some requests inside its new worker before that says ready. Loaded by
the adapter.

What is given is a path, asked as one of http://localhost, or a whole URL, asked as a proxy in front
would: with its Host, its scheme and X-Forwarded-Proto. Redirects are followed within the app, since
a 302 says nothing about the page behind it.

Plain standard library from Python 3.9 on; asyncio is imported by the worker class before anything
here needs it.
"""

import io
import os
import re
import sys
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple
from urllib.parse import quote, unquote_to_bytes, urldefrag, urljoin, urlsplit
from wsgiref.util import FileWrapper

MOST_REDIRECTS = 5
DEFAULT_PORTS = {"http": 80, "https": 443}
# Names and values that servers send as headers; for others the client gets a 500. gunicorn's WSGI
# takes what RFC 9110 does (5.1, 5.5), and among ASGI's servers are some that take almost all.
SENDABLE: Dict[type, Any] = {
    str: (re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"), re.compile(r"[ \t\x21-\x7e\x80-\xff]*")),
    bytes: (re.compile(r"[^\0\r\n: ]+"), re.compile(r"[^\0\r\n]*")),
}
# What an app has imported that is made with one of these; the first one found is its name.
FRAMEWORKS = (("django", "django.core.handlers.base"), ("fastapi", "fastapi.applications"),
              ("flask", "flask.app"))


class AsgiApp:
    """What a warm-up must know of an ASGI app. `asgi`: the app itself, as a warm-up asks it.
    `lifespan`: uvicorn's."""

    def __init__(self) -> None:
        self.asgi: Optional[Any] = None
        self.lifespan: Optional[Any] = None
        self.warm_up: Optional[Any] = None  # the task: the loop alone would let it be collected


class WarmUpFailed(Exception):
    pass


def framework() -> Optional[str]:
    """What the app of this process is made with, as far as it can be told."""
    return next((name for name, module in FRAMEWORKS if module in sys.modules), None)


def warm_up(worker: Any, asgi_app: AsgiApp, wanted: List[str], ready: Callable[[], None],
            fail: Callable[[str, BaseException], None]) -> None:
    """Let the app answer every warm-up request, then say ready. WSGI at once, ASGI as a task of the
    running loop."""
    asgi = asgi_app.asgi or getattr(worker, "asgi", None)
    if not wanted:
        ready()
    elif asgi is None:
        try:
            for given in wanted:
                warm_up_wsgi(worker.wsgi, given)
        except BaseException as error:
            fail(given, error)
        ready()
    else:
        lifespan = asgi_app.lifespan
        shared = lifespan.state if lifespan is not None else getattr(worker, "state", {})
        root = getattr(getattr(worker, "config", worker.cfg), "root_path", "")

        async def ask_all() -> None:
            given = ""
            try:
                for given in wanted:
                    course = Course(given)
                    while not course.is_over(*await ask_asgi(asgi, course.url, root, dict(shared))):
                        pass
            except BaseException as error:
                fail(given, error)
            ready()

        asgi_app.warm_up = sys.modules["asyncio"].get_running_loop().create_task(ask_all())


def warm_up_wsgi(app: Any, given: str) -> None:
    """Let a WSGI app answer one warm-up request.

    Raises:
        WarmUpFailed: it did not answer it well; or whatever the app raises.
    """
    course = Course(given)
    while not course.is_over(*ask_wsgi(app, course.url)):
        pass


class Course:
    """One warm-up through its redirects. `url`: what to ask next."""

    def __init__(self, given: str) -> None:
        self.path = given if given.startswith("/") else None
        self.url = "http://localhost" + given if self.path else given
        self.asked = [self.url]

    def is_over(self, status: int, location: Optional[str]) -> bool:
        """Whether this answer is a good one; otherwise `url` is where it leads.

        Raises:
            WarmUpFailed: it is a bad one, or leads nowhere where the app could be asked.
        """
        if 200 <= status < 300:
            return True
        if not 300 <= status < 400:
            raise WarmUpFailed("the app answered %d%s%s" %
                               (status, self.whither(), self.about_hosts(status)))
        if location is None:
            raise WarmUpFailed("the app answered %d, which leads nowhere%s" %
                               (status, self.whither()))
        plain = quote(location.encode("latin-1", "replace"), safe="%/:=&?~#+!$,;'@()*[]")
        self.follow(status, urldefrag(urljoin(self.url, plain)).url)
        return False

    def follow(self, status: int, url: str) -> None:
        here, there = origin(self.url), origin(url)
        # Queries of strangers' pages may hold what is no business of the log's.
        leads = "the app answered %d, which leads to %s" % (status, url.partition("?")[0])
        if there[0] not in DEFAULT_PORTS or (here[0], there[0]) == ("https", "http"):
            raise WarmUpFailed("%s, away from %s" % (leads, here[0]))
        if here[1] != there[1]:
            own = "; if that is its own, type --warm-up %s://%s%s" % (
                *there, self.path) if self.path else ""
            raise WarmUpFailed("%s, on another host, and only this app can be asked%s" %
                               (leads, own))
        self.asked.append(url)
        if url in self.asked[:-1]:
            raise WarmUpFailed("the app answers in a circle: %s" % " -> ".join(self.asked))
        if len(self.asked) > MOST_REDIRECTS + 1:
            raise WarmUpFailed("the app answers with more than %d redirects: %s" %
                               (MOST_REDIRECTS, " -> ".join(self.asked)))
        self.url = url

    def whither(self) -> str:
        return " to %s, where it had led" % self.url if len(self.asked) > 1 else ""

    def about_hosts(self, status: int) -> str:
        """What to say besides, if this is what those answer that serve known hosts only."""
        if status not in (400, 421):
            return ""
        host = origin(self.url)[1]
        type_this = "type --warm-up https://%s%s" % (
            host_served(), self.path) if self.path else "is that one of its hosts?"
        return (
            " to Host: %s, as apps do that serve known hosts only (Django's ALLOWED_HOSTS, "
            "Starlette's "
            "TrustedHostMiddleware): %s" % (host, type_this))


def origin(url: str) -> Tuple[str, str]:
    """The scheme of a URL, and its host and port as they stand in a Host header, without a port
    that goes without saying."""
    parts = urlsplit(url)
    host, default = parts.netloc.lower(), ":%d" % DEFAULT_PORTS.get(parts.scheme, 0)
    return parts.scheme, host[: -len(default)] if host.endswith(default) else host


def host_served() -> str:
    """A host that Django's settings name, if this is Django; otherwise the word HOST."""
    try:
        names = [name.lstrip(".") for name in sys.modules["django.conf"].settings.ALLOWED_HOSTS]
    except Exception:
        names = []
    return next((name for name in names if name and "*" not in name), "HOST")


def ask_wsgi(app: Any, url: str) -> Tuple[int, Optional[str]]:
    """Let a WSGI app answer; return the status and what Location says."""
    parts, (scheme, host) = urlsplit(url), origin(url)
    app = getattr(app, "wsgi_application", app)  # tornado's container of one
    if hasattr(app, "start_request"):
        raise WarmUpFailed(
            "a tornado.web.Application speaks no WSGI, so it can't be asked from inside: leave "
            "--warm-up out"
        )
    # As gunicorn does it; see its http/wsgi.py.
    script_name = os.environ.get("SCRIPT_NAME", "")
    path = parts.path or "/"
    if script_name and path.startswith(script_name):
        path = path[len(script_name):]
    environ = {
        "REQUEST_METHOD": "GET", "SCRIPT_NAME": script_name,
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"), "QUERY_STRING": parts.query,
        "RAW_URI": target(parts), "SERVER_NAME": parts.hostname or "",
        "SERVER_PORT": str(parts.port or DEFAULT_PORTS[scheme]), "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": host, "HTTP_USER_AGENT": "einhornpy-warm-up",
        "HTTP_X_FORWARDED_PROTO": scheme, "wsgi.version": (1, 0), "wsgi.url_scheme": scheme,
        "wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr, "wsgi.multithread": False,
        "wsgi.multiprocess": True, "wsgi.run_once": False, "wsgi.file_wrapper": FileWrapper,
        "wsgi.input_terminated": True, "wsgi.early_hints": lambda headers: None, "REMOTE_PORT": "0",
        "SERVER_SOFTWARE": "gunicorn",}
    answers: List[Tuple[int, Optional[str]]] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], None]:
        if answers and exc_info is None:
            raise WarmUpFailed("the app called start_response twice")
        answers.append((int(status.split()[0]), location_in(sendable(headers, str))))
        return write

    def write(chunk: Any) -> None:
        if not isinstance(chunk, bytes):
            raise WarmUpFailed("the app's body holds %s, expected bytes" % type(chunk).__name__)
        if not answers:
            raise WarmUpFailed("the app began a body before it called start_response")

    body = app(environ, start_response)
    try:
        for chunk in body:
            write(chunk)
    finally:
        if hasattr(body, "close"):
            body.close()
    if not answers:
        raise WarmUpFailed("the app never called start_response")
    return answers[-1]


async def ask_asgi(app: Any, url: str, root: str, shared: Dict[str,
                                                               Any]) -> Tuple[int, Optional[str]]:
    """Let an ASGI app answer; return the status and what Location says. `root`: under which path it
    is served."""
    parts, (scheme, host) = urlsplit(url), origin(url)
    path, raw_path = unquote_to_bytes(parts.path
                                      or "/").decode(errors="replace"), (parts.path
                                                                         or "/").encode()
    if not path.startswith(root):
        path, raw_path = root + path, root.encode() + raw_path
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
        "method": "GET", "scheme": scheme, "path": path, "raw_path": raw_path,
        "query_string": parts.query.encode(), "root_path": root, "headers": [
            (b"host", host.encode()), (b"user-agent", b"einhornpy-warm-up"),
            (b"x-forwarded-proto", scheme.encode())], "client": ("127.0.0.1", 0),
        "server": (parts.hostname, parts.port or DEFAULT_PORTS[scheme]), "state": shared,}
    answers: List[Tuple[int, Optional[str]]] = []
    asked: List[bool] = []
    faults: List[WarmUpFailed] = []
    over = sys.modules["asyncio"].Event()

    async def receive() -> Dict[str, Any]:
        if asked:
            # Django and Starlette listen for this all the time, and give up when it comes.
            await over.wait()
            return {"type": "http.disconnect"}
        asked.append(True)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Dict[str, Any]) -> None:
        try:
            take(message)
        except WarmUpFailed as error:
            faults.append(error)  # the app may make nothing of it, but its client would
            raise

    def take(message: Dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answers.append(
                (message["status"], location_in(sendable(message.get("headers", ()), bytes))))
        elif message["type"] == "http.response.body":
            if not answers:
                raise WarmUpFailed("the app began a body before it started a response")
            chunk = message.get("body", b"")
            if not isinstance(chunk, (bytes, bytearray, memoryview)):
                raise WarmUpFailed("the app's body holds %s, expected bytes" % type(chunk).__name__)
            if not message.get("more_body", False):
                over.set()

    await app(scope, receive, send)
    if faults:
        raise faults[0]
    if not answers:
        raise WarmUpFailed("the app never started a response")
    if not over.is_set():
        raise WarmUpFailed("the app answered %s, and never ended its body" % answers[-1][0])
    return answers[-1]


def target(parts: Any) -> str:
    return (parts.path or "/") + ("?" + parts.query if parts.query else "")


def sendable(headers: Iterable[Tuple[Any, Any]], kind: type) -> List[Tuple[str, str]]:
    """An app's headers as texts.

    Raises:
        WarmUpFailed: there is one that a server would not send.
    """
    told = []
    for_names, for_values = SENDABLE[kind]
    for name, value in headers:
        shown = plain("a header's name", name, kind, for_names)
        told.append((shown, plain("header %s" % shown, value, kind, for_values)))
    return told


def plain(what: str, told: Any, kind: type, form: Any) -> str:
    if not isinstance(told, kind):
        raise WarmUpFailed("%s is of type %s, expected %s" %
                           (what, type(told).__name__, kind.__name__))
    text = told.decode("latin-1") if isinstance(told, bytes) else str(told)
    if not form.fullmatch(text):  # it isn't told: it may be secret
        raise WarmUpFailed("%s holds what no header may hold" % what)
    return text


def location_in(headers: Iterable[Tuple[str, str]]) -> Optional[str]:
    return next((value for name, value in headers if name.lower() == "location"), None)
