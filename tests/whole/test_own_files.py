"""einhornpy's own files under a running master: replaced by another version's, and gone. Nothing is
read of them later but by a reload, which says why not."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import einhornpy.supervisor
import pytest

from ..einhorn import say
from ..harness import DEADLINE, EXAMPLE, Master, children, get, keepers, wait_gone, wait_until

Start = Callable[..., Master]
PACKAGE = Path(einhornpy.supervisor.__file__).parent.parent
SCRIPT = "#!{python}\nimport sys\nfrom {module} import {name}\nsys.exit({name}())\n"


class Install:
    """An installation of its own, of the package as it is and of what the tests' has beside it:
    what pip replaces in an upgrade, and what somebody may remove. `package`: the directory of its
    files."""

    def __init__(self, place: Path) -> None:
        venv = place / "venv"
        others = next(Path(each) for each in sys.path if each.endswith("site-packages"))
        self.packages = venv / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
        self.packages.mkdir(parents=True)
        self.bin = venv / "bin"
        self.bin.mkdir()
        python = self.bin / "python"
        python.symlink_to(os.path.realpath(sys.executable))
        (venv / "pyvenv.cfg").write_text(f"home = {Path(os.path.realpath(sys.executable)).parent}\n")
        for each in others.iterdir():
            if "einhornpy" not in each.name:
                (self.packages / each.name).symlink_to(each)
        self.package = self.packages / "einhornpy"
        self.put()
        for script, module, name in (("einhornpy", "einhornpy.control.cli.main", "main"),
                                     ("gunicorn", "gunicorn.app.wsgiapp", "run")):
            program = self.bin / script
            program.write_text(SCRIPT.format(python=python, module=module, name=name))
            program.chmod(0o755)

    def put(self) -> None:
        """Install the package as it is, with what is compiled of it."""
        shutil.copytree(PACKAGE, self.package, ignore=shutil.ignore_patterns("*.pyc.*"))

    def remove(self) -> None:
        shutil.rmtree(self.package)

    def spoil(self) -> None:
        """Another version's files, none of which anybody could run."""
        for path in self.package.rglob("*.py"):
            path.write_text("this is no Python\n")
        for path in self.package.rglob("page.*"):
            path.write_text("another page\n")

    def edit(self, file: str, before: str, after: str) -> None:
        path = self.package / file
        text = path.read_text()
        assert before in text
        # What is compiled of it counts by whole seconds and by the size.
        changed = path.stat().st_mtime + 2
        path.write_text(text.replace(before, after))
        os.utime(path, (changed, changed))


@pytest.fixture
def install(place: Path) -> Install:
    return Install(place)


@pytest.fixture
def told() -> Any:
    """Where deploy events are told: (address, what was told)."""
    heard: Queue[str] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", heard
    server.shutdown()
    thread.join()
    server.server_close()


def begin(start: Start, install: Install, *flags: str) -> Master:
    master = start("-n", "2", "-b", "127.0.0.1:0", "--chdir", str(EXAMPLE), *flags, "--",
                   str(install.bin / "gunicorn"), "app:wsgi",
                   program=str(install.bin / "einhornpy"),
                   environment={"PATH": f"{install.bin}:{os.environ['PATH']}"})
    master.wait_ready()
    return master


def template(master: Master) -> int:
    found = master.wait_status(lambda status: [each["state"] for each in status["templates"]]
                               == ["ready"], "one template")["templates"]
    return int(found[0]["pid"])


def pids(master: Master) -> set[int]:
    return {worker["pid"] for worker in master.status()["workers"]}


def sidecar(master: Master) -> int:
    """Its pid, as soon as it is called so: it has read what it needs."""
    (pid,) = wait_until(lambda: [pid for pid, command in children(master.pid)
                                 if "einhornpy: web" in command], "the sidecar", master.log)
    return int(pid)


def killed(master: Master, pid: int) -> None:
    """A worker dies, and is replaced."""
    os.kill(pid, signal.SIGKILL)
    master.wait_status(lambda status: status["ready"] == 2 and status["gate"] == "ready" and pid
                       not in {worker["pid"] for worker in status["workers"]}, "another worker")


