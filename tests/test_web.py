"""The sidecar: what each path answers, who serves it, what it may do, what becomes of it when somebody dies; app metrics."""

from __future__ import annotations

import ctypes
import http.client
import itertools
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from .harness import APPS, BREAKABLE, DEADLINE, EXAMPLE, Master, wait_gone, wait_until

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
    return sum(value for (sample, given), value in found.items() if sample == sample_name and labels.items() <= dict(given).items())


def web_pid(master: Master, count: int = 1) -> int:
    """The pid of the sidecar that was started as the `count`th."""
    lines: list[str] = wait_until(
        lambda: [line for line in master.log().splitlines() if " web started " in line][count - 1:], "a sidecar", master.log)
    return int(lines[0].partition("pid=")[2].split()[0])


@pytest.fixture
def master(start: Start) -> Master:
    found = start("-n", "2", "-m", "notify", "--web", "127.0.0.1:0", "--labels", "region=eu", "--", *WORKER)
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
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        status, headers, body = fetch(master, path)
        assert (status, headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
        assert body
        assert "default-src 'none'" in headers["Content-Security-Policy"]
    status, headers, body = fetch(master, "/", "HEAD")
    assert (status, body) == (200, "")
    assert int(headers["Content-Length"]) > 0
    assert fetch(master, "/metrics", "HEAD")[::2] == (200, "")
    assert fetch(master, "/nothing")[0] == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        status, headers, _ = fetch(master, "/status", method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert fetch(master, "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})[1]["Content-Type"].startswith(
        "application/openmetrics-text")


def test_readyz_is_the_gate(start: Start) -> None:
    master = start("-n", "1", "-m", "notify", "--max-failures", "1", "--web", "127.0.0.1:0", "--", *BREAKABLE)
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
    master = start("-n", "2", "-b", "127.0.0.1:0", "-b", "unix:app.sock", "--web", "unix:web.sock", "--labels", "region=eu",
                   "--chdir", str(EXAMPLE), "--", "gunicorn", "app:wsgi")
    master.wait_ready()
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
    found = {(each.name, tuple(sorted(each.labels.items()))): each.value for family in families.values() for each in family.samples}
    assert total(found, "einhornpy_workers", state="ready", generation="2") == 2
    assert total(found, "einhornpy_workers_target") == total(found, "einhornpy_workers_ready") == 2
    assert total(found, "einhornpy_generation") == 2
    assert total(found, "einhornpy_info", name=master.status()["name"], region="eu", release="r2") == 1
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


def test_nobody_serves_and_may_only_look(master: Master) -> None:
    assert fetch(master, "/healthz")[0] == 200
    pid = web_pid(master)
    workers = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    assert workers
    for each in (pid, *workers):
        lines = dict(line.split(":\t", 1) for line in Path(f"/proc/{each}/status").read_text().splitlines() if ":\t" in line)
        if os.geteuid() == 0:
            assert "0" not in lines["Uid"].split() + lines["Gid"].split()
            assert lines["Groups"].strip() == ""
            assert set(lines["CapEff"]) == set(lines["CapPrm"]) == {"0"}
        assert lines["NoNewPrivs"] == "1"
    # Its connection is looked at for what it asks, not for who it is.
    with socket.socket(fileno=_stolen(workers[0], 4)) as connection:
        for command in ("upgrade", "stop", "worker:ack", "scale"):
            connection.sendall(json.dumps({"id": 99, "command": command, "args": {}}).encode() + b"\n")
            assert select.select([connection], [], [], DEADLINE)[0]  # the sidecar has it non-blocking
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


@pytest.mark.parametrize("whom", ["arbiter", "worker"])
def test_one_that_dies_is_started_again(master: Master, whom: str) -> None:
    assert fetch(master, "/healthz")[0] == 200
    pid = web_pid(master)
    victim = pid if whom == "arbiter" else int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    os.kill(victim, signal.SIGKILL)
    master.wait_log("web died")
    assert web_pid(master, 2) != pid
    assert fetch(master, "/healthz")[0] == 200  # whoever asked meanwhile has waited in the queue
    assert [worker["restarts"] for worker in master.status()["workers"]] == [0, 0]


def test_it_ends_with_a_killed_master(master: Master) -> None:
    assert fetch(master, "/healthz")[0] == 200
    pid = web_pid(master)
    workers = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    master.process.kill()
    master.process.wait()
    for each in (pid, *workers):
        wait_gone(each, master.log)


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
        for arguments, code, line in (
            (["--web", "nowhere"], 2, "--web: 'nowhere' is no address"),
            (["--web", f"127.0.0.1:{port}"], 1, f"cannot bind 127.0.0.1:{port}: the address is in use"),
            (["--web", "127.0.0.1:0", "--web-user", "nobody-there"], 2, "--web-user: there is no user 'nobody-there'"),
        ):
            master = start(*arguments, "--", *WORKER)
            assert master.wait_exit() == code
            assert line in master.log()


def metered(start: Start, *more: str) -> Master:
    """A master whose app counts its own requests."""
    master = start("-n", "2", "-b", "127.0.0.1:0", "--web", "127.0.0.1:0", "--chdir", str(APPS), *more, "--", "gunicorn",
                   "metered:wsgi")
    master.wait_ready()
    return master


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
    assert total(found, "shop_requests_total", generation="1") == 10  # the last word of the old code
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
    wait_until(lambda: len(list(place.iterdir())) < 24, "the files of the dead to be folded", master.log)
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
    workers = [worker["pid"] for worker in master.status()["workers"]]
    master.process.kill()
    master.process.wait()
    for pid in workers:
        wait_gone(pid)
    master = metered(start)
    visit(master, 2)
    assert total(metrics(master), "shop_requests_total") == 2
