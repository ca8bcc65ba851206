"""The process in the place of gunicorn's arbiter, without a master: settings, hooks, forks, and what
becomes of each when somebody is killed."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from einhornpy.worker import template_messages as messages

from ..harness import EXAMPLE, child_pids, get, process_state, reap_leftovers, wait_until
from ..template import Template, wait
from .test_gunicorn import CLASSES

Begin = Callable[..., Template]


@pytest.fixture
def site(place: Path) -> Path:
    for name in ("app.py", "asgi_app.py"):
        shutil.copy(EXAMPLE / name, place / name)
    return place


@pytest.fixture
def begin(site: Path) -> Iterator[Begin]:
    """Start templates of the example app; afterwards nothing is left."""
    made: list[Template] = []

    def factory(*arguments: str, conf: str = "", **options: Any) -> Template:
        if conf:
            (site / "gunicorn.conf.py").write_text(conf)
        made.append(Template(site, *(arguments or ("app:wsgi",)), **options))
        return made[-1]

    yield factory
    for each in made:
        each.close()
    assert not reap_leftovers()


@pytest.mark.parametrize(("worker_class", "app"), CLASSES, ids=[name for name, _ in CLASSES])
def test_workers_of_every_class_serve_and_leave(begin: Begin, worker_class: str, app: str) -> None:
    template = begin("-k", worker_class, app)
    assert template.settings()["worker_class"] == worker_class
    for number in (1, 2):  # of the same template, one after the other
        worker = template.fork(number, EINHORNPY_RELEASE=f"r{number}")
        assert worker.said() == {"command": "worker:ack", "pid": worker.pid, "framework": None}
        assert get(template.address) == (200, f"r{number} {worker.pid}\n")
        assert os.getpgid(worker.pid) == worker.pid
        assert worker.stop() in (0, -signal.SIGTERM)  # uvicorn's way
        assert "Traceback" not in worker.printed()
    assert template.leave() == 0
    assert "Traceback" not in template.printed()


# What hooks do is written to a file that the template's environment names.
TELL = "import os\n\ndef tell(*words):\n    print(*words, file=open('told', 'a'))\n\n"


def told(site: Path) -> list[str]:
    return (site / "told").read_text().splitlines()


def test_the_configuration_is_run_once_and_hooks_share_one_server(begin: Begin, site: Path) -> None:
    template = begin(conf=TELL + "tell('read')\nraw_env = ['FROM=conf']\n" + """
def on_starting(server):
    server.kept = {"starting": 1}
    tell("on_starting", server.pid, server.num_workers, os.environ["FROM"],
         os.environ["SERVER_SOFTWARE"][:9])

def on_reload(server):
    server.kept["reload"] = 1

def nworkers_changed(server, new, old):
    tell("nworkers_changed", new, old, server.num_workers)

def when_ready(server):
    tell("when_ready", sorted(server.kept), [str(each) for each in server.LISTENERS])

def pre_fork(server, worker):
    worker.kept = server.kept
    tell("pre_fork", worker.age, worker.pid, len(server.WORKERS), worker.ppid)

def post_fork(server, worker):
    tell("post_fork", worker.age, worker.pid, sorted(worker.kept), server.pid, os.getppid(),
         [str(each) for each in server.LISTENERS])

def child_exit(server, worker):
    tell("child_exit", worker.age, worker.pid, hasattr(worker, "kept"), len(server.WORKERS))

def on_exit(server):
    tell("on_exit", sorted(server.kept), sorted(server.WORKERS))
