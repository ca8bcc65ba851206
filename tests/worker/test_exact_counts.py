"""So many requests of each class are so many in the status: in forked workers, over recycling and
upgrades, as streams of HTTP/2, as websockets, and as answers that take long."""

from __future__ import annotations

import http.client
import shutil
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import websockets.exceptions
from einhornpy.supervisor.core.traffic import BOUNDS
from websockets.sync.client import connect

from ..harness import APPS, DEADLINE, Master, wait_until
from ..http2 import Streams

Start = Callable[..., Master]
WSGI, ASGI, OWN = "each_kind:wsgi", "each_kind:asgi", "einhornpy.worker.asgi:app"
UVICORN = "uvicorn_worker.UvicornWorker"


def begin(start: Start, place: Path, *words: str, number: int = 1) -> Master:
    """A master of these words, with the app."""
    shutil.copy(APPS / "each_kind.py", place)
    own = OWN in words
    environment = {"EINHORNPY_ASGI_APP": ASGI, "PYTHONPATH": str(place)} if own else {}
    master = start("-n", str(number), "-b", "127.0.0.1:0", *(["-m", "notify"] if own else []),
                   *words, environment=environment)
    master.wait_ready()
    return master


def ask(address: tuple[str, int], path: str) -> int:
    """The status of the answer, read to its end."""
    connection = http.client.HTTPConnection(*address, timeout=DEADLINE)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def leave(address: tuple[str, int], path: str) -> None:
    """Leave in the middle of an answer, with a reset."""
    with socket.create_connection(address, DEADLINE) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert connection.recv(10).startswith(b"HTTP/1.1 2")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# How many of each kind.
KINDS = {"/ok": 6, "/missing": 5, "/500": 4, "/fails": 3, "/streamed": 1, "/endless": 2}
ALL = sum(KINDS.values())


def one_of_each_kind(address: tuple[str, int]) -> None:
    for path, times in KINDS.items():
        for _ in range(times):
            if path == "/endless":
                leave(address, path)
            else:
                ask(address, path)


def since_start(master: Master, generation: int, requests: int) -> dict[str, Any]:
    """What the living workers of a generation have answered, as soon as it is so much."""
    def found() -> dict[str, Any] | None:
        document = master.status()
        (answered,) = [each["since_start"] for each in document["traffic"]
                       if each["generation"] == generation]
        return document if answered["requests"] >= requests else None

    document = wait_until(found, f"{requests} requests", master.log)
    (answered,) = [each["since_start"] for each in document["traffic"]
                   if each["generation"] == generation]
    workers = [each["traffic"]["since_start"] for each in document["workers"]
               if each["generation"] == generation]
    assert sum(each["requests"] for each in workers) == requests
    assert answered.items() >= {
        name: sum(each[name] for each in workers)
        for name in ("failed", "exceptions", "aborted", "bytes_out")}.items()
    return dict(answered)


