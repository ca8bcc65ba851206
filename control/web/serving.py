"""HTTP for the sidecar: one loop waits for every client, so that none of them can let another one
wait: with a thread for each client, those who say half of it would keep a liveness probe waiting.

A request reaches the app when its head is whole. What is asked of the master takes a thread, and
each such path has its own two; whoever is slow, or says half of it, takes no more than a
connection, and where these get scarce the longest of them goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import resource
import socket
import traceback
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import cast

from ...shared.frozen import dataclass

# Bytes, and lines of a head.
LONGEST_HEAD, MOST_LINES, PIECE = 16 << 10, 100, 64 << 10
# Seconds for a whole head; for the next one on a kept connection; for a piece of an answer to be
# taken; for a client to leave.
HEAD_PATIENCE, KEPT_PATIENCE, PIECE_PATIENCE, LEAVE_PATIENCE = 10.0, 75.0, 10.0, 1.0
# Connections; fewer where the limit of descriptors leaves no room. So many are taken before those
# that we have get their turn.
MOST_CONNECTIONS, MOST_AT_ONCE, OTHER_DESCRIPTORS = 256, 32, 24
# Seconds until it is tried again, where there is no descriptor for whoever knocks.
BREATHER = 0.1
# So many of one path are asked at once: while the master hangs, a second probe hears of it as soon
# as the first one.
LANE_WIDTH = 2
BUSY = "503 Service Unavailable"
# What of a request, beside its path, an answer may depend on.
NEGOTIATED = ("accept", "accept-encoding")


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request. `names`: lower case. `last`: the connection ends after its answer."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    last: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """`body`: whole, or, where it has no end, a generator each step of which may wait."""

    status: str
    headers: list[tuple[str, str]]
    body: list[bytes] | Generator[bytes]


class Refused(ValueError):
    """A request that we don't take. `status`: as HTTP has it; the message is one line for whoever
    asked."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


def parse(head: bytes) -> Request:
    """Read a head, up to its empty line.

    Raises:
        Refused: it is none.
    """
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    found = re.fullmatch(r"([A-Z]{1,20}) (/[!-~]*) HTTP/1\.([01])", first)
    if not found:
        raise Refused("400 Bad Request", "no request line of HTTP/1.1: expected GET /PATH HTTP/1.1")
    headers = _headers(lines)
    if found[3] == "1" and "host" not in headers:
        raise Refused("400 Bad Request", "no Host")
    wishes = {each.strip().lower() for each in headers.get("connection", "").split(",")}
    kept = "close" not in wishes if found[3] == "1" else "keep-alive" in wishes
    # Nobody needs a body here, so none is read, and what follows it can't be found.
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    path, _, query = found[2].partition("?")
    return Request(found[1], path, query, headers, has_body or not kept)


def _headers(lines: list[str]) -> dict[str, str]:
    """The headers by their names in lower case. Raises as `parse` does."""
    if len(lines) > MOST_LINES:
        raise Refused("431 Request Header Fields Too Large",
                      f"too many headers: expected at most {MOST_LINES}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+",
                                         name) or "\r" in value or "\n" in value or "\0" in value:
            raise Refused("400 Bad Request", "a header line is none: expected NAME: VALUE")
        if name.lower() == "host" and "host" in headers:
            raise Refused("400 Bad Request", "more than one Host")
        headers[name.lower()] = value.strip(" \t")
    return headers


