"""The keeper: a small process that holds the other ends of workers' pipes too, so that what they
print has a reader when the master was killed. Without one a worker that prints would be ended by
SIGPIPE in the middle of a request.

Run as `python -I -S /proc/self/fd/4 keeper_process [escaped]`: descriptor 4 holds this text, 3 is a
socket on which the master sends pipes (unix(7), SCM_RIGHTS). While the master lives it reads
nothing. Afterwards it copies what comes to standard error, until nobody writes any more. It goes on
reading where standard error takes no more, since a worker must not wait for a log: what there is no
room for is counted.
`escaped`: standard error is a log, where nothing that a worker says may steer a terminal; otherwise
it is as if the worker had it.
"""

import array
import codecs
import contextlib
import os
import resource
import select
import signal
import socket
import sys
import time

MASTER, PROGRAM = 3, 4
STANDARD_ERROR = 2
# Descriptors in one message; the kernel takes 253 (SCM_MAX_FD).
MOST_AT_ONCE = 200
# Bytes that wait for standard error at most, and seconds that they do when the last writer is gone.
MOST_WAITING = 1 << 20
PATIENCE = 5.0


class Copy:
    """Standard error, which others may hold too: it stays blocking, and is written to only when,
    and as much as, it has room for."""

    def __init__(self, poller: select.poll) -> None:
        self._poller = poller
        self._room = select.poll()
        self._room.register(STANDARD_ERROR, select.POLLOUT)
        self._waiting = bytearray()
        self._dropped = 0

    @property
    def unsaid(self) -> bool:
        """Whether there is something that nobody could read so far."""
        return bool(self._waiting or self._dropped)

    def put(self, data: bytes) -> None:
        """Write this, now or later; what has no room is dropped and counted."""
        if len(self._waiting) + len(data) > MOST_WAITING:
            self._dropped += data.count(b"\n")
        else:
            self._waiting += data
        self.flush()

    def flush(self) -> None:
        """Write what can be written without waiting; have the poller tell of room for the rest."""
        try:
            # What polls as writable takes PIPE_BUF bytes at once (pipe(7)).
            while self.unsaid and self._room.poll(0):
                if not self._waiting:
                    self._dropped, dropped = 0, self._dropped
                    self._waiting += b"\neinhornpy keeper: log lines dropped lines=%d\n" % dropped
                del self._waiting[: os.write(STANDARD_ERROR, self._waiting[: select.PIPE_BUF])]
        except BlockingIOError:
            pass
        except OSError:
            # nobody wants to hear it, but the worker must not notice
            self._waiting, self._dropped = bytearray(), 0
        if self.unsaid:
            self._poller.register(STANDARD_ERROR, select.POLLOUT)
        else:
            with contextlib.suppress(KeyError):
                self._poller.unregister(STANDARD_ERROR)


class Raw:
    """A worker's bytes as they came."""

    def decode(self, data: bytes, final: bool = False) -> bytes:
        return data


class Escaped:
    """A worker's bytes as text that no terminal makes anything of but lines; a letter may come in
    two parts."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def decode(self, data: bytes, final: bool = False) -> bytes:
        text = self._decoder.decode(data, final)
        return "".join(each if each.isprintable() or each in "\t\n" else ascii(each)[1:-1]
                       for each in text).encode()


def keep(form: type[Raw] | type[Escaped]) -> None:
    """Hold what is sent until its writers are gone; when the master is gone, read it."""
    master = socket.socket(fileno=MASTER)
    poller = select.poll()
    poller.register(MASTER, select.POLLIN)
    copy = Copy(poller)
    kept: dict[int, Raw | Escaped] = {}
    alone = False
    while kept or not alone:
        for fd, _ in poller.poll():
            if fd == STANDARD_ERROR:
                copy.flush()
            elif fd == MASTER:
                there, sent = received(master)
                for each in sent:
                    kept[each] = form()
                    poller.register(each, select.POLLIN if alone else 0)
                if not there:
                    alone = True
                    poller.unregister(MASTER)
                    for each in kept:
                        poller.modify(each, select.POLLIN)
            elif not (alone and copied(fd, kept[fd], copy)):
                poller.unregister(fd)
                os.close(fd)
                kept.pop(fd, None)
    leave_at = time.monotonic() + PATIENCE
    while copy.unsaid and time.monotonic() < leave_at:
        if poller.poll(PATIENCE * 1000):
            copy.flush()


def received(master: socket.socket) -> tuple[bool, list[int]]:
    """Whether the master is still there, and the descriptors that it has sent."""
    data, ancillary, _, _ = master.recvmsg(1, socket.CMSG_SPACE(4 * MOST_AT_ONCE))
    sent: list[int] = []
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            sent.extend(array.array("i", content[: len(content) - len(content) % 4]))
    return bool(data), sent


def copied(fd: int, form: Raw | Escaped, copy: Copy) -> bool:
    """Copy what is there; return whether there may be more."""
    try:
        data = os.read(fd, 65536)
    except BlockingIOError:
        return True
    except OSError:
        data = b""
    copy.put(form.decode(data, final=not data))
    return bool(data)


def main() -> None:
    # What ends the others of a terminal or a service is no reason to leave: whoever prints ends us
    # by leaving.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE,
                   signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    os.close(PROGRAM)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    keep(Escaped if "escaped" in sys.argv[1:] else Raw)


if __name__ == "__main__":
    main()
