"""HTTP/2: whoever keeps one connection busy is asked to take another one, and loses nothing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import h2.connection
import h2.events
import pytest
from einhornpy.worker import accepting
from einhornpy.worker.accepting import goaway

from ..harness import BIN, EXAMPLE, Master, wait_until
from ..http2 import Busy, Idle, Streams, certificate
from ..whole.test_no_lost_request import CLASSES

Start = Callable[..., Master]
LARGEST = 2**31 - 1
# Of what would otherwise be waited for, so much at most.
GRACEFUL, WELL_BEFORE = 30.0, 10.0


def frame(kind: int, flags: int, payload: bytes = b"") -> bytes:
    """A frame of stream 1 (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags, 0, 0, 0, 1]) + payload


SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None,
                                reason="openssl is not installed on this machine")


# Both read the whole body first. ASGI's answers to paths other than / get their end when there is a
# file `end`; /trailers by trailers, /much after more than a client takes unread.
APPS = {
    "app.py": """
def wsgi(environ, start_response):
    body = b"read %d" % len(environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
""", "asgi_app.py": """
import asyncio, os

async def asgi(scope, receive, send):
    assert scope["type"] == "http"
    while (await receive()).get("more_body"):
        pass
    path = scope["path"]
    trailers = path == "/trailers"
    await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": trailers})
    await send({"type": "http.response.body", "more_body": True,
                "body": b"begun " * (50000 if path == "/much" else 1)})
    while path != "/" and not os.path.exists("end"):
        await asyncio.sleep(0.02)
    await send({"type": "http.response.body", "body": b""})
    if trailers:
        await send({"type": "http.response.trailers", "headers": [(b"sum", b"1")]})
"""}


def with_apps(place: Path) -> Path:
    for name, text in APPS.items():
        (place / name).write_text(text)
    return place


def through_an_upgrade(master: Master, tls: bool, streams: int, uploads: bool = False) -> Busy:
    """Keep a connection busy while its only worker is replaced; return the client."""
    recorder = master.record()
    with Busy(master.address, tls, streams, uploads) as client:
        wait_until(lambda: client.bodies, "the first answer", master.log)
        assert master.cli("upgrade").returncode == 0
        retired = recorder.wait_for("worker-retiring")["seen"]
        gone = recorder.wait_for("worker-gone")["seen"]
        served = client.bodies.total()
        wait_until(lambda: client.bodies.total() > served, "an answer of the new one", master.log)
    assert not client.lost, f"{client.lost}\n{client.bodies} {client.last_ids}\n{master.log()}"
    assert gone - retired < WELL_BEFORE
    assert "worker killed" not in master.log()
    assert client.connections > 1
    return client


def gunicorn(start: Start, place: Path, name: str, tls: bool, app: Path,
             graceful: float = GRACEFUL) -> Master:
    key, made = certificate(place)
    how = ["--certfile", str(made), "--keyfile", str(key)] if tls else [
        "--http2-cleartext", "prior-knowledge"]
    master = start("-n", "1", "-b", "127.0.0.1:0", "--chdir", str(app), "--graceful-timeout",
                   str(graceful), "--", "gunicorn", "--http-protocols", "h2,h1", "--keep-alive",
                   "60", *how, *CLASSES[name], environment={"IMPORT_SECONDS": "0"})
    master.wait_ready()
    return master


def hypercorn(start: Start, place: Path, tls: bool, app: Path) -> Master:
    key, made = certificate(place)
    how = ["--certfile", str(made), "--keyfile", str(key)] if tls else []
    # else it ends a connection itself, and not well
    (place / "hypercorn.toml").write_text("keep_alive_max_requests = 1000000\n")
    master = start(
        "-n", "1", "-b", "127.0.0.1:0", "-m", "notify", "--chdir", str(app),
        "--graceful-timeout", str(GRACEFUL), "--", str(BIN / "hypercorn"), "-w", "0", "--bind",
        "fd://3", "--graceful-timeout", "25", "--config", str(place / "hypercorn.toml"),
        *how, "einhornpy.worker.asgi:app",
        environment={"IMPORT_SECONDS": "0", "EINHORNPY_ASGI_APP": "asgi_app:asgi"})
    master.wait_ready()
    return master


@pytest.mark.parametrize(("tls", "streams"), [(True, 8), (False, 1)], ids=["tls", "cleartext"])
@pytest.mark.parametrize("name", ["gthread", "gevent", "asgi"])
def test_a_busy_client_is_asked_to_go(start: Start, place: Path, name: str, tls: bool,
                                      streams: int) -> None:
    master = gunicorn(start, place, name, tls, EXAMPLE)
    with Idle(master.address, tls):
        client = through_an_upgrade(master, tls, streams)
    (first, *_) = [each for each in client.last_ids if each]
    assert first[0] == LARGEST
    assert sum(worker["requests"] for worker in master.status()["workers"]) > 0


