"""What a gunicorn worker says to the master, over connections that it was given. Loaded by the
adapter, which can't import the package `einhornpy.worker`: that need not be there.

Plain standard library from Python 3.9 on.
"""

import json
import os
import socket
import struct
from typing import Any, Optional


class Master:
    """The way to the master: one connection to its control socket, for one message. `given`: its
    descriptor; an app that is told of it keeps its own."""

    def __init__(self, given: int) -> None:
        self.socket: Optional[socket.socket] = socket.socket(fileno=os.dup(given))
        # It may be the app's too, so it is left as it is otherwise.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 10, 0))
        if os.environ.get("EINHORN_SOCK_FD") != str(given):
            os.close(given)

    def say(self, command: str, **arguments: Any) -> None:
        if self.socket is None:
            return
        message = json.dumps(dict(arguments, command=command, pid=os.getpid()))
        try:
            self.socket.sendall(message.encode() + b"\n")
            self.socket.close()
        except OSError:
            pass
        self.socket = None


class Notices:
    """The datagrams of sd_notify(3), from a socket that stays connected when we have become another
    user. `given`: its descriptor; all workers share it."""

    def __init__(self, given: int) -> None:
        os.set_inheritable(given, False)
        self.socket = socket.socket(fileno=given)

    def send(self, text: str) -> bool:
        """Return whether it was taken: the queue may be full, or the master gone."""
        try:
            self.socket.send(text.encode(), socket.MSG_DONTWAIT)
        except OSError:
            return False
        return True
