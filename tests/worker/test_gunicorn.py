"""gunicorn's workers without gunicorn's arbiter: its settings, hooks and worker classes, its errors
told by their name."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from einhornpy.supervisor.launch.recipes import binds_of

from ..harness import EXAMPLE, ROOT, Master, get, wait_until
from ..load import Load

Start = Callable[..., Master]
OLDER = ROOT / ".older-gunicorn"
CLASSES = [("sync", "app:wsgi"), ("gthread", "app:wsgi"), ("gevent", "app:wsgi"),
           ("asgi", "asgi_app:asgi"), ("uvicorn_worker.UvicornWorker", "asgi_app:asgi"),]
each_class = pytest.mark.parametrize(("worker_class", "app"), CLASSES,
                                     ids=[name for name, _ in CLASSES])


@pytest.fixture
def site(place: Path) -> Path:
    """A copy of the example app that a test may break."""
    for name in ("app.py", "asgi_app.py"):
        shutil.copy(EXAMPLE / name, place / name)
    return place


def start_gunicorn(start: Start, *arguments: str,
                   flags: tuple[str,
                                ...] = ("-n", "2", "-b", "127.0.0.1:0"), **options: Any) -> Master:
    return start(*flags, "-c", "web", "--", "gunicorn", *arguments, **options)


@each_class
def test_every_class_serves_upgrades_and_warms_up(start: Start, site: Path, worker_class: str,
                                                  app: str) -> None:
    master = start_gunicorn(
        start, "-k", worker_class, app,
        flags=("-n", "2", "-b", "127.0.0.1:0", "--warm-up", "/health?deep=1", "--warm-up", "/"))
    document = master.wait_ready()
    assert document["listeners"][0]["backlog"] == 2048
    address = master.address
    before = {worker["pid"] for worker in document["workers"]}
    assert int(get(address)[1].split()[1]) in before
    result = master.cli("upgrade", "--release", "two")
    assert result.returncode == 0, result.stderr + master.log()
    status, body = get(address)
    assert (status, body.split()[0]) == (200, "two")
    assert int(body.split()[1]) not in before
    # asyncio sets a backlog of its own on any socket it serves, unless it is kept from it.
    assert master.status()["listeners"][0]["backlog"] == 2048
    assert master.stop() == 0
    assert "worker killed" not in master.log()
    assert "Traceback" not in master.log()


@each_class
@pytest.mark.parametrize("number", ["TERM", "USR2"])
def test_either_stop_signal_is_graceful(start: Start, site: Path, worker_class: str, app: str,
                                        number: str) -> None:
    master = start_gunicorn(start, "-k", worker_class, app,
                            flags=("-n", "1", "-b", "127.0.0.1:0", "--stop-signal", number))
    master.wait_ready()
    recorder = master.record()
    with subprocess.Popen([
            sys.executable, "-c", "import sys; from tests.harness import get; "
            f"print(get({master.address!r}, '/slow/1'))"], stdout=subprocess.PIPE, text=True,
                          cwd=ROOT) as client:
        # The request is in the worker's hands once it isn't in the queue any more and the
        # connection is up.
        wait_until(lambda: established(master.address[1]), "a request under way")
        master.cli("upgrade", "--no-wait")
        recorder.wait_for("worker-retiring", generation=1)
        assert client.communicate(timeout=60)[0].startswith("(200,")
    recorder.wait_for("worker-gone", generation=1)
    assert "worker killed" not in master.log()


def established(port: int) -> bool:
    """Whether a server of this port has accepted a connection (proc(5), net/tcp: state 01, an inode
    of its own)."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{port:04X}") and fields[3] == "01" and fields[9] != "0":
            return True
    return False


MISSING = ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'")
OTHERS = [
    ("raise RuntimeError('no database')\n", "RuntimeError: no database"),
    ("this is no python\n", "SyntaxError: invalid syntax"),
    ("import sys; sys.exit(4)\n", "exited with code 4"),
]


