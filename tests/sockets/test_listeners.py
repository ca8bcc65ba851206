"""Addresses and listening sockets: what parses, what is bound, how full the queue is, what is
removed."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest
from einhornpy.supervisor.sockets.addresses import (
    Address,
    BadAddress,
    Kind,
    escaped,
    ipv4_ports_of,
    parse_address,
)
from einhornpy.supervisor.sockets.given import Given
from einhornpy.supervisor.sockets.listener import reachable
from einhornpy.supervisor.sockets.listeners import (
    CannotListen,
    close_all,
    listen_again,
    open_all,
)
from einhornpy.supervisor.sockets.queues import accepted, queue
from einhornpy.supervisor.system import attributes
from hypothesis import given
from hypothesis import strategies as st

from ..harness import free_port


@pytest.mark.parametrize(("text", "expected"), [
    ("127.0.0.1:80", Address("", Kind.TCP4, host="127.0.0.1", port=80)),
    ("localhost:0", Address("", Kind.TCP4, host="localhost", port=0)),
    (":8080", Address("", Kind.TCP4, port=8080)),
    ("[::1]:80,r,n", Address("", Kind.TCP6, host="::1", port=80, nonblocking=True)),
    ("unix:/run/x.sock,mode=0660,backlog=9",
     Address("", Kind.UNIX, path="/run/x.sock", mode=0o660, backlog=9)),
    ("[::]:80,v6only", Address("", Kind.TCP6, host="::", port=80, v6only=True)),
    ("[fe80::1%br-Lan_0.5]:80", Address("", Kind.TCP6, host="fe80::1%br-Lan_0.5", port=80)),
    ("unix:/run/x,user=www-data,group=33",
     Address("", Kind.UNIX, path="/run/x", user="www-data", group="33")),
    (r"unix:/a\,b\c,mode=600", Address("", Kind.UNIX, path=r"/a,b\c", mode=0o600)),
    ("unix:/ends with\\", Address("", Kind.UNIX, path="/ends with\\")),
    ("fd://5", Address("", Kind.FD, fd=5)),
    ("fd://web.socket", Address("", Kind.NAME, name="web.socket")),
    ("h:80,SO_REUSEADDR,o_nonblock", Address("", Kind.TCP4, host="h", port=80, nonblocking=True)),])
def test_good_addresses(text: str, expected: Address) -> None:
    parsed = parse_address(text)
    for name in ("kind", "host", "port", "path", "fd", "name", "nonblocking", "backlog", "mode",
                 "user", "group", "v6only"):
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
    "unix:/x\0y", "x:80,backlog=0", "127.0.0.1:80,v6only", "unix:/x,v6only", "x:80,user=root",
    "unix:/x,group=", "unix:/a,b", "[fe80::1%]:80", "x:80,what", "x:80,mode=600", "unix:/x,mode=9", "a b:80",])
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


def connects(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as client:
        return client.connect_ex((host, port)) == 0


@pytest.mark.parametrize(("options", "ipv4"), [("", True), (",v6only", False)])
def test_every_address_means_both_families_unless_it_says_otherwise(options: str,
                                                                    ipv4: bool) -> None:
    (listener,) = open_all([parse_address("[::]:0" + options)])
    try:
        assert listener.name.startswith("[::]:")
        port = listener.socket.getsockname()[1]
        with socket.socket(socket.AF_INET6) as client:
            client.connect(reachable(listener))
            assert accepted(client) is False
            with listener.socket.accept()[0]:
                assert accepted(client) is True
        assert connects("::1", port)
        assert connects("127.0.0.1", port) == ipv4
    finally:
        close_all([listener])


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
@pytest.mark.parametrize("ipv4", ["0.0.0.0", "127.0.0.1"])
def test_both_families_may_be_asked_for_one_by_one(ipv4: str, order: slice) -> None:
    """The page's address counts too, and a socket that was inherited."""
    port = free_port()
    both = [parse_address(f"{ipv4}:{port}"), parse_address(f"[::]:{port}")][order]
    opened = open_all(both)
    assert {each.socket.family for each in opened} == {socket.AF_INET, socket.AF_INET6}
    assert connects("::1", port)
    assert connects("127.0.0.1", port)
    close_all(opened)
    first = open_all(both[:1], ipv4_ports=ipv4_ports_of(both[1:]))
    first += open_all(both[1:], ipv4_ports=ipv4_ports_of(both[:1]))
    close_all(first)
    with socket.create_server((ipv4, port)) as inherited:
        os.set_inheritable(inherited.fileno(), True)
        both = [parse_address(f"fd://{inherited.fileno()}"), parse_address(f"[::]:{port}")][order]
        close_all(open_all(both))
        with pytest.raises(CannotListen, match=r"in use by pid .*: add ,v6only where"):
            open_all(both[order][1:])
        close_all(open_all([parse_address(f"[::]:{port},v6only")]))


