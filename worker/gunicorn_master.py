"""What a gunicorn worker says to the master. Loaded by the adapter, which can't import the package
`einhornpy.worker`: that need not be there.

We are given both connections or, by an older master, make them while we are still its user. Plain
standard library from Python 3.9 on.
"""

import json
import os
import socket
import struct
import sys
from typing import Any, Optional

from .master_socket import connect


class Master:
    """The way to the master: one connection to its control socket, for one message. `given`: the
    descriptor of one that there is; an app that is told of it keeps its own."""

    def __init__(self, path: str, given: Optional[int] = None) -> None:
        self.socket: Optional[socket.socket] = None
        try:
            if given is None:
                self.socket = connect(path, 10)
            else:
                self.socket = socket.socket(fileno=os.dup(given))
                # It may be the app's too, so it is left as it is otherwise.
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO,
                                       struct.pack("@ll", 10, 0))
                if os.environ.get("EINHORN_SOCK_FD") != str(given):
                    os.close(given)
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
    user. `given`: the descriptor of one that is; all workers share it."""

    def __init__(self, path: str, given: Optional[int] = None) -> None:
        if given is not None:
            os.set_inheritable(given, False)
            self.socket = socket.socket(fileno=given)
            return
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self.socket.connect(path)
        except OSError as error:
            print("einhornpy: cannot reach the master at %s: %s" % (path, error), file=sys.stderr)

    def send(self, text: str) -> bool:
        """Return whether it was taken: the queue may be full, or the master gone."""
        try:
            self.socket.send(text.encode(), socket.MSG_DONTWAIT)
        except OSError:
            return False
        return True
