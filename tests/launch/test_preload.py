"""The app imported once, by the template: for each of gunicorn's classes, for programs that become
the template by themselves, and what becomes of releases that can't be imported or aren't safe to
fork."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..airbag import check
from ..harness import Master, children, get, keepers, wait_gone, wait_until
from ..load import Load
from ..whole.test_no_lost_request import CLASSES

Start = Callable[..., Master]
# Who has imported it, and who answers.
APP = """
import os
with open("imports", "a") as file:
    file.write("%d\\n" % os.getpid())
IMPORTED_BY = os.getpid()

def wsgi(environ, start_response):
    body = b"%d %d" % (IMPORTED_BY, os.getpid())
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = b"%d %d" % (IMPORTED_BY, os.getpid())
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})
"""
# A thread that goes on.
CLOCK = """
import threading
threading.Thread(target=threading.Event().wait, name="clock", daemon=True).start()
"""


def begin(start: Start, place: Path, *words: str, app: str = APP, number: int = 2,
          config: str = "", preload: str = "--preload") -> Master:
    """A master of gunicorn's. `words`: of gunicorn's command line."""
    (place / "app.py").write_text(app)
    (place / "clock.py").write_text(CLOCK)
    (place / "gunicorn.conf.py").write_text(config)
    flags = [preload] if preload else []
    return start("-n", str(number), "-b", "127.0.0.1:0", "--ready-timeout", "5", "-s", "0.1",
                 *flags, "--", "gunicorn", *(words or ("app:wsgi",)))


def imported_by(place: Path) -> list[int]:
    return [int(line) for line in (place / "imports").read_text().split()]


def template(master: Master, generation: int) -> dict[str, Any]:
    return next(dict(each) for each in master.status()["templates"]
                if each["generation"] == generation)


def workers(master: Master) -> set[int]:
    return {worker["pid"] for worker in master.status()["workers"]}


def kill_one(master: Master) -> None:
    """Wait until there is another worker in its place."""
    dead = min(workers(master))
    os.kill(dead, signal.SIGKILL)
    master.wait_status(lambda status: status["ready"] == 2 and dead not in workers(master))


@pytest.mark.parametrize("name", CLASSES)
def test_the_app_is_imported_once_a_generation(start: Start, place: Path, name: str) -> None:
    app = "app:asgi" if any("asgi" in word or "uvicorn" in word for word in CLASSES[name]) else (
        "app:wsgi")
    words = [word for word in CLASSES[name] if ":" not in word]
    master = begin(start, place, *words, app)
    master.wait_ready()
    first = template(master, 1)["pid"]
    assert imported_by(place) == [first]
    status, body = get(master.address)
    assert status == 200
    importer, answering = map(int, body.split())
    assert importer == first
    assert answering in workers(master)
    kill_one(master)
    upgraded = master.cli("upgrade")
    assert upgraded.returncode == 0
    assert "; its template imports the app\n" in upgraded.stdout
    assert "ready, app imported in " in upgraded.stdout
    assert imported_by(place) == [first, template(master, 2)["pid"]]
    assert get(master.address)[1].split()[0] == str(template(master, 2)["pid"])


def test_an_app_knows_its_release_as_it_is_imported(start: Start, place: Path) -> None:
    master = begin(start, place)
    master.wait_ready()
    (place / "app.py").write_text(APP + """
with open("release", "w") as file:
    file.write(os.environ["EINHORNPY_RELEASE"] + os.environ["EINHORNPY_GENERATION"])
