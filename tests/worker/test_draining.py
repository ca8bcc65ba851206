"""How workers leave: clients that reuse a connection at the worst moment, requests half sent,
streams and websockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from einhornpy.worker import gunicorn_lingering

from ..harness import APPS, DEADLINE, EXAMPLE, Master
from ..whole.test_no_lost_request import CLASSES

Start = Callable[..., Master]
KEEP_ALIVE = [name for name in CLASSES if name != "sync"]
ASGI = {
    "asgi": ["-k", "asgi", "long_asgi:app"],
    "uvicorn": ["-k", "uvicorn_worker.UvicornWorker", "long_asgi:app"]}


class Connection:
    """One HTTP/1.1 client connection, spoken by hand."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, DEADLINE)
        self.data = b""

    def send(self, data: str) -> None:
        self.socket.sendall(data.encode())

    def request(self, path: str = "/") -> None:
        self.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")

    def read_until(self, end: bytes) -> bytes:
        while end not in self.data:
            chunk = self.socket.recv(65536)
            if not chunk:
                raise EOFError(f"closed after {self.data!r}")
            self.data += chunk
        found, _, self.data = self.data.partition(end)
        return found

    def answer(self) -> tuple[int, bool, str]:
        """Status, whether the server announced the end, body."""
        head = self.read_until(b"\r\n\r\n").decode().lower()
        length = int(head.partition("content-length:")[2].split("\r\n")[0])
        while len(self.data) < length:
            chunk = self.socket.recv(65536)
            if not chunk:
                raise EOFError(f"closed in a body: {self.data!r}")
            self.data += chunk
        body, self.data = self.data[:length], self.data[length:]
        return int(head.split()[1]), "connection: close" in head, body.decode()

    def ended(self) -> bool:
        """Wait for the end of the stream: True if it is a clean one, False if it is a reset."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            return False
        return True

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def connect() -> Iterator[Callable[..., Connection]]:
    made: list[Connection] = []

    def factory(address: tuple[str, int]) -> Connection:
        made.append(Connection(address))
        return made[-1]

    yield factory
    for connection in made:
        connection.close()


def start_class(start: Start, name: str, *flags: str, keep_alive: int = 2) -> Master:
    master = start("-n", "1", "-b",
                   "127.0.0.1:0", "--chdir", str(EXAMPLE), *flags, "--", "gunicorn", "--keep-alive",
                   str(keep_alive), *CLASSES[name], environment={"IMPORT_SECONDS": "0"})
    master.wait_ready()
    return master


def reused_at_the_worst_moment(master: Master, connections: list[Connection],
                               send: Callable[[Connection], None]) -> None:
    """Send on each connection from a thread of its own: on every other one when the replacement is
    ready, which is just before the worker gets its SIGTERM, on the others just after."""
    recorder = master.record()
    moments = (threading.Event(), threading.Event())
    errors: list[BaseException] = []

    def one(moment: threading.Event, connection: Connection) -> None:
        try:
            moment.wait(DEADLINE)
            send(connection)
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=one, args=(moments[number % 2], each))
        for number, each in enumerate(connections)]
    for thread in threads:
        thread.start()
    assert master.cli("upgrade", "--no-wait").returncode == 0
    recorder.wait_for("worker-ready")
    moments[0].set()
    recorder.wait_for("worker-retiring")
    moments[1].set()
    for thread in threads:
        thread.join(DEADLINE)
    assert not errors, f"{len(errors)} of {len(connections)}: {errors}\n{master.log()}"
    recorder.wait_for("upgrade-ended")
    assert "worker killed" not in master.log()


def idle_connections_are_answered(master: Master, connect: Callable[..., Connection]) -> None:
    """Use connections that were kept alive once more at that moment, until each is told that it
    ends."""
    connections = [connect(master.address) for _ in range(40)]
    for connection in connections:
        connection.request()
        assert connection.answer()[:2] == (200, False)

    def send(connection: Connection) -> None:
        close = False
        while not close:  # some are answered before the worker knows that it is to go
            connection.request()
            status, close, _ = connection.answer()
            assert status == 200
        assert connection.ended(), "reset after its last answer"

    reused_at_the_worst_moment(master, connections, send)


@pytest.mark.parametrize("name", KEEP_ALIVE)
def test_a_connection_reused_at_the_worst_moment_gets_its_answer(
    start: Start, connect: Callable[..., Connection], name: str
) -> None:
    # Long enough for connections to idle while a slow machine brings up the replacement. gunicorn's
    # asgi keeps its end open until the graceful timeout, after an answer that announced the end.
    master = start_class(start, name, "--graceful-timeout", "5", keep_alive=60)
    idle_connections_are_answered(master, connect)


@pytest.mark.parametrize("name", CLASSES)
def test_requests_begun_before_are_answered(start: Start, connect: Callable[..., Connection],
                                            name: str) -> None:
    master = start_class(start, name, keep_alive=60)
    # sync reads one connection at a time: what it has not accepted yet is its successor's.
    half, silent = connect(master.address), connect(master.address)
    half.send("GET / HTTP/1.1\r\nHo")
    queued = [connect(master.address) for _ in range(3)]

    def send(connection: Connection) -> None:
        if connection is half:
            connection.send("st: test\r\nConnection: close\r\n\r\n")
        else:
            connection.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        assert connection.answer()[0] == 200
        assert connection.ended()

    reused_at_the_worst_moment(master, [half, silent, *queued], send)


@pytest.mark.parametrize("name", CLASSES)
def test_an_idle_connection_holds_a_worker_only_briefly(start: Start, connect: Callable[...,
                                                                                        Connection],
                                                        name: str) -> None:
    master = start_class(start, name, "--graceful-timeout", "60")
    recorder = master.record()
    idle = connect(master.address)
    idle.request()
    idle.answer()
    assert master.cli("upgrade", "--no-wait").returncode == 0
    gone = recorder.wait_for("worker-gone")
    assert float(gone["age"].rstrip("s")) < 30
    assert idle.ended()


def start_long(start: Start, place: Path, name: str) -> Master:
    master = start("-n", "1", "-b", "127.0.0.1:0", "--graceful-timeout", "5", "--chdir", str(APPS),
                   "--", "gunicorn", *ASGI[name], environment={"NOTES": str(place / "notes")})
    master.wait_ready()
    return master


@pytest.mark.parametrize("name", ASGI)
def test_a_websocket_lives_until_the_graceful_timeout_and_is_closed_politely(
    start: Start, place: Path, connect: Callable[..., Connection], name: str
) -> None:
    master = start_long(start, place, name)
    recorder = master.record()
    websocket = connect(master.address)
    websocket.send(
        "GET /ws HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n")
    assert b" 101 " in websocket.read_until(b"\r\n\r\n")
    assert master.cli("upgrade", "--no-wait").returncode == 0
    recorder.wait_for("worker-retiring", generation=1)
    waits = master.wait_status(
        lambda each: each["workers"][0]["waits_for"] and each["workers"][0]["in_flight"] == 1)
    assert "1 request in flight, killed in" in waits["workers"][0]["waits_for"]
    # a masked text frame (RFC 6455, section 5.2); the mask is zero
    websocket.socket.sendall(b"\x81\x85\0\0\0\0hello")
    websocket.read_until(b" hello")
    while len(websocket.data) < 4:
        websocket.data += websocket.socket.recv(100)
    assert websocket.data[0] == 0x88, "a close frame"
    assert int.from_bytes(websocket.data[2:4], "big") == 1012
    websocket.socket.sendall(b"\x88\x82\0\0\0\0" + websocket.data[2:4])
    assert websocket.ended()
    recorder.wait_for("worker-gone", generation=1)
    assert "worker killed" not in master.log()
    assert "websocket over" in (place / "notes").read_text()


@pytest.mark.parametrize("name", ASGI)
def test_a_stream_gets_the_graceful_timeout_then_a_clean_end(
    start: Start, place: Path, connect: Callable[..., Connection], name: str
) -> None:
    master = start_long(start, place, name)
    recorder = master.record()
    stream = connect(master.address)
    stream.request("/stream")
    stream.read_until(b"tick")
    assert master.cli("upgrade", "--no-wait").returncode == 0
    recorder.wait_for("worker-retiring", generation=1)
    for _ in range(10):
        stream.read_until(b"tick")
    assert stream.ended(), "it was reset"
    recorder.wait_for("worker-gone", generation=1)
    assert "worker killed" not in master.log()
    assert (place / "notes").read_text().splitlines().count("stream over") == 1


def test_clients_that_do_not_close_keep_no_gthread_worker_from_its_heartbeat(
    start: Start, connect: Callable[..., Connection]
) -> None:
    master = start_class(start, "gthread", "--timeout", "3")
    clients = [connect(master.address) for _ in range(8)]
    for client in clients:
        client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
    for client in clients:
        client.answer()
    began = time.monotonic()
    last = connect(master.address)
    last.request()
    last.answer()
    # gunicorn by itself waits for 2 s for each of them.
    assert time.monotonic() - began < 4, "it waits for those who were answered"
    assert all(client.ended() for client in clients)
    assert "worker hung" not in master.log()


def test_a_gthread_worker_that_stood_still_hears_before_it_judges() -> None:
    """Whether it stood in the wrong moment, between hearing and judging, is nothing that a signal
    could choose."""
    dead: list[str] = []

    class Worker:
        def __init__(self) -> None:
            self.keepalived_conns = [SimpleNamespace(name="asks", timeout=time.monotonic() - 1),
                                     SimpleNamespace(name="idle", timeout=time.monotonic() - 1)]
            self.pending_conns: list[SimpleNamespace] = []

        def finish_request(self) -> None: ...

        def wait_for_and_dispatch_events(self, timeout: float) -> None:
            assert timeout == 0
            self.keepalived_conns[:] = [
                each for each in self.keepalived_conns if each.name != "asks"]

        def murder_keepalived(self, force: bool = False) -> None:
            dead.extend(each.name for each in self.keepalived_conns)

        def murder_pending(self) -> None:
            dead.extend(each.name for each in self.pending_conns)

    worker = Worker()
    gunicorn_lingering.mend(worker)
    worker.murder_keepalived()
    worker.murder_pending()
    assert dead == ["idle"]


class TConn:
    """What the module of gunicorn's worker has under this name, for the worker above."""

    def close(self, graceful: bool = False) -> None: ...
