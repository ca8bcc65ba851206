"""The sidecar: what each path answers, who serves it, what it may do, what becomes of it when
somebody dies; app metrics."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import itertools
import json
import os
import pwd
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from einhornpy.control import watch
from einhornpy.control.client import Client
from einhornpy.control.web import feed
from einhornpy.control.web.fold import fold
from einhornpy.control.web.metrics import _of_generation, of_templates
from prometheus_client.parser import text_string_to_metric_families

from ..harness import (
    APPS,
    BIN,
    BREAKABLE,
    DEADLINE,
    EINHORNPY,
    EXAMPLE,
    Master,
    base_environment,
    get,
    wait_gone,
    wait_listening,
    wait_until,
)

Start = Callable[..., Master]
WORKER = [sys.executable, str(APPS / "worker.py"), "notify"]
Metrics = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def fetch(
    master: Master, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[int, http.client.HTTPMessage, str]:
    """One request to the sidecar: status, headers, body."""
    host, port = master.web_address
    connection = http.client.HTTPConnection(host, port, timeout=DEADLINE)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


def metrics(master: Master) -> Metrics:
    """Every sample, by its name and labels."""
    status, headers, body = fetch(master, "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    return {(each.name, tuple(sorted(each.labels.items()))): each.value
            for family in text_string_to_metric_families(body) for each in family.samples}


def total(found: Metrics, sample_name: str, /, **labels: str) -> float:
    """All samples of this name with these labels, added up."""
    return sum(value for (sample, given), value in found.items()
               if sample == sample_name and labels.items() <= dict(given).items())


def web_pid(master: Master, count: int = 1) -> int:
    """The pid of the sidecar that was started as the `count`th."""
    lines: list[str] = wait_until(
        lambda: [line for line in master.log().splitlines() if " web started " in line][count - 1:],
        "a sidecar", master.log)
    return int(lines[0].partition("pid=")[2].split()[0])


@pytest.fixture
def master(start: Start) -> Master:
    found = start("-n", "2", "-m", "notify", "--web", "127.0.0.1:0", "--labels", "region=eu", "--",
                  *WORKER)
    found.wait_ready()
    return found


def test_each_path(master: Master) -> None:
    status, headers, body = fetch(master, "/status")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    document = json.loads(body)
    assert document["labels"] == {"hostname": os.uname().nodename, "region": "eu"}
    assert document.keys() == master.status().keys()
    assert fetch(master, "/healthz")[::2] == (200, f"alive: pid {master.pid}, einhornpy 0.1.0\n")
    assert fetch(master, "/readyz")[::2] == (200, "ready: 2 of 2 workers ready on generation 1\n")
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js",
                                                                       "text/javascript")):
        status, headers, body = fetch(master, path)
        assert (status, headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
        assert body
        assert "default-src 'none'" in headers["Content-Security-Policy"]
    status, headers, body = fetch(master, "/", "HEAD")
    assert (status, body) == (200, "")
    assert int(headers["Content-Length"]) > 0
    assert fetch(master, "/metrics", "HEAD")[::2] == (200, "")
    assert fetch(master, "/nothing")[0] == 404
    assert "/readyz, /readyz?serving, " in fetch(master, "/nothing")[2]
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        status, headers, _ = fetch(master, "/status", method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert fetch(master, "/metrics",
                 headers={"Accept": "application/openmetrics-text; version=1.0.0"
                          })[1]["Content-Type"].startswith("application/openmetrics-text")


def test_readyz_is_the_gate(start: Start) -> None:
    master = start("-n", "1", "-m", "notify", "--max-failures", "1", "--web", "127.0.0.1:0", "--",
                   *BREAKABLE)
    master.wait_ready()
    (master.directory / "broken").touch()
    assert master.cli("upgrade").returncode == 5
    status, _, body = fetch(master, "/readyz")
    assert status == 503
    assert body.startswith("rolled-back: generation 2 was refused: ")
    assert fetch(master, "/readyz?serving")[0] == 200
    found = metrics(master)
    assert total(found, "einhornpy_gate", gate="rolled-back") == 1
    assert total(found, "einhornpy_gate") == 1
    assert total(found, "einhornpy_upgrades_total", outcome="rolled-back") == 1


def test_metrics_say_what_status_says(start: Start) -> None:
    master = start("-n", "2", "-b", "127.0.0.1:0", "-b", "unix:app.sock", "--web", "unix:web.sock",
                   "--labels", "region=eu", "--chdir", str(EXAMPLE), "--", "gunicorn", "app:wsgi")
    master.wait_ready()
    assert get(master.address)[0] == 200
    assert master.cli("upgrade", "--release", "r2").returncode == 0

    class Connection(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(DEADLINE)
            self.sock.connect(str(master.directory / "web.sock"))

    connection = Connection("web")
    connection.request("GET", "/metrics")
    body = connection.getresponse().read().decode()
    connection.close()
    families = {family.name: family for family in text_string_to_metric_families(body)}
    found = {(each.name, tuple(sorted(each.labels.items()))): each.value
             for family in families.values() for each in family.samples}
    for name in ("requests_total", "request_duration_seconds_count"):
        assert total(found, f"einhornpy_http_{name}", generation="1") == 1
        assert (f"einhornpy_http_{name}", "2") in {
            (sample, dict(labels).get("generation")) for sample, labels in found}
    assert total(found, "einhornpy_workers", state="ready", generation="2") == 2
    assert total(found, "einhornpy_workers_target") == total(found, "einhornpy_workers_ready") == 2
    assert total(found, "einhornpy_generation") == 2
    assert total(found, "einhornpy_info", name=master.status()["name"], region="eu",
                 release="r2") == 1
    assert total(found, "einhornpy_upgrade_duration_seconds_count") == 1
    assert total(found, "einhornpy_worker_ready_duration_seconds_count") == 4
    assert total(found, "einhornpy_worker_exits_total", reason="upgrade") == 2
    assert total(found, "einhornpy_listener_queue_limit") == 2 * 2048
    assert len([key for key in found if key[0] == "einhornpy_listener_queue_length"]) == 2
    assert len([key for key in found if key[0] == "einhornpy_worker_memory_bytes"]) == 2
    assert total(found, "einhornpy_master_memory_bytes") > 1 << 20
    assert total(found, "einhornpy_master_loop_lag_seconds_count") > 10
    assert total(found, "einhornpy_log_lines_total") > 10
    assert total(found, "einhornpy_log_lines_dropped_total") == 0
    assert all(family.documentation.endswith(".") for family in families.values())


def test_metrics_of_templates_and_of_what_is_shared(start: Start) -> None:
    master = start("-n", "2", "-b", "127.0.0.1:0", "--web", "127.0.0.1:0", "--preload", "--chdir",
                   str(APPS), "--", str(BIN / "gunicorn"), "preloaded:wsgi")
    master.wait_ready()
    assert master.cli("upgrade").returncode == 0
    found = wait_until(
        lambda: (taken if total(taken := metrics(master), "einhornpy_memory_saved_bytes") > 40 << 20
                 else None), "what is saved", master.log)
    each = ("einhornpy_master_memory_bytes", "einhornpy_template_memory_bytes",
            "einhornpy_worker_memory_bytes")
    together = sum(total(found, name) for name in each)
    # The master's own is measured anew.
    assert total(found, "einhornpy_memory_bytes") == pytest.approx(together, abs=4 << 20)
    assert total(found, "einhornpy_templates", generation="2", state="ready") == 1
    assert total(found, "einhornpy_templates") == 1
    assert total(found, "einhornpy_template_forks_total", generation="2") == 2
    assert total(found, "einhornpy_template_import_seconds", generation="2") > 0
    assert total(found, "einhornpy_template_age_seconds", generation="2") > 0
    assert total(found, "einhornpy_not_safe_to_fork", generation="2") == 1
    # One that is refused for what it has runs nowhere.
    template = {"generation": 2, "pid": 70, "state": "ready", "age_seconds": 1.0,
                "import_seconds": None, "forks": 0, "memory_bytes": None}
    said = {"generation": 2, "workers": [], "templates": [template],
            "findings": [{"generation": 3}, {"generation": 3}]}
    counts = {each.name: each.samples for each in of_templates(said)}
    assert [(each.labels, each.value) for each in counts["einhornpy_not_safe_to_fork"]] == [
        ({"generation": "2"}, 0.0)]
    assert counts["einhornpy_template_import_seconds"] == []


def test_nobody_serves_and_may_only_look(master: Master) -> None:
    assert fetch(master, "/healthz")[0] == 200
    pid = web_pid(master)
    lines = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if ":\t" in line)
    if os.geteuid() == 0:
        assert "0" not in lines["Uid"].split() + lines["Gid"].split()
        assert lines["Groups"].strip() == ""
        assert set(lines["CapEff"]) == set(lines["CapPrm"]) == {"0"}
    assert lines["NoNewPrivs"] == "1"
    # Its connection is looked at for what it asks, not for who it is.
    with socket.socket(fileno=_stolen(pid, 4)) as connection:
        for command in ("upgrade", "stop", "worker:ack", "scale"):
            connection.sendall(
                json.dumps({"id": 99, "command": command, "args": {}}).encode() + b"\n")
            # the sidecar has it non-blocking
            assert select.select([connection], [], [], DEADLINE)[0]
            answer = json.loads(connection.recv(65536))
            assert (answer["ok"], answer["error"]["code"]) == (False, "not-allowed")


def _stolen(pid: int, fd: int) -> int:
    """A duplicate of another process's descriptor (pidfd_getfd(2))."""
    process = os.pidfd_open(pid)
    try:
        taken: int = ctypes.CDLL(None, use_errno=True).syscall(438, process, fd, 0)
        if taken < 0:
            pytest.skip("this process may not look into others")
        return taken
    finally:
        os.close(process)