""")
    assert master.cli("upgrade", "--release", "r7-").returncode == 0
    assert (place / "release").read_text() == "r7-2"


def test_gunicorns_own_setting_means_the_same_and_ours_wins(start: Start, place: Path) -> None:
    master = begin(start, place, config="preload_app = True\n", preload="")
    master.wait_ready()
    assert imported_by(place) == [template(master, 1)["pid"]]
    master.stop()
    other = begin(start, place, config="preload_app = True\n", preload="--preload=off")
    other.wait_ready()
    assert sorted(imported_by(place)[1:]) == sorted(workers(other))
    assert "preload_app (--preload wins)" in other.log()


def test_a_release_that_cannot_be_imported_is_refused_and_touches_nobody(start: Start,
                                                                         place: Path) -> None:
    master = begin(start, place)
    master.wait_ready()
    before = workers(master)
    (place / "app.py").write_text("def wsgi(): pass\nraise RuntimeError('no such table')\n")
    refused = master.cli("upgrade")
    assert refused.returncode == 5
    assert "RuntimeError: no such table" in refused.stderr
    assert workers(master) == before
    (place / "app.py").write_text("import threading\nthreading.Event().wait()\n")
    refused = master.cli("upgrade", "--max-failures", "1")
    assert refused.returncode == 5
    assert "did not import the app within 5 s" in refused.stderr
    assert workers(master) == before


def test_a_first_start_that_cannot_import_the_app_gives_up(start: Start, place: Path) -> None:
    master = begin(start, place, app="raise RuntimeError('no such table')\n")
    assert master.wait_exit() == 3
    assert "RuntimeError: no such table" in master.log()


def test_going_back_forks_from_the_template_that_is_there(start: Start, place: Path) -> None:
    master = begin(start, place, number=4)
    master.wait_ready()
    recorder = master.record()
    first = template(master, 1)["pid"]
    master.ask("upgrade", canary=2, hold="until-resume", wait=False)
    recorder.wait_for("hold-begun")
    assert len(imported_by(place)) == 2
    master.ask("abort")
    recorder.wait_for("upgrade-ended", outcome="aborted")
    assert template(master, 1)["pid"] == first
    assert len(imported_by(place)) == 2, "nobody imports the old code again"
    assert {get(master.address)[1].split()[0] for _ in range(8)} == {str(first)}
    check(recorder, 4)


def test_a_template_that_is_killed_while_it_imports_is_made_again(start: Start,
                                                                  place: Path) -> None:
    waits = APP + "import fcntl\nfcntl.flock(open('lock'), fcntl.LOCK_EX)\n"
    (place / "lock").touch()
    master = begin(start, place)
    master.wait_ready()
    before = workers(master)
    (place / "app.py").write_text(waits)
    with open(place / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        recorder = master.record()
        master.ask("upgrade", wait=False)
        recorder.wait_for("generation-prepared")
        assert master.cli("reload").returncode == 0, "it goes on under the next master"
        master.wait_status(lambda status: len(imported_by(place)) == 2)
        os.kill(imported_by(place)[1], signal.SIGKILL)
        recorder = master.record()
        master.wait_status(lambda status: len(imported_by(place)) == 3)
        assert workers(master) == before
    master.wait_status(lambda status: status["gate"] == "ready" and status["generation"] == 2)
    assert get(master.address)[1].split()[0] == str(template(master, 2)["pid"])


# --- what isn't safe to fork ---


def test_what_is_not_safe_to_fork_is_told(start: Start, place: Path) -> None:
    master = begin(start, place, app="import clock\n" + APP)
    master.wait_ready()
    line = master.wait_log("not safe to fork")
    assert "kind=thread" in line
    assert "clock" in line
    assert "module=clock" in line
    assert imported_by(place) == [template(master, 1)["pid"]]


def test_strict_refuses_it(start: Start, place: Path) -> None:
    master = begin(start, place, preload="--preload=strict")
    master.wait_ready()
    before = workers(master)
    (place / "app.py").write_text("import clock\n" + APP)
    refused = master.cli("upgrade")
    assert refused.returncode == 5
    assert "the release is not safe to fork: thread 'clock'" in refused.stderr
    assert "since the import of clock" in refused.stderr
    assert workers(master) == before
    assert master.cli("status").returncode == 5


def test_strict_refuses_a_first_start(start: Start, place: Path) -> None:
    master = begin(start, place, app="import clock\n" + APP, preload="--preload=strict")
    assert master.wait_exit() == 3
    assert "the release is not safe to fork" in master.log()


def test_auto_lets_each_worker_import_it(start: Start, place: Path) -> None:
    master = begin(start, place, preload="--preload=auto")
    master.wait_ready()
    assert imported_by(place) == [template(master, 1)["pid"]]
    (place / "app.py").write_text("import clock\n" + APP)
    assert master.cli("upgrade").returncode == 0
    assert workers(master) <= {*imported_by(place)}
    assert template(master, 2)["pid"] not in imported_by(place)
    kill_one(master)  # and so does whoever comes later
    assert workers(master) <= {*imported_by(place)}
    (place / "app.py").write_text(APP)
    assert master.cli("upgrade").returncode == 0
    assert imported_by(place)[-1] == template(master, 3)["pid"]


def test_a_connection_that_a_thread_makes_later_is_told_before_the_next_fork(
        start: Start, place: Path) -> None:
    """Once, and not for what a worker is given."""
    os.mkfifo(place / "go")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        master = begin(start, place, app=APP + f"""
