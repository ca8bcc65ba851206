"""The process in the place of gunicorn's arbiter, without a master: settings, hooks, forks, and what
becomes of each when somebody is killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from einhornpy.worker import template_messages as messages

from ..harness import DEADLINE, EXAMPLE, child_pids, get, process_state, reap_leftovers, wait_until
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
def test_a_fork_that_is_refused_is_told_in_words(begin: Begin, site: Path, most: int) -> None:
    site.chmod(0o755)
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


ERRORS = [
    ("workers = \n", "SyntaxError: invalid syntax ({site}/gunicorn.conf.py, line 1)"),
    ("import os\nos.no_such_call()\n",
     "AttributeError: module 'os' has no attribute 'no_such_call' "
     "({site}/gunicorn.conf.py, line 2, in <module>)"),
    ("workers = 'many'\n", "ValueError: invalid literal for int() with base 0: 'many'"),
    ("worker_class = 'no_such_class'\n",
     "RuntimeError: class uri 'no_such_class' invalid or not found: "),
    ("daemon = True\n",
     "ValueError: daemon makes no sense under einhornpy: run gunicorn itself for it"),
    ("dirty_apps = ['a:b']\n",
     "ValueError: dirty_apps need gunicorn's own arbiter, which einhornpy replaces"),
    ("chdir = 'nowhere'\n", "ConfigError: can't chdir to 'nowhere'"),
    ("def on_starting(server):\n    raise OSError('no way')\n",
     "OSError: no way ({site}/gunicorn.conf.py, line 2, in on_starting)"),
    ("def nworkers_changed(server, new, old):\n    1 / 0\n",
     "ZeroDivisionError: division by zero ({site}/gunicorn.conf.py, line 2, in nworkers_changed)"),
    ("def on_starting(server):\n    raise SystemExit('enough')\n", "gunicorn exited with enough"),
    ("import sys\nprint('a reason', file=sys.stderr)\nsys.exit(3)\n", "a reason"),
]


@pytest.mark.parametrize(("conf", "error"), ERRORS, ids=[each[0].split("\n")[0] for each in ERRORS])
def test_an_error_in_the_settings_is_one_line(begin: Begin, site: Path, conf: str,
                                              error: str) -> None:
    template = begin(conf=conf)
    told = template.answer().pop("error")
    assert error.format(site=site) in told
    assert "\n" not in told
    assert template.answer().keys() <= {"lines"}
    assert wait(template.pid) != 0


@pytest.mark.parametrize(("arguments", "error"), [
    (("--no-such-flag", "app:wsgi"), "gunicorn: error: unrecognized arguments: --no-such-flag"),
    (("-c", "gone.py", "app:wsgi"), "RuntimeError: 'gone.py' doesn't exist"),
    (("--check-config", "app:wsgi"), "ValueError: check_config makes no sense under einhornpy: "
     "run gunicorn itself for it"),
    (("--workers", "2"), "gunicorn.errors.ConfigError: No application module specified.")])
def test_an_error_in_the_arguments_is_one_line(begin: Begin, arguments: tuple[str, ...],
                                               error: str) -> None:
    template = begin(*arguments)
    assert template.answer() == {"error": error}
    assert wait(template.pid) != 0


def test_what_somebody_set_is_known(begin: Begin, site: Path) -> None:
    (site / "sub").mkdir()
    (site / "link").symlink_to("sub")
    template = begin(
        "--threads", "2", "-b", "unix:a.sock", "app:wsgi",
        conf="chdir = 'link'\npidfile = 'p'\nworker_tmp_dir = '/dev/shm'\nproc_name = 'shop'\n"
        "def on_exit(server): pass\n", environment={"WEB_CONCURRENCY": "1"})
    settings = template.settings()
    assert set(settings["given"]) >= {"workers", "bind", "threads", "chdir", "on_exit", "proc_name"}
    assert "timeout" not in settings["given"]
    assert settings["worker_class"] == "gthread"
    assert settings["chdir"] == os.path.realpath(site / "sub")
    assert settings["bind"] == [f"unix:{os.path.realpath(site / 'sub')}/a.sock"]
    assert settings["ignored"] == ["worker_tmp_dir"]
    assert (settings["hooks"], settings["proc_name"]) == (["on_exit"], "shop")
    assert template.answer()["files"] == {
        str(site / "gunicorn.conf.py"): (site / "gunicorn.conf.py").read_text()}


def test_what_was_read_wins_over_the_files(begin: Begin, site: Path) -> None:
    """Another template of the same generation: its configuration was edited since, its directory
    moved, a default one has come."""
    for name in ("one", "two"):
        (site / name).mkdir()
        (site / name / "app.py").write_text(
            f"def wsgi(environ, start_response):\n    start_response('200 OK', [])\n"
            f"    return [b'{name}']\n")
    (site / "current").symlink_to("one")
    conf = site / "web.py"
    text = (
        "# gr\u00fc\u00df\nimport inspect\nchdir = 'current'\n\ndef pre_fork(server, worker):\n"
        "    worker.source = inspect.getsource(pre_fork)\n\ndef post_fork(server, worker):\n"
        "    open('told', 'w').write(worker.source)\n    raise KeyError(__file__)\n")
    conf.write_text(text)
    first = begin("-c", "web.py", "app:wsgi")
    answer = first.answer()
    assert answer["settings"]["chdir"] == str(site / "one")
    conf.write_text("this is no python\n")
    frozen = {"chdir": answer["settings"]["chdir"], "files": answer["files"]}
    for removed in (False, True):
        (site / "current").unlink(missing_ok=True)
        if removed:
            conf.unlink()
        else:
            (site / "current").symlink_to("two")
        second = begin("-c", "web.py", "app:wsgi", frozen=frozen)
        assert second.answer()["files"] == answer["files"]
        assert second.answer()["settings"] == answer["settings"]
        worker = second.fork()
        said = worker.said()
        assert (said["command"], said["error"]) == (
            "worker:failed", f"KeyError: '{conf}' ({conf}, line 10, in post_fork)")
        assert (site / "one" / "told").read_text().endswith("inspect.getsource(pre_fork)\n")
        assert worker.ended() == 3
        assert "raise KeyError(__file__)" in worker.printed()
    third = begin(conf="raise RuntimeError('it came later')\n",
                  frozen={"chdir": None, "files": {}})
    assert third.settings()["chdir"] is None


def test_it_goes_with_its_master(begin: Begin, site: Path) -> None:
    template = begin(conf=TELL + "def on_exit(server):\n    tell('on_exit')\n")
    template.settings()
    template.send(messages.leave(False))
    assert wait(template.pid) == 0
    other = begin()
    other.settings()
    other.channel.shutdown(1)
    assert wait(other.pid) == 0
    assert not (site / "told").exists()


PATCHED = """
from gevent import monkey
monkey.patch_all()
import gevent, subprocess