def test_one_that_dies_is_started_again(master: Master) -> None:
    assert fetch(master, "/healthz")[0] == 200
    pid = web_pid(master)
    os.kill(pid, signal.SIGKILL)
    master.wait_log("web died")
    assert web_pid(master, 2) != pid
    assert fetch(master, "/healthz")[0] == 200  # whoever asked meanwhile has waited in the queue
    assert [worker["restarts"] for worker in master.status()["workers"]] == [0, 0]


def test_it_ends_with_a_killed_master(master: Master) -> None:
    assert fetch(master, "/healthz")[0] == 200
    pid = web_pid(master)
    master.process.kill()
    master.process.wait()
    wait_gone(pid, master.log)


def test_a_reload_brings_a_new_one_on_the_same_socket(master: Master) -> None:
    address, pid = master.web_address, web_pid(master)
    assert master.cli("reload").returncode == 0
    assert web_pid(master, 2) != pid
    wait_gone(pid)
    assert master.web_address == address
    assert fetch(master, "/readyz")[0] == 200
    assert total(metrics(master), "einhornpy_master_reloads_total") == 1


class Stream:
    """Reads server-sent events from /stream."""

    def __init__(self, master: Master) -> None:
        host, port = master.web_address
        self._connection = http.client.HTTPConnection(host, port, timeout=DEADLINE)
        self._connection.request("GET", "/stream")
        self.answer = self._connection.getresponse()

    def close(self) -> None:
        self._connection.close()