import socket, threading
def connect():
    with open("go"):
        global connection
        connection = socket.create_connection({listener.getsockname()!r})
threading.Thread(target=connect, daemon=True).start()
""")
        master.wait_ready()
        kill_one(master)
        assert "made after the import" not in master.log()
        (place / "go").write_text("")
        listener.accept()[0].close()
        kill_one(master)
        kill_one(master)
        host, port = listener.getsockname()
    (line,) = [line for line in master.log().splitlines() if "made after the import" in line]
    assert f"Not safe to fork: a connection to {host}:{port}, made after the import: " in line


def test_gevent_patches_before_the_import_and_makes_its_hub_after_the_fork(start: Start,
                                                                           place: Path) -> None:
    app = """
from gevent import _hub_local, monkey
assert monkey.is_module_patched("socket"), "the world is patched before"
assert _hub_local.get_hub_if_exists() is None
""" + APP
    master = begin(start, place, "-k", "gevent", "app:wsgi", app=app, preload="--preload=strict")
    master.wait_ready()
    for _ in range(4):
        assert get(master.address)[0] == 200
    kill_one(master)  # once the template has waited
    assert master.cli("upgrade").returncode == 0
    assert "not safe to fork" not in master.log()


# --- warm-up ---

WARM = APP + """
def record(environ, start_response, wsgi=wsgi):
    if environ["PATH_INFO"] == "/warm":
        with open("warmed", "a") as file:
            file.write("%d\\n" % os.getpid())
        if os.path.exists("cold"):
            start_response("503 Service Unavailable", [])
            return [b""]
    return wsgi(environ, start_response)
wsgi = record
"""


def warmed(place: Path) -> list[int]:
    return [int(line) for line in (place / "warmed").read_text().split()]


def test_the_template_is_warmed_up_and_its_workers_are_warm(start: Start, place: Path) -> None:
    (place / "app.py").write_text(WARM)
    master = start("-n", "3", "-b", "127.0.0.1:0", "--preload", "--warm-up", "/warm", "--",
                   "gunicorn", "app:wsgi")
    master.wait_ready()
    assert warmed(place) == [template(master, 1)["pid"]]
    (place / "cold").touch()
    refused = master.cli("upgrade")
    assert refused.returncode == 5
    assert "warm-up /warm: the app answered 503" in refused.stderr


def test_each_worker_is_warmed_up_where_asked_or_where_only_it_can_be(start: Start,
                                                                      place: Path) -> None:
    (place / "app.py").write_text(WARM)
    master = start("-n", "2", "-b", "127.0.0.1:0", "--preload", "--warm-up", "/warm",
                   "--warm-up-per-worker", "--", "gunicorn", "app:wsgi")
    master.wait_ready()
    assert {*warmed(place)} == {template(master, 1)["pid"]} | workers(master)
    asked = APP.replace('    body = b"%d %d" % (IMPORTED_BY, os.getpid())\n    await', """
    if scope["path"] == "/warm":
        open("warmed", "a").write("%d\\n" % os.getpid())
    body = b"%d %d" % (IMPORTED_BY, os.getpid())
    await""")
    assert asked != APP
    (place / "warmed").unlink()
    master.stop()
    (place / "app.py").write_text(asked)
    other = start("-n", "2", "-b", "127.0.0.1:0", "--preload", "--warm-up", "/warm", "--",
                  "gunicorn", "-k", "asgi", "app:asgi")
    other.wait_ready()
    assert {*warmed(place)} == workers(other), "an ASGI app answers only in a loop of its own"


# --- programs that become the template by themselves ---

PROGRAM = """
import einhornpy.worker
import http.server, os
with open("imports", "a") as file:
    file.write("%d\\n" % os.getpid())
IMPORTED_BY = os.getpid()
{more}

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"%d %d" % (IMPORTED_BY, os.getpid()))
    def log_message(self, *_):
        pass