def when_ready(server):
    server.beats = 0
    def beat():
        while True:
            server.beats += 1
            gevent.sleep(0.01)
    gevent.spawn(beat)
    tell(subprocess.run(["true"]).returncode)

def nworkers_changed(server, new, old):
    if old is not None:
        while server.beats < 3:
            gevent.sleep(0.01)
        tell("beats")
"""


def test_a_configuration_that_has_patched_the_world(begin: Begin, site: Path) -> None:
    """Its greenlets run while we wait; its fork and wait are gevent's own."""
    template = begin("-k", "gevent", "app:wsgi", conf=TELL + PATCHED)
    template.settings()
    template.send(messages.hook("when_ready", listeners=1), [template.listener.fileno()])
    for number in (1, 2):
        worker = template.acked(number)
        assert get(template.address)[1].split()[1] == str(worker.pid)
        template.send(messages.hook("nworkers_changed", 2, 1))
        assert worker.stop() == 0
    assert template.leave() == 0
    assert told(site) == ["0", "beats", "beats"]


def test_hooks_may_start_threads_and_processes(begin: Begin, site: Path) -> None:
    """They live on, nobody reaps them but who started them, and they have nothing of ours."""
    template = begin(conf=TELL + """
import signal, subprocess, threading

def when_ready(server):
    server.child = subprocess.Popen(["sleep", "1000"], close_fds=False)
    tell(sorted(os.readlink(f"/proc/{server.child.pid}/fd/" + fd)[:7] for fd in
                os.listdir(f"/proc/{server.child.pid}/fd") if int(fd) > 2))
    server.woken = threading.Event()
    server.thread = threading.Thread(target=server.woken.wait, daemon=True)
    server.thread.start()

def child_exit(server, worker):
    tell(server.child.poll(), server.thread.is_alive(), signal.getsignal(signal.SIGCHLD))

def on_exit(server):
    server.child.kill()
    tell(server.child.wait())
""")
    template.settings()
    template.send(messages.hook("when_ready", listeners=1), [template.listener.fileno()])
    worker = template.acked()
    assert worker.stop() == 0
    template.send(messages.hook("child_exit", worker.pid))
    assert template.leave() == 0
    assert told(site) == ["[]", f"None True {signal.SIG_DFL!s}", "-9"]


def test_a_hook_that_raises_is_told(begin: Begin, site: Path) -> None:
    template = begin(conf="def when_ready(server):\n    raise ValueError('a\\nb')\n\n"
                     "def on_exit(server):\n    raise KeyError(1)\n")
    template.settings()
    template.send(messages.hook("when_ready"))
    at = str(site / "gunicorn.conf.py")
    assert template.hear() == {"say": "hook", "name": "when_ready",
                               "error": f"ValueError: a b ({at}, line 2, in when_ready)"}
    assert template.leave() == 0
    assert template.hear() == {"say": "hook", "name": "on_exit",
                               "error": f"KeyError: 1 ({at}, line 5, in on_exit)"}


