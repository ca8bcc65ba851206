"""Who serves our addresses by sockets of their own, or tries to."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from einhornpy.supervisor.sockets import rivals
from einhornpy.supervisor.sockets.addresses import parse_address
from einhornpy.supervisor.sockets.listener import Listener

from ..harness import Master, get
from ..steering.test_upgrade import COMMAND, release

Start = Callable[..., Master]
OURS = ["127.0.0.1:8000", "unix:/run/app.sock"]


@pytest.mark.parametrize(("line", "words", "expected"), [
    ("OSError: [Errno 98] Address already in use (while attempting to bind on address "
     "('127.0.0.1', 8000))", "python app.py", OURS[0]),
    ("Error: listen EADDRINUSE: address already in use :::8000", "node app.js", OURS[0]),
    ("OSError: [Errno 98] Address already in use", "python -m http.server 8000", OURS[0]),
    ("OSError: [Errno 98] Address already in use: '/run/app.sock'", "python app.py", OURS[1]),
    # Another address, or nothing of the kind.
    ("OSError: [Errno 98] Address already in use", "python app.py", None),
    ("listen tcp :18000: bind: address already in use", "./app", None),
    ("OSError: [Errno 98] Address already in use: 8000.5", "./app", None),
    ("listening on 127.0.0.1:8000", "./app", None)])
def test_what_it_complains_of(line: str, words: str, expected: str | None) -> None:
    assert rivals.complained_of(["started", line, "bye"], words.split(), OURS) == expected


def test_who_listens_beside_us() -> None:
    with socket.socket() as ours, socket.socket() as other:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        ours.bind(("127.0.0.1", 0))
        ours.listen()
        name = f"127.0.0.1:{ours.getsockname()[1]}"
        listeners = [Listener(parse_address(name), ours)]
        assert rivals.beside([os.getpid()], listeners) is None
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(ours.getsockname())
        assert rivals.beside([os.getpid()], listeners) is None
        other.listen()
        assert rivals.beside([os.getpid()], listeners) == name
        assert rivals.beside([], listeners) is None


def test_where_a_process_listens(place: Path) -> None:
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix, socket.socket() as other:
        tcp.bind(("127.0.0.1", 0))
        unix.bind(str(place / "s"))
        other.bind(("127.0.0.1", 0))
        before = rivals.listens(os.getpid())
        tcp.listen()
        unix.listen()
        found = rivals.listens(os.getpid()) - before
        assert found == {os.fstat(each.fileno()).st_ino for each in (tcp, unix)}
    assert not rivals.listens(1 << 22)


BINDS_BESIDE = """
import os, signal, socket, sys
given = socket.socket(fileno=3)
own = socket.socket()
own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
own.bind(given.getsockname())
own.listen()
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
signal.pause()
"""


def test_a_server_that_listens_beside_the_master_is_refused(start: Start) -> None:
    with socket.socket() as given:
        given.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        given.bind(("127.0.0.1", 0))
        given.listen()
        master = start("-n", "1", "-b", f"fd://{given.fileno()}", "-m", "notify", "--",
                       sys.executable, "-c", BINDS_BESIDE, pass_fds=[given.fileno()])
        assert master.wait_exit() == 3
        port = given.getsockname()[1]
    last = master.log().splitlines()[-1]
    assert f"it listens on 127.0.0.1:{port} by a socket of its own: let it serve descriptor 3" in last


def test_a_release_that_binds_the_address_itself_is_refused_with_what_to_type(
        start: Start, place: Path) -> None:
    release(place, "r1", "notify serve")
    master = start("-n", "1", "-b", "127.0.0.1:0", "-m", "notify", "--chdir",
                   str(place / "current"), "--", *COMMAND)
    master.wait_ready()
    port = master.address[1]
    release(place, "r2", f"notify bind={port}")
    result = master.cli("upgrade")
    assert result.returncode == 5
    assert f"it tried to bind 127.0.0.1:{port} itself, which the master holds: let it serve" in (
        result.stderr)
    assert get(master.address)[0] == 200
