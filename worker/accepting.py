"""How asyncio's servers stop listening without dropping those whom they have just accepted, and how
an ASGI app's answers announce the end.

asyncio accepts in one turn of its loop and makes the transport in the next one, in a task. If the
server is closed in between, the transport can't be made (`Server._attach` asserts that it still
listens, from Python 3.9 to 3.13), and the connection is dropped: without a word, unless the loop
debugs. With TLS the task lasts as long as the handshake, and only after it does the server's
protocol hear of the connection.

Used by asgi.py and the files gunicorn_*. Plain standard library from Python 3.9 on.
"""

import struct
import sys
from typing import Any, Dict, Iterable, Optional

# The largest number of a stream of HTTP/2: no stream is refused.
LAST_STREAM = 2**31 - 1
# RFC 9113, section 6: types of frames, and the flag by which one ends its stream.
DATA, HEADERS, RST_STREAM, END_STREAM = 0x0, 0x1, 0x3, 0x1
# So long a client may take to answer the end of its TLS connection: some round trips. asyncio gives
# it 30 s, and many answer only when they want to use the connection again.
TLS_GOODBYE_SECONDS = 3.0


def stop_listening(loop: Any, servers: Iterable[Any]) -> None:
    """Accept nobody any more; close the servers as soon as those who were accepted have their
    transports."""
    for server in servers:
        for listener in server.sockets:
            loop.remove_reader(listener.fileno())
        # What was scheduled first runs first: the tasks of those who were accepted are before this.
        # uvloop, whose listeners are no readers, makes the transport as it accepts.
        loop.call_soon(server.close)


def tls_options(options: Dict[str, Any]) -> Dict[str, Any]:
    """The options of a loop's `create_server`, so that no idle client holds up the end."""
    if options.get("ssl") is None or sys.version_info < (3, 11):
        return options
    return dict({"ssl_shutdown_timeout": TLS_GOODBYE_SECONDS}, **options)


def handshakes(loop: Any) -> int:
    """How many connections were accepted, but no protocol knows them yet. With uvloop none: it does
    that in no task."""
    import asyncio

    return sum(
        getattr(task.get_coro(), "__name__", "") == "_accept_connection2"
        for task in asyncio.all_tasks(loop))


def goaway(last_stream: int) -> bytes:
    """The frame by which an HTTP/2 server says that it will close the connection, without an error,
    and that streams beyond `last_stream` are not begun (RFC 9113, sections 4.1 and 6.8)."""
    return struct.pack("!IBIII", 8 << 8 | 0x7, 0, 0, last_stream, 0)


def ends_of_streams(data: Any) -> Optional[int]:
    """How many streams these frames end; None where they are not whole frames."""
    at = ended = 0
    while at + 9 <= len(data):
        kind, flags = data[at + 3], data[at + 4]
        ended += kind == RST_STREAM or (kind in (DATA, HEADERS) and bool(flags & END_STREAM))
        at += 9 + int.from_bytes(data[at:at + 3], "big")
    return ended if at == len(data) else None


def announcing_the_end(message: Dict[str, Any]) -> Dict[str, Any]:
    """The message of an ASGI app; one that starts a response says `Connection: close`."""
    if message["type"] != "http.response.start":
        return message
    headers = [(name, value) for name, value in message.get("headers", ())
               if name.lower() != b"connection"]
    return dict(message, headers=[*headers, (b"connection", b"close")])
