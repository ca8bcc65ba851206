"""What workers answer is counted as their clients see it, in every worker class."""

from __future__ import annotations

import http.client
import os
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from einhornpy.supervisor.core.traffic import BOUNDS, Traffic
from einhornpy.supervisor.launch import traffic_pages

from ..harness import APPS, DEADLINE, ROOT, Master, wait_until

Start = Callable[..., Master]
OLDER = ROOT / ".older-gunicorn"
WSGI, ASGI, STORM = "answering:wsgi", "answering:asgi", "answering:storm()"
WAYS = [["gunicorn", "-k", name, app] for name, app in (
    ("sync", WSGI), ("gthread", WSGI), ("gevent", WSGI), ("gevent_pywsgi", WSGI), ("tornado", STORM),
    ("asgi", ASGI), ("uvicorn_worker.UvicornWorker", ASGI),
    ("uvicorn_worker.UvicornH11Worker", ASGI))]
if OLDER.exists():  # make test installs it
    WAYS += [[sys.executable, "-m", "gunicorn", "-k", name, WSGI] for name in ("sync", "gthread")]


class Seen:
    """What a client has seen, as counts."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.requests = self.bytes = self.pages = 0
        self.classes = [0, 0, 0, 0, 0]

    def get(self, path: str, method: str = "GET") -> int:
        """The status; 0 where nothing came, and negative where the answer was cut off."""
        connection = http.client.HTTPConnection(*self.address, timeout=DEADLINE)
        self.requests += 1
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            status = answer.status
            self.classes[answer.status // 100 - 1] += 1
            content = answer.read()
            if path in ("/fails", "/broken-pipe"):  # the server's own page is not the app's
                self.pages += len(content)
                content = b""
            self.bytes += len(content)
            return answer.status
        except http.client.IncompleteRead as error:
            self.bytes += len(error.partial)
            return -status
        except (http.client.RemoteDisconnected, ConnectionResetError):
            return 0
        finally:
            connection.close()

    def leave(self, path: str) -> None:
        """Leave in the middle of an answer, with a reset."""
        self.requests += 1
        with socket.create_connection(self.address, DEADLINE) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert connection.recv(10).startswith(b"HTTP/1.1 2")
            self.classes[1] += 1
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def traffic_of(master: Master) -> Traffic | None:
    """What the first slot of the master's page says."""
    directory = Path(f"/proc/{master.process.pid}/fd")
    (number,) = (link.name for link in directory.iterdir()
                 if "memfd:einhornpy-traffic" in os.readlink(link))
    pages = traffic_pages.TrafficPages()
    pages.close()
    pages.fd = os.open(directory / number, os.O_RDONLY)
    pages._slots[1] = traffic_pages.Slot(0, 1, 0.0)
    try:
        return pages.of(1)
    finally:
        pages.close()


def counted(master: Master, requests: int) -> Traffic:
    """What was counted, as soon as it is so many requests."""
    def there() -> Traffic | None:
        traffic = traffic_of(master)
        return traffic if traffic is not None and traffic.requests >= requests else None

    found: Traffic = wait_until(there, f"{requests} requests", master.log)
    return found


@pytest.mark.parametrize("words", WAYS, ids=lambda words: words[-2])
def test_it_is_what_the_client_has_seen(start: Start, words: list[str]) -> None:
    app = words[-1]
    master = start("-n", "1", "-b", "127.0.0.1:0", "--chdir", str(APPS), "--", *words,
                   environment={"PYTHONPATH": str(OLDER)} if words[0] == sys.executable else None)
    master.wait_ready()
    seen = Seen(master.address)
    assert wait_until(lambda: traffic_of(master), "a slot", master.log) == Traffic()
    for path, status in (("/ok", 200), ("/moved", 302), ("/missing", 404), ("/500", 500),
                         ("/big", 200), ("/slow", 200)):
        assert seen.get(path) == status
    assert seen.get("/ok", "HEAD") == 200
    assert seen.get("/fails") == 500
    whole = counted(master, 8)
    # An exception is tornado's own business.
    exceptions = 0 if app == STORM else 1
    assert (whole.failed, whole.exceptions, whole.aborted) == (2, exceptions, 0)
    assert sum(whole.latencies) == 8
    assert sum(whole.latencies[BOUNDS.index(0.047):]) >= 1
    assert whole.seconds >= 0.05

    assert abs(seen.get("/half")) == 200
    half = counted(master, 9).since(whole)
    assert (half.failed, half.exceptions, half.aborted) == (exceptions, exceptions, 0)
    if app != STORM:
        # gunicorn takes it for the client's, and answers nothing.
        assert seen.get("/broken-pipe") == (500 if app == ASGI else 0)
    before = counted(master, seen.requests)
    assert (before.requests, before.responses) == (seen.requests, tuple(seen.classes))
    assert (before.exceptions, before.aborted) == (0 if app == STORM else 3, 0)
    assert sum(before.latencies) == seen.requests
    assert before.bytes_out == seen.bytes + (seen.pages if app == STORM else 0)

    seen.leave("/endless")
    left = counted(master, seen.requests).since(before)
    assert (left.requests, left.responses, left.failed) == (1, (0, 1, 0, 0, 0), 0)
    assert (left.aborted, sum(left.latencies)) == (1, 0)
