"""The keeper: a small process that holds the other ends of workers' pipes too, so that what they print has a reader when the master
was killed. Without one a worker that prints would be ended by SIGPIPE in the middle of a request.

Run as a file, `python -I -S keeper_process.py`, with a socket at descriptor 3 on which the master sends pipes (unix(7), SCM_RIGHTS).
While the master lives it reads nothing. Afterwards it copies what comes to standard error, until nobody writes any more.
"""

import array
import os
import resource
import select
import signal
import socket

MASTER = 3
STANDARD_ERROR = 2
# Descriptors in one message; the kernel takes 253 (SCM_MAX_FD).
MOST_AT_ONCE = 200


def keep() -> None:
    """Hold what is sent until its writers are gone; when the master is gone, read it."""
    master = socket.socket(fileno=MASTER)
    poller = select.poll()
    poller.register(MASTER, select.POLLIN)
    kept: set[int] = set()
    alone = False
    while kept or not alone:
        for fd, events in poller.poll():
            if fd == MASTER:
                data, ancillary, _, _ = master.recvmsg(1, socket.CMSG_SPACE(4 * MOST_AT_ONCE))
                for level, kind, content in ancillary:
                    if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                        for sent in array.array("i", content[: len(content) - len(content) % 4]):
                            kept.add(sent)
                            poller.register(sent, select.POLLIN if alone else 0)
                if not data:
                    alone = True
                    poller.unregister(MASTER)
                    for each in kept:
                        poller.modify(each, select.POLLIN)
            elif not (alone and copied(fd)):
                poller.unregister(fd)
                os.close(fd)
                kept.discard(fd)


def copied(fd: int) -> bool:
    """Copy what is there to standard error; return whether there may be more."""
    try:
        data = os.read(fd, 65536)
    except BlockingIOError:
        return True
    except OSError:
        data = b""
    try:
        os.write(STANDARD_ERROR, data)
    except OSError:
        pass  # nobody wants to hear it, but the worker must not notice
    return bool(data)


def main() -> None:
    # What ends the others of a terminal or a service is no reason to leave: whoever prints ends us by leaving.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    keep()


if __name__ == "__main__":
    main()