@pytest.mark.parametrize(("worker_class", "app", "change", "error"), [
    *((*each, *MISSING) for each in CLASSES), *((*CLASSES[0], *other) for other in OTHERS),
    *((*CLASSES[3], *other) for other in OTHERS),
])
def test_a_broken_release_is_refused_with_its_own_error(
    start: Start, site: Path, worker_class: str, app: str, change: str, error: str
) -> None:
    master = start_gunicorn(start, "-k", worker_class, app,
                            flags=("-n", "1", "-b", "127.0.0.1:0", "--max-failures", "1"))
    old = master.wait_ready()["workers"][0]["pid"]
    good = (site / "app.py").read_text()
    (site / "app.py").write_text(change + good)
    result = master.cli("upgrade")
    assert result.returncode == 5
    assert error in result.stderr, result.stderr
    document = json.loads(master.cli("status", "--json").stdout)
    assert error in document["upgrade"]["error"]
    assert (document["gate"], document["workers"][0]["pid"]) == ("rolled-back", old)
    if "no_such" in change:
        assert "app.py, line 1" in document["upgrade"]["error"]
    (site / "app.py").write_text(good)
    assert master.cli("upgrade").returncode == 0
    assert master.cli("status").returncode == 0


def test_a_first_start_tells_the_apps_own_error(place: Path, start: Start) -> None:
    (place / "app.py").write_text("import no_such_module\n")
    master = start_gunicorn(start, "app:wsgi",
                            flags=("-n", "2", "-b", "127.0.0.1:0", "--max-failures", "2"))
    assert master.wait_exit() == 3
    assert "giving up" in master.log()
    assert "ModuleNotFoundError: No module named 'no_such_module'" in master.log().splitlines()[-1]


@each_class
def test_a_failing_warm_up_is_a_failed_start(start: Start, site: Path, worker_class: str,
                                             app: str) -> None:
    master = start_gunicorn(
        start, "-k", worker_class, app,
        flags=("-n", "1", "-b", "127.0.0.1:0", "--max-failures", "1", "--warm-up", "/health"))
    master.wait_ready()
    source = (site / "app.py").read_text()
    (site / "app.py").write_text('import os; os.environ["BROKEN"] = "unhealthy"\n' + source)
    result = master.cli("upgrade")
    assert result.returncode == 5
    assert "warm-up /health: the app answered 500" in result.stderr
    assert get(master.address)[0] == 200


def test_a_hang_at_import_is_refused(start: Start, site: Path) -> None:
    master = start_gunicorn(
        start, "app:wsgi",
        flags=("-n", "1", "-b", "127.0.0.1:0", "--max-failures", "1", "--ready-timeout", "5"))
    master.wait_ready()
    source = (site / "app.py").read_text()
    (site / "app.py").write_text('import os; os.environ["BROKEN"] = "hang"\n' + source)
    result = master.cli("upgrade")
    assert result.returncode == 5
    assert "was not ready within 5 s" in result.stderr
    assert get(master.address)[0] == 200


