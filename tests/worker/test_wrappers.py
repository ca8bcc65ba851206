"""gunicorn started by something else, the real programs: its settings count, its workers say
themselves when they are ready, and a bad release costs nobody anything. No app sees how."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ..harness import ROOT, Master, children, get, wait_gone
from ..load import Load

Start = Callable[..., Master]
PROGRAMS = ROOT / ".venv-wrappers"
BIN = PROGRAMS / "bin"
GUNICORN = "gunicorn app:wsgi"
# It is imported as soon as there is a file `go`, and fails after so many seconds where there is one
# called `broken`.
APP = """
import json, os, subprocess, sys, time

def seen():
    return [dict(os.environ), sys.path, [str(each) for each in sys.meta_path]]

if os.path.exists("broken"):
    time.sleep(float(open("broken").read()))
    raise RuntimeError("a bad release")
while not os.path.exists("go"):
    time.sleep(0.02)
at_import, answer = seen(), None
command = "import os, sys, json; print(json.dumps([dict(os.environ), sys.path]))"

def wsgi(environ, start_response):
    global answer
    if answer is None:
        child = json.loads(subprocess.check_output([sys.executable, "-c", command]))
        custom = getattr(sys.modules.get("sitecustomize"), "__file__", "none")
        answer = json.dumps({"seen": [at_import, seen(), child], "custom": custom,
                             "exec": [os.execv.__module__, subprocess.Popen.__init__.__module__],
                             "modules": sorted(sys.modules)}).encode()
    body = answer if environ["PATH_INFO"] == "/seen" else b"hello"
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
CONFIG = 'bind = "127.0.0.1:0"\nworkers = 3\n'
OWN = f"""#!{BIN}/python
from gunicorn.app.base import BaseApplication

class Shop(BaseApplication):
    def load_config(self):
        self.cfg.set("bind", "127.0.0.1:0")
        self.cfg.set("workers", 3)

    def load(self):
        from app import wsgi
        return wsgi

Shop().run()
"""
LAUNCH = """
import subprocess, sys
sys.exit(subprocess.run(["gunicorn", "app:wsgi"], env={"PATH": sys.argv[1]}).returncode)
"""
QUIET = {
    "OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none",
    "DD_TRACE_AGENT_URL": "http://127.0.0.1:9", "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false", "NEW_RELIC_DEVELOPER_MODE": "on",
    "NEW_RELIC_LOG": "stderr",}


@dataclass(frozen=True)
class Way:
    """`module`: what it has put into the app's process. `seconds`: of import, until the bad release
    raises."""

    command: str
    module: str = "gunicorn"
    seconds: float = 0.5
    environment: dict[str, str] = field(default_factory=dict)


WAYS = {
    "opentelemetry": Way(f"opentelemetry-instrument {GUNICORN}", "opentelemetry.sdk.trace", 3.0),
    "newrelic": Way(f"newrelic-admin run-program {GUNICORN}", "newrelic.config"),
    "uv": Way(f"uv run --no-project --active {GUNICORN}",
              environment={"VIRTUAL_ENV": str(PROGRAMS)}),
    "dumb-init": Way(f"dumb-init -- {GUNICORN}"),
    "ddtrace": Way(f"dumb-init nice opentelemetry-instrument ddtrace-run {GUNICORN}",
                   "ddtrace.bootstrap.preload"),
    "script": Way("./start.sh app:wsgi"),
    "own-application": Way("./own.py", "gunicorn.app.base"),
    "launcher": Way(f"python launch.py {BIN}"),
    "said": Way("./anything"),
}
needs_programs = pytest.mark.skipif(not (PROGRAMS / ".installed").exists(),
                                    reason="the wrappers are not installed (make test does it)")


def shop(place: Path) -> Path:
    directory = place / "shop"
    directory.mkdir()
    for name, text in (("app.py", APP), ("gunicorn.conf.py", CONFIG), ("own.py", OWN),
                       ("launch.py", LAUNCH),
                       ("start.sh", '#!/bin/sh\ncd . && exec gunicorn "$@"\n'),
                       ("anything", "#!/bin/sh\nname=corn\nexec guni$name app:wsgi\n")):
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    return directory


def start_in(start: Start, directory: Path, *flags: str, way: Way) -> Master:
    path = f"{BIN}:/usr/bin:/bin"
    return start("--chdir", str(directory), "--max-failures", "1", *flags, "--",
                 *shlex.split(way.command), environment={**QUIET, **way.environment, "PATH": path})