def test_the_stream_tells_what_happens(master: Master) -> None:
    stream = Stream(master)
    try:
        assert stream.answer.status == 200
        assert stream.answer.headers["Content-Type"] == "text/event-stream"
        lines = iter(stream.answer.readline, b"")
        hello = next(line for line in lines if line.startswith(b"data: "))
        told = json.loads(hello.removeprefix(b"data: "))
        assert told["status"]["target"] == 2
        assert "worker-ready" in [event["event"] for event in told["events"]]
        master.cli("upgrade", "--no-wait")
        names: list[str] = []
        ready: list[int] = []
        for line in itertools.takewhile(lambda line: b'"event":"upgrade-ended"' not in line, lines):
            if line.startswith(b"event: "):
                names.append(line.decode().strip().removeprefix("event: "))
            elif line.startswith(b"data: ") and names[-1] == "event":
                ready.append(json.loads(line.removeprefix(b"data: "))["ready"])
        assert {"status", "event"} <= set(names)
        assert min(ready) == 2
    finally:
        stream.close()


def test_after_a_hang_the_figures_move_as_before(master: Master) -> None:
    stream = Stream(master)
    try:
        lines = iter(stream.answer.readline, b"")
        samples = (json.loads(line.removeprefix(b"data: "))["sample"]["unix_time"] for line in lines
                   if line.startswith(b"data: ") and b'"sample":' in line)
        next(samples)
        follower = watch.Watch(master.path)
        master.signal(signal.SIGSTOP)
        for news in follower.news():
            # Longer than an honest answer may cost, also for whoever asked a moment later.
            if isinstance(news, watch.Silent) and news.seconds > 2 * watch.SILENCE:
                follower.close()
        master.signal(signal.SIGCONT)
        moments = [next(samples) for _ in range(4)]
        assert max(later - earlier
                   for earlier, later in itertools.pairwise(moments)) < feed.LONGEST_INTERVAL
    finally:
        stream.close()


