"""Addresses and listening sockets: what parses, what is bound, how full the queue is, what is
removed."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from einhornpy.supervisor.sockets.addresses import Address, BadAddress, Kind, parse_address
from einhornpy.supervisor.sockets.listeners import CannotListen, close_all, open_all
from einhornpy.supervisor.sockets.queues import queue
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(("text", "expected"), [
    ("127.0.0.1:80", Address("", Kind.TCP4, host="127.0.0.1", port=80)),
    ("localhost:0", Address("", Kind.TCP4, host="localhost", port=0)),
    (":8080", Address("", Kind.TCP4, port=8080)),
    ("[::1]:80,r,n", Address("", Kind.TCP6, host="::1", port=80, nonblocking=True)),
    ("unix:/run/x.sock,mode=0660,backlog=9",
     Address("", Kind.UNIX, path="/run/x.sock", mode=0o660, backlog=9)),
    ("fd://5", Address("", Kind.FD, fd=5)),
    ("fd://web.socket", Address("", Kind.NAME, name="web.socket")),
    ("h:80,SO_REUSEADDR,o_nonblock", Address("", Kind.TCP4, host="h", port=80, nonblocking=True)),])
def test_good_addresses(text: str, expected: Address) -> None:
    parsed = parse_address(text)
    for name in ("kind", "host", "port", "path", "fd", "name", "nonblocking", "backlog", "mode"):
        assert getattr(parsed, name) == getattr(expected, name)


def test_accepted_connections_do_not_wait_for_acknowledgements() -> None:
    """A server that is given a descriptor doesn't always know that it is TCP, and would not set
    it."""
    (opened,) = open_all([parse_address("127.0.0.1:0")])
    try:
        with socket.create_connection(opened.socket.getsockname()):
            accepted, _ = opened.socket.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    finally:
        close_all([opened])


@pytest.mark.parametrize("text", [
    "", "80", "host", "host:", "host:99999", "host:-1", "[::1]", "::1:80", "unix:", "fd://",
    "fd://x/y", "http://x:80", "x:80,backlog=" + "9" * 5000, "x:80,backlog=²", "x\0:80",
    "unix:/x\0y", "x:80,backlog=0", "x:80,what", "x:80,mode=600", "unix:/x,mode=9", "a b:80",])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(BadAddress, match=r"expected|none of the options|zero byte"):
        parse_address(text)


@given(st.text(max_size=40))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        assert parse_address(text).kind in ("tcp4", "tcp6", "unix", "fd")
    except BadAddress:
        pass


@pytest.mark.parametrize("host", ["a..b", "x" * 64, ".x", "\udcff"])
def test_a_host_that_no_name_can_be_is_one_line(host: str) -> None:
    with pytest.raises(CannotListen, match="is no address of this host"):
        open_all([parse_address(f"{host}:0")])


@pytest.mark.parametrize("kind", ["127.0.0.1:0", "[::1]:0", "unix:PATH"])
def test_the_queue_is_the_kernels_own_count(tmp_path: Path, kind: str) -> None:
    (listener,) = open_all([
        parse_address(kind.replace("PATH", str(tmp_path / "s")) + ",backlog=7")])
    assert queue(listener.socket) == (0, 7)
    clients = []
    for _ in range(3):
        client = socket.socket(listener.socket.family)
        client.connect(listener.socket.getsockname())
        clients.append(client)
    assert queue(listener.socket) == (3, 7)
    listener.socket.accept()[0].close()
    assert queue(listener.socket) == (2, 7)
    for client in clients:
        client.close()
    close_all([listener])
    assert not list(tmp_path.iterdir())


def test_all_or_none(tmp_path: Path) -> None:
    with pytest.raises(CannotListen, match="no open socket"):
        open_all([parse_address(f"unix:{tmp_path}/s"), parse_address("fd://999")])
    assert not list(tmp_path.iterdir())
    with open(os.devnull) as file, pytest.raises(CannotListen, match="no open socket"):
        open_all([parse_address(f"fd://{file.fileno()}")])


def test_only_what_is_still_ours_is_removed(tmp_path: Path) -> None:
    (listener,) = open_all([parse_address(f"unix:{tmp_path}/s")])
    (tmp_path / "s").unlink()
    (tmp_path / "s").write_text("somebody else's")
    close_all([listener])
    assert (tmp_path / "s").read_text() == "somebody else's"


def test_unix_sockets_stale_live_and_others(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    (listener,) = open_all([parse_address(f"unix:{path},mode=640")])
    assert oct(path.stat().st_mode & 0o777) == "0o640"
    with pytest.raises(CannotListen, match="another process is listening"):
        open_all([parse_address(f"unix:{path}")])
    close_all([listener])
    path.mkdir()
    with pytest.raises(CannotListen, match="no socket"):
        open_all([parse_address(f"unix:{path}")])
    with pytest.raises(CannotListen, match="107 bytes"):
        open_all([parse_address(f"unix:{tmp_path}/{'x' * 120}")])
