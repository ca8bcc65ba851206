"""The moment in which an ASGI worker stops accepting: whoever was accepted in it is answered."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import ssl
import subprocess
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from einhornpy.worker import accepting, asgi, gunicorn_draining

from ..harness import APPS, Master, wait_until
from .test_draining import Connection, connect  # noqa: F401
from .test_servers import EXAMPLES, start_server

Start = Callable[..., Master]
# asyncio accepts at most 100 in one turn, if gunicorn asks it to listen: the others are accepted in
# the next.
CROWD = 150
COMMANDS = {
    "asgi": ["gunicorn", "-k", "asgi", "held_asgi:app"],
    "uvicorn": ["gunicorn", "-k", "uvicorn_worker.UvicornWorker", "held_asgi:app"],
    "worker.asgi under uvicorn": ["uvicorn", "--fd", "3",
                                  "einhornpy.worker.asgi:app"], "worker.asgi under hypercorn": [
                                      "hypercorn", "-w", "0", "--bind", "fd://3", "--backlog",
                                      "2048", "einhornpy.worker.asgi:app"],}


def has_taken_its_signals(pid: int) -> bool:
    """Whether it sleeps, and no signal is pending."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return "S" in status["State"] and int(status["ShdPnd"], 16) == int(status["SigPnd"], 16) == 0


def everybody_is_answered(crowd: list[Connection], master: Master) -> None:
    lost = []
    for connection in crowd:
        try:
            assert connection.answer()[0] == 200
        except (OSError, EOFError) as error:
            lost.append(error)
    assert not lost, f"{len(lost)} of {len(crowd)} lost: {lost[0]!r}\n{master.log()}"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_crowd_that_comes_with_the_signal_is_answered(
    start: Start, place: Path, connect: Callable[..., Connection], name: str  # noqa: F811
) -> None:
    os.mkfifo(place / "fifo")
    flags = [] if COMMANDS[name][0] == "gunicorn" else ["-m", "notify"]
    master = start(
        "-n", "1", "-b", "127.0.0.1:0", "--chdir", str(APPS), *flags, "--", *COMMANDS[name],
        environment={
            "EINHORNPY_ASGI_APP": "held_asgi:app", "FIFO": str(place / "fifo"),
            "EINHORNPY_ASGI_KEEP_ALIVE": "0"})
    pid = master.wait_ready()["workers"][0]["pid"]
    first = connect(master.address)
    first.request("/held")
    with open(place / "fifo", "w"):  # the app has opened it too: from now on its loop stands still
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: has_taken_its_signals(pid), "the signal taken", master.log)
        crowd = [connect(master.address) for _ in range(CROWD)]
        for connection in crowd:
            connection.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
    assert first.answer()[0] == 200
    everybody_is_answered(crowd, master)


def test_a_crowd_that_comes_with_the_signal_is_answered_by_aiohttp(
    start: Start, place: Path, connect: Callable[..., Connection]  # noqa: F811
) -> None:
    master = start_server(start, "aiohttp", EXAMPLES)
    master.wait_ready()
    master.ask("scale", to=1)
    document = master.wait_status(lambda each: len(each["workers"]) == 1)
    pid = document["workers"][0]["pid"]
    # Its signals are taken between any two instructions, not by the loop: so both are there when it
    # goes on.
    os.kill(pid, signal.SIGSTOP)
    crowd = [connect(master.address) for _ in range(CROWD)]
    for connection in crowd:
        connection.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGCONT)
    everybody_is_answered(crowd, master)


def listening(loop: asyncio.AbstractEventLoop, tls: ssl.SSLContext | None = None) -> Any:
    """A server that answers every connection with one byte."""

    class Greet(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.write(b"!")
            transport.close()

    return loop.create_server(Greet, "127.0.0.1", 0, ssl=tls)


def test_who_is_accepted_in_the_turn_of_the_close_has_a_transport() -> None:
    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        server = await listening(loop)
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            # the loop sees the listener, but it is our turn first: it accepts afterwards
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # and our turn again, before that of the transport
            accepting.stop_listening(loop, [server])
            client.setblocking(False)
            data = await asyncio.wait_for(loop.sock_recv(client, 1), 30)
        assert not server.is_serving()
        return data

    assert asyncio.run(main()) == b"!"


@pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl is not installed on this machine")
def test_a_tls_handshake_that_has_begun_is_waited_for(place: Path) -> None:
    subprocess.run([
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-days", "1", "-subj", "/CN=test", "-keyout", "key", "-out", "certificate"],
                   cwd=place, check=True, capture_output=True)
    theirs, ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    theirs.load_cert_chain(place / "certificate", place / "key")
    ours.check_hostname, ours.verify_mode = False, ssl.CERT_NONE

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await listening(loop, theirs)
        client = socket.create_connection(server.sockets[0].getsockname())
        while not accepting.handshakes(loop):
            await asyncio.sleep(0)
        draining = gunicorn_draining.Draining(60.0)
        leaving = asyncio.create_task(draining.begin([server]))
        _, waits = await asyncio.wait([leaving], timeout=5 * gunicorn_draining.SETTLE_SECONDS)
        assert waits, "it didn't wait for the handshake"
        with await asyncio.to_thread(ours.wrap_socket, client) as connection:
            assert await asyncio.to_thread(connection.recv, 1) == b"!"
        await leaving
        assert not accepting.handshakes(loop)

    asyncio.run(main())


def test_a_promise_made_while_it_lingers_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that began before the signal, so without `Connection: close`, and ended after
    it."""
    now = 100.0
    monkeypatch.setattr(asgi, "time", types.SimpleNamespace(monotonic=lambda: now))
    left: list[float] = []
    timers: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []
    loop = types.SimpleNamespace(
        time=lambda: now,
        call_later=lambda delay, then, *arguments: timers.append((now + delay, then, arguments)))
    worker = asgi._Worker(5.0, lambda scope, receive, send: asyncio.sleep(0))
    monkeypatch.setattr(worker, "leave", lambda: left.append(now))
    worker.retire(loop)
    worker.promised = 100.5
    while timers:
        now, then, arguments = timers.pop()
        then(*arguments)
    assert left == [105.5]
