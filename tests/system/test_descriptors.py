"""What whoever starts a master has left open is not held by it; and no start takes longer because
many descriptors are allowed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from einhornpy.supervisor.sockets.systemd import given_sockets

from ..harness import EINHORNPY, Master, get
from .test_becoming import script

Start = Callable[..., Master]
# A worker (-m notify) that answers whoever connects.
SERVER = [sys.executable, "-c", """
import os, socket
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
listening = socket.socket(fileno=3)
while True:
    connection, _ = listening.accept()
    connection.recv(1 << 16)
    connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n")
    connection.close()
"""]


def is_free(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def inherited(pid: int) -> list[str]:
    """What a process holds that it has not opened itself, but for standard input, output and
    error: nothing of a master's survives exec."""
    found = []
    for fd in map(int, os.listdir(f"/proc/{pid}/fd")):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            flags = Path(f"/proc/{pid}/fdinfo/{fd}").read_text().split("flags:\t")[1].split()[0]
            if fd > 2 and not int(flags, 8) & os.O_CLOEXEC:
                found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


def test_a_lock_of_the_shell_is_given_up_and_what_was_meant_is_kept(start: Start,
                                                                    place: Path) -> None:
    lock = place / "lock"
    with lock.open("w") as locked, socket.socket() as listening, socket.socket() as stray:
        fcntl.flock(locked, fcntl.LOCK_EX)
        for each in (listening, stray):
            each.bind(("127.0.0.1", 0))
            each.listen()
        address = listening.getsockname()
        master = start(
            "-n", "1", "-b", f"fd://{listening.fileno()}", "-m", "notify", "--verbose",
            "--web", "127.0.0.1:0", "--on-worker-ready",
            "true", "--", *SERVER,
            pass_fds=[each.fileno() for each in (locked, listening, stray)])
        master.wait_ready()
    assert is_free(lock)
    line = master.wait_log(" inherited descriptors closed ")
    assert f"({lock})" in line
    assert "socket:" in line
    assert inherited(master.pid) == []
    for _ in range(2):
        assert get(address)[0] == 200
        assert master.cli("reload").returncode == 0, master.log()
        assert inherited(master.pid) == []
    assert master.stop() == 0


def test_a_next_master_gives_up_what_its_program_has_left_open(start: Start, place: Path) -> None:
    """As did a master of the version before, which held what it had inherited."""
    lock = place / "lock"
    program = script(
        place / "next", f"""#!{sys.executable}
import fcntl, os, subprocess, sys
command = ["{EINHORNPY}", *sys.argv[1:]]
if sys.argv[1] == "--check-state":
    # without its first line, which says how to run it without us
    sys.exit(print(subprocess.check_output(command, text=True).splitlines()[-1]))
os.dup2(os.open("{lock}", os.O_CREAT | os.O_RDWR), 200)
fcntl.flock(200, fcntl.LOCK_EX | fcntl.LOCK_NB)
open("{lock}.was", "w").close()
os.execv(command[0], command)
""")
    master = start("-n", "1", "-b", "127.0.0.1:0", "-m", "notify", "--reexec-as", program, "--",
                   *SERVER)
    master.wait_ready()
    assert master.cli("reload").returncode == 0, master.log()
    assert (place / "lock.was").exists()
    assert is_free(lock)
    assert inherited(master.pid) == []
    assert get(master.address)[0] == 200


def test_a_number_of_sockets_is_believed_as_far_as_they_are_there() -> None:
    found = given_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "999999999",
                           "LISTEN_FDNAMES": "a"})
    assert found[0] == (3, "a")
    assert len(found) <= len(os.listdir("/proc/self/fd"))


# Runs where close_range(2) is refused (seccomp(2)); prints how long a start takes with few and with
# many descriptors allowed, the shortest of some.
TIMED = """
import ctypes, os, resource, struct, sys, time
from einhornpy.supervisor.system.processes import Launch, Processes

ENOSYS, CLOSE_RANGE = 38, 436
LOAD, JUMP_IF, RETURN = 0x20, 0x15, 0x06
program = b"".join(struct.pack("HBBI", *each) for each in [
    (LOAD, 0, 0, 0), (JUMP_IF, 0, 1, CLOSE_RANGE), (RETURN, 0, 0, 0x00050000 | ENOSYS),
    (RETURN, 0, 0, 0x7fff0000)])
text = ctypes.create_string_buffer(program)
whole = struct.pack("HP", 4, ctypes.addressof(text))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, whole, 0, 0) == 0, ctypes.get_errno()
assert libc.syscall(CLOSE_RANGE, 1000, 1000, 0) == -1 and ctypes.get_errno() == ENOSYS
most = int(sys.argv[1])
for limit in (1024, most):
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    except (ValueError, OSError):  # nobody here may allow so many: pretend that somebody has
        os.sysconf = {"SC_OPEN_MAX": limit, "SC_PAGE_SIZE": 4096}.__getitem__
    processes, times = Processes(), []
    for _ in range(8):
        begun = time.monotonic()
        os.waitpid(processes.start(Launch(["true"], "/", {"PATH": "/usr/bin:/bin"})), 0)
        times.append(time.monotonic() - begun)
    print(min(times))
"""


def test_a_start_takes_no_longer_for_a_limit_of_a_million() -> None:
    most = int(Path("/proc/sys/fs/nr_open").read_text())
    result = subprocess.run([sys.executable, "-c", TIMED, str(most)], capture_output=True,
                            text=True, check=False)
    assert result.returncode == 0, result.stderr
    few, many = map(float, result.stdout.split())
    assert many < 5 * few, f"{few:.4f} s with few, {many:.4f} s with many"