def test_too_many_streams_leave_room_for_probes(master: Master) -> None:
    streams = [Stream(master) for _ in range(20)]
    try:
        assert sorted(stream.answer.status for stream in streams) == [200] * 16 + [503] * 4
        assert fetch(master, "/readyz")[0] == 200
    finally:
        for stream in streams:
            stream.close()


def test_wrong_addresses_and_users(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, code, line in ((["--web", "nowhere"], 2, "--web: 'nowhere' is no address"),
                                      (["--web", f"127.0.0.1:{port}"], 1,
                                       f"cannot bind 127.0.0.1:{port}: the address is in use"),
                                      (["--web", "127.0.0.1:0", "--web-user", "nobody-there"], 2,
                                       "--web-user: there is no user 'nobody-there'"),
                                      ):
            master = start(*arguments, "-m", "notify", "--", *WORKER)
            assert master.wait_exit() == code
            assert line in master.log()


def metered(start: Start, *more: str) -> Master:
    """A master whose app counts its own requests."""
    master = start("-n", "2", "-b", "127.0.0.1:0", "--web", "127.0.0.1:0", "--chdir", str(APPS),
                   *more, "--", "gunicorn", "metered:wsgi")
    master.wait_ready()
    return master


def kill(master: Master) -> None:
    """Let nobody tidy up: kill the master, and wait until its workers have left."""
    workers = [worker["pid"] for worker in master.status()["workers"]]
    master.process.kill()
    master.process.wait()
    for pid in workers:
        wait_gone(pid)


def visit(master: Master, times: int, path: str = "/") -> None:
    host, port = master.address
    for _ in range(times):
        connection = http.client.HTTPConnection(host, port, timeout=DEADLINE)
        connection.request("GET", path)
        assert connection.getresponse().read() == b"ok\n"
        connection.close()


def test_the_apps_own_metrics_are_merged(start: Start) -> None:
    master = metered(start)
    visit(master, 10)
    found = metrics(master)
    assert total(found, "shop_requests_total", path="/", generation="1") == 10
    assert total(found, "shop_seconds_bucket", le="1.0") == 10
    assert total(found, "shop_seconds_count") == 10
    assert total(found, "shop_live") == 2
    assert total(found, "shop_own_total", exported_generation="first", generation="1") == 10
    assert master.cli("upgrade").returncode == 0
    visit(master, 3)
    found = metrics(master)
    # the last word of the old code
    assert total(found, "shop_requests_total", generation="1") == 10
    assert total(found, "shop_requests_total", generation="2") == 3
    assert total(found, "shop_live") == total(found, "shop_live", generation="2") == 2
    assert master.cli("upgrade").returncode == 0
    found = metrics(master)
    assert total(found, "shop_requests_total", generation="1") == 0
    assert total(found, "shop_requests_total", generation="2") == 3
    place = Path(master.path.removesuffix(".sock") + ".metrics")
    assert sorted(each.name for each in place.iterdir()) == ["2", "3"]
    assert master.stop() == 0
    assert not place.exists()


def test_workers_that_come_and_go_leave_no_heap_of_files(start: Start) -> None:
    master = metered(start)
    recorder = master.record()
    master.cli("scale", "18")
    recorder.wait_for("worker-ready", 16)
    visit(master, 36)
    master.cli("scale", "2")
    recorder.wait_for("worker-gone", 16)
    place = Path(master.path.removesuffix(".sock") + ".metrics") / "1"
    wait_until(lambda: len(list(place.iterdir())) < 24, "the files of the dead to be folded",
               master.log)
    visit(master, 4)
    found = metrics(master)
    assert total(found, "shop_requests_total") == 40
    assert total(found, "shop_seconds_bucket", le="1.0") == total(found, "shop_seconds_count") == 40
    assert total(found, "shop_seconds_bucket", le="0.5") == 0
    assert total(found, "shop_live") == 2
    assert total(found, "shop_most") == 7


def test_files_that_cannot_be_read_take_nothing_else_away(start: Start) -> None:
    master = metered(start)
    visit(master, 1, "/spoil")
    found = metrics(master)
    assert total(found, "einhornpy_app_metrics_readable") == 0
    assert total(found, "einhornpy_workers_ready") == 2
    assert total(found, "shop_requests_total") == 0


def test_an_app_with_a_place_for_its_metrics_keeps_it(start: Start, place: Path) -> None:
    (place / "own").mkdir()
    master = metered(start, "--env", f"PROMETHEUS_MULTIPROC_DIR={place / 'own'}")
    visit(master, 1)
    assert list((place / "own").glob("counter_*.db"))
    assert total(metrics(master), "shop_requests_total") == 0


def test_what_a_killed_master_has_left_is_not_counted(start: Start) -> None:
    master = metered(start)
    visit(master, 5)
    kill(master)
    master = metered(start)
    visit(master, 2)
    assert total(metrics(master), "shop_requests_total") == 2


# --- what others do to it -------------------------------------------------------------------------


def test_an_answer_may_be_as_long_as_it_must(start: Start, place: Path) -> None:
    """Many workers with much to say make a status of more than what a client may leave unread."""
    (place / "much").write_text(("\1" * 600 + "\n") * 20)
    master = start("-n", "110", "-m", "1", "--min-ready-seconds", "0", "--worker-output", "prefix",
                   "--web", "127.0.0.1:0", "--", "sh", "-c", "cat much >&2; exec sleep 1000")
    master.record().wait_for("worker-ready", 110)  # a status costs much: it is asked for once
    document = master.status()
    assert document["ready"] == 110
    assert len(json.dumps(document)) > 5 << 20
    assert master.cli("status").returncode == 0
    assert fetch(master, "/readyz?serving")[0] == 200
    assert total(metrics(master), "einhornpy_workers_ready") == 110
    stream = Stream(master)
    try:
        assert stream.answer.readline() == b"retry: 1000\n"
    finally:
        stream.close()
    assert web_pid(master)
    # before it has read its long answer, something happens
    with socket.socket(socket.AF_UNIX) as slow:
        slow.settimeout(DEADLINE)
        slow.connect(master.path)
        slow.sendall(b'{"id": 1, "command": "events"}\n')
        assert select.select([slow], [], [], DEADLINE)[0]
        master.ask("scale", to=109)
        answer, event = itertools.islice(slow.makefile("rb"), 2)
        assert len(answer) > 5 << 20
        assert json.loads(event)["result"]["event"]["event"] == "scaled"
    assert master.cli("stop", "--now").returncode == 0


# Seconds; an answer takes milliseconds, but the machine may be loaded. A thread held by a client
# was held for 10.
MOMENT = 4.0


@contextlib.contextmanager
def open_connections(master: Master, count: int, said: bytes) -> Iterator[list[socket.socket]]:
    """So many clients that say the same and then nothing."""
    with contextlib.ExitStack() as all_of_them:
        clients = []
        for _ in range(count):
            clients.append(
                all_of_them.enter_context(socket.create_connection(master.web_address, DEADLINE)))
            clients[-1].sendall(said)
        yield clients


def assert_probes_are_quick(master: Master) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/status", "/"):
        began = time.monotonic()
        assert fetch(master, path)[0] == 200
        assert time.monotonic() - began < MOMENT, path


def said_to(master: Master, request: bytes) -> bytes:
    """What comes back until the sidecar hangs up."""
    with socket.create_connection(master.web_address, DEADLINE) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_what_is_no_request_is_refused_with_one_line(master: Master) -> None:
    for request, status in (
        (b"GET /\r\n\r\n", 400), (b"\xff\xfe\r\n\r\n",
                                  400), (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 400),
        (b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
         400), (b"GET / HTTP/1.1\r\n\r\n", 400), (b"GET / HTTP/1.0\r\n : x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
         400), (b"GET / HTTP/1.0\r\n" + b"a: b\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.0\r\na: " + b"x" * (16 << 10) + b"\r\n\r\n",
         431), (b"GET /" + b"x" * (1 << 17), 431), (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
        (b"POST /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" +
         b"x" * 100000, 405),
    ):
        head, _, body = said_to(master, request).partition(b"\r\n\r\n")
        assert int(head.split()[1]) == status, request[:100]
        assert body.count(b"\n") == 1


def test_requests_in_one_go_are_answered_in_their_order(master: Master) -> None:
    one = b"GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
    paths = [b"/healthz", b"/metrics", b"/nothing", b"/readyz", b"/healthz"]
    said = b"".join(one % (path, b"")
                    for path in paths[:-1]) + one % (paths[-1], b"Connection: close\r\n")
    answers = said_to(master, said).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200", b"200", b"404", b"200", b"200"]
    assert b"einhornpy_info" in answers[1]
    assert answers[3].endswith(b"ready: 2 of 2 workers ready on generation 1\n")


def test_a_name_of_somebody_else_is_refused_on_loopback(start: Start) -> None:
    """A page of evil.example that has pointed its name here must not read what we say."""
    master = start("-n", "1", "-m", "notify", "--web", "127.0.0.1:0", "--web-host", "Ops.example",
                   "--", *WORKER)
    master.wait_ready()
    port = master.web_address[1]
    for host in ("localhost", f"LocalHost:{port}", f"127.0.0.1:{port}", "[::1]:9", "127.0.0.2",
                 "ops.example:443"):
        assert fetch(master, "/healthz", headers={"Host": host})[0] == 200, host
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example",
                 "localhost.evil.example", "", "10.0.0.1", "::1]", "x:y:z"):
        for path in ("/", "/status", "/stream", "/nothing"):
            status, _, body = fetch(master, path, headers={"Host": host})
            assert (status, body.count("\n")) == (421, 1), host
        assert "expected localhost" in body
    assert "web open to everybody" not in master.log()


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "unix:w.sock"])
def test_who_may_look_is_said_once(start: Start, address: str) -> None:
    """Where anybody may, the log says so; and there any name is good, as behind a proxy."""
    master = start("-n", "1", "-m", "notify", "--web", address, "--", *WORKER)
    master.wait_ready()
    master.wait_log(" web started ")
    if address.startswith("unix"):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(master.directory / "w.sock"))
    else:
        client = socket.create_connection(
            ("::1" if "[" in address else "127.0.0.1", master.web_address[1]), DEADLINE)
    with client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")
        assert client.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
    assert master.cli("reload").returncode == 0
    web_pid(master, 2)
    assert master.log().count("web open to everybody") == (0 if address.startswith("unix") else 1)