def test_out_of_descriptors_an_upgrade_is_refused_and_the_master_goes_on(
        start: Start, site: Path, place: Path) -> None:
    master = start("-n", "1", "-b", "127.0.0.1:0", "--chdir", str(site), "--", "gunicorn",
                   "app:wsgi")
    master.wait_ready()
    used = len(os.listdir(f"/proc/{master.pid}/fd"))
    resource.prlimit(master.pid, resource.RLIMIT_NOFILE,
                     (used + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    os.kill(master.pid, signal.SIGHUP)
    line = master.wait_log("upgrade refused")
    assert "Too many open files" in line
    assert get(master.address)[0] == 200


@pytest.mark.parametrize("name", ["USR2", "WINCH"])
def test_signals_to_gunicorns_master_stop_nothing_by_surprise(start: Start, site: Path,
                                                              name: str) -> None:
    """USR2 made another master of gunicorn's, with new code; WINCH, where it was a daemon, sent its
    workers away."""
    master = start_gunicorn(start, "app:wsgi", flags=("-n", "1", "-b", "127.0.0.1:0"))
    master.wait_ready()
    master.signal(signal.Signals[f"SIG{name}"])
    if name == "USR2":
        master.wait_status(lambda each: each["gate"] == "ready" and each["generation"] == 2)
    assert master.status()["gate"] == "ready"
    assert get(master.address)[0] == 200


@pytest.mark.parametrize("worker_class", ["sync", "gevent", "asgi"])
def test_a_hung_worker_says_where_and_is_replaced(start: Start, site: Path,
                                                  worker_class: str) -> None:
    """One long request is a hang for sync; the others hang when something blocks their loop."""
    (site / "hang.py").write_text(
        "import ctypes\n\ndef block():\n    ctypes.CDLL(None).usleep(50_000_000)\n\n"
        "def wsgi(environ, start_response):\n    block()\n\n"
        "async def asgi(scope, receive, send):\n    if scope['type'] == 'http':\n        block()\n")
    app = "hang:asgi" if worker_class == "asgi" else "hang:wsgi"
    master = start_gunicorn(start, "-t", "2", "-k", worker_class, app,
                            flags=("-n", "1", "-b", "127.0.0.1:0"))
    pid = master.wait_ready()["workers"][0]["pid"]
    recorder = master.record()
    with subprocess.Popen([sys.executable, "-c", "from tests.harness import get; "
                           f"get({master.address!r}, '/')"], stderr=subprocess.DEVNULL, cwd=ROOT):
        assert recorder.wait_for("worker-hung", pid=pid)["reason"] == "gave no heartbeat for 2 s"
        recorder.wait_for("worker-ready")
        recorder.wait_for("worker-gone", pid=pid)
    log = master.log()
    assert "Fatal Python error: Aborted" in log
    assert "in block" in log
    assert "most recent call first" in log


def test_a_long_sync_request_is_taken_for_a_hang(start: Start, site: Path) -> None:
    master = start_gunicorn(start, "-t", "2", "app:wsgi", flags=("-n", "1", "-b", "127.0.0.1:0"))
    master.wait_ready()
    recorder = master.record()
    with subprocess.Popen([sys.executable, "-c", "from tests.harness import get; "
                           f"get({master.address!r}, '/slow/100')"], stderr=subprocess.DEVNULL,
                          cwd=ROOT):
        assert recorder.wait_for("worker-hung")["reason"] == "gave no heartbeat for 2 s"
    master.wait_ready()


def test_gunicorns_own_settings_count(start: Start, site: Path) -> None:
    (site / "gunicorn.conf.py").write_text(
        'bind = "127.0.0.1:0"\nworkers = 3\nproc_name = "shop"\npidfile = "g.pid"\nbacklog = '
        '77\ngraceful_timeout = 9\n'
        "timeout = 17\nraw_env = ['FROM=conf']\n")
    (site / "app.py").write_text(
        "import os\n\ndef wsgi(environ, start_response):\n    start_response('200 OK', [])\n"
        "    return [repr(dict(os.environ)).encode()]\n")
    master = start("--", "gunicorn", "app:wsgi",
                   environment={"GUNICORN_CMD_ARGS": "--workers 2 --threads 2"})
    document = master.wait_ready()
    assert (document["name"], document["target"]) == ("shop", 2)
    assert document["listeners"][0]["backlog"] == 77
    assert (site / "g.pid").read_text() == f"{master.pid}\n"
    environment = get(master.address)[1]
    assert "'FROM': 'conf'" in environment
    assert "'WATCHDOG_USEC': '17000000'" in environment
    assert "EINHORNPY_ADAPTER" not in environment


def test_our_flags_win_and_it_says_so_once(start: Start, site: Path) -> None:
    master = start_gunicorn(start, "--workers", "5", "--bind", "127.0.0.1:1", "--name", "theirs",
                            "app:wsgi")
    document = master.wait_ready()
    assert (document["name"], document["target"]) == ("web", 2)
    (line,) = [line for line in master.log().splitlines() if "gunicorn settings overruled" in line]
    assert "workers (--number wins)" in line
    assert "bind (--bind wins)" in line
    assert "proc_name (--command-name wins)" in line


def test_settings_are_read_again_at_every_upgrade(start: Start, site: Path) -> None:
    conf = site / "gunicorn.conf.py"
    conf.write_text("workers = 1\nbind = '127.0.0.1:0'\n")
    master = start("--", "gunicorn", "app:wsgi")
    assert master.wait_ready()["target"] == 1
    conf.write_text("workers = 2\nbind = '127.0.0.1:1'\nworker_class = 'gthread'\n")
    assert master.cli("upgrade").returncode == 0
    document = master.status()
    assert (document["target"], document["ready"]) == (2, 2)
    line = master.wait_log("gunicorn setting cannot change")
    assert "setting=bind" in line
    pids = {worker["pid"] for worker in document["workers"]}
    for content, error in [("workers = \n", "SyntaxError"), ("workers = 'many'\n", "many"),
                           ("worker_class = 'no_such_class'\n", "no_such_class"),
                           ("daemon = True\n", "daemon makes no sense")]:
        conf.write_text(content)
        result = master.cli("upgrade")
        assert result.returncode == 5
        assert "gunicorn's settings cannot be read" in result.stderr
        assert error in result.stderr
        document = master.status()
        assert document["gate"] == "rolled-back"
        assert {worker["pid"] for worker in document["workers"]} == pids
    conf.write_text("workers = 1\n")
    assert master.cli("upgrade").returncode == 0
    assert master.wait_ready()["target"] == 1


def test_server_hooks_run(start: Start, site: Path) -> None:
    hooks = [
        "on_starting", "on_reload", "when_ready", "pre_fork", "post_fork", "post_worker_init",
        "worker_int", "pre_request", "post_request", "child_exit", "worker_exit",
        "nworkers_changed", "on_exit"]
    (site / "gunicorn.conf.py").write_text("import os\n" + "".join(
        f"def {name}({arguments}):\n    open('hooks', 'a').write('{name} ' + {tell} + '\\n')\n"
        for name, arguments, tell in [
            ("on_starting", "server", "'-'"), ("on_reload", "server", "'-'"),
            ("when_ready", "server", "'-'"), ("pre_fork", "server, worker", "'-'"),
            ("post_fork", "server, worker",
             "str(worker.pid)"), ("post_worker_init", "worker", "str(worker.pid)"),
            ("worker_int", "worker", "'-'"), ("pre_request", "worker, req", "req.path"),
            ("post_request", "worker, req, environ, resp",
             "resp.status"), ("child_exit", "server, worker", "str(worker.pid)"),
            ("worker_exit", "server, worker",
             "str(worker.pid)"), ("nworkers_changed", "server, new, old",
                                  "f'{old}-{new}'"), ("on_exit", "server", "str(server.pid)"),]))
    master = start_gunicorn(start, "app:wsgi", flags=("-n", "1", "-b", "127.0.0.1:0"))
    pid = master.wait_ready()["workers"][0]["pid"]
    assert get(master.address, "/x")[0] == 200
    master.cli("upgrade")
    master.cli("scale", "2")
    master.wait_ready()
    assert master.stop() == 0
    told = (site / "hooks").read_text().splitlines()
    for line in [
            "on_starting -", "on_reload -", "when_ready -", "pre_fork -", f"post_fork {pid}",
            f"post_worker_init {pid}", "pre_request /x", "post_request 200 OK",
            f"worker_exit {pid}", f"child_exit {pid}", "nworkers_changed 1-2",
            f"on_exit {master.pid}",]:
        assert line in told, (line, told)
    assert {line.split()[0] for line in told} <= set(hooks)


def test_it_runs_in_gunicorns_own_python(start: Start, site: Path) -> None:
    """einhornpy isn't installed there: a Python that sees gunicorn, and nothing else of ours."""
    packages = site / "packages"
    packages.mkdir()
    for name in ("gunicorn", "packaging"):
        found = distribution(name).locate_file(name)
        os.symlink(str(found), packages / name)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(site / "other")], check=True)
    (site_packages,) = (site / "other").glob("lib/python*/site-packages")
    (site_packages / "there.pth").write_text(f"{packages}\n")
    script = site / "other" / "bin" / "gunicorn"
    script.write_text(
        f"#!{site}/other/bin/python\nimport sys\nfrom gunicorn.app.wsgiapp import "
        "run\nsys.exit(run())\n"
    )
    script.chmod(0o755)
    (site / "app.py").write_text(
        "import sys\n\ndef wsgi(environ, start_response):\n    start_response('200 OK', [])\n"
        "    found = 'alone'\n    for name in ('einhornpy.worker', 'accepting'):\n"
        "        try:\n            __import__(name)\n            found = name\n"
        "        except ImportError:\n            pass\n"
        "    return [f'{sys.prefix} {found}'.encode()]\n"
    )
    # A module of the app's that has the name of one of ours, or of the standard library's, is the
    # app's.
    (site / "control.py").write_text("")
    master = start("-n", "1", "-b", "127.0.0.1:0", "--", str(script), "app:wsgi")
    master.wait_ready()
    assert get(master.address)[1] == f"{site}/other alone"
    for command in ([sys.executable, "-m", "gunicorn"], ["gunicorn"]):
        other = start("-n", "1", "-c", "other", "-b", "127.0.0.1:0", "--", *command, "app:wsgi")
        other.wait_status(lambda each: each["ready"] == 1)
        body = get(
            ("127.0.0.1", int(other.status()["listeners"][0]["address"].rpartition(":")[2])))[1]
        assert body.split()[0] == sys.prefix
        assert other.stop() == 0