def test_statsd_hears_what_the_arbiter_would_say(begin: Begin) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(DEADLINE)
        template = begin("--statsd-host", f"127.0.0.1:{statsd.getsockname()[1]}",
                         "--enable-backlog-metric", "app:wsgi")
        template.settings()
        template.send(messages.workers(3))
        assert statsd.recv(4096) == b"gunicorn.workers:3|g"
        template.send(messages.hook("when_ready", listeners=1), [template.listener.fileno()])
        assert statsd.recv(4096) == b"gunicorn.backlog:0|h"
        template.acked()
        get(template.address)
        while not statsd.recv(4096).startswith(b"gunicorn.requests:1|c"):
            pass


def test_captured_output_stays_captured(begin: Begin, site: Path) -> None:
    """Also in a worker, which gets a standard error of its own; and its log can be opened anew."""
    (site / "app.py").write_text(
        "import sys\n\ndef wsgi(environ, start_response):\n    start_response('200 OK', [])\n"
        "    print('a word', file=sys.stderr, flush=True)\n    return [b'well']\n")
    template = begin("--capture-output", "--error-logfile", "log", "app:wsgi")
    template.settings()
    worker = template.acked()
    assert get(template.address) == (200, "well")
    assert "a word" in (site / "log").read_text()
    (site / "log").rename(site / "log.1")
    template.send(messages.reopen())
    wait_until((site / "log").exists, "the log opened anew")
    second = template.acked(2)
    for each in (worker, second):
        assert each.stop() == 0
        assert each.printed() == ""
    assert "Booting worker" in (site / "log").read_text()
    assert template.leave() == 0


def test_nonsense_from_the_master_is_passed_over(begin: Begin) -> None:
    template = begin()
    template.settings()
    for nonsense in (b"{}", b'{"do": "dance"}', b"\xff", messages.forked(1, 2),
                     messages.hook("no_such_hook"), messages.hook("child_exit"),
                     messages.hook("nworkers_changed", 1)):
        template.send(nonsense, [template.page])
    fork = messages.fork(1, 0, {}, 4, False, False, None, None, {})
    template.send(fork, [template.page])
    while (said := template.hear())["say"] == "hook":
        assert said["error"]
    assert said["why"] == (
        "cannot give a worker its descriptors: too few came; see the limit of open files")
    template.send(fork.replace(b'"descriptors": 4', b'"descriptors": 11'), [template.page] * 11)
    assert template.hear()["why"].startswith("cannot give a worker 11 descriptors: only 10 were")
    template.acked(2)
    left = {os.readlink(f"/proc/{template.pid}/fd/{fd}")
            for fd in os.listdir(f"/proc/{template.pid}/fd") if int(fd) > 2}
    assert not [each for each in left if "memfd" in each or "pipe" in each]


def test_signals_to_all_processes_of_a_service_don_t_end_it(begin: Begin, site: Path) -> None:
    """As systemd sends them: the master alone says when it ends. Its workers, and what hooks start,
    do heed them."""
    template = begin(conf=TELL + """
import signal, subprocess

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]
before = [signal.getsignal(each) for each in SIGNALS]

def when_ready(server):
    tell(subprocess.run(["sh", "-c", "kill -TERM $$"]).returncode)

def post_fork(server, worker):
    tell([signal.getsignal(each) for each in SIGNALS] == before)

def on_exit(server):
    tell("on_exit")
""")
    template.settings()
    for name in ("TERM", "INT", "HUP", "USR1", "USR2", "QUIT", "WINCH"):
        os.kill(template.pid, signal.Signals[f"SIG{name}"])
    template.send(messages.hook("when_ready"))
    assert template.acked().stop() == 0
    assert template.leave() == 0
    assert told(site) == ["-15", "True", "on_exit"]


# As `tini -s`: it adopts what its children leave.
ADOPTS = """
import ctypes, os, subprocess, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
sys.exit(subprocess.call(sys.argv[1:], close_fds=False))
"""


def test_who_adopts_its_workers_is_named(begin: Begin, site: Path) -> None:
    (site / "adopts").write_text(f"#!{sys.executable}\n{ADOPTS}")
    (site / "adopts").chmod(0o755)
    template = begin(python=str(site / "adopts"), options=(sys.executable,))
    template.settings()
    template.ask()
    said = template.hear()
    assert (said["say"], said["worker"]) == ("cannot", 1)
    assert said["why"] == (
        f"a worker became a child of pid {template.pid}, not of the master: something in between "
        "adopts orphans (tini -s)")
    assert template.leave() == 0
