"""What workers answer is counted as their clients see it, in every worker class."""

from __future__ import annotations

import asyncio
import http.client
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from einhornpy.supervisor.core.traffic import BOUNDS, Traffic
from einhornpy.supervisor.launch import traffic_pages
from einhornpy.supervisor.launch.shared_page import SharedPage
from einhornpy.supervisor.launch.traffic_pages import TrafficPages
from einhornpy.worker import asgi_counting
from einhornpy.worker.busy_slot import Slot
from einhornpy.worker.traffic_slot import SLOT_SIZE, TrafficSlot

from ..harness import APPS, DEADLINE, ROOT, Master, open_files, wait_gone, wait_until

Start = Callable[..., Master]
OLDER = ROOT / ".older-gunicorn"
STORE = b"FDSTORE=1\nFDNAME=einhornpy-traffic"
# In a page that a worker has made itself.
OWN = ("einhornpy-worker", SLOT_SIZE)
WSGI, ASGI, STORM = "answering:wsgi", "answering:asgi", "answering:storm()"
OWN_ASGI = "einhornpy.worker.asgi:app"
WAYS = [["gunicorn", "-k", name, app] for name, app in (
    ("sync", WSGI), ("gthread", WSGI), ("gevent", WSGI), ("gevent_pywsgi", WSGI), ("tornado", STORM),
    ("asgi", ASGI), ("uvicorn_worker.UvicornWorker", ASGI),
    ("uvicorn_worker.UvicornH11Worker", ASGI))]
WAYS += [["uvicorn", "--fd", "3", OWN_ASGI], ["hypercorn", "-w", "0", "--bind", "fd://3", OWN_ASGI]]
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


def traffic_of(master: Master, page: str = "einhornpy-traffic", offset: int = 0) -> Traffic | None:
    """What a slot of a page says that the master holds."""
    pid = master.process.pid
    numbers = [fd for fd, path in open_files(pid).items() if f"memfd:{page} " in path]
    if not numbers:
        return None
    first = SharedPage()
    pages = traffic_pages.TrafficPages(first)
    first.close()
    pages._file.take_over(os.open(f"/proc/{pid}/fd/{numbers[0]}", os.O_RDONLY), 0, ())
    pages._slots[1] = traffic_pages.Slot(offset, 1, 0.0)
    try:
        return pages.of(1)
    finally:
        pages.close()


def counted(master: Master, requests: int, *where: Any) -> Traffic:
    """What was counted, as soon as it is so many requests."""
    def there() -> Traffic | None:
        traffic = traffic_of(master, *where)
        return traffic if traffic is not None and traffic.requests >= requests else None

    found: Traffic = wait_until(there, f"{requests} requests", master.log)
    return found


@pytest.mark.parametrize("words", WAYS, ids=lambda words: words[0] + words[-2])
def test_it_is_what_the_client_has_seen(start: Start, words: list[str]) -> None:
    app, own = words[-1], words[-1] == OWN_ASGI
    asgi, where = own or app == ASGI, OWN if own else ()
    environment = {"EINHORNPY_ASGI_APP": ASGI, "PYTHONPATH": str(APPS)} if own else {}
    if words[0] == sys.executable:
        environment = {"PYTHONPATH": str(OLDER)}
    master = start("-n", "1", "-b", "127.0.0.1:0", *(["-m", "notify"] if own else []), "--chdir",
                   str(APPS), "--", *words, environment=environment)
    master.wait_ready()
    seen = Seen(master.address)
    assert counted(master, 0, *where) == Traffic()
    for path, status in (("/ok", 200), ("/moved", 302), ("/missing", 404), ("/500", 500),
                         ("/big", 200), ("/slow", 200)):
        assert seen.get(path) == status
    assert seen.get("/ok", "HEAD") == 200
    assert seen.get("/fails") == 500
    whole = counted(master, 8, *where)
    # An exception is tornado's own business.
    exceptions = 0 if app == STORM else 1
    assert (whole.failed, whole.exceptions, whole.aborted) == (2, exceptions, 0)
    assert sum(whole.latencies) == 8
    assert sum(whole.latencies[BOUNDS.index(0.047):]) >= 1
    assert whole.seconds >= 0.05

    assert abs(seen.get("/half")) == 200
    half = counted(master, 9, *where).since(whole)
    assert (half.failed, half.exceptions, half.aborted) == (exceptions, exceptions, 0)
    if app != STORM:
        # gunicorn takes it for the client's, and answers nothing.
        assert seen.get("/broken-pipe") == (500 if asgi else 0)
    before = counted(master, seen.requests, *where)
    assert (before.requests, before.responses) == (seen.requests, tuple(seen.classes))
    assert (before.exceptions, before.aborted) == (0 if app == STORM else 3, 0)
    assert sum(before.latencies) == seen.requests
    assert before.bytes_out == seen.bytes + (seen.pages if app == STORM else 0)

    seen.leave("/endless")
    left = counted(master, seen.requests, *where).since(before)
    assert (left.requests, left.responses, left.failed) == (1, (0, 1, 0, 0, 0), 0)
    assert (left.aborted, sum(left.latencies)) == (1, 0)
    if own:
        (worker,) = master.status()["workers"]
        assert (worker["requests"], worker["in_flight"]) == (seen.requests, 0)
        assert worker["busy_share"] > 0
        assert "traffic-unreadable" not in master.log()


