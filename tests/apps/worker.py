"""A worker that does what a test tells it, by words in its arguments:

notify | ack | ack-other | silent    how it says ready (READY=1, Einhorn's ack, an ack for another
                                     pid, not at all)
crash-before | crash-after           exits with 7 before, or at once after it is ready
deaf                                 ignores the polite signals
child                                starts a child process of its own that ignores them too
report=PATH                          appends what it was given, as one JSON line, before it says
                                     ready
serve                                answers HTTP on descriptor 3
bind=PORT                            binds that port itself before it is ready
shut                                 shuts the listening socket on descriptor 3 down, for everybody
shut-late                            does so when it is asked to go
late-arbiter                         becomes gunicorn's arbiter after it has said ready
die=SECONDS                          exits with 7 so long after it is ready
eat=N                                uses N MiB of memory
code=N                               on SIGUSR1 exits with N
"""

import json
import os
import signal
import socket
import subprocess
import sys

words = sys.argv[1:]
options = dict(word.partition("=")[::2] for word in words)
left = []


def leave(number, frame):
    left.append(number)
    os.write(wake[1], b"x")


wake = os.pipe()
with open("/proc/self/status") as status:
    lines = [line.strip().partition(":\t") for line in status]
at_exec = {
    name: int(value, 16) for name, _, value in lines if name in ("SigIgn", "SigBlk", "SigCgt")}


def note(number, frame):
    with open(options["usr1"], "a") as file:
        file.write(f"{os.getpid()}\n")


for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN if "deaf" in options else leave)
if "usr1" in options:
    signal.signal(signal.SIGUSR1, note)
if "code" in options:
    signal.signal(signal.SIGUSR1, lambda number, frame: os._exit(int(options["code"])))
if "eat" in options:
    eaten = bytearray(os.urandom(1 << 20)) * int(options["eat"])
child = None
if "child" in options:
    code = "import signal, time; signal.signal(15, 1); print(flush=True); time.sleep(1000)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child.stdout.readline()
if "report" in options:
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            descriptors[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass
    for fd in wake:
        descriptors.pop(str(fd), None)
    with open(options["report"], "a") as file:
        file.write(json.dumps({
            "pid": os.getpid(), "ppid": os.getppid(), "pgid": os.getpgrp(), "cwd": os.getcwd(),
            "environment": dict(os.environ), "descriptors": descriptors, "signals": at_exec,
            "child": child and child.pid,
        }) + "\n")
if "crash-before" in options:
    sys.exit(7)
if "bind" in options:
    socket.create_server(("127.0.0.1", int(options["bind"])))


def notify(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.connect(os.environ["NOTIFY_SOCKET"])
        out.send(text)


def ack(pid):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as out:
        out.connect(os.environ["EINHORN_SOCK_PATH"])
        out.sendall(json.dumps({"command": "worker:ack", "pid": pid}).encode() + b"\n")
        assert out.recv(100) == b""  # no reply, and the connection is closed


if "notify" in options:
    notify(b"READY=1")
if "ack" in options:
    ack(os.getpid())
if "ack-other" in options:
    ack(os.getppid())
if "watchdog" in options:
    notify(b"WATCHDOG=1")
if "crash-after" in options:
    sys.exit(7)

if "shut" in options:
    socket.socket(fileno=os.dup(3)).shutdown(socket.SHUT_RDWR)
if "late-arbiter" in options:
    hidden = "".join(["guni", "corn"])  # or it would be recognised before
    os.execv(sys.executable,
             [sys.executable, "-m", hidden, "--chdir", os.environ["PWD"], "app:wsgi"])
if "die" in options:
    signal.signal(signal.SIGALRM, lambda number, frame: os._exit(7))
    signal.setitimer(signal.ITIMER_REAL, float(options["die"]))

if "serve" in options:
    listener = socket.socket(fileno=3)
    listener.setblocking(False)
import select  # noqa: E402

while not left or "deaf" in options:
    readable, _, _ = select.select([wake[0], *([listener] if "serve" in options else [])], [], [])
    if "serve" in options and listener in readable:
        try:
            connection, _ = listener.accept()
        except OSError:  # somebody else has it, or has shut the socket down
            continue
        connection.setblocking(True)
        connection.recv(65536)
        body = f"{os.getpid()}\n".encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" %
                           (len(body), body))
        connection.close()
if "shut-late" in options:
    socket.socket(fileno=os.dup(3)).shutdown(socket.SHUT_RDWR)