def is_loopback(host: str) -> bool:
    """Whether this literal address is one that reaches no further than this host."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def name_in(host: str) -> str:
    """The name in a Host header, without its port, as it is compared."""
    found = re.fullmatch(r"(?:\[([^\[\]]*)\]|([^:]*))(?::[0-9]{0,5})?", host)
    return "" if not found else (found[1] or found[2] or "").lower()


class Server:
    """Serves `app`, a WSGI app, on a socket that listens. `lanes`: the paths whose answer takes a
    moment; what is asked of one waits for none of the others. `hosts`: by which names it may be
    asked beside those of loopback, where it listens there."""

    def __init__(self, listener: socket.socket, app: Callable[..., Iterable[bytes]],
                 lanes: Iterable[str], most_streams: int, hosts: Iterable[str]) -> None:
        self._listener = listener
        self._app = app
        self._lanes = {path: asyncio.Semaphore(LANE_WIDTH) for path in lanes}
        self._askers = ThreadPoolExecutor(len(self._lanes) * LANE_WIDTH)
        self._streams = ThreadPoolExecutor(most_streams)
        self._hosts: frozenset[str] | None = None
        # A page of another site can name its own host so that it means this one (DNS rebinding),
        # and would read what we say.
        if listener.family != socket.AF_UNIX and is_loopback(listener.getsockname()[0]):
            self._hosts = frozenset({"localhost", *(each.lower() for each in hosts)})
        room = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OTHER_DESCRIPTORS - MOST_AT_ONCE
        self._most = max(4, min(MOST_CONNECTIONS, room))
        self._open: set[asyncio.Task[None]] = set()
        # whose client has a word to say, or to hear; the longest first
        self._waited_for: dict[asyncio.Task[None], None] = {}
        self._due: dict[tuple[str, ...], asyncio.Task[Answer]] = {}

    async def run(self) -> None:
        """Serve for as long as the process lives."""
        self._listener.setblocking(False)
        self._watch()
        await asyncio.get_running_loop().create_future()

    # --- who comes, and who has to go ---

    def _watch(self) -> None:
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(MOST_AT_ONCE):
            room = len(self._open) < self._most or self._drop_longest()
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:  # no descriptor is left
                if not self._drop_longest():
                    loop = asyncio.get_running_loop()
                    loop.remove_reader(self._listener)
                    loop.call_later(BREATHER, self._watch)
                return
            if not room:
                connection.setblocking(False)
                with contextlib.suppress(OSError):
                    connection.send(
                        head(BUSY, [("Retry-After", "1"), ("Content-Length", "0"),
                                    ("Connection", "close")]))
                connection.close()
                continue
            task = asyncio.get_running_loop().create_task(self._serve(connection))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    def _drop_longest(self) -> bool:
        """Hang up on whoever lets us wait the longest; return whether there was anybody."""
        task = next(iter(self._waited_for), None)
        if task is None:
            return False
        del self._waited_for[task]
        task.cancel()
        return True

    @contextlib.asynccontextmanager
    async def _patience(self, seconds: float) -> AsyncIterator[None]:
        """The client is to do something within so many seconds, and is who may have to go.

        Raises:
            TimeoutError: it has not.
        """
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._waited_for[task] = None
        try:
            async with asyncio.timeout(seconds):
                yield
        finally:
            self._waited_for.pop(task, None)

    # --- one connection ---

    async def _serve(self, connection: socket.socket) -> None:
        writer: asyncio.StreamWriter | None = None
        try:
            reader, writer = await asyncio.open_connection(sock=connection, limit=LONGEST_HEAD)
            # an answer is sent when its client's kernel has it
            writer.transport.set_write_buffer_limits(0)
            patience = HEAD_PATIENCE
            while await self._exchange(reader, writer, patience):
                patience = KEPT_PATIENCE
            # Closed while there is something unread, it would be reset, and the answer lost.
            writer.write_eof()
            async with self._patience(LEAVE_PATIENCE):
                while await reader.read(PIECE):
                    pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # it has left, or was too slow
        finally:
            if writer is None:
                connection.close()
            else:
                writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
                        patience: float) -> bool:
        """One request and its answer; return whether there may be another one."""
        request, last = None, True
        try:
            try:
                async with self._patience(patience):
                    said = await reader.readuntil(b"\r\n\r\n")
            except asyncio.LimitOverrunError:
                raise Refused("431 Request Header Fields Too Large",
                              f"the head is too long: expected {LONGEST_HEAD} bytes") from None
            request = parse(said)
            self._check_host(request.headers.get("host"))
            answer, last = await self._ask(request), request.last
        except Refused as refused:
            text = f"{refused}\n".encode()
            answer = Answer(refused.status, [("Content-Type", "text/plain; charset=utf-8"),
                                             ("Content-Length", str(len(text)))],
                            [] if request is not None and request.method == "HEAD" else [text])
        # what has no length ends with the connection
        last = last or not isinstance(answer.body, list)
        await self._send(
            writer,
            head(answer.status,
                 [*answer.headers, ("Connection", "close" if last else "keep-alive")]))
        if isinstance(answer.body, list):
            await self._send(writer, b"".join(answer.body))
            return not last
        loop, stream = asyncio.get_running_loop(), answer.body
        try:
            while (piece := await loop.run_in_executor(self._streams, next, stream,
                                                       None)) is not None:
                await self._send(writer, piece)
        finally:
            stream.close()
        return False

    def _check_host(self, host: str | None) -> None:
        # Whoever gives none is no browser; and an address is nobody's name.
        if self._hosts is None or host is None:
            return
        name = name_in(host)
        if name not in self._hosts and not is_loopback(name):
            raise Refused(
                "421 Misdirected Request",
                "this Host is not served here: expected localhost or a loopback address, "
                "or one that --web-host names")

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            writer.write(data[start:start + PIECE])
            async with self._patience(PIECE_PATIENCE):
                await writer.drain()

    # --- the app ---

    async def _ask(self, request: Request) -> Answer:
        if request.path not in self._lanes:
            return self._answer(request)
        # Whoever asks the same before the work has begun shares it, so that many who ask cost what
        # few do.
        key = (request.method, request.path, request.query, *(request.headers.get(each, "")
                                                              for each in NEGOTIATED))
        due = self._due.get(key)
        if due is None:
            due = self._due[key] = asyncio.get_running_loop().create_task(
                self._answer_all(key, request))
        return await asyncio.shield(due)

    async def _answer_all(self, key: tuple[str, ...], request: Request) -> Answer:
        async with self._lanes[request.path]:
            del self._due[key]
            return await asyncio.get_running_loop().run_in_executor(self._askers, self._answer,
                                                                    request)

    def _answer(self, request: Request) -> Answer:
        environ = {
            "REQUEST_METHOD": request.method, "PATH_INFO": request.path,
            "QUERY_STRING": request.query}
        environ |= {
            f"HTTP_{each.upper().replace('-', '_')}": request.headers[each]
            for each in NEGOTIATED if each in request.headers}
        began: list[tuple[str, list[tuple[str, str]]]] = []
        try:
            body = self._app(environ, lambda status, headers: began.append((status, headers)))
        except Exception:  # a mistake of ours is no reason to end everybody's page
            traceback.print_exc()
            return Answer("500 Internal Server Error", [("Content-Length", "0")], [])
        status, headers = began[0]
        if isinstance(body,
                      list) and request.method != "HEAD" and "Content-Length" not in dict(headers):
            headers = [*headers, ("Content-Length", str(sum(map(len, body))))]
        return Answer(status, headers,
                      body if isinstance(body, list) else cast("Generator[bytes]", body))


def head(status: str, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = [
        f"HTTP/1.1 {status}", f"Date: {formatdate(usegmt=True)}",
        *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
