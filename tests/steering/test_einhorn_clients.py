"""Workers and clients that were written for Einhorn work unchanged."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..airbag import check
from ..einhorn import state_of
from ..harness import (
    APPS,
    DEADLINE,
    ROOT,
    Master,
    get,
    wait_until,
)
from ..load import Load

Start = Callable[..., Master]
RUBY = shutil.which("ruby")
BASEPLATE = ROOT / ".venv-baseplate" / "bin" / "baseplate-serve"


def test_a_worker_that_acks_and_pings_in_yaml(start: Start, place: Path) -> None:
    code = (
        "import os, signal, socket\n"
        "def say(text):\n"
        "    s = socket.socket(socket.AF_UNIX); s.connect(os.environ['EINHORN_SOCK_PATH'])\n"
        "    s.sendall(text.replace('\\n', '%0A').encode() + b'\\n'); assert s.recv(1) == b'', 'no "
        "reply, and closed'\n"
        "say(f'---\\ncommand: worker:ack\\npid: {os.getpid()}\\n')\n"
        "say(f'---\\ncommand: worker:ping\\npid: {os.getpid()}\\nrequest_id: req-7\\n')\n"
        "signal.pause()")
    master = start("-n", "1", "-m", "manual", "--", sys.executable, "-c", code)
    pid = master.wait_ready()["workers"][0]["pid"]
    child = wait_until(
        lambda: (each := state_of(master)[":children"][pid])[":pinged_at"] and each, "the ping",
        master.log)
    assert child[":pinged_request_id"] == "req-7"


def test_the_control_socket_as_a_descriptor(start: Start) -> None:
    """As a PHP worker does it: a line of JSON to the descriptor, without a path, and later another
    one."""
    code = (
        "import json, os, signal\n"
        "fd = int(os.environ['EINHORN_SOCK_FD'])\n"
        "os.write(fd, json.dumps({'command': 'worker:ack', 'pid': os.getpid()}).encode() + "
        "b'\\n')\n"
        "os.write(fd, json.dumps({'command': 'worker:ping', 'pid': os.getpid(), 'request_id': "
        "'r'}).encode() + b'\\n')\n"
        "os.write(fd, b'{\"id\": 1, \"command\": \"stop\"}\\n'); print(os.read(fd, "
        "10000).decode(), flush=True)\n"
        "signal.pause()")
    master = start("-n", "2", "-g", "-m", "manual", "-b", "127.0.0.1:0", "--", sys.executable, "-c",
                   code)
    master.wait_ready()
    wait_until(
        lambda: all(each[":pinged_request_id"] == "r"
                    for each in state_of(master)[":children"].values()), "both pings", master.log)
    assert "this connection is a worker's own" in master.wait_log("not-allowed")
    assert all(each["state"] == "ready" for each in master.status()["workers"])
    assert master.cli("upgrade").returncode == 0, "the new ones have descriptors of their own"


def test_a_worker_that_floods_its_descriptor_loses_it_and_nothing_else(start: Start) -> None:
    code = (
        "import json, os, signal\n"
        "fd = int(os.environ['EINHORN_SOCK_FD'])\n"
        "os.write(fd, json.dumps({'command': 'worker:ack', 'pid': os.getpid()}).encode() + "
        "b'\\n')\n"
        "try:\n"
        "    while True: os.write(fd, b'x' * 65536)\n"
        "except (BrokenPipeError, ConnectionResetError): print('cut off', flush=True)\n"
        "signal.pause()")
    master = start("-n", "1", "-g", "-m", "manual", "--stop-signal", "TERM", "--", sys.executable,
                   "-c", code)
    master.wait_log("cut off")
    assert master.wait_ready()["workers"][0]["restarts"] == 0


def test_a_client_that_undoes_query_encoding(master: Master) -> None:
    """As a Go client does it with url.QueryUnescape: a plus must survive."""
    assert master.cli("upgrade", "--release", "1.0+b 50%25").returncode == 0
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(master.path)
        connection.sendall(
            urllib.parse.quote(json.dumps({"id": 1, "command": "status"})).encode() + b"\n")
        with connection.makefile() as answers:
            answer = json.loads(urllib.parse.unquote_plus(answers.readline()))
    assert answer["result"]["release"] == "1.0+b 50%25"


@pytest.mark.skipif(RUBY is None, reason="ruby is not installed (Debian's package ruby)")
def test_ruby_speaks_its_own_yaml(master: Master) -> None:
    requests: list[dict[str, Any]] = [
        {"command": "ehlo", "user": "gdb"}, {"id": 1, "command": "state"},
        {"id": 2, "command": "signal", "args": ["SIGCONT"]},
        {"id": 3, "command": "set_workers", "args": ["50%\n+é😀"]},
        {"id": 4, "command": "upgrade", "args": []}, {"command": "worker:ack", "pid": os.getpid()}]
    ran = subprocess.run([str(RUBY), str(APPS / "einhorn_client.rb"), master.path],
                         capture_output=True, text=True, timeout=DEADLINE,
                         input="".join(json.dumps(request) + "\n" for request in requests),
                         env={**os.environ, "LANG": "C.UTF-8"})
    assert ran.returncode == 0, ran.stderr
    *answers, last = ran.stdout.splitlines()
    assert last == "closed", "an ack gets no reply, and the connection is closed"
    read = [json.loads(answer) for answer in answers]
    assert read[0]["message"].startswith("Welcome, gdb!")
    child = next(iter(read[1]["state"]["state"]["children"].values()))
    assert (child["type"], child["acked"], child["signaled"]) == ("worker", True,
                                                                  []), "symbols, to Ruby"
    assert read[1]["classes"]["spinup_time"] == "Time"
    assert (read[-1]["message"], read[-1]["request_id"]) == ("Upgrade done", 4)
    assert len(read) > 8, "a long reply"
    assert read[2]["message"] == "SIGCONT sent to 2 workers"
    assert read[3]["message"] == "set_workers: got '50%\\n+é😀', expected a whole number"


@pytest.mark.skipif(not BASEPLATE.exists(), reason="baseplate is not installed (make test does it)")
def test_baseplate_serve_runs_unchanged(start: Start, place: Path) -> None:
    (place / "shop.py").write_text(
        "def make_app(config):\n"
        "    def app(environ, start_response):\n"
        "        start_response('200 OK', [('Content-Length', '3')])\n"
        "        return [b'hi\\n']\n"
        "    return app\n")
    (place / "shop.ini").write_text(
        "[app:main]\nfactory = shop\n[server:main]\nfactory = baseplate.server.wsgi\n"
        "drain_time = 1 second\nstop_timeout = 1 second\n")
    master = start("-n", "2", "-m", "manual", "-b", "127.0.0.1:0", "--chdir", str(place), "--",
                   str(BASEPLATE), "shop.ini",
                   environment={"PROMETHEUS_MULTIPROC_DIR": str(place)})  # it won't start without
    master.wait_ready()
    recorder = master.record()
    assert get(master.address) == (200, "hi\n")
    # Connections that are used again are its server's: gevent's kills those that outlast
    # stop_timeout, also under a request.
    with Load(master.address, rate=40, slow=0.0, keep_alive=0.0) as load:
        result = master.cli("upgrade")
        assert result.returncode == 0, result.stdout + result.stderr + master.log()
    assert not load.report.failures, load.report.why()
    check(recorder, 2)
    assert "worker killed" not in master.log()