def test_without_descriptors_the_oldest_half_goes(start: Start) -> None:
    """As many as it may have are taken by those who say nothing."""
    ourselves = pwd.getpwuid(os.geteuid()).pw_name
    master = start("-n", "1", "-m", "notify", "--web", "127.0.0.1:0", "--web-user", ourselves, "--",
                   *WORKER)
    master.wait_ready()
    pid = web_pid(master)
    assert fetch(master, "/healthz")[0] == 200
    most = len(os.listdir(f"/proc/{pid}/fd")) + 8
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, most))
    with open_connections(master, 100, b"GET /"):
        assert_probes_are_quick(master)
    assert web_pid(master) == pid
    assert "Traceback" not in master.log()



@pytest.mark.parametrize("said", [
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", b"", b"\x16\x03\x01",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /",
    b"POST /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf",],
                         ids=["half a head", "nothing", "TLS", "kept alive", "half a body"])
def test_clients_that_say_half_of_it_silence_no_probe(master: Master, said: bytes) -> None:
    """There are far more of them than threads, beside as many pages as may listen; and of
    connections there is a limit."""
    streams = [Stream(master) for _ in range(16)]
    try:
        with open_connections(master, 40, said):
            assert_probes_are_quick(master)
        with open_connections(master, 400, said) as clients:
            assert_probes_are_quick(master)
            # The oldest had to go, not those that serve.
            assert select.select(clients[:1], [], [], DEADLINE)[0]
        assert all(stream.answer.readline() for stream in streams)
    finally:
        for stream in streams:
            stream.close()