""", reloads=True, workers=2)
    settings, me = template.settings(), os.getpid()
    assert settings["hooks"] == ["on_starting", "on_reload", "when_ready", "child_exit",
                                 "nworkers_changed", "on_exit"]
    assert settings["workers"] == 1  # gunicorn's own, whatever counts
    template.send(messages.hook("when_ready", listeners=1), [template.listener.fileno()])
    first, second = template.acked(1), template.acked(2)
    template.send(messages.hook("nworkers_changed", 3, 2))
    assert second.stop() == 0
    template.send(messages.hook("child_exit", second.pid))
    template.send(messages.hook("child_exit", 4194305))  # one that an earlier template forked
    assert first.stop() == 0
    assert template.leave() == 0
    at = [f"http://127.0.0.1:{template.address[1]}"]
    assert told(site) == [
        "read", "nworkers_changed 2 None 2", f"on_starting {me} 2 conf gunicorn/",
        f"when_ready ['reload', 'starting'] {at}",
        f"pre_fork 1 [booting] 0 {me}",
        f"post_fork 1 {first.pid} ['reload', 'starting'] {me} {me} {at}",
        f"pre_fork 2 [booting] 1 {me}",
        f"post_fork 2 {second.pid} ['reload', 'starting'] {me} {me} {at}",
        "nworkers_changed 3 2 3",
        f"child_exit 2 {second.pid} True 1", "child_exit 0 4194305 False 1",
        f"on_exit ['reload', 'starting'] [{first.pid}]"]


def test_what_a_worker_has(begin: Begin, site: Path) -> None:
    """Its own descriptors, environment, process group and core, and nothing of the template's but
    what the configuration opened, at its own number."""
    template = begin(conf=TELL + """
kept = open("kept", "w+")
kept_at = kept.fileno()

def post_fork(server, worker):
    kinds = {int(fd): os.readlink("/proc/self/fd/" + fd) for fd in os.listdir("/proc/self/fd")
             if os.path.exists("/proc/self/fd/" + fd)}
    tell(sorted(fd for fd in kinds if fd > 2 and fd != kept_at and os.get_inheritable(fd)))
    tell(kinds[kept_at] == os.path.realpath("kept"), kept.fileno() == kept_at)
    tell(sorted(kinds[fd].partition(":")[0] for fd in kinds if fd > 2 and fd != kept_at))
    tell(*(os.environ.get(name) == str(os.getpid()) for name in ("LISTEN_PID", "WATCHDOG_PID")))
    tell(os.environ.get("ONE"), os.environ.get("EINHORNPY_ADAPTER"), os.sched_getaffinity(0))
    import ctypes
    number = ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(number), 0, 0, 0)
    tell(number.value)
""")
    template.settings()
    core = min(os.sched_getaffinity(0))
    worker = template.acked(farewell=signal.SIGUSR2, core=core, ONE="one")
    inheritable, kept, others, pids, environment, farewell = told(site)
    assert (kept, pids) == ("True True", "True True")
    # Our listener is gunicorn's own object by now; of the rest none is for what a worker starts.
    assert len(eval(inheritable)) == 1, inheritable
    # a listener, two ways to the master, and the page with its mapping's own
    assert others == "['/memfd', '/memfd', 'socket', 'socket', 'socket']"
    assert environment == f"one None {{{core}}}"
    assert farewell == str(int(signal.SIGUSR2))
    template.kill()  # that is no reason to go
    assert get(template.address)[0] == 200
    assert wait(template.pid) == -signal.SIGKILL
    assert worker.stop() == 0


# Where a template is stopped on its way: before it forks, when it has forked the one in between,
# when it has told the master. Each time it is stopped until the test goes on.
STOP = """
import os, signal

def stop():
    os.kill(os.getpid(), signal.SIGSTOP)

TEMPLATE = os.getpid()
"""
STOPS = {
    "before": "def pre_fork(server, worker): stop()",
    "forked": "os.register_at_fork(after_in_parent=lambda: os.getpid() == TEMPLATE and stop())",
    "told": """
write = os.write

def write_or_stop(fd, data):
    if data == b"!" and os.getpid() == TEMPLATE:
        stop()
    return write(fd, data)