class Totals:
    """Looks again and again at what generations have answered, until `with` ends: it never gets
    less."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self.less: list[str] = []
        self._over = threading.Event()
        self._asking = threading.Lock()  # or an older answer would be held against a newer one
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.now: dict[int, dict[str, Any]] = {}
        self.again()

    def again(self) -> dict[int, dict[str, Any]]:
        with self._asking:
            return self._again()

    def _again(self) -> dict[int, dict[str, Any]]:
        generations = self._master.ask("tally")["result"]["traffic"]["generations"]
        found = {each["generation"]: each for each in generations}
        for number, before in self.now.items():
            now = found.get(number, {})
            for name in ("requests", "failed", "exceptions", "aborted", "bytes_out", "seconds"):
                if now.get(name, -1) < before[name]:
                    self.less.append(f"{name} of generation {number}: {before} then {now}")
        self.now = found
        return found

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.again()

    def __enter__(self) -> Totals:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(DEADLINE)
        self.again()
        assert not self.less, self.less


def requests_of(totals: dict[int, dict[str, Any]]) -> dict[int, int]:
    return {number: each["requests"] for number, each in totals.items() if each["requests"]}


@pytest.mark.parametrize(("name", "app"), [
    ("sync", WSGI), ("gthread", WSGI), ("gevent", WSGI), ("asgi", ASGI), (UVICORN, ASGI)])
def test_forked_workers_count_each_request_once(start: Start, place: Path, name: str,
                                                app: str) -> None:
    master = begin(start, place, "--preload", "--", "gunicorn", "-k", name, app, number=2)
    (template,) = master.status()["templates"]
    assert (template["preloads"], template["forks"]) == (True, 2)
    one_of_each_kind(master.address)
    answered = since_start(master, 1, ALL)
    assert answered["responses"] == {"1xx": 0, "2xx": 9, "3xx": 0, "4xx": 5, "5xx": 7}
    assert (answered["failed"], answered["exceptions"], answered["aborted"]) == (7, 3, 2)
    with Totals(master) as totals:
        assert requests_of(totals.now) == {1: ALL}
        sums = totals.now[1]
        # Those who left have no latency, and a stream's lasts to its end.
        assert sum(sums["latencies"]) == ALL - KINDS["/endless"]
        assert sum(sums["latencies"][BOUNDS.index(0.27):]) >= KINDS["/streamed"]
        recorder = master.record()
        assert master.cli("recycle", "0").returncode == 0
        recorder.wait_for("worker-gone")
        one_of_each_kind(master.address)
        wait_until(lambda: requests_of(totals.again()) == {1: 2 * ALL}, "all of them", master.log)
        assert master.cli("upgrade").returncode == 0
        recorder.wait_for("worker-gone", 3)
        one_of_each_kind(master.address)
        assert since_start(master, 2, ALL).items() >= {
            "failed": 7, "exceptions": 3, "aborted": 2}.items()
        assert requests_of(totals.again()) == {1: 2 * ALL, 2: ALL}
        assert {key: totals.now[1][key] for key in ("failed", "exceptions", "aborted")} == {
            "failed": 14, "exceptions": 6, "aborted": 4}


# One connection, a path for each stream.
STREAMS = {1: "/held", 3: "/500", 5: "/missing", 7: "/fails", 9: "/held", 11: "/ok", 13: "/streamed"}
CLEARTEXT = ("--http-protocols", "h2,h1", "--http2-cleartext", "prior-knowledge")
HYPERCORN = ("--", "hypercorn", "-w", "0", "--bind", "fd://3", OWN)


@pytest.mark.parametrize("words", [
    ("--", "gunicorn", *CLEARTEXT, "-k", "asgi", ASGI), HYPERCORN], ids=["gunicorn", "hypercorn"])
def test_each_stream_is_a_request_of_its_own(start: Start, place: Path,
                                             words: tuple[str, ...]) -> None:
    master = begin(start, place, *words)
    with Streams(master.address, False, STREAMS) as client:
        held = {stream for stream, path in STREAMS.items() if path == "/held"}
        assert client.read_until(lambda: client.ended == STREAMS.keys() - held)
        # Those that are held began first, and are under way.
        before = since_start(master, 1, len(STREAMS) - len(held))
        assert before["responses"] == {"1xx": 0, "2xx": 2, "3xx": 0, "4xx": 1, "5xx": 2}
        assert (before["failed"], before["exceptions"], before["aborted"]) == (2, 1, 0)
        assert master.status()["workers"][0]["in_flight"] == len(held)
        client.cancel_for(9, 15, "/ok")
        assert client.read_until(lambda: 15 in client.ended)
        (place / "end").touch()
        assert client.read_until(lambda: 1 in client.ended)
        assert client.statuses == {1: 200, 3: 500, 5: 404, 7: 500, 9: 200, 11: 200, 13: 200,
                                   15: 200}
    after = since_start(master, 1, len(STREAMS) + 1)
    assert after["responses"] == {"1xx": 0, "2xx": 5, "3xx": 0, "4xx": 1, "5xx": 2}
    assert (after["failed"], after["exceptions"], after["aborted"]) == (2, 1, 1)
    (sums,) = master.ask("tally")["result"]["traffic"]["generations"]
    assert sum(sums["latencies"]) == len(STREAMS)  # but for the one that was cancelled
    # The one that took long, and the one that was held, and not the others.
    assert 2 <= sum(sums["latencies"][BOUNDS.index(0.27):]) < len(STREAMS)


@pytest.mark.parametrize("name", ["gthread", "gevent"])
def test_each_stream_of_a_wsgi_app_is_a_request(start: Start, place: Path, name: str) -> None:
    """They are handled one after the other, or at once: whoever asks can't tell."""
    master = begin(start, place, "--", "gunicorn", *CLEARTEXT, "-k", name, WSGI)
    (place / "end").touch()
    with Streams(master.address, False, STREAMS) as client:
        assert client.read_until(lambda: client.ended == STREAMS.keys())
        assert Counter(client.statuses.values()) == {200: 4, 404: 1, 500: 2}
    answered = since_start(master, 1, len(STREAMS))
    assert answered["responses"] == {"1xx": 0, "2xx": 4, "3xx": 0, "4xx": 1, "5xx": 2}
    assert (answered["failed"], answered["exceptions"], answered["aborted"]) == (2, 1, 0)


