"""What a gunicorn worker says to the master. Loaded by the adapter, which can't import the package
`einhornpy.worker`: that need not be there.

Both connections are made while we are still the master's user. Plain standard library from Python
3.9 on.
"""

import json
import os
import socket
import sys
from typing import Any, Optional

from .master_socket import connect


class Master:
    """The way to the master: one connection to its control socket, for one message."""

    def __init__(self, path: str) -> None:
        self.socket: Optional[socket.socket] = None
        try:
            self.socket = connect(path, 10)
        except OSError as error:
            print("einhornpy: cannot reach the master at %s: %s" % (path, error), file=sys.stderr)

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
    user."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        try:
            self.socket.connect(path)
        except OSError as error:
            print("einhornpy: cannot reach the master at %s: %s" % (path, error), file=sys.stderr)

    def send(self, text: str) -> bool:
        """Return whether it was taken: the queue may be full, or the master gone."""
        try:
            self.socket.send(text.encode())
        except OSError:
            return False
        return True
