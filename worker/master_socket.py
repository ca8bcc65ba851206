"""A connection to the master's control socket, from one of its workers. Says nothing by itself.

Used by the package and by the adapter. Plain standard library from Python 3.9 on.
"""

import os
import socket
import struct


def connect(path: str, timeout: int) -> socket.socket:
    """A connection to the process that started us; every wait on it takes `timeout` seconds at the
    most.

    Raises:
        OSError: nobody listens there, or not the master; TimeoutError: its queue stays full.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # A connection that may block waits in line while the master's queue is full; any other one
        # is refused at once.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO,
                              struct.pack("@ll", timeout, 0))
        try:
            connection.connect(path)
        except BlockingIOError as error:
            raise TimeoutError("the master did not accept in %d s" % timeout) from error
        # struct ucred of unix(7): pid, uid, gid.
        pid, _, _ = struct.unpack(
            "=iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if pid != os.getppid():
            raise ConnectionError("pid %d, which listens at %s, is not the master" % (pid, path))
        connection.settimeout(timeout)
    except BaseException:
        connection.close()
        raise
    return connection
