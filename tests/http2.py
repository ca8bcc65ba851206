"""A busy HTTP/2 client: it keeps so many requests going over one connection, and leaves that for
another when the server says so, as RFC 9113, section 6.8, wants it.

It tries again only what the server says it has not begun; whatever else gets no answer is lost.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h2.connection
import h2.errors
import h2.events

from .harness import DEADLINE


class Patient(h2.connection.H2Connection):
    """h2 takes a GOAWAY for the end; it is one only for new streams."""

    def _receive_goaway_frame(self, frame: Any) -> Any:
        event = h2.events.ConnectionTerminated()
        event.error_code, event.last_stream_id = frame.error_code, frame.last_stream_id
        return [], [event]


def certificate(place: Path) -> tuple[Path, Path]:
    """Make a key and a certificate of its own in `place`; return both."""
    key, made = place / "key", place / "certificate"
    subprocess.run([
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-days", "1", "-subj", "/CN=test", "-keyout", key, "-out", made], check=True,
                   capture_output=True)
    return key, made


def connected(address: tuple[str, int], tls: bool) -> socket.socket:
    """A connection on which both sides may speak HTTP/2."""
    connection = socket.create_connection(address, DEADLINE)
    if not tls:
        return connection
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    wrapped = context.wrap_socket(connection)
    assert wrapped.selected_alpn_protocol() == "h2"
    return wrapped


GET = [(":method", "GET"), (":path", "/"), (":scheme", "https"), (":authority", "localhost")]


POST = [(":method", "POST"), *GET[1:]]


class Idle:
    """A connection that has had one answer, and is kept open until `with` ends."""

    def __init__(self, address: tuple[str, int], tls: bool) -> None:
        self._connection = connected(address, tls)
        client = h2.connection.H2Connection()
        client.initiate_connection()
        client.send_headers(1, GET, end_stream=True)
        self._connection.sendall(client.data_to_send())
        while not any(isinstance(event, h2.events.StreamEnded)
                      for event in client.receive_data(self._connection.recv(65536))):
            pass

    def __enter__(self) -> Idle:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


class Busy:
    """The client, in a thread of its own until `with` ends. `streams`: requests in flight; with 1
    it is one that knows no better than h2, for which everything ends with a GOAWAY. `last_ids`:
    what each GOAWAY said. `bodies`: good answers by their first word. `uploads`: each request has a
    body, whose end is sent only when all others are half sent."""

    def __init__(self, address: tuple[str, int], tls: bool, streams: int,
                 uploads: bool = False) -> None:
        self._address, self._tls, self.streams, self.uploads = address, tls, streams, uploads
        self.connections = self.retried = 0
        self.last_ids: list[list[int]] = []
        self.lost: list[str] = []
        self.bodies: Counter[str] = Counter()
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Busy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self.stop.is_set():
                with connected(self._address, self._tls) as connection:
                    self.connections += 1
                    _OneConnection(self, connection).run()
        except Exception as error:
            self.lost.append(f"the client failed: {error!r}")


class Streams:
    """Requests that go on in parallel over one connection, a step at a time. `path`: of all of
    them, or by stream. `statuses`, `bodies`, `trailers`: what has come, by stream; `ended`: which
    have their ends; `last_ids`: what the GOAWAYs said. One stream alone is that of a client that
    knows no better than h2."""

    def __init__(self, address: tuple[str, int], tls: bool, path: str | Mapping[int, str],
                 streams: tuple[int, ...] = (1, 3)) -> None:
        paths = dict.fromkeys(streams, path) if isinstance(path, str) else path
        self._connection = connected(address, tls)
        self._h2 = Patient() if len(paths) > 1 else h2.connection.H2Connection()
        self._h2.initiate_connection()
        self.statuses: dict[int, int] = {}
        self.ended: set[int] = set()
        self.resets: list[int] = []
        self.last_ids: list[int] = []
        self.bodies = dict.fromkeys(paths, b"")
        self.trailers: dict[int, Any] = {}
        for stream, each in paths.items():
            self._begin(stream, each)
        self._connection.sendall(self._h2.data_to_send())

    def __enter__(self) -> Streams:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _begin(self, stream: int, path: str) -> None:
        self._h2.send_headers(stream, [*GET[:1], (":path", path), *GET[2:], ("te", "trailers")],
                              end_stream=True)

    def cancel_for(self, stream: int, other: int, path: str) -> None:
        """Don't want the answer of this one any more, but of another one: whoever answers that has
        heard it."""
        self._h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        self.bodies[other] = b""
        self._begin(other, path)
        self._connection.sendall(self._h2.data_to_send())

    def read_until(self, happened: Callable[[], bool]) -> bool:
        """Return whether it has `happened` before the server closed."""
        while not happened():
            try:
                data = self._connection.recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                return False
            for event in self._h2.receive_data(data):
                self._heard(event)
            self._connection.sendall(self._h2.data_to_send())
        return True

    def _heard(self, event: Any) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            self.statuses[event.stream_id] = int(dict(event.headers)[b":status"])
        elif isinstance(event, h2.events.DataReceived):
            self.bodies[event.stream_id] += event.data
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            self.trailers[event.stream_id] = event.headers
        elif isinstance(event, h2.events.StreamEnded):
            self.ended.add(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.resets.append(event.stream_id)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.last_ids.append(event.last_stream_id or 0)


class _OneConnection:
    """Requests over one connection until it is to be left or nobody wants any more."""

    def __init__(self, client: Busy, connection: socket.socket) -> None:
        self.client, self.socket = client, connection
        kind = Patient if client.streams > 1 else h2.connection.H2Connection
        self.h2 = kind()
        self.open: dict[int, bytes] = {}
        self.half_sent: list[int] = []
        self.leaving = self.ended = False
        client.last_ids.append([])

    def run(self) -> None:
        self.h2.initiate_connection()
        while True:
            self._begin()
            try:
                self.socket.sendall(self.h2.data_to_send())
                if not self.open:
                    return
                data = self.socket.recv(65536)
                events = self.h2.receive_data(data) if data else []
            except Exception as error:
                self._lose(repr(error))
                return
            if not data:
                self._lose("the server has closed the connection")
                return
            for event in events:
                self._heard(event)

    def _begin(self) -> None:
        client = self.client
        while (len(self.open) < client.streams and not self.leaving
               and not client.stop.is_set()):
            stream = self.h2.get_next_available_stream_id()
            self.h2.send_headers(stream, POST if client.uploads else GET,
                                 end_stream=not client.uploads)
            self.open[stream] = b""
            if client.uploads:
                self.h2.send_data(stream, b"half ")
                self.half_sent.append(stream)
        while self.half_sent and (len(self.half_sent) == client.streams or self.leaving
                                  or client.stop.is_set()):
            stream = self.half_sent.pop(0)
            if stream in self.open:
                self.h2.send_data(stream, b"and half", end_stream=True)

    def _heard(self, event: Any) -> None:
        client = self.client
        if isinstance(event, h2.events.DataReceived):
            self.open[event.stream_id] += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            client.bodies[self.open.pop(event.stream_id).decode().split()[0]] += 1
        elif isinstance(event, h2.events.StreamReset):
            body = self.open.pop(event.stream_id, None)
            if event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM:
                client.retried += 1
            elif body is not None:
                client.lost.append(f"reset: {event.error_code}")
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.leaving = True
            last = event.last_stream_id or 0
            client.last_ids[-1].append(last)
            for stream in [each for each in self.open if each > last]:
                del self.open[stream]
                client.retried += 1

    def _lose(self, why: str) -> None:
        self.client.lost += [f"stream {stream}: {why}, after GOAWAY {self.client.last_ids[-1]}"
                             for stream in self.open]
