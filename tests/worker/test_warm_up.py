"""Warm-up as production needs it: hosts, schemes and redirects, with real Django, Flask and
FastAPI."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from einhornpy.supervisor.settings import parsers
from einhornpy.worker.gunicorn_warm_up import Course, WarmUpFailed, ask_asgi, ask_wsgi

from ..harness import Master, get, wait_until

Start = Callable[..., Master]
DJANGO = """
import django
from django.conf import settings

settings.configure(
    SECRET_KEY="x", ALLOWED_HOSTS=["*.example.org", "shop.example.com"], ROOT_URLCONF="urls", SECURE_SSL_REDIRECT=True,
    SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"), DATABASES={},
    MIDDLEWARE=["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"])
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application

wsgi, asgi = get_wsgi_application(), get_asgi_application()
"""
URLS = """
from django.http import HttpResponse
from django.urls import path

urlpatterns = [path("health/", lambda request: HttpResponse(f"{request.scheme} {request.get_host()}\\n"))]
"""
FLASK = """
from flask import Flask, redirect

app = Flask(__name__)

@app.get("/health")
def health():
    return "well"

@app.get("/old")
def old():
    return redirect("/health")

@app.get("/login")
def login():
    return redirect("https://sso.example.net/?next=%2F")
"""
FASTAPI = """
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

app = FastAPI()
app.add_middleware(TrustedHostMiddleware, allowed_hosts=["shop.example.com"])

@app.get("/items/")
def items():
    return []