def serve():
    (listener,) = einhornpy.worker.listeners()
    server = http.server.HTTPServer(("", 0), Handler, bind_and_activate=False)
    server.socket, server.server_address = listener, ("", 0)
    einhornpy.worker.on_retire(lambda: os._exit(0))
    einhornpy.worker.ready()
    server.serve_forever()

"""
FORKS = PROGRAM + "einhornpy.worker.template()\nserve()\n"


def run(start: Start, place: Path, program: str, *flags: str, words: tuple[str, ...] = (),
        more: str = "") -> Master:
    (place / "clock.py").write_text(CLOCK)
    (place / "serve.py").write_text(program.replace("{more}", more))
    return start("-n", "2", "-b", "127.0.0.1:0", "-m", "notify", "-s", "0.1", *flags, "--",
                 *(words or ("python", "serve.py")))


def test_a_program_becomes_the_template_by_itself(start: Start, place: Path) -> None:
    master = run(start, place, FORKS, "--preload")
    master.wait_ready()
    first = template(master, 1)["pid"]
    assert imported_by(place) == [first]
    importer, answering = map(int, get(master.address)[1].split())
    assert (importer, answering in workers(master)) == (first, True)
    assert master.cli("upgrade").returncode == 0
    assert imported_by(place) == [first, template(master, 2)["pid"]]
    recorder = master.record()
    os.kill(template(master, 2)["pid"], signal.SIGKILL)
    recorder.wait_for("template-ready")
    kill_one(master)
    assert len(imported_by(place)) == 3, "another template is made of the same program"


def test_without_preload_the_same_program_serves_by_itself(start: Start, place: Path) -> None:
    master = run(start, place, FORKS)
    master.wait_ready()
    assert {*imported_by(place)} == workers(master)
    assert master.status()["templates"] == []


def test_a_program_whose_findings_are_not_safe_runs_by_itself_with_auto(start: Start,
                                                                        place: Path) -> None:
    master = run(start, place, FORKS, "--preload=auto", more="import clock")
    master.wait_ready()
    assert workers(master) <= {*imported_by(place)}
    assert len(imported_by(place)) == 3
    assert "module=clock" in master.wait_log("not safe to fork")
    master.wait_status(lambda status: status["templates"] == [])
    assert master.cli("upgrade").returncode == 0


def test_a_program_that_never_says_that_it_can_fork_is_refused(start: Start, place: Path) -> None:
    master = run(start, place, "pass\n", "--preload")
    assert master.wait_exit() == 3
    assert "exited with code 0 before it had said that it can fork" in master.log()
    master = run(start, place, "import threading\nthreading.Event().wait()\n", "--preload",
                 "--ready-timeout", "1")
    assert master.wait_exit() == 3
    assert "did not say that it can fork within 1 s" in master.log()
    master = run(start, place, "", "--preload", words=("uvicorn", "app:asgi"))
    assert master.wait_exit() == 2
    assert "uvicorn never says that it can fork" in master.log()


def test_an_asyncio_server_is_forked_too(start: Start, place: Path) -> None:
    (place / "app.py").write_text(APP)
    master = run(start, place, """
import einhornpy.worker
import uvicorn
from einhornpy.worker.asgi import ready_when_started
import app
einhornpy.worker.template()
uvicorn.run(ready_when_started(app.asgi), fd=3, log_level="warning")
""", "--preload")
    master.wait_ready()
    recorder = master.record()
    with Load(master.address, 40) as load:
        assert master.cli("upgrade").returncode == 0
    assert not load.report.failures, load.report.why()
    assert imported_by(place) == [int(get(master.address)[1].split()[0])] or len(
        imported_by(place)) == 2
    check(recorder, 2)


def test_einhorns_way_loads_a_file(start: Start, place: Path) -> None:
    program = PROGRAM + """
import sys
def einhorn_main():
    with open("arguments", "a") as file:
        file.write(" ".join(sys.argv) + "\\n")
    serve()
if __name__ == "__main__":
    raise SystemExit("not reached")
