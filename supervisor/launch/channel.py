"""The master's end of what it and a template say to each other (worker/template_messages.py says
what): messages as whole datagrams, descriptors beside them. Never waits; what the template doesn't
take yet is kept."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ...worker import template_messages
from ..system.loop import READ, WRITE, Loop


class Channel:
    """`connection`: our end. `pid`: the process that we have started. `heard`: told of each
    message; None: there will be no more."""

    def __init__(self, loop: Loop, connection: socket.socket, pid: int) -> None:
        self._loop = loop
        self.connection = connection
        self.pid = pid
        self.ended = False
        self.heard: Callable[[dict[str, Any] | None], None] = lambda message: None
        self._waiting: deque[tuple[bytes, list[int]]] = deque()
        # Too many descriptors are on their way already, which nothing tells the end of.
        self.held = False
        connection.setblocking(False)

    def open(self, heard: Callable[[dict[str, Any] | None], None]) -> None:
        """Begin to hear."""
        self.heard = heard
        self._loop.watch(self.connection.fileno(), READ, self._on_ready)

    def send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """Say it as soon as the template takes it; nothing where it is gone. The descriptors may be
        closed after this.

        Raises:
            OSError: no such message can be sent.
        """
        if self.ended:
            return
        if not self._waiting and self._sent(message, descriptors):
            return
        self._waiting.append((message, [os.dup(fd) for fd in descriptors]))
        self._watch()

    def _watch(self) -> None:
        writes = self._waiting and not self.held
        self._loop.watch(self.connection.fileno(), READ | WRITE if writes else READ,
                         self._on_ready)

    def _sent(self, message: bytes, descriptors: Sequence[int]) -> bool:
        try:
            socket.send_fds(self.connection, [message], list(descriptors))
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:
                self.held = True
                return False
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise
            # nobody is there, which we hear as the end
        return True

    def _on_ready(self, events: int) -> None:
        self.go_on()
        self.read()

    def go_on(self) -> None:
        """Say what has waited, as far as it can be said by now."""
        self.held = False
        while self._waiting and self._sent(*self._waiting[0]):
            for fd in self._waiting.popleft()[1]:
                os.close(fd)
        if not self.ended:
            self._watch()

    def read(self) -> None:
        """Hear what has been said by now. What isn't a message is passed over: the app's own code
        can write there."""
        while not self.ended:
            try:
                data = self.connection.recv(template_messages.LARGEST)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.close()
                self.heard(None)
                return
            with contextlib.suppress(ValueError):
                self.heard(template_messages.read(data))

    def close(self) -> None:
        """Hear no more; the template leaves by that."""
        if self.ended:
            return
        self.ended = True
        self._loop.unwatch(self.connection.fileno())
        self.connection.close()
        while self._waiting:
            for fd in self._waiting.popleft()[1]:
                os.close(fd)