@pytest.mark.parametrize("spoil", [
    "mkfifo {}/counter_99.db", "mkdir {}/counter_99.db", "rm {}/lock && mkfifo {}/lock",
    "rm {}/lock", "truncate -s 3G {}/counter_99.db", "ln -s /etc/shadow {}/counter_99.db",
    sys.executable +
    """ -c 'from prometheus_client.mmap_dict import MmapedDict; m = MmapedDict("{}/counter_99.db")
m.write_value("[\\"a\\", \\"a_total\\", {{\\"l\\": 5}}, \\"help\\"]", 1.0, 0.0)'"""])
def test_whatever_an_app_leaves_there_takes_nothing_else_away(start: Start, spoil: str) -> None:
    master = metered(start)
    visit(master, 1)
    directory = master.path.removesuffix(".sock") + ".metrics/1"
    subprocess.run(["sh", "-c", spoil.format(directory, directory)], check=True)
    found = metrics(master)
    assert total(found, "einhornpy_workers_ready") == 2
    assert total(found, "einhornpy_app_metrics_readable") in (0, 1)
    with contextlib.suppress(OSError):  # without a lock there is none
        fold(directory)
    assert fetch(master, "/healthz")[0] == 200
    assert master.cli("upgrade").returncode == 0
    assert master.stop() == 0
    assert not Path(directory).parent.exists()