def everything(master: Master, heard: Queue[str]) -> None:
    """All that a master starts, and all that it is asked."""
    recorder = master.record()
    killed(master, min(pids(master)))
    before = template(master)
    os.kill(before, signal.SIGKILL)
    recorder.wait_for("template-ready")
    killed(master, min(pids(master)))  # of the template that was made anew
    before_it = pids(master)
    assert master.cli("recycle", "0").returncode == 0
    master.wait_status(lambda status: status["ready"] == 2 == len(status["workers"])
                       and before_it != {each["pid"] for each in status["workers"]}, "a recycle")
    while not heard.empty():
        heard.get()
    assert master.cli("upgrade").returncode == 0, master.log()
    events = [heard.get(timeout=DEADLINE) for _ in range(2)]
    assert ["started" in events[0], "done" in events[1]] == [True, True], events
    assert ":state" in say(master, "state")
    for command in ("status", "history", "list"):
        assert master.cli(command).returncode == 0
    (keeper,) = keepers(master.pid)
    os.kill(keeper, signal.SIGKILL)
    wait_gone(keeper)
    wait_until(lambda: keepers(master.pid), "another keeper", master.log)
    os.kill(sidecar(master), signal.SIGKILL)
    recorder.wait_for("web-started")
    assert "<html" in get(master.web_address)[1]
    assert get(master.web_address, "/readyz")[0] == 200
    assert get(master.address)[0] == 200


def refused(master: Master) -> str:
    """A reload that can't be: the master goes on; return what is said of it, one line."""
    before = pids(master), template(master)
    result = master.cli("reload")
    (line,) = result.stderr.splitlines()
    assert result.returncode == 1
    assert (pids(master), template(master)) == before
    assert get(master.web_address, "/readyz")[0] == 200
    return line


def test_replaced_and_removed(start: Start, install: Install, told: tuple[str, Queue[str]]) -> None:
    where, heard = told
    master = begin(start, install, "--web", "127.0.0.1:0", "--worker-output", "prefix",
                   "--webhook", where)
    sidecar(master)
    install.spoil()
    everything(master, heard)
    assert "SyntaxError" in refused(master)
    install.remove()
    everything(master, heard)
    assert "No module named" in refused(master)
    # One that fails only then: the master before goes on, with all that it has held.
    install.put()
    install.edit("supervisor/master.py", "class Master:",
                 "if '--take-over' in __import__('sys').argv:\n    raise OSError('half of it')\n\n\n"
                 "class Master:")
    assert "half of it" in refused(master)
    install.remove()
    killed(master, min(pids(master)))
    os.kill(template(master), signal.SIGKILL)
    assert master.cli("upgrade").returncode == 0, master.log()
    # a good one again, which is a newer one
    install.put()
    install.edit("supervisor/steering/state.py", 'VERSION = "', 'VERSION = "9')
    before, first = pids(master), template(master)
    assert master.cli("reload").returncode == 0, master.log()
    assert master.ask("ping")["result"]["version"].startswith("9")
    assert (pids(master), template(master)) == (before, first)
    install.remove()
    killed(master, min(pids(master)))
    assert master.cli("upgrade").returncode == 0, master.log()


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_template_of_another_version_is_replaced(start: Start, install: Install, before: int,
                                                   after: int) -> None:
    """And no worker is touched."""
    file, line = "worker/template_messages.py", "VERSION = {}\n"
    if before != 1:
        install.edit(file, line.format(1), line.format(before))
    master = begin(start, install)
    recorder = master.record()
    workers, old = pids(master), template(master)
    install.edit(file, line.format(before), line.format(after))
    assert master.cli("reload").returncode == 0, master.log()
    recorder.wait_for("template-ready")
    assert f"version {before} of the messages, and this master {after}" in master.log()
    wait_gone(old)
    assert template(master) != old
    assert pids(master) == workers
    killed(master, min(workers))
    assert master.cli("upgrade").returncode == 0, master.log()
    status = master.status()
    assert not any(each["event"] == "start-failed" for each in recorder.events)
    assert status["gate"] == "ready"