@pytest.mark.parametrize(("tls", "streams"), [(True, 1), (True, 8)])
def test_a_busy_client_of_hypercorn_is_asked_to_go(start: Start, place: Path, tls: bool,
                                                   streams: int) -> None:
    master = hypercorn(start, place, tls, EXAMPLE)
    with Idle(master.address, tls):
        client = through_an_upgrade(master, tls, streams)
    (first, *_) = [each for each in client.last_ids if each]
    assert first[0] == LARGEST


@pytest.mark.parametrize(("tls", "streams"), [(True, 2), (False, 3)], ids=["tls", "cleartext"])
@pytest.mark.parametrize("name", ["gthread", "gevent", "asgi", "hypercorn"])
def test_whoever_always_has_an_upload_half_sent_is_asked_to_go(
        start: Start, place: Path, name: str, tls: bool, streams: int) -> None:
    with_apps(place)
    master = hypercorn(start, place, tls, place) if name == "hypercorn" else gunicorn(
        start, place, name, tls, place)
    client = through_an_upgrade(master, tls, streams, uploads=True)
    (first, *_) = [each for each in client.last_ids if each]
    assert first[0] == LARGEST


@pytest.mark.parametrize(("path", "tls"), [("/stream", True), ("/stream", False),
                                           ("/trailers", False), ("/much", False)])
def test_an_answer_of_hypercorn_that_outlasts_the_lingering_gets_its_end(
        start: Start, place: Path, path: str, tls: bool) -> None:
    master = hypercorn(start, place, tls, with_apps(place))
    recorder = master.record()
    with Streams(master.address, tls, path) as client:
        assert client.read_until(lambda: all(client.bodies.values()))
        assert master.cli("upgrade", "--no-wait").returncode == 0
        retired = recorder.wait_for("worker-retiring")["seen"]
        wait_until(lambda: time.monotonic() > retired + 1.5, "the end of the lingering")
        (place / "end").touch()
        assert client.read_until(lambda: client.ended == {1, 3}), master.log()
        assert client.last_ids[0] == LARGEST
        assert len(client.trailers) == (2 if path == "/trailers" else 0)
        recorder.wait_for("worker-gone")
    assert "worker killed" not in master.log()


def test_who_has_one_request_at_a_time_is_not_told_within_one(start: Start, place: Path) -> None:
    master = gunicorn(start, place, "asgi", False, with_apps(place))
    recorder = master.record()
    with Streams(master.address, False, "/stream", (1,)) as client:
        assert client.read_until(lambda: all(client.bodies.values()))
        assert master.cli("upgrade", "--no-wait").returncode == 0
        retiring = recorder.wait_for("worker-retiring")
        wait_until(lambda: time.monotonic() > retiring["seen"] + 1.5, "what it waits at the most")
        (place / "end").touch()
        assert client.read_until(lambda: client.ended == {1}), master.log()
        recorder.wait_for("worker-gone")
        # with the end of the answer, if not a moment later
        assert client.last_ids in ([], [LARGEST])
    assert "worker killed" not in master.log()


def test_what_was_half_answered_at_the_end_of_the_time_is_not_said_to_be_untouched(
        start: Start, place: Path) -> None:
    master = gunicorn(start, place, "asgi", False, with_apps(place), graceful=2.5)
    with Streams(master.address, False, "/stream") as client:
        assert client.read_until(lambda: all(client.bodies.values()))
        assert master.cli("upgrade", "--no-wait").returncode == 0
        assert not client.read_until(lambda: client.ended == {1, 3})
    first, *others = client.last_ids
    assert (first, set(others)) == (LARGEST, {3}), master.log()


def test_a_goaway_is_what_h2_takes_for_one() -> None:
    client = h2.connection.H2Connection()
    client.initiate_connection()
    (event,) = client.receive_data(SETTINGS + goaway(5))[1:]
    assert isinstance(event, h2.events.ConnectionTerminated)
    assert (event.last_stream_id, event.error_code) == (5, 0)


@pytest.mark.parametrize(("data", "ends"), [
    (b"", 0), (SETTINGS, 0), (frame(0, 0, b"abc"), 0), (frame(0, 1, b"abc") + SETTINGS, 1),
    (frame(1, 5) + frame(1, 4) + frame(3, 0, b"1234"), 2), (frame(0, 1, b"abc")[:-1], None),
    (b"short", None)])
def test_the_ends_of_streams_are_counted_in_whole_frames(data: bytes, ends: int | None) -> None:
    assert accepting.ends_of_streams(data) == ends
