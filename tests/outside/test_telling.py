"""Labels from the platform, and deploy events for others: real sockets and HTTP servers, slow ones
and none at all."""

from __future__ import annotations

import http.server
import json
import os
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from einhornpy.control import metadata

from ..harness import APPS, BREAKABLE, DEADLINE, Master, wait_until

Start = Callable[..., Master]
WORKER = [sys.executable, str(APPS / "worker.py"), "notify"]


class Server(http.server.ThreadingHTTPServer):
    """Keeps what is posted, and answers each request with the next of `answers`: a status, or None
    for no answer at all."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.posted: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.answers: list[int | None] = []
        self.document: Any = {}
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.answers.pop(0) if self.server.answers else 200
        if status is None:
            self.server.over.wait(DEADLINE)
            return
        if status == 200:
            self.server.posted.append(json.loads(body))
        self.send_response(status)
        self.end_headers()

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        status = self.server.answers.pop(0) if self.server.answers else 200
        if status is None:
            self.server.over.wait(DEADLINE)
            return
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(self.server.document).encode())

    def log_message(self, *args: object) -> None:
        return


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield found
        found.over.set()
        found.shutdown()
        thread.join()


def flaky(start: Start, *arguments: str) -> Master:
    """A master with a worker that can't start while there is a file called `broken`."""
    return start("-n", "1", "-m", "notify", "-c", "my.shop", "--max-failures", "1", *arguments,
                 "--", *BREAKABLE)