@needs_programs
@pytest.mark.parametrize("name", WAYS)
def test_gunicorn_is_what_it_is_whatever_has_started_it(start: Start, place: Path,
                                                        name: str) -> None:
    directory, way = shop(place), WAYS[name]
    master = start_in(start, directory, *(["-m", "gunicorn"] if name == "said" else []), way=way)
    # Its settings count, and nobody is ready before the app says so.
    document = master.wait_status(
        lambda each: [worker["pid"] > 0 for worker in each["workers"]] == [True] * 3, "three")
    assert document["ready"] == 0
    (directory / "go").touch()
    document = master.wait_ready()
    assert not any(each["guessed"] for each in document["workers"])
    assert {pid for pid, _ in children(master.pid)} > {each["pid"] for each in document["workers"]}
    unseen(json.loads(get(master.address, "/seen")[1]), way)
    # A good release loses nothing, a bad one is refused by its own error.
    recorder = master.record()
    with Load(master.address, rate=40, slow=0.0) as load:
        result = master.cli("upgrade")
        assert result.returncode == 0, result.stdout + result.stderr + master.log()
        new = {each["pid"] for each in master.wait_ready()["workers"]}
        (directory / "broken").write_text(str(way.seconds))
        result = master.cli("upgrade")
        assert result.returncode == 5, result.stdout + result.stderr
        assert "RuntimeError: a bad release" in result.stderr
        if name in ("ddtrace", "launcher"):  # gunicorn's process is started again by itself
            (directory / "broken").unlink()
            assert master.cli("rollback").returncode == 0, master.log()
            new = {each["pid"] for each in master.wait_ready()["workers"]}
            unseen(json.loads(get(master.address, "/seen")[1]), way)
    assert not load.report.failures, load.report.why()
    assert {each["pid"] for each in master.status()["workers"]} == new
    assert min(event["ready"] for event in recorder.events) >= 3


def unseen(told: dict[str, Any], way: Way) -> None:
    """The app, and what it starts, know nothing of how it came to be the master's."""
    for environment, path, *finders in told["seen"]:
        assert "EINHORNPY_ADAPTER" not in environment
        words = [*path, *environment.get("PYTHONPATH", "").split(":"), *(word for each in finders for word in each)]
        assert not [word for word in words if "/proc/" in word or "adapter" in word]
    assert "/proc/" not in told["custom"]
    assert told["exec"] == ["posix", "subprocess"] or "ddtrace" in way.module
    assert way.module in told["modules"]


@needs_programs
def test_what_stays_in_between_may_die(start: Start, place: Path) -> None:
    directory = shop(place)
    (directory / "go").touch()
    master = start_in(start, directory, "-n", "2", way=WAYS["dumb-init"])
    workers = {each["pid"] for each in master.wait_ready()["workers"]}
    (between,) = [pid for pid, command in children(master.pid) if "/dumb-init -- " in command]
    ((template, _),) = children(between)
    recorder = master.record()
    os.kill(between, signal.SIGKILL)
    wait_gone(template)
    os.kill(min(workers), signal.SIGKILL)
    recorder.wait_for("worker-died", pid=min(workers))
    after = {each["pid"] for each in master.wait_ready()["workers"]}
    assert len(after) == 2
    assert max(workers) in after


@pytest.mark.parametrize(("script", "how"), [
    ("exit 7; gunicorn app:wsgi", "exited with code 7 before it had"),
    # As sudo does.
    ("unset EINHORNPY_ADAPTER; gunicorn app:wsgi; true", "gunicorn's own arbiter serves instead")])
def test_what_never_starts_gunicorn_is_told_what_to_type(start: Start, place: Path, script: str,
                                                         how: str) -> None:
    master = start("-n", "1", "--chdir", str(shop(place)), "--", "sh", "-c", script)
    assert master.wait_exit() == 2
    last = master.log().splitlines()[-1]
    assert last.startswith(f"einhornpy: sh was expected to start gunicorn, and {how}: name gunicorn "
                           "itself as the command (einhornpy -- gunicorn app:wsgi), without ")
    assert last.endswith("(-m notify, manual or SECONDS)")


def test_a_program_on_the_way_runs_as_if_nobody_watched_it(start: Start, place: Path) -> None:
    """Its own sitecustomize, its imports, its children: only where gunicorn comes in the end."""
    directory = shop(place)
    (directory / "lib").mkdir()
    (directory / "lib" / "sitecustomize.py").write_text(
        "import sys\nassert __name__ == 'sitecustomize' and __file__.startswith(sys.argv[-1:] and "
        f"{str(directory)!r})\nsys.custom = True\n")
    (directory / "wrap.py").write_text(
        "import os, subprocess, sys\n"
        "assert sys.custom and sys.modules['sitecustomize'].__file__.endswith('lib/sitecustomize.py')\n"
        "assert not [each for each in sys.path if '/proc/' in each], sys.path\n"
        "assert 'json' not in sys.modules and 'typing' not in sys.modules\n"
        "code = 'import sys; assert sys.custom; print(5)'\n"
        "assert subprocess.check_output([sys.executable, '-c', code], close_fds=False) == b'5\\n'\n"
        "assert subprocess.run(['true'], env={}).returncode == 0\n"
        "os.execve(sys.executable, [sys.executable, '-m', 'gunicorn', 'app:wsgi'],\n"
        "          {'PYTHONPATH': 'lib', 'PATH': '/usr/bin'})\n")
    (directory / "go").touch()
    master = start("--chdir", str(directory), "--env", "PYTHONPATH=lib", "--", sys.executable,
                   "wrap.py", "gunicorn", cwd=directory)
    assert master.wait_ready()["target"] == 3
    told = json.loads(get(master.address, "/seen")[1])
    unseen(told, Way(""))
    assert told["custom"].endswith("lib/sitecustomize.py")
    assert told["seen"][1][0]["PYTHONPATH"] == "lib"
