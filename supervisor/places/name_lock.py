"""The lock on a master's name: a locked file and, since that can be removed by anybody who sweeps
up, a name of the kernel's own that nobody can remove.

The second is an abstract UNIX socket (unix(7)). Anybody may bind one, so only a living process of
our own user counts as its holder. Its name holds the user, the mount namespace and the root
directory: the same path means another file in each. Where another network namespace is used with
the same files, the locked file alone holds.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket

from ...shared import peer
from ...shared.alive import is_alive
from ..system import files

# Any large prime: it makes a number that fits of a path of any length.
_PRIME = (1 << 127) - 1
# So many are let go before the rest of the loop has its turn.
MOST_AT_ONCE = 64


class NameTaken(RuntimeError):
    """One line: who has it, or why it can't be had."""


def hold_file(path: str, name: str) -> int:
    """The descriptor of the file at `path`, locked, with our pid in it. `name`: the master's.

    Raises:
        NameTaken: another master holds it, it can't be made, or it is something else than a lock.
    """
    try:
        while True:
            with contextlib.ExitStack() as undoing:
                lock = files.opened(path, os.O_RDWR | os.O_CREAT)
                undoing.callback(os.close, lock)
                said = os.read(lock, 32).decode(errors="replace").strip()
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise _taken(path, name, said[:20]) from None
                if said and not said.isdecimal():
                    raise NameTaken(f"cannot lock {path}: it holds something else than a pid")
                # Its last holder may have removed the file between our open and our lock.
                if not is_at(lock, path):
                    continue
                os.ftruncate(lock, 0)
                # For people alone: where there is no room for it, the lock is held all the same.
                with contextlib.suppress(OSError):
                    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
                undoing.pop_all()
                return lock
    except OSError as error:
        raise NameTaken(f"cannot make {path}: {error.strerror}") from None


def is_at(lock: int, path: str) -> bool:
    """Whether the file that is open as `lock` is still the one at `path`."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(lock))
    except OSError:
        return False


def hold_for_good(path: str, name: str) -> socket.socket | None:
    """What holds the name of the lock at `path` until it is closed, or we are dead; None where
    somebody else, whose word doesn't count, is in the way.

    Raises:
        NameTaken: another master holds it.
    """
    holding = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    address = _address(path)
    try:
        holding.bind(address)
        holding.listen(1024)
        holding.setblocking(False)
        return holding
    except OSError as error:
        holding.close()
        pid = _holder(address) if error.errno == errno.EADDRINUSE else None
        if pid is not None:
            raise _taken(path, name, str(pid or "")) from None
    return None


def turn_away(holding: socket.socket) -> None:
    """Let go whoever has asked who holds it: they would wait in its queue for ever."""
    with contextlib.suppress(OSError):
        for _ in range(MOST_AT_ONCE):
            holding.accept()[0].close()


def _address(path: str) -> bytes:
    root, number = os.stat("/"), int.from_bytes(os.fsencode(os.path.realpath(path)), "big")
    namespace = ""
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/mnt")
    where = f"{os.geteuid()} {namespace} {root.st_dev} {root.st_ino} {number % _PRIME:x}"
    return f"\0einhornpy {where}".encode()


def _holder(address: bytes) -> int | None:
    """The pid of the process of ours that holds it; None if it is none of ours, or dead."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address)
        except OSError:
            return None
        pid, uid, _ = peer.credentials(probe)
    # One in another pid namespace has none here.
    return pid if uid == os.geteuid() and (pid == 0 or is_alive(pid)) else None


def _taken(path: str, name: str, pid: str) -> NameTaken:
    who = f"named {name} is running" if path.endswith(f"/{name}.lock") else f"holds {path}"
    return NameTaken(f"another master {who}{f' (pid {pid})' if pid else ''}: "
                     "stop it, or choose another name with -c NAME")
