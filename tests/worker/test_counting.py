"""Worker classes that never call `handle_request`: counted by a hook of their own, or said to be unknown."""

from __future__ import annotations

import http.client
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ..harness import DEADLINE, EXAMPLE, Master, get, wait_until

Start = Callable[..., Master]
TORNADO = """
import asyncio
import tornado.web

class Main(tornado.web.RequestHandler):
    async def get(self, seconds=None):
        await asyncio.sleep(float(seconds or 0))
        self.write("well")

app = tornado.web.Application([("/slow/(.*)", Main), (".*", Main)])
"""
AIOHTTP = """
from aiohttp import web

async def well(request):
    return web.Response(text="well")

async def app():
    made = web.Application()
    made.router.add_get("/", well)
    return made
"""
OWN = """
from gunicorn.workers.base import Worker
from gunicorn.workers.sync import SyncWorker

# One that looks as if it called handle_request, does, but isn't gunicorn's own; and one that has none.
class Own(Worker):
    for name in ("accept", "wait", "is_parent_alive", "run_for_one", "run_for_multiple", "run", "handle", "handle_request"):
        locals()[name] = vars(SyncWorker)[name]

class Other(Own):
    def handle(self, listener, client, address):
        client.recv(65536)
        client.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\nwell")
        client.close()
"""


@pytest.fixture
def site(place: Path) -> Path:
    shutil.copy(EXAMPLE / "app.py", place / "app.py")
    for name, text in (("storm.py", TORNADO), ("aio.py", AIOHTTP), ("own.py", OWN)):
        (place / name).write_text(text)
    return place


def start_one(start: Start, worker_class: str, app: str, *flags: str) -> Master:
    return start("-n", "1", "-b", "127.0.0.1:0", *flags, "--", "gunicorn", "-k", worker_class, app)


def counted(master: Master) -> tuple[int | None, int | None]:
    """The requests of the one worker, done and under way."""
    (worker,) = master.wait_status(lambda document: len(document["workers"]) == 1)["workers"]
    return worker["requests"], worker["in_flight"]


@pytest.mark.parametrize(("worker_class", "app"), [
    ("gevent_pywsgi", "app:wsgi"), ("geventwebsocket.gunicorn.workers.GeventWebSocketWorker", "app:wsgi"),
    ("tornado", "app:wsgi"), ("tornado", "storm:app"),
])
def test_they_are_counted_by_a_hook_of_their_own(start: Start, site: Path, worker_class: str, app: str) -> None:
    master = start_one(start, worker_class, app, "--max-requests", "4", "--max-requests-jitter", "0")
    (worker,) = master.wait_ready()["workers"]
    # Its first heartbeat comes right after its ready.
    wait_until(lambda: counted(master) == (0, 0), "counters", master.log)
    recorder = master.record()
    kept = http.client.HTTPConnection(*master.address, timeout=DEADLINE)
    for _ in range(2):  # on one connection
        kept.request("GET", "/")
        assert kept.getresponse().read()
    if app != "app:wsgi" or worker_class != "tornado":  # that blocks its loop
        slow = threading.Thread(target=get, args=(master.address, "/slow/1"))
        slow.start()
        wait_until(lambda: counted(master) == (2, 1), "a request in flight", master.log)
        slow.join()
    else:
        get(master.address)
    kept.close()
    wait_until(lambda: master.ask("tally")["result"]["requests"] == 3, "three requests "
                                                                       "counted", master.log)
    wait_until(lambda: counted(master) == (3, 0), "none in flight", master.log)
    get(master.address)
    assert recorder.wait_for("worker-due", pid=worker["pid"])["reason"] == "served 4 requests"
    recorder.wait_for("worker-gone", pid=worker["pid"])
    wait_until(lambda: counted(master) == (0, 0), "counters of the next worker", master.log)


@pytest.mark.parametrize(("worker_class", "app", "in_time"), [
    ("aiohttp.GunicornWebWorker", "aio:app", None), ("own.Other", "app:wsgi", None), ("own.Own", "app:wsgi", 2)])
def test_what_nobody_counts_is_unknown(start: Start, site: Path, worker_class: str, app: str, in_time: int | None) -> None:
    master = start_one(start, worker_class, app, "--web", "127.0.0.1:0")
    (worker,) = master.wait_ready()["workers"]
    assert (worker["requests"], worker["in_flight"], worker["busy_share"]) == (None, None, None)
    for _ in range(2):
        assert get(master.address)[0] == 200
    wait_until(lambda: counted(master)[0] == in_time, "the requests", master.log)
    if in_time is None:
        host, port = master.web_address
        metrics = wait_until(lambda: get((host, port), "/metrics")[1], "metrics", master.log)
        assert "einhornpy_worker_memory_bytes{" in metrics
        assert "einhornpy_worker_requests_in_flight{" not in metrics
        assert "einhornpy_worker_busy_ratio{" not in metrics
        (row,) = [line for line in master.cli("status").stdout.splitlines() if f" {worker['pid']} " in line]
        assert row.split()[-2:] == ["-", "-"]


def test_a_limit_that_nobody_would_count_for_is_refused_by_name(start: Start, site: Path) -> None:
    said = ("nothing counts the requests of its worker class aiohttp.GunicornWebWorker: expected "
            "0, or another class; "
            "--max-lifetime and --max-memory work")
    master = start_one(start, "aiohttp.GunicornWebWorker", "aio:app", "--max-requests", "9")
    assert master.wait_exit() == 2
    assert said in master.log().splitlines()[-1]
    (site / "gunicorn.conf.py").write_text("")
    master = start_one(start, "aiohttp.GunicornWebWorker", "aio:app")
    master.wait_ready()
    (site / "gunicorn.conf.py").write_text("max_requests = 9\n")
    result = master.cli("upgrade")
    assert result.returncode == 5
    assert said in result.stderr