os.write = write_or_stop
"""}


@pytest.mark.parametrize("group", [False, True], ids=["alone", "with its group"])
@pytest.mark.parametrize(("where", "times"), [("before", 0), ("forked", 1), ("told", 2)])
def test_a_template_that_is_stopped_and_killed_loses_no_worker(
        begin: Begin, where: str, times: int, group: bool) -> None:
    template = begin(conf=STOP + STOPS[where])
    template.settings()
    worker = template.ask()
    wait_until(lambda: process_state(template.pid) == "T", "the template stopped")
    # Until the one in between is through, the worker is none yet: it would be killed with the rest.
    wait_until(lambda: not group or not {*map(process_state, child_pids(template.pid))} - {"Z"},
               "nobody left in its group")
    (os.killpg if group else os.kill)(template.pid, signal.SIGKILL)
    assert wait(template.pid) == -signal.SIGKILL
    heard = []
    while said := template.hear():
        heard.append(said)
    assert len(heard) == times
    if not heard:
        assert worker.said() == {}  # nobody has its end of anything
        return
    worker.pid = heard[0]["pid"]
    assert heard == times * [{"say": "forked", "worker": 1, "pid": worker.pid}]
    assert worker.said()["command"] == "worker:ack"
    assert get(template.address)[1].split()[1] == str(worker.pid)
    assert worker.stop() == 0


@pytest.mark.parametrize("where", STOPS)
def test_a_template_that_is_stopped_and_goes_on_is_none_the_worse(begin: Begin, where: str) -> None:
    template = begin(conf=STOP + STOPS[where])
    template.settings()
    worker = template.ask()
    wait_until(lambda: process_state(template.pid) == "T", "the template stopped")
    os.kill(template.pid, signal.SIGCONT)
    worker.pid = template.hear()["pid"]
    assert worker.said()["command"] == "worker:ack"
    assert worker.stop() == 0


IN_BETWEEN = """
os.register_at_fork(after_in_{which}=lambda: os.getpid() != TEMPLATE and os.getppid() == TEMPLATE
                    and os.kill(os.getpid(), signal.SIGKILL))
"""


def test_the_one_in_between_is_killed(begin: Begin) -> None:
    """When it has forked the worker: that is told all the same. Before: there is none."""
    template = begin(conf=STOP + IN_BETWEEN.format(which="parent"))
    template.settings()
    worker = template.acked()
    assert worker.stop() == 0
    other = begin(conf=STOP + IN_BETWEEN.format(which="child"))
    other.settings()
    other.ask()
    assert other.hear() == {
        "say": "cannot", "worker": 1,
        "why": "cannot fork: the process in between ended with status 9"}
    assert other.leave() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
@pytest.mark.parametrize("most", [1, 2], ids=["the first fork", "the second fork"])
def test_a_fork_that_is_refused_is_told_in_words(begin: Begin, most: int) -> None:
    user = 50_000 + os.getpid() % 10_000  # one that nobody else is
    template = begin(conf=f"""
import os, resource

def pre_fork(server, worker):
    if os.getuid() == 0:
        resource.setrlimit(resource.RLIMIT_NPROC, ({most}, 100))
        os.setresuid({user}, {user}, {user})
    elif worker.age == 3:
        resource.setrlimit(resource.RLIMIT_NPROC, (100, 100))
""")
    template.settings()
    for number in (1, 2):
        template.ask(number)
        assert template.hear() == {
            "say": "cannot", "worker": number,
            "why": "cannot fork: Resource temporarily unavailable"}
    template.fork(3)
    assert template.leave() == 0


@pytest.mark.parametrize(("conf", "life", "why"), [
    ("def pre_fork(server, worker):\n    raise RuntimeError('no luck')", {},
     "RuntimeError: no luck ({site}/gunicorn.conf.py, line 2, in pre_fork)"),
    ("def pre_fork(server, worker):\n    raise SystemExit(7)", {},
     "SystemExit: 7 ({site}/gunicorn.conf.py, line 2, in pre_fork)"),
    ("from gunicorn.workers.sync import SyncWorker\nclass Mine(SyncWorker):\n"
     "    def __init__(self, *given):\n        raise KeyError('x')\nworker_class = Mine", {},
     "KeyError: 'x' ({site}/gunicorn.conf.py, line 4, in __init__)")])
def test_what_fails_before_the_fork_is_told(begin: Begin, site: Path, conf: str,
                                            life: dict[str, Any], why: str) -> None:
    template = begin(conf=conf)
    template.settings()
    template.ask(life=life)
    assert template.hear() == {"say": "cannot", "worker": 1, "why": why.format(site=site)}
    template.ask(2)  # it is still there
    assert template.hear()["say"] == "cannot"