@pytest.mark.skipif(not OLDER.exists(), reason="there is no older gunicorn (make test installs it)")
@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_an_older_gunicorn_serves_and_upgrades(start: Start, worker_class: str) -> None:
    master = start("-n", "2", "-b", "127.0.0.1:0", "--chdir", str(EXAMPLE), "--", sys.executable,
                   "-m", "gunicorn", "-k", worker_class, "--threads", "1" if worker_class == "sync"
                   else "4", "app:wsgi",
                   environment={"PYTHONPATH": str(OLDER), "IMPORT_SECONDS": "0"})
    first = master.wait_ready()["workers"][0]["pid"]
    assert str(OLDER) in Path(f"/proc/{first}/environ").read_text()
    with Load(master.address, 30 if worker_class == "sync" else 100, slow=0) as load:
        for _ in range(4):
            assert master.cli("upgrade").returncode == 0
    assert not load.report.failures, load.report.why()
    assert sum(worker["requests"] for worker in master.status()["workers"]) > 0


def test_a_gunicorn_whose_python_cannot_be_told(start: Start, site: Path) -> None:
    (site / "gunicorn").write_text("#!/bin/sh\nexec true\n")
    (site / "gunicorn").chmod(0o755)
    master = start("-n", "1", "--", "./gunicorn", "app:wsgi")
    assert master.wait_exit() == 2
    assert "exited with code 0 before it had: name gunicorn itself" in master.log()