"""


@pytest.fixture
def site(place: Path) -> Path:
    for name, text in (("shop.py", DJANGO), ("urls.py", URLS), ("flasky.py", FLASK), ("fast.py",
                                                                                      FASTAPI)):
        (place / name).write_text(text)
    return place


def start_one(start: Start, worker_class: str, app: str, *warm_ups: str) -> Master:
    flags = [word for each in warm_ups for word in ("--warm-up", each)]
    return start("-n", "1", "-b", "127.0.0.1:0", "--max-failures", "1", *flags, "--", "gunicorn",
                 "-k", worker_class, app)


@pytest.mark.parametrize("given",
                         ["/", "/a?b=%20", "https://shop.example.com/", "http://[::1]:8000/x?y"])
def test_paths_and_whole_urls_are_taken(given: str) -> None:
    assert parsers.request(given) == given


@pytest.mark.parametrize("given", [
    "", "x", "https://shop.example.com", "ftp://x/", "https://u:p@x/", "/a b", "/a#b",
    "https://x:0/", "https://x:99999/", "https:///x", "/ä", 7])
def test_nothing_else_is(given: object) -> None:
    with pytest.raises(ValueError,
                       match="a path such as /health, or a URL such as https://HOST/health"):
        parsers.request(given)


DJANGO_CLASSES = [("sync", "shop:wsgi"), ("asgi", "shop:asgi"),
                  ("uvicorn_worker.UvicornWorker", "shop:asgi")]


@pytest.mark.parametrize(("worker_class", "app"), DJANGO_CLASSES)
def test_a_broken_urlconf_is_refused(start: Start, site: Path, worker_class: str, app: str) -> None:
    """Django answers every request with 500 then, and nothing is wrong before the first one."""
    master = start_one(start, worker_class, app, "https://shop.example.com/health/",
                       "http://shop.example.com/health/")
    master.wait_ready()
    (site / "urls.py").write_text("import no_such_module\n")
    result = master.cli("upgrade")
    assert result.returncode == 5
    assert "warm-up https://shop.example.com/health/: " in result.stderr
    assert "no_such_module" in result.stderr or "answered 500" in result.stderr
    assert get(master.address)[0] == 400  # nobody is called `test`; but the good workers answer
    assert master.status()["workers"][0]["generation"] == 1


@pytest.mark.parametrize((
    "worker_class", "app", "given", "why"
), [(
    "sync", "shop:wsgi", "/health/",
    "warm-up /health/: the app answered 400 to Host: localhost, as apps do that serve known hosts "
    "only (Django's ALLOWED_HOSTS, Starlette's TrustedHostMiddleware): type --warm-up "
    "https://shop.example.com/health/"
),
    ("asgi", "fast:app", "/items/",
     "warm-up /items/: the app answered 400 to Host: localhost, as apps do that serve known hosts "
     "only (Django's ALLOWED_HOSTS, Starlette's TrustedHostMiddleware): type --warm-up "
     "https://HOST/items/"
     ),
    ("asgi", "shop:asgi", "https://shop.example.org/health/",
     "the app answered 400 to Host: shop.example.org, as apps do that serve "
     "known hosts only (Django's ALLOWED_HOSTS, Starlette's TrustedHostMiddleware): is that one of "
     "its hosts?"
     ),
    ("gthread", "flasky:app", "/login",
     "the app answered 302, which leads to https://sso.example.net/, on another host, "
     "and only this app can be asked; if that is its own, type --warm-up "
     "https://sso.example.net/login"
     ), ("gthread", "flasky:app", "/nothing", "warm-up /nothing: the app answered 404"),])
def test_what_is_wrong_is_named(start: Start, site: Path, worker_class: str, app: str, given: str,
                                why: str) -> None:
    master = start_one(start, worker_class, app, given)
    assert master.wait_exit() == 3
    assert why in master.log()


@pytest.mark.parametrize(
    ("worker_class", "app", "given"),
    [
        ("gevent", "flasky:app", ["/health", "/old", "https://shop.example.com:8443/old"]),
        ("asgi", "fast:app", ["https://shop.example.com/items"]),  # FastAPI leads to /items/
        ("uvicorn_worker.UvicornWorker", "fast:app", [
            "https://shop.example.com/items", "http://shop.example.com:80/items/"]),])
def test_redirects_within_the_app_are_followed(start: Start, site: Path, worker_class: str,
                                               app: str, given: list[str]) -> None:
    master = start_one(start, worker_class, app, *given)
    master.wait_ready()
    wait_until(lambda: master.status()["workers"][0]["requests"] == 0,
               "counters that know of no client", master.log)


def answers_of(given: str, table: dict[str, tuple[int, str | None]]) -> list[str]:
    """Ask a WSGI and an ASGI app that answers like this; return what they were asked, in the same
    order by both."""
    asked: list[list[str]] = [[], []]

    def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        assert environ["HTTP_X_FORWARDED_PROTO"] == environ["wsgi.url_scheme"]
        path = environ["PATH_INFO"].encode("latin-1").decode() + ("?" + environ["QUERY_STRING"] if
                                                                  environ["QUERY_STRING"] else "")
        asked[0].append("{}://{}{}".format(environ["wsgi.url_scheme"], environ["HTTP_HOST"], path))
        status, location = table[path]
        start_response(f"{status} So", [] if location is None else [("LOCATION", location)])
        return []

    async def asgi(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[...,
                                                                                      Any]) -> None:
        headers = dict(scope["headers"])
        assert headers[b"x-forwarded-proto"].decode() == scope["scheme"]
        path = scope["path"] + ("?" +
                                scope["query_string"].decode() if scope["query_string"] else "")
        asked[1].append("{}://{}{}".format(scope["scheme"], headers[b"host"].decode(), path))
        status, location = table[path]
        await receive()
        listening = asyncio.ensure_future(receive())  # as Django and Starlette do
        await asyncio.sleep(0)
        assert not listening.done()
        told = [] if location is None else [(b"location", location.encode("latin-1"))]
        await send({"type": "http.response.start", "status": status, "headers": told})
        await send({"type": "http.response.body"})
        assert (await listening)["type"] == "http.disconnect"

    async def over_asgi() -> None:
        course = Course(given)
        while not course.is_over(*await ask_asgi(asgi, course.url, "", {})):
            pass

    course = Course(given)
    try:
        while not course.is_over(*ask_wsgi(wsgi, course.url)):
            pass
    except WarmUpFailed as failed:
        with pytest.raises(WarmUpFailed) as same:
            asyncio.run(over_asgi())
        assert str(same.value) == str(failed)
        return [*asked[0], str(failed)]
    asyncio.run(over_asgi())
    assert asked[0] == asked[1]
    return asked[0]


@pytest.mark.parametrize(
    ("given", "table", "expected"),
    [
        ("/a%20b?x=1", {"/a b?x=1": (204, None)}, ["http://localhost/a b?x=1"]),
        ("https://Shop.example.com:443/", {"/": (200, None)}, ["https://shop.example.com/"]),
        ("/a", {"/a": (301, "b?c=d#e"), "/b?c=d": (200, None)}, [
            "http://localhost/a", "http://localhost/b?c=d"]),
        ("/a", {"/a": (302, "//localhost/\xc3\xa4"), "/ä": (200, None)}, [
            "http://localhost/a", "http://localhost/ä"]),
        # To https of the same page: behind a proxy that speaks it, this is the page.
        ("http://[::1]:80/a", {"/a": (308, "https://[::1]/b"), "/b": (200, None)}, [
            "http://[::1]/a", "https://[::1]/b"]),
        ("/a", {"/a": (302, "/b"), "/b": (500, None)}, [
            "http://localhost/a", "http://localhost/b",
            "the app answered 500 to http://localhost/b, where it had led"]),
        ("/a", {"/a": (304, None)}, [
            "http://localhost/a", "the app answered 304, which leads nowhere"]),
        ("/a", {"/a": (302, "/a")}, [
            "http://localhost/a",
            "the app answers in a circle: http://localhost/a -> http://localhost/a"]),
        ("/0", {f"/{n}": (302, f"/{n + 1}") for n in range(9)}, [
            *(f"http://localhost/{n}" for n in range(6)),
            "the app answers with more than 5 redirects: " + " -> ".join(f"http://localhost/{n}"
                                                                         for n in range(7))]),
        ("https://a/b", {"/b": (302, "http://a/b")}, [
            "https://a/b", "the app answered 302, which leads to http://a/b, away from https"]),
        ("http://a:81/", {"/": (302, "http://a/")}, [
            "http://a:81/",
            "the app answered 302, which leads to http://a/, on another host, and only this app "
            "can be asked"
        ]),
        ("/a", {"/a": (307, "mailto:x@y")}, [
            "http://localhost/a", "the app answered 307, which leads to mailto:x@y, away from http"
        ]),])
def test_where_answers_lead(given: str, table: dict[str, tuple[int, str | None]],
                            expected: list[str]) -> None:
    assert answers_of(given, table) == expected


def test_the_app_may_be_served_under_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []

    def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        seen.append((environ["SCRIPT_NAME"], environ["PATH_INFO"]))
        start_response("200 OK", [])
        return []

    async def asgi(scope: dict[str, Any], receive: Any, send: Callable[..., Any]) -> None:
        seen.append((scope["root_path"], scope["path"], scope["raw_path"]))
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    monkeypatch.setenv("SCRIPT_NAME", "/shop")
    for path in ("/shop/health", "/health"):
        assert ask_wsgi(wsgi, "http://localhost" + path) == (200, None)
        assert asyncio.run(ask_asgi(asgi, "http://localhost" + path, "/shop", {})) == (200, None)
    assert seen == [("/shop", "/health"), ("/shop", "/shop/health", b"/shop/health")] * 2


@pytest.mark.parametrize(("headers", "body", "why"), [
    ([], "well", "the app's body holds str, expected bytes"),
    ([], [b"", 7], "the app's body holds int, expected bytes"),
    ([("X-A", "a\r\nSet-Cookie: b")], [], "header X-A holds what no header may hold"),
    ([("X-A", 7)], [], "header X-A is of type int, expected str"),
    ([(b"X-A", "")], [], "a header's name is of type bytes, expected str"),
    ([("X-A", "\u20ac")], [], "header X-A holds what no header may hold"),
    ([("X A", "")], [], "a header's name holds what no"),
    (None, [b""], "the app began a body before it called start_response"),
    (None, [], "the app never called start_response"),])
def test_a_wsgi_answer_that_no_server_could_send(headers: Any, body: Any, why: str) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if headers is not None:
            start_response("200 OK", headers)
        return body

    with pytest.raises(WarmUpFailed, match=why):
        ask_wsgi(app, "http://localhost/")


def test_an_app_that_answers_twice() -> None:
    info: list[Any] = [None]

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("X-A", "\xe4 b\t")])(b"once")
        start_response("500 No", [], info[0])
        return []

    with pytest.raises(WarmUpFailed, match="called start_response twice"):
        ask_wsgi(app, "http://localhost/")
    info[0] = (KeyError, KeyError(), None)
    assert ask_wsgi(app, "http://localhost/") == (500, None)


def test_what_gunicorn_gives_an_app_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        environ["wsgi.early_hints"]([("Link", "</x>")])
        assert environ["wsgi.input_terminated"]
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](open(tmp_path / "file", "rb"), 2)

    assert ask_wsgi(app, "http://localhost/") == (200, None)


START = {"type": "http.response.start", "status": 200}


@pytest.mark.parametrize(("messages", "why"), [
    ([], "the app never started a response"),
    ([START], "the app answered 200, and never ended its body"),
    ([START, {"type": "http.response.body", "body": b"x", "more_body": True}
      ], "the app answered 200, and never ended its body"),
    ([START, {"type": "http.response.body", "body": "x"}
      ], "the app's body holds str, expected bytes"),
    ([{"type": "http.response.body"}], "the app began a body before it started a response"),
    ([START | {"headers": [("x-a", b"")]}, {"type": "http.response.body"}
      ], "a header's name is of type str, expected bytes"),
    ([START | {"headers": [(b"x-a", b"a\r\nb")]}, {"type": "http.response.body"}
      ], "header x-a holds what no header may hold"),])
@pytest.mark.parametrize("swallows", [False, True])
def test_an_asgi_answer_that_no_server_could_send(messages: list[dict[str, Any]], why: str,
                                                  swallows: bool) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Callable[..., Any]) -> None:
        for message in messages:
            with contextlib.suppress(*[WarmUpFailed] if swallows else []):
                await send(message)

    with pytest.raises(WarmUpFailed, match=why):
        asyncio.run(ask_asgi(app, "http://localhost/", "", {}))


@pytest.mark.parametrize(("app", "words"),
                         [("shop:wsgi", "Django reads its URLconf at the first request"),
                          ("flasky:app", "Flask tries no view"),
                          ("plain:app", "what an app loads lazily"),])
def test_the_log_says_once_what_to_warm_up(start: Start, site: Path, app: str, words: str) -> None:
    (site / "plain.py").write_text(
        "def app(environ, start_response):\n    start_response('200 OK', [])\n    return []\n")
    master = start("-n", "2", "-b", "127.0.0.1:0", "--", "gunicorn", app)
    master.wait_ready()
    assert master.cli("upgrade").returncode == 0
    (line,) = [each for each in master.log().splitlines() if "nothing is warmed up" in each]
    assert words in line
    assert "--warm-up" in line


def test_whoever_warms_up_is_told_nothing(start: Start, site: Path) -> None:
    master = start_one(start, "asgi", "fast:app", "https://shop.example.com/items/")
    master.wait_ready()
    assert "nothing is warmed up" not in master.log()