def url(address: tuple[str, int], path: str) -> str:
    return f"ws://{address[0]}:{address[1]}{path}"


def use(address: tuple[str, int], path: str, messages: int = 1) -> int:
    """Open a websocket, have so many messages answered, and close it; return the status with which
    it was refused, or 101."""
    try:
        with connect(url(address, path), open_timeout=DEADLINE, proxy=None) as opened:
            for _ in range(messages):
                opened.send("hello")
                try:
                    assert opened.recv() == "well"
                except websockets.exceptions.ConnectionClosed:
                    return 101
    except websockets.exceptions.InvalidStatus as refused:
        return refused.response.status_code
    return 101


@pytest.mark.parametrize("words", [
    ("--", "gunicorn", "-k", "asgi", ASGI), ("--", "gunicorn", "-k", UVICORN, ASGI),
    ("--", "uvicorn", "--fd", "3", OWN), HYPERCORN], ids=["asgi", "uvicorn-worker", "uvicorn",
                                                          "hypercorn"])
def test_what_a_websocket_counts_as(start: Start, place: Path, words: tuple[str, ...]) -> None:
    master = begin(start, place, *words)
    with connect(url(master.address, "/open"), open_timeout=DEADLINE, proxy=None) as opened:
        opened.send("hello")
        assert opened.recv() == "well"
        wait_until(lambda: master.status()["workers"][0]["in_flight"] == 1, "it", master.log)
        assert since_start(master, 1, 0)["requests"] == 0  # it is one when it is over
    since_start(master, 1, 1)
    assert use(master.address, "/open", 3) == 101
    assert use(master.address, "/raises-at-its-end") == 101
    assert use(master.address, "/fails-later") == 101
    assert use(master.address, "/fails") == 500
    for _ in range(3):
        assert use(master.address, "/refused") == 403
    answered = since_start(master, 1, 8)
    assert answered["responses"] == {"1xx": 4, "2xx": 0, "3xx": 0, "4xx": 3, "5xx": 1}
    assert (answered["failed"], answered["exceptions"], answered["aborted"]) == (2, 2, 0)
    (sums,) = master.ask("tally")["result"]["traffic"]["generations"]
    # No websocket has a latency, but a refusal has, like any answer: until it was sent.
    assert sum(sums["latencies"]) == 4
    assert sum(sums["latencies"][BOUNDS.index(0.27):]) < 3
