"""How the HTTP/2 connections of a gunicorn worker end: by GOAWAY, twice (RFC 9113, section 6.8).
The first one asks the client to send what is new elsewhere, and refuses nothing; the second one, a
round trip later, names the last stream that counts.

gunicorn's asgi worker sends one only when its time is over, and until then serves whoever keeps a
connection busy. gthread and gevent leave after the answer in hand; what has come meanwhile they
drop, with the connection, and without a word.

The first one goes out in one piece with the end of an answer, where no other is open: some clients
can't read an answer that comes after it. So who has one request at a time isn't told within one.

Leans on gunicorn 27; of earlier ones asgi asks clients to go, and the others are as they were.
Plain standard library from Python 3.9 on, besides gunicorn itself.
"""

import os
import select
import time
import weakref
from typing import Any, Callable, Iterator

from .accepting import LAST_STREAM, ends_of_streams, goaway

# So long, in seconds, the first one waits for an answer to go with; as turns of the loop, each of
# which has read what had come, since a loop that was held up has read nothing.
PATIENCE, TURNS = 0.5, 10
# What a client has sent before it has read the first one has come after so many seconds.
ROUND_TRIP = 1.0


def mend(worker: Any, draining: Any) -> None:
    """Let the connections of a worker end so, if its class speaks HTTP/2; called before it
    serves."""
    try:
        from gunicorn.http2 import async_connection, connection
    except ImportError:  # before gunicorn 25
        return
    if hasattr(worker, "_shutdown"):
        goodbyes = Goodbyes(lambda: bool(draining.retiring))
        goodbyes.meet_all(async_connection.AsyncHTTP2Connection)
        draining.look = goodbyes.look
    elif hasattr(worker, "handle_http2") and hasattr(connection.HTTP2ServerConnection, "pump"):
        goodbyes = Goodbyes(lambda: not worker.alive)
        goodbyes.meet_all(connection.HTTP2ServerConnection)
        mend_blocking(worker, connection.HTTP2ServerConnection)


class Goodbyes:
    """One worker's. `retiring`: whether it is."""

    def __init__(self, retiring: Callable[[], bool]) -> None:
        self.retiring = retiring
        self.connections: Any = weakref.WeakSet()

    def meet_all(self, kind: Any) -> None:
        """Get to know every connection of this class as it is made."""
        make, close = kind.__init__, kind.close

        def close_after_the_last(connection: Any, error_code: int = 0,
                                 last_stream_id: Any = None) -> Any:
            """gunicorn names 0 where no stream is open any more, which allows the client to repeat
            all that it has sent; and what was named once can't grow."""
            if last_stream_id is None:
                last_stream_id = connection.last_named
                if last_stream_id is None:
                    last_stream_id = connection.h2_conn.highest_inbound_stream_id
            return close(connection, error_code, last_stream_id)

        def make_and_meet(connection: Any, *arguments: Any) -> None:
            make(connection, *arguments)
            connection.told_at = connection.last_named = None
            connection.turns, connection.highest, connection.parallel = 0, 0, False
            h2 = connection.h2_conn
            data_to_send = h2.data_to_send

            def with_goaway(*amount: Any) -> bytes:
                data: bytes = data_to_send(*amount)
                # Not with a window that the client has widened: its next request is on the way.
                if (self.retiring() and connection.told_at is None and ends_of_streams(data)
                        and answered(connection)):
                    connection.told_at = time.monotonic()
                    data += goaway(LAST_STREAM)
                return data

            h2.data_to_send = with_goaway
            self.connections.add(connection)

        kind.__init__, kind.close = make_and_meet, close_after_the_last

    def look(self, time_is_over: bool) -> None:
        """Called again and again while an asgi worker retires, and when its time is over: send what
        is due."""
        now = time.monotonic()
        for connection in list(self.connections):
            if connection.is_closed or not connection._initialized:
                continue
            if connection.told_at is None and not time_is_over:
                if waited(connection):
                    connection.told_at = now
                    connection.writer.write(goaway(LAST_STREAM))
            elif not getattr(connection, "draining", True) and (
                    time_is_over or now - connection.told_at >= ROUND_TRIP):
                # What gunicorn does when a client has said goodbye: it answers what is open,
                # refuses what is new, and closes.
                last = connection.h2_conn.highest_inbound_stream_id
                connection.peer_last_stream_id = connection.last_named = last
                connection.told_at = connection.told_at or now
                connection.draining = True
                connection.writer.write(goaway(last))