def test_an_address_with_a_zone_is_listened_on_and_named_so() -> None:
    with open("/proc/net/if_inet6") as lines:
        found = [line.split() for line in lines if line.split()[3] == "20"]  # of this link alone
    if not found:
        pytest.skip("no interface has a link-local address")
    address = ":".join(found[0][0][at:at + 4] for at in range(0, 32, 4))
    (listener,) = open_all([parse_address(f"[{address}%{found[0][5]}]:0")])
    assert listener.name.startswith("[fe80::")
    assert f"%{found[0][5]}]:" in listener.name
    with socket.socket(socket.AF_INET6) as client:
        client.connect(reachable(listener))
    close_all([listener])


def test_a_socket_without_a_file_is_named_as_ss_does() -> None:
    with socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0einhornpy-test-{os.getpid()}")
        os.set_inheritable(abstract.fileno(), True)
        (listener,) = open_all([parse_address(f"fd://{abstract.fileno()}")])
        assert listener.name == f"unix:@einhornpy-test-{os.getpid()}"
        close_all([listener])


def test_a_comma_in_a_path(tmp_path: Path) -> None:
    path = tmp_path / "a,mode=600,b"
    (listener,) = open_all([parse_address(f"unix:{escaped(str(path))},mode=640")])
    assert path.stat().st_mode & 0o777 == 0o640
    close_all([listener])
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_unix_socket_belongs_to_whom_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "s"

    def owner() -> tuple[int, int, int]:
        found = path.stat()
        return found.st_uid, found.st_gid, found.st_mode & 0o777

    (listener,) = open_all([parse_address(f"unix:{path},user=65534,group=12,mode=660")])
    assert owner() == (65534, 12, 0o660)
    # Shut down by a worker, with and without its file: it has them again.
    for remove in (False, True):
        before = None if remove else os.lstat(path)
        if remove:
            path.unlink()
        listener.socket.shutdown(socket.SHUT_RDWR)
        listener = listen_again(listener, before)
        assert owner() == (65534, 12, 0o660)
    close_all([listener])
    with pytest.raises(attributes.Refused, match=r"user=no-such-user: there is no user"):
        open_all([parse_address(f"unix:{path},user=no-such-user")])
    with pytest.raises(attributes.Refused, match=r"group=no-such-group: there is no group"):
        open_all([parse_address(f"unix:{path},group=no-such-group")])
    assert not list(tmp_path.iterdir())


def test_a_socket_that_cannot_be_given_away_leaves_nothing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(CannotListen, match="only root may give it to another user"):
        open_all([parse_address(f"unix:{tmp_path}/s,user={os.geteuid() + 1}")])
    assert not list(tmp_path.iterdir())
    close_all(open_all([parse_address(f"unix:{tmp_path}/s,user={os.geteuid()}")]))


@pytest.mark.parametrize("stored", [True, False])
def test_only_a_socket_that_we_had_left_with_systemd_gets_what_is_asked_for_now(
        tmp_path: Path, stored: bool) -> None:
    """That of a socket unit is as the unit says."""
    path = tmp_path / "s"
    (made,) = open_all([parse_address(f"unix:{path},mode=640")])
    given = Given([(os.dup(made.socket.fileno()), "einhornpy-0" if stored else "web")])
    (taken,) = open_all([parse_address(f"unix:{path},mode=600")], given)
    assert path.stat().st_mode & 0o777 == (0o600 if stored else 0o640)
    taken.socket.close()
    close_all([made])
