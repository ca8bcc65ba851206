"""Counts the requests and websockets of an ASGI app, under whichever server, by what the app and
the server say to each other.

Plain standard library from Python 3.9 on; asyncio is the caller's.
"""

import time
from typing import Any

from .busy_slot import Slot
from .traffic_slot import TrafficSlot

# Of a websocket's refusal.
_ENDS = ("websocket.close", "websocket.http.response.body")


def counted(app: Any, slot: Slot, traffic: TrafficSlot) -> Any:
    """An ASGI app around `app` whose requests and websockets are counted."""

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        begun = slot.begin()
        answer = (Answer if scope["type"] == "http" else Handshake)(scope, receive, send)
        try:
            await app(scope, answer.listen, answer.say)
        except Exception:
            answer.failed = True
            raise
        except BaseException:  # cancelled: so some servers say that the client has left
            answer.left = True
            raise
        finally:
            answer.note(traffic, begun, slot.end())

    return counted


class Answer:
    """To one request. `left`: the client has, before it had its answer."""

    __slots__ = ("complete", "ended", "failed", "left", "receive", "send", "sent",
                 "status", "without_body")

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.receive, self.send = receive, send
        self.status = self.sent = 0
        self.complete = self.failed = self.left = False
        self.ended = 0.0
        self.without_body = scope.get("method") == "HEAD"

    async def listen(self) -> Any:
        message = await self.receive()
        if message["type"] == "http.disconnect" and not self.complete:
            self.left = True
        return message

    async def say(self, message: Any) -> None:
        kind, ends = message["type"], False
        if not self.complete and not self.left and has_left(self.receive, self.send):
            self.left = True
        try:
            await self.send(message)
        except OSError:  # as of ASGI 2.4
            self.left = self.left or not self.complete
            raise
        if self.left:
            return
        if kind == "http.response.body":
            ends = not message.get("more_body", False)
            if not self.without_body:
                self.sent += len(message.get("body", b""))
        elif kind == "http.response.start":
            self.status = message["status"]
        elif kind in ("http.response.pathsend", "http.response.zerocopysend"):
            ends = not message.get("more_body", False)
        if ends:
            self.complete, self.ended = True, time.monotonic()

    def note(self, traffic: TrafficSlot, begun: float, now: float) -> None:
        if self.complete:
            traffic.note(now, self.status, self.ended - begun, self.sent, self.failed)
        elif self.left:
            traffic.note(now, self.status, 0.0, self.sent, aborted=True)
        else:  # a server sends 500 where the app has said nothing, and breaks off what it began
            traffic.note(now, self.status or 500, now - begun, self.sent,
                         self.failed or self.status != 0)


class Handshake:
    """To a websocket, whose messages are nobody's answer. `left`: the client has, so that what the
    app still raises is the end of the websocket and no failure."""

    __slots__ = ("ended", "failed", "left", "receive", "send", "status")

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.receive, self.send = receive, send
        self.status = 0
        self.ended = 0.0
        self.failed = self.left = False

    async def listen(self) -> Any:
        message = await self.receive()
        if message["type"] == "websocket.disconnect":
            self.left = True
        return message

    async def say(self, message: Any) -> None:
        kind = message["type"]
        try:
            await self.send(message)
        except OSError:  # as of ASGI 2.4
            self.left = True
            raise
        if not self.status:
            self.status = {
                "websocket.accept": 101, "websocket.close": 403,
                "websocket.http.response.start": message.get("status", 0)}.get(kind, 0)
        if self.status != 101 and not self.ended and kind in _ENDS and not message.get(
                "more_body", False):
            self.ended = time.monotonic()

    def note(self, traffic: TrafficSlot, begun: float, now: float) -> None:
        if self.left and not self.ended and self.status != 101:
            traffic.note(now, self.status, 0.0, aborted=True)
        else:
            traffic.note(now, self.status or 500, (self.ended or now) - begun,
                         exception=self.failed and not self.left)


def has_left(receive: Any, send: Any) -> bool:
    """Whether the client has, as the server knows it before the app has asked: uvicorn and gunicorn
    by who receives, hypercorn by who sends; all of them then drop what is sent."""
    receiver = getattr(receive, "__self__", None)
    if receiver is None:
        return False
    known = getattr(receiver, "disconnected", None)  # uvicorn
    if known is None:
        known = getattr(receiver, "_closed", None)  # gunicorn
    if known is None:
        known = getattr(getattr(send, "__self__", None), "closed", False)  # hypercorn
    return known is True