def waited(connection: Any) -> bool:
    """Called in each turn: whether no answer has come for the GOAWAY to go with."""
    opened = sum(not getattr(stream, "response_complete", False)
                 for stream in connection.streams.values())
    connection.parallel = connection.parallel or opened > 1
    highest = connection.h2_conn.highest_inbound_stream_id
    if not connection.parallel and (opened or highest != connection.highest):
        connection.turns = 0
    connection.highest = highest
    connection.turns += 1
    return bool(connection.turns > TURNS)


def answered(connection: Any) -> bool:
    """Whether it has asked for something, and has got every answer."""
    return bool(connection.h2_conn.highest_inbound_stream_id) and all(
        getattr(stream, "response_complete", False) for stream in connection.streams.values())


def mend_blocking(worker: Any, kind: Any) -> None:
    """gthread and gevent: a thread or greenlet of its own waits for each connection."""
    receive_data = kind.receive_data
    leaving, leave = os.pipe()
    os.set_blocking(leave, False)
    handle_exit = worker.handle_exit

    def handle_exit_and_wake(*arguments: Any) -> None:
        handle_exit(*arguments)
        try:
            os.write(leave, b"!")
        except BlockingIOError:
            pass

    def receive(connection: Any, data: Any = None) -> Any:
        if data is not None:
            # With nothing, gunicorn asks for what is left before it closes; as of 27.0 it takes
            # that for the client's end.
            return receive_data(connection, data) if data else remaining(connection, receive_data)
        if not waiting(connection):
            ready = readable(connection.sock, connection.idle_timeout, leaving)
            if ready is None or leaving in ready:
                if ready is None and not connection.streams:
                    connection.close()
                return []
        return receive_data(connection)

    worker.handle_exit = handle_exit_and_wake
    kind.receive_data = receive
    handle = worker.handle_http2

    def handle_to_the_end(connection: Any, *arguments: Any, **named: Any) -> Any:
        """gthread drops a connection whose handshake was still going on as it was asked to leave;
        gevent closes one so that the client may lose what was sent last."""
        result = handle(connection, *arguments, **named)
        if not worker.alive and hasattr(connection, "parser"):
            answer_what_is_left(worker, connection)
        elif not worker.alive:
            from gunicorn import util

            util.close_graceful(arguments[0])
        return result

    worker.handle_http2 = handle_to_the_end


def waiting(connection: Any) -> bool:
    """Whether something was read that nobody has taken yet."""
    return bool(connection.pending_requests or connection._deferred_events)


def readable(sock: Any, timeout: Any, *others: int) -> Any:
    """The descriptors from which one can read; None if there were none within `timeout` seconds
    (None: for ever)."""
    if getattr(sock, "pending", int)():  # decrypted already
        return [sock.fileno()]
    poller = select.poll()
    for fd in (sock.fileno(), *others):
        poller.register(fd, select.POLLIN)
    return [fd for fd, _ in poller.poll(None if timeout is None else timeout * 1000)] or None


def remaining(connection: Any, receive_data: Any) -> Iterator[Any]:
    """Every request that still comes over a connection, until its client knows that we leave."""
    until = time.monotonic() + PATIENCE
    while not connection.is_closed:
        if connection.told_at is not None:
            until = connection.told_at + ROUND_TRIP
        left = until - time.monotonic()
        if left <= 0 and connection.told_at is None and (
                len(connection.streams) > 1 or not readable(connection.sock, 0)):
            # Of several uploads one may always be half sent, so that nothing is ever answered.
            connection.told_at = time.monotonic()
            connection.sock.sendall(goaway(LAST_STREAM))
            continue
        if waiting(connection) or readable(connection.sock, max(0.0, left)):
            yield from receive_data(connection)
        if left <= 0 and connection.told_at is not None and not waiting(connection):
            return


def answer_what_is_left(worker: Any, connection: Any) -> None:
    """For gthread, which serves no connection that it begins with when it is to leave."""
    http2 = connection.parser
    if http2.is_closed:
        return
    try:
        for request in http2.receive_data(b""):
            worker._serve_http2_stream(request, connection, http2)
        http2.close(last_stream_id=http2.h2_conn.highest_inbound_stream_id)
    except Exception as error:
        worker.log.debug("HTTP/2 connection closed: %s", error)