"""
    master = run(start, place, program, "-p", "serve.py", words=("python", "web.py", "--fast"))
    master.wait_ready()
    assert imported_by(place) == [template(master, 1)["pid"]]
    assert (place / "arguments").read_text() == "web.py --fast\n" * 2
    assert get(master.address)[0] == 200
    assert master.cli("upgrade").returncode == 0
    (place / "serve.py").write_text("pass\n")
    refused = master.cli("upgrade")
    assert refused.returncode == 5
    assert "serve.py defines no function einhorn_main()" in refused.stderr


# --- how workers end ---


def test_a_worker_ends_as_python_does(start: Start, place: Path) -> None:
    """Threads are waited for, what was registered runs, what is written is written."""
    app = APP + """
import atexit, sys, threading
atexit.register(lambda: print("registered %d" % os.getpid(), file=open("ended", "a")))

def begin_thread():
    threading.Timer(0.2, lambda: print("thread %d" % os.getpid(),
                                       file=open("ended", "a"))).start()

"""
    config = """
def post_worker_init(worker):
    import app
    worker.kept = open("kept", "a", buffering=1 << 16)
    worker.kept.write("kept %d\\n" % worker.pid)
def worker_exit(server, worker):
    import app
    app.begin_thread()
"""
    master = begin(start, place, app=app, config=config)
    master.wait_ready()
    old = workers(master)
    assert master.cli("upgrade").returncode == 0
    ended = (place / "ended").read_text().splitlines()
    for pid in old:
        assert ended.index(f"thread {pid}") < ended.index(f"registered {pid}")
        assert f"kept {pid}\n" in (place / "kept").read_text()
    gone = [line for line in master.log().splitlines() if "worker gone" in line]
    assert len(gone) == 2
    assert all("status=0" in line for line in gone)


# --- what an app may do as it is imported ---


def release(master: Master, place: Path, code: str, *flags: str) -> str:
    """Upgrade to a release that does this at its import, and is refused; return what was said."""
    (place / "app.py").write_text(code)
    refused = master.cli("upgrade", *flags)
    assert refused.returncode == 5, refused.stdout + refused.stderr
    return refused.stdout + refused.stderr


def test_how_an_import_has_failed_is_told(start: Start, place: Path) -> None:
    """And nothing else, and not after any longer time than it takes."""
    master = begin(start, place)
    master.wait_ready()
    said = release(master, place, "def wsgi(): pass\nimport no_such_module\n")
    assert "its template could not import the app: ModuleNotFoundError: No module" in said
    assert "    import no_such_module" in said, "the last lines of its traceback"
    assert "template_process" not in said
    said = release(master, place, "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    assert "its template was ended by signal 11" in said
    said = release(master, place, "import os\nos._exit(7)\n")
    assert "its template exited with code 7" in said
    said = release(master, place, """