def test_everybody_hears_of_good_and_bad_releases(start: Start, server: Server) -> None:
    statsd = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    statsd.bind(("127.0.0.1", 0))
    statsd.settimeout(DEADLINE)
    points: list[str] = []

    class Graphite(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            points.extend(line.decode().strip() for line in self.rfile)

    with statsd, socketserver.ThreadingTCPServer(("127.0.0.1", 0), Graphite) as graphite:
        thread = threading.Thread(target=graphite.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            master = flaky(start, "--statsd", f"127.0.0.1:{statsd.getsockname()[1]}", "--graphite",
                           f"127.0.0.1:{graphite.server_address[1]}", "--webhook",
                           f"{server.url}/hook?secret", "--labels", "region=eu")
            master.wait_ready()
            assert master.cli("upgrade", "--release", "r2").returncode == 0
            (master.directory / "broken").touch()
            assert master.cli("upgrade", "--release", "r3").returncode == 5
            counted = [statsd.recv(1000).decode() for _ in range(4)]
            assert counted == [
                f"events.deploy.my_shop.{event}:1|c"
                for event in ("started", "done", "started", "refused")]
            wait_until(lambda: len(points) == 4, "four points", master.log)
            assert [point.split()[:2]
                    for point in points] == [[f"events.deploy.my_shop.{event}", "1"]
                                             for event in ("started", "done", "started", "refused")]
            wait_until(lambda: len(server.posted) == 4, "four posts", master.log)
        finally:
            graphite.shutdown()
            thread.join()
    assert [each["event"] for each in server.posted] == ["started", "done", "started", "refused"]
    started, done, _, refused = server.posted
    host = os.uname().nodename
    assert started["text"].startswith(
        f"my.shop on {host}: upgrade to generation 2 (r2) started by ")
    assert done["text"].startswith(f"my.shop on {host}: upgrade to generation 2 (r2) done after ")
    assert refused["text"].endswith(" s: a worker exited with code 3 before it was ready")
    assert (done["upgrade"]["outcome"], refused["upgrade"]["outcome"]) == ("done", "rolled-back")
    assert done["labels"] == {"hostname": host, "region": "eu"}
    assert "secret" not in master.log()


def test_one_that_fails_is_tried_again_and_in_order(start: Start, server: Server) -> None:
    server.answers = [500, 200, 404, 200]
    master = flaky(start, "--webhook", f"{server.url}/secret")
    master.wait_ready()
    assert master.cli("upgrade").returncode == 0
    assert master.cli("upgrade").returncode == 0
    wait_until(lambda: len(server.posted) == 3, "three posts", master.log)
    # The second, `done`, was not wanted (404), and is not tried again.
    assert [(each["event"], each["upgrade"]["to"]) for each in server.posted] == [("started", 2),
                                                                                  ("started", 3),
                                                                                  ("done", 3)]
    line = master.wait_log("announcement failed")
    assert " told=done " in line
    assert f'to="webhook {server.url}"' in line
    assert "404" in line


def test_a_place_that_hangs_holds_nothing_up(start: Start, server: Server) -> None:
    server.answers = [None]
    master = flaky(start, "--webhook", server.url)
    master.wait_ready()
    for _ in range(3):
        assert master.cli("upgrade").returncode == 0
    assert server.posted == []
    # What waits outlives a reload, and is told when the place answers again.
    assert master.cli("reload").returncode == 0
    server.over.set()
    wait_until(lambda: len(server.posted) == 6, "six posts", master.log)
    assert [each["event"] for each in server.posted] == ["started", "done"] * 3


def test_a_place_that_is_not_there(start: Start) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        master = flaky(start, "--graphite", f"127.0.0.1:{nobody.getsockname()[1]}")
        master.wait_ready()
        assert master.cli("upgrade").returncode == 0
        assert "Connection refused" in master.wait_log("announcement failed")


def test_the_task_metadata_of_ecs(start: Start, server: Server) -> None:
    server.document = {
        "Cluster": "arn:aws:ecs:eu-west-1:1:cluster/shop",
        "TaskARN": "arn:aws:ecs:eu-west-1:1:task/shop/abc", "Family": "web", "Revision": "7",
        "AvailabilityZone": "eu-west-1a"}
    server.answers = [500, 200]
    master = start("-n", "1", "-m", "notify", "--labels", "availability_zone=mine", "--", *WORKER,
                   environment={"ECS_CONTAINER_METADATA_URI_V4": f"{server.url}/v4/x"})
    document = master.wait_status(lambda document: "ecs_task" in document["labels"])
    assert document["labels"] == {
        "hostname": os.uname().nodename, "ecs_cluster": "shop", "ecs_task": "abc",
        "ecs_family": "web", "ecs_revision": "7", "availability_zone": "mine"}
    assert server.asked == ["/v4/x/task"] * 2
    assert master.cli("reload").returncode == 0
    assert master.status()["labels"] == document["labels"]


@pytest.mark.parametrize("answer", ["none", "garbage", "slow"])
def test_metadata_that_is_absent_or_slow_delays_nothing(start: Start, server: Server,
                                                        answer: str) -> None:
    uri = "http://127.0.0.1:1/x" if answer == "none" else server.url
    server.document = ["no", "object"]
    server.answers = [None] * metadata.ATTEMPTS if answer == "slow" else []
    master = start("-n", "1", "-m", "notify", "--", *WORKER,
                   environment={"ECS_CONTAINER_METADATA_URI_V4": uri})
    assert master.wait_ready()["labels"] == {"hostname": os.uname().nodename}
    assert master.cli("upgrade").returncode == 0
    assert master.stop() == 0
    if answer == "slow":
        # all attempts take half a minute
        assert len(server.asked) < metadata.ATTEMPTS, "the end waited for it"


def test_kubernetes_names(start: Start) -> None:
    master = start(
        "-n", "1", "-m", "notify", "--", *WORKER, environment={
            "KUBERNETES_SERVICE_HOST": "10.0.0.1", "POD_NAME": "web-1", "POD_NAMESPACE": "shop",
            "NODE_NAME": "n7"})
    assert master.wait_ready()["labels"] == {
        "hostname": os.uname().nodename, "pod": "web-1", "namespace": "shop", "node": "n7"}


def test_places_that_hang_keep_no_hook_waiting(start: Start, server: Server, place: Path) -> None:
    server.answers = [None] * 12
    webhooks = [word for number in range(12) for word in ("--webhook", f"{server.url}/{number}")]
    master = flaky(start, *webhooks, "--on-worker-ready", f"echo ready >> {place}/hooks")
    master.wait_ready()
    assert master.cli("upgrade").returncode == 0
    wait_until(
        lambda: (place / "hooks").exists() and (place / "hooks").read_text() == "ready\n" * 2,
        "both hooks", master.log)
    assert master.stop() == 0
    # Twelve places have heard neither of its beginning nor of its end.
    lines = [line for line in master.log().splitlines() if "announcement failed" in line]
    assert len(lines) == 12
    assert all('reason="the master ends" events=2' in line for line in lines)


def test_a_redirect_is_no_answer(start: Start, server: Server) -> None:
    server.answers = [301, 200]
    master = flaky(start, "--webhook", server.url)
    master.wait_ready()
    assert master.cli("upgrade").returncode == 0
    assert "301" in master.wait_log("announcement failed")
    wait_until(lambda: [each["event"] for each in server.posted] == ["done"], "the next event",
               master.log)
    assert server.asked == []