SPEAKER = """
import array, fcntl, os, signal, socket, sys
from decimal import Decimal
from einhornpy import worker

def say(text, *descriptors):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.connect(os.environ["NOTIFY_SOCKET"])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        notify.sendmsg([text], rights if descriptors else [])

def page(seals):
    fd = os.memfd_create("mine", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 16384)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd

store = b"FDSTORE=1\\nFDNAME=einhornpy-traffic"
seat = os.environ["EINHORN_CHILD_INDEX"]
if seat == "0":  # by the function
    assert worker.answered(200.0, Decimal("0.5"), Decimal(5120)) and worker.answered(500, 2, exception=True)
    if os.fork() == 0:
        assert not worker.answered(200, 0.5)
        os._exit(0)
    assert os.wait()[1] == 0
    assert worker.answered(0, 0.1, aborted=True)
    for wrong in ((99, 1), (600, 1), (200, -1), (200, float("nan")), (200, 1, -1)):
        try:
            worker.answered(*wrong)
        except ValueError:
            continue
        os._exit(9)
elif seat == "1":  # by datagrams, good and bad
    say(b"X_EINHORNPY_TRAFFIC=200:0.5:5120 500:2!\\nX_EINHORNPY_TRAFFIC=000:0.1")
    say(b"X_EINHORNPY_TRAFFIC=200:0.5:5120 what")
    say(b"X_EINHORNPY_TRAFFIC=200:0.5:5120 " + b"x" * 4096)
    say(b"X_EINHORNPY_TRAFFIC=2")
    say(store, page(fcntl.F_SEAL_SHRINK))  # it speaks already
elif seat == "2":  # by what nobody should read
    end, _ = os.pipe()
    say(store, end)
    say(store, page(0))
    say(store, *[end] * 253)
    say(store + b"\\n" + b"x" * 4096, page(fcntl.F_SEAL_SHRINK))
    good = page(fcntl.F_SEAL_SHRINK)
    say(store, good)
    say(store, page(fcntl.F_SEAL_SHRINK))
    say(b"X_EINHORNPY_TRAFFIC=200:1")
worker.ready()
while True:
    signal.pause()
"""


def held(master: Master) -> list[str]:
    """What the master has open."""
    return sorted(path.removesuffix(" (deleted)")
                  for path in open_files(master.process.pid).values())


def test_other_programs_say_it(start: Start, place: Path) -> None:
    (place / "speaker.py").write_text(SPEAKER)
    master = start("-n", "3", "-m", "notify", "--", sys.executable, "speaker.py")
    master.wait_ready()
    expected = Traffic(3, (0, 1, 0, 0, 1), 1, 1, 1, 5120, 2.5, latencies(0.5, 2))
    assert traffic_of(master, *OWN) == traffic_of(master) == expected
    assert traffic_of(master, "mine", SLOT_SIZE) is None  # it has written nothing
    found = {(each["index"], each["requests"], each["in_flight"], each["busy_share"])
             for each in master.status()["workers"]}
    assert found == {(0, 3, None, None), (1, 3, None, None), (2, None, None, None)}
    assert master.ask("tally")["result"]["requests"] == 6
    pages = [name for name in held(master) if "memfd:mine" in name or "einhornpy-worker" in name]
    assert pages.count("/memfd:mine") == 1
    assert "/memfd:einhornpy-worker" in pages
    assert master.log().count("traffic unreadable") == 1
    # A stranger is heard by nobody, and what he sent is closed.
    before, (end, other) = held(master), os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [other] * 253))]
        stranger.sendmsg([STORE], rights, 0, master.path.replace(".sock", ".notify"))
    os.close(other)
    assert select.select([end], [], [], DEADLINE)[0]
    os.close(end)
    assert not Counter(held(master)) - Counter(before)
    # All of it outlives a reload, and a worker's page goes with the worker.
    assert master.cli("reload").returncode == 0
    assert traffic_of(master, *OWN) == traffic_of(master) == expected
    pids = [worker["pid"] for worker in master.status()["workers"]]
    assert master.cli("upgrade").returncode == 0
    for pid in pids:
        wait_gone(pid, master.log)
    assert master.ask("tally")["result"]["requests"] == 12
    wait_until(lambda: [name for name in held(master) if "mine" in name or "worker" in name]
               == pages, "the same pages, of the new workers", master.log)


def test_an_answer_that_breaks_off_has_failed() -> None:
    """The app has begun it, and returns: the server can only close the connection."""
    page = SharedPage()
    pages = TrafficPages(page)
    slot = Slot(page.fd, page.take(1), 0, lambda reason: True)
    traffic = TrafficSlot((pages.fd, pages.take(1, 1, time.monotonic())))

    async def breaks_off(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    async def send(message: Any) -> None:
        pass

    try:
        app = asgi_counting.counted(breaks_off, slot, traffic)
        asyncio.run(app({"type": "http", "method": "GET"}, send, send))
        found = pages.of(1)
    finally:
        page.close()
        pages.close()
    assert found is not None
    assert (found.requests, found.responses[1], found.failed) == (1, 1, 1)


def latencies(*bounds: float) -> tuple[int, ...]:
    """One latency in the bucket of each, which are none of the bounds."""
    found = [0] * (len(BOUNDS) + 1)
    for each in bounds:
        found[bisect_left(BOUNDS, each)] += 1
    return tuple(found)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed on this machine")
def test_a_c_program_says_it(start: Start, place: Path) -> None:
    subprocess.run(["gcc", "-pthread", "-o", "server",
                    str(ROOT / "examples" / "servers" / "http_server.c")], cwd=place, check=True)
    master = start("-n", "1", "-b", "127.0.0.1:0", "-m", "notify", "--", "./server")
    master.wait_ready()
    seen = Seen(master.address)
    for path in ("/", "/slow/0.02", "/"):
        assert seen.get(path) == 200
    found = counted(master, 3)
    assert (found.requests, found.responses, found.bytes_out) == (3, (0, 3, 0, 0, 0), seen.bytes)
    assert found.slower_than(BOUNDS.index(0.018)) == 1