import atexit, threading
wait = threading.Event().wait
threading.Thread(target=wait).start()
atexit.register(wait)
raise ValueError("boom")
""")
    assert "its template could not import the app: ValueError: boom" in said
    assert "hears the master no more" not in master.log()
    assert "did not" not in master.log()


def test_an_app_that_becomes_a_daemon_is_refused_and_leaves_nobody(start: Start,
                                                                   place: Path) -> None:
    master = begin(start, place, config="graceful_timeout = 1\n")
    master.wait_ready()
    daemon = "import os, threading\nif os.fork():\n    os._exit(0)\nos.setsid()\n"
    assert "its template exited with code 0" in release(master, place, daemon + APP)
    release(master, place, daemon + "threading.Event().wait()\n", "--max-failures", "1")
    known = {each["pid"] for each in master.status()["templates"]} | workers(master)
    wait_until(lambda: {pid for pid, _ in children(master.pid)} <= known, "nobody else", master.log)
    assert "internal error" not in master.log()
    assert get(master.address)[0] == 200


def test_a_program_that_hangs_behind_another_session_leaves_nobody(start: Start,
                                                                   place: Path) -> None:
    master = run(start, place, FORKS, "--preload", "--ready-timeout", "2",
                 words=("setsid", "-w", "python", "serve.py"))
    master.wait_ready()
    (place / "serve.py").write_text(
        "import einhornpy.worker, threading\nthreading.Event().wait()\n")
    assert master.cli("upgrade", "--max-failures", "1").returncode == 5
    known = {each["pid"] for each in master.status()["templates"]} | workers(master)
    known |= {*keepers(master.pid)}
    wait_until(lambda: {pid for pid, _ in children(master.pid)} <= known, "nobody else", master.log)


def test_a_program_behind_a_shell_ends_with_its_master(start: Start, place: Path) -> None:
    master = run(start, place, "import einhornpy.worker, os, threading\n"
                 "open('began', 'w').write(str(os.getpid()))\nthreading.Event().wait()\n",
                 "--preload", words=("sh", "-c", "python serve.py; true"))
    pid = int(wait_until(lambda: (place / "began").exists() and (place / "began").read_text(),
                         "the program", master.log))
    os.kill(master.pid, signal.SIGKILL)
    wait_gone(pid)


def test_what_ends_a_program_is_told(start: Start, place: Path) -> None:
    master = run(start, place, "import einhornpy.worker\nraise RuntimeError('no such queue')\n",
                 "--preload", "--max-failures", "1")
    assert master.wait_exit() == 3
    assert "RuntimeError: no such queue" in master.wait_log("giving up")


def test_the_limit_of_memory_counts_what_is_a_workers_own(start: Start, place: Path) -> None:
    """Its part of what it shares grows as others go."""
    app = APP + "\nDATA = [{'a': str(number)} for number in range(150_000)]\n"
    (place / "app.py").write_text(app)
    master = start("-n", "4", "-b", "127.0.0.1:0", "--preload", "--max-memory", "25M", "--",
                   "gunicorn", "app:wsgi")
    master.wait_ready()
    recorder = master.record()
    assert master.cli("scale", "1").returncode == 0
    (only,) = master.wait_status(lambda status: len(status["workers"]) == 1)["workers"]
    for _ in range(2):  # each looks at the memory
        assert get(master.address)[0] == 200
        recorder.wait_for("worker-gone", 3)
    assert master.cli("upgrade", "--canary", "1", "--hold", "6").returncode == 0
    assert all(event["event"] != "worker-due" for event in recorder.events)
    assert only["pid"] not in workers(master)


def test_what_each_worker_would_remove_is_found(start: Start, place: Path) -> None:
    app = "import tempfile\nPLACE = tempfile.TemporaryDirectory()\n" + APP
    master = begin(start, place, app=app, preload="--preload=strict")
    assert master.wait_exit() == 3
    assert "not safe to fork: temporary directory" in master.log()


@pytest.mark.parametrize(("flags", "line"), [
    (("-p", "serve.py"), "-p: gunicorn imports the app by itself"),
    (("--preload", "strict"), "joined by an equals sign: --preload=strict"),
    (("--preload=nearly",), "expected warn, strict, auto or off")])
def test_what_cannot_be_meant_is_one_line(start: Start, place: Path, flags: tuple[str, ...],
                                          line: str) -> None:
    (place / "serve.py").write_text("")
    dashes = () if flags == ("--preload", "strict") else ("--",)
    master = start("-n", "1", *flags, *dashes, "gunicorn", "app:wsgi")
    assert master.wait_exit() == 2
    assert line in master.log()
    assert master.log().count("\n") == 1


def test_a_file_is_frozen_with_its_generation(start: Start, place: Path) -> None:
    """Whatever has become of the link since, and of the setting."""
    program = PROGRAM.replace("{more}", "open('where', 'a').write(__file__ + '\\n')") + (
        "def einhorn_main():\n    serve()\n")
    for name in ("one", "two"):
        (place / name).mkdir()
        (place / name / "serve.py").write_text(program)
    current, settings = place / "current", place / "master.toml"
    current.symlink_to("one")
    settings.write_text('preload-file = "current/serve.py"\n')
    master = start("--config", str(settings), "-n", "1", "-b", "127.0.0.1:0", "-m", "notify", "--",
                   "python", "web.py")
    master.wait_ready()

    def where() -> list[str]:
        return [Path(line).parent.name for line in (place / "where").read_text().split()]

    current.unlink()
    current.symlink_to("two")
    recorder = master.record()
    os.kill(template(master, 1)["pid"], signal.SIGKILL)
    recorder.wait_for("template-ready")
    assert where() == ["one", "one"]
    assert master.cli("upgrade").returncode == 0
    assert where() == ["one", "one", "two"]
    settings.write_text('preload-file = "nowhere/serve.py"\n')
    assert master.cli("reload").returncode == 0
    assert master.cli("rollback").returncode == 0
    assert where()[3:] == ["one"]