def test_what_a_master_before_has_left_there_is_no_obstacle(start: Start) -> None:
    master = metered(start)
    directory = Path(master.path.removesuffix(".sock") + ".metrics/1")
    (directory / "mine" / "deeper").mkdir(parents=True)
    kill(master)
    master = metered(start)
    visit(master, 2)
    found = metrics(master)
    assert total(found, "einhornpy_app_metrics_readable") == 1
    assert total(found, "shop_requests_total") == 2


def test_without_descriptors_the_master_goes_on(start: Start, place: Path) -> None:
    """Somebody takes all of them, then sidecar and keeper die: they come back when there is
    room."""
    log = place / "log"
    script = f'ulimit -n 64; exec "{EINHORNPY}" "$@"'
    process = subprocess.Popen([
        "sh", "-c", script, "sh", "-n", "4", "-d", f"{place}/x.sock", "-m", "0.2",
        "--min-ready-seconds", "0", "--worker-output", "prefix", "--web", "127.0.0.1:0",
        "--log-file",
        str(log), "--", "sleep", "1000"], cwd=place, env=base_environment(place))
    try:
        wait_listening(place / "x.sock")
        with Client(f"{place}/x.sock", timeout=DEADLINE) as client:
            wait_until(lambda: client.ask("status")["result"]["gate"] == "ready", "the gate ready")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

        def companions() -> list[int]:
            commands = {
                pid: Path(f"/proc/{pid}/cmdline").read_bytes()
                for pid in map(int,
                               children.read_text().split())}
            return [
                pid for pid, command in commands.items()
                if b"keeper_process" in command or b"web" in command]

        victims = wait_until(lambda: len(found := companions()) == 2 and found,
                             "sidecar and keeper")
        taken = []
        with contextlib.suppress(BlockingIOError):  # the queue is full
            for _ in range(1000):
                taken.append(socket.socket(socket.AF_UNIX))
                taken[-1].setblocking(False)
                taken[-1].connect(f"{place}/x.sock")
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        for pid in victims:
            wait_gone(pid)
        # It is tried again, with or without success: what died has left a little room.
        wait_until(lambda: process.poll() is not None or log.read_text().count(" web ") >= 3,
                   "another try", log.read_text)
        assert process.poll() is None, log.read_text()
        for each in taken:
            each.close()
        wait_until(lambda: len(companions()) == 2, "both back", log.read_text)
        with Client(f"{place}/x.sock", timeout=DEADLINE) as client:
            assert client.ask("status")["result"]["ready"] == 4
    finally:
        process.terminate()
        assert process.wait(DEADLINE) == 0


def test_an_app_label_that_is_no_text_is_its_own_failure(place: Path) -> None:
    code = "from prometheus_client import Counter; Counter('a', 'b', ['l']).labels('\\ud800').inc()"
    (place / "lock").touch()
    subprocess.run([sys.executable, "-c", code],
                   env=base_environment(place) | {"PROMETHEUS_MULTIPROC_DIR": str(place)},
                   check=True)
    with pytest.raises(ValueError, match="surrogates"):
        _of_generation(str(place))