def test_a_refused_release_takes_its_number_of_workers_back(start: Start, site: Path) -> None:
    conf, app = site / "gunicorn.conf.py", site / "app.py"
    conf.write_text("workers = 1\nbind = '127.0.0.1:0'\n")
    master = start("--max-failures", "1", "--", "gunicorn", "app:wsgi")
    master.wait_ready()
    good = app.read_text()
    conf.write_text("workers = 3\n")
    app.write_text("raise RuntimeError('broken')\n" + good)
    assert master.cli("upgrade").returncode == 5
    document = master.status()
    assert (document["target"], document["ready"]) == (1, 1)
    app.write_text(good)
    assert master.cli("upgrade").returncode == 0
    assert master.wait_ready()["target"] == 3


def test_unix_sockets_are_made_with_gunicorns_umask(start: Start, site: Path) -> None:
    for umask, mode in (("0", 0o777), ("0o027", 0o750)):
        (site /
         "gunicorn.conf.py").write_text(f"workers = 1\nbind = 'unix:g.unix'\numask = {umask}\n")
        master = start("-d", str(site / "m.sock"), "--", "gunicorn", "app:wsgi")
        master.wait_ready()
        assert (site / "g.unix").stat().st_mode & 0o777 == mode
        assert master.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_unix_sockets_belong_to_gunicorns_user_and_group(start: Start, site: Path) -> None:
    """Also one with a comma in its path. What an upgrade can't change is told of."""
    conf = ("workers = 1\nbind = ['unix:g,b.unix']\numask = 0o027\ngroup = 12\n")
    (site / "gunicorn.conf.py").write_text(conf)
    master = start("-d", str(site / "m.sock"), "--", "gunicorn", "app:wsgi")
    master.wait_ready()
    found = (site / "g,b.unix").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (0, 12, 0o750)
    (site / "gunicorn.conf.py").write_text(conf.replace("0o027", "0"))
    assert master.cli("upgrade").returncode == 0
    assert "mode=777" in master.wait_log("gunicorn setting cannot change")
    settings = {"bind": ["unix:/a"], "umask": 0, "backlog": 9, "user": 33, "group": 12}
    assert binds_of(settings | {"given": ["user"]}) == ["unix:/a,backlog=9,mode=777,user=33"]
