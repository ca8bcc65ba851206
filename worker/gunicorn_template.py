"""The template of a generation: one process in the place of gunicorn's arbiter, which reads the
settings once, runs the arbiter's hooks and forks the workers. It holds no socket of its own, and
decides nothing: the master does.

Plain standard library from Python 3.9 on, besides gunicorn itself. The instructions, a JSON object:
`master`, its pid; `channel`, `result`, `bundle`, descriptors: of the messages
(template_messages.py), of our one answer, of the file that we were loaded from; `reserved`: so many
from 3 on are kept free for what workers are given; `reloads`: whether this is an upgrade;
`workers`: how many there are to be, null for as many as gunicorn's settings say; `frozen`: null, or
what an earlier template has read; `wrapped`: whether something else starts gunicorn.
"""

import _socket
import array
import contextlib
import json
import os
import select
import socket
import sys
import time
import traceback
import types
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

# Everything that a worker may need of ours later: by then the bundle is closed.
from . import (  # noqa: F401
    gunicorn_forking,
    gunicorn_http2,
    gunicorn_lingering,
    gunicorn_patching,
    gunicorn_settings,
    gunicorn_started,
    gunicorn_worker,
    template_messages,
)
from .gunicorn_settings import describe

FIRST_FD = gunicorn_forking.FIRST_FD
# Seconds, as gunicorn's arbiter looks at its sockets' backlog.
BACKLOG_INTERVAL = 1.0


def install(instructions: Mapping[str, Any],
            when_taken: Callable[[], None] = lambda: None) -> "Template":
    """Let gunicorn, wherever and whenever it is started in this process, become the template.
    `when_taken`: called when it reads its settings, which is when this process is surely the one.
    """
    template = Template(instructions, when_taken)
    reading = template.reading

    def patch_base(module: Any) -> None:
        def load(app: Any) -> None:
            template.take()
            gunicorn_settings.load(app, reading.given, template.failed)

        reading.patch_base(module)
        module.BaseApplication.do_load_config = load
        module.Arbiter = sys.modules["gunicorn.arbiter"].Arbiter

    def patch_arbiter(module: Any) -> None:
        module.Arbiter = stand_in(module.Arbiter, template)

    gunicorn_patching.when_imported({
        "gunicorn.config": reading.patch_config, "gunicorn.arbiter": patch_arbiter,
        "gunicorn.app.base": patch_base})
    return template


def run() -> None:
    """Start gunicorn; does not return."""
    from gunicorn.app import wsgiapp

    wsgiapp.run()


def stand_in(arbiter: Any, template: "Template") -> Any:
    """The class that takes the place of gunicorn's arbiter: it is made as that is, and then runs
    the template."""

    class StandIn(arbiter):  # type: ignore[misc]
        def __init__(self, app: Any) -> None:
            template.take()
            with template.telling_errors():
                sys.path[:] = gunicorn_settings.resolved(sys.path)
                self.LISTENERS: List[Any] = []
                self.WORKERS: Dict[int, Any] = {}
                self.pid = template.instructions["master"]
                workers = template.instructions["workers"]
                with overruled(app.cfg, {
                        "preload_app": False,
                        "workers": app.cfg.workers if workers is None else workers}):
                    super().__init__(app)

        def run(self) -> None:
            template.run(self)

    return StandIn


class Template:
    """What the master has to do with of a process that becomes the template."""

    def __init__(self, instructions: Mapping[str, Any], when_taken: Callable[[], None]) -> None:
        self.instructions = instructions
        self.reading = gunicorn_settings.Reading(instructions["frozen"])
        self.when_taken = when_taken
        self.channel: Any = None
        self.answered = False
        self.standard: Dict[int, Any] = {}
        self.started: Optional[Dict[str, Any]] = None
        self.server: Any = None

    def take(self) -> None:
        """Take what the master gave us; nobody whom we start gets it too."""
        if self.channel is not None:
            return
        given = self.instructions
        os.environ.pop("EINHORNPY_ADAPTER", None)
        for fd in (*range(FIRST_FD, FIRST_FD + given["reserved"]), given["channel"],
                   given["result"]):
            os.set_inheritable(fd, False)
        self.standard = {number: identity(number) for number in (1, 2)}
        # Whatever becomes of the module socket (gevent), this one waits for nobody else.
        self.channel = _socket.socket(fileno=given["channel"])
        self.channel.setblocking(True)
        self.when_taken()
        self.started = gunicorn_started.how_started(given)
        leave_bundle(given["bundle"])
        sys.path[:] = gunicorn_settings.resolved(sys.path)

    def failed(self, error: str) -> None:
        """Tell the master that there will be no template; `error`: one line."""
        self.answer({"error": error})

    def answer(self, content: Mapping[str, Any]) -> None:
        """Tell the master what came of it, once."""
        if self.answered:
            return
        self.answered = True
        with os.fdopen(self.instructions["result"], "w") as result:
            # A line: somebody in between may hold the pipe too, so that it doesn't end.
            print(json.dumps(content), file=result)

    @contextlib.contextmanager
    def telling_errors(self) -> Iterator[None]:
        try:
            yield
        except SystemExit as exit:
            self.failed("gunicorn exited with %s" % exit.code)
            raise
        except Exception as problem:
            traceback.print_exc()
            self.failed(describe(problem))
            sys.exit(1)

    def run(self, server: Any) -> None:
        """Be the template until it is over; in a worker, be that."""
        self.server, cfg = server, server.cfg
        with self.telling_errors():
            getattr(server, "_stats", {})["start_time"] = time.time()
            cfg.on_starting(server)
            if self.instructions["reloads"]:
                cfg.on_reload(server)
            if hasattr(server.worker_class, "check_config"):
                server.worker_class.check_config(cfg, server.log)
            server.log.close_on_exec()
            settings = gunicorn_settings.told(cfg, self.reading.given)
            from gunicorn import util
            from gunicorn.workers import base  # not before its class, which may patch the world

            # gunicorn's own would be a file, and there need be no directory where one can be made.
            base.WorkerTmp = lambda _: NoHeartbeat()
            util._setproctitle("template [%s]" % server.proc_name)
        self.answer({
            "version": template_messages.VERSION, "pid": os.getpid(), "settings": settings,
            "files": self.reading.files, "started": self.started})
        while True:
            data, descriptors = self.receive()
            if not data:
                os._exit(0)  # the master is gone
            try:
                self.obey(template_messages.read(data), descriptors)
            except ValueError as error:
                server.log.error("The master said what isn't understood here: %s", error)
            for fd in descriptors:
                os.close(fd)

    def receive(self) -> Tuple[bytes, List[int]]:
        """The next message, and the descriptors beside it."""
        cfg, listeners = self.server.cfg, self.server.LISTENERS
        measured = listeners and getattr(cfg, "enable_backlog_metric", False)
        # As it is now: where a configuration has patched the world, its greenlets run meanwhile.
        while not select.select([self.channel.fileno()], [], [],
                                BACKLOG_INTERVAL if measured else None)[0]:
            backlog = sum(listener.get_backlog() or 0 for listener in listeners)
            self.measure("socket backlog: %d", "gunicorn.backlog", "histogram", backlog)
        data, ancillary, _, _ = self.channel.recvmsg(
            template_messages.LARGEST,
            socket.CMSG_SPACE(array.array("i").itemsize * template_messages.MOST_DESCRIPTORS),
            socket.MSG_CMSG_CLOEXEC)
        descriptors = array.array("i")
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(content[:len(content) - len(content) % descriptors.itemsize])
        return data, list(descriptors)

    def say(self, message: bytes) -> None:
        try:
            self.channel.send(message)
        except OSError:
            os._exit(0)  # the master is gone

    def obey(self, message: Dict[str, Any], descriptors: List[int]) -> None:
        """Do what one message asks for; returns in the template alone. Who takes one of the
        descriptors takes it out of the list."""
        what = message.get("do")
        if what == "fork":
            self.fork(message, descriptors)
        elif what == "hook":
            name, arguments = message["name"], message["arguments"]
            self.call(name, lambda: self.hook(name, arguments, descriptors))
        elif what == "workers":
            self.measure("%d workers", "gunicorn.workers", "gauge", message["count"])
        elif what == "environment":
            os.environ.update(message["variables"])
        elif what == "listeners":
            self.take_listeners(descriptors)
        elif what == "reopen":
            self.server.log.reopen_files()
        elif what == "leave":
            if message["on_exit"]:
                self.call("on_exit", lambda: self.server.cfg.on_exit(self.server))
            sys.exit(0)

    def measure(self, words: str, metric: str, kind: str, value: int) -> None:
        """Log a number as gunicorn's arbiter does, which its logger may pass on to statsd."""
        self.server.log.debug(words % value,
                              extra={"metric": metric, "value": value, "mtype": kind})

    def call(self, name: str, hook: Callable[[], None]) -> None:
        """Run a hook; what it raises is told."""
        try:
            hook()
        except (Exception, SystemExit) as error:
            self.server.log.exception("Exception in the server hook %s", name)
            self.say(template_messages.hook_failed(name, describe(error)))

    def hook(self, name: str, arguments: List[Any], descriptors: List[int]) -> None:
        server = self.server
        if name == "when_ready":
            self.take_listeners(descriptors)
            server.cfg.when_ready(server)
        elif name == "child_exit":
            worker = server.WORKERS.pop(arguments[0], None)
            # One that an earlier template has forked is known by its pid alone.
            gone = types.SimpleNamespace(pid=arguments[0], age=0)
            server.cfg.child_exit(server, worker or gone)
        elif name == "nworkers_changed":
            server._num_workers = arguments[1]
            server.num_workers = arguments[0]  # calls the hook
        else:
            raise ValueError("no such hook")

    def take_listeners(self, descriptors: List[int]) -> None:
        """Have these sockets, and no longer those before: whoever waits at one of those would wait
        for ever."""
        server, given = self.server, list(descriptors)
        descriptors[:] = []
        for listener in server.LISTENERS:
            listener.close()
        server.LISTENERS[:] = gunicorn_worker.adopt_listeners(given, server.cfg, server.log)
        for listener in server.LISTENERS:
            listener.set_inheritable(False)

    def fork(self, message: Dict[str, Any], descriptors: List[int]) -> None:
        """Fork a worker, or say why not."""
        server, number = self.server, message["worker"]
        try:
            self.check(message, descriptors)
            worker = self.make(message["life"])
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()  # or the worker would print it again
            pid = gunicorn_forking.fork(number, self.instructions["master"], self.say)
        except gunicorn_forking.CannotFork as error:
            self.say(template_messages.cannot(number, str(error)))
        except (Exception, SystemExit) as error:
            server.log.exception("Cannot make a worker")
            self.say(template_messages.cannot(number, describe(error)))
        else:
            if pid == 0:
                self.be_worker(worker, message, descriptors)
            worker.pid = pid
            server.WORKERS[pid] = worker
            with contextlib.suppress(Exception):  # an earlier version has none
                server._stats["workers_spawned"] += 1

    def check(self, message: Dict[str, Any], descriptors: List[int]) -> None:
        """Raises CannotFork if a worker can't be given what it is to have."""
        wanted = message["descriptors"]
        if len(descriptors) != wanted + message["stdout"] + message["stderr"]:
            raise gunicorn_forking.CannotFork(
                "cannot give a worker its descriptors: too few came; see the limit of open files")
        if wanted > self.instructions["reserved"]:
            raise gunicorn_forking.CannotFork(
                "cannot give a worker %d descriptors: only %d were kept free when the generation "
                "was made; an upgrade makes it anew" % (wanted, self.instructions["reserved"]))

    def make(self, life: Mapping[str, Any]) -> Any:
        """An object of the worker class, made as the arbiter makes it, before the fork."""
        server = self.server
        server.worker_age += 1
        parent = self.instructions["master"]
        if life["outlive_master"]:
            parent = gunicorn_worker.OutlivingParent(parent)
        with overruled(server.cfg, gunicorn_worker.overruling(life)):
            worker = server.worker_class(
                server.worker_age, parent, list(server.LISTENERS), server.app,
                (life["timeout"] or 60) / 2.0, server.cfg, server.log)
            server.cfg.pre_fork(server, worker)
        return worker

    def be_worker(self, worker: Any, message: Dict[str, Any], descriptors: List[int]) -> None:
        """Be that worker; does not return."""
        server, life = self.server, message["life"]
        self.channel.close()
        for listener in server.LISTENERS:
            listener.close()
        captured = {number for number in self.standard
                    if identity(number) != self.standard[number]}
        gunicorn_forking.arrange(descriptors, {1: message["stdout"], 2: message["stderr"]},
                                 self.instructions["reserved"], captured)
        gunicorn_forking.take_environment(message["environment"])
        overrule(server.cfg, gunicorn_worker.overruling(life))
        sys.exit(gunicorn_worker.run(
            life, server, worker, 2 in captured,
            lambda: gunicorn_forking.belong(self.instructions["master"], message["farewell"],
                                            message["core"])))


class NoHeartbeat:
    """Stands in for gunicorn's temporary file until a worker has its slot of the master's page."""

    def notify(self) -> None:
        pass

    def last_update(self) -> float:
        return 0.0

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        pass


def overrule(cfg: Any, values: Mapping[str, Any]) -> None:
    """Set values of gunicorn's as they are: its own checks would refuse, for instance, a fraction
    of a second."""
    for name, value in values.items():
        if name in cfg.settings:
            cfg.settings[name].value = value


@contextlib.contextmanager
def overruled(cfg: Any, values: Mapping[str, Any]) -> Iterator[None]:
    """Values that count for a while."""
    before = {name: cfg.settings[name].value for name in values if name in cfg.settings}
    overrule(cfg, values)
    try:
        yield
    finally:
        overrule(cfg, before)


def identity(fd: int) -> Optional[Tuple[int, int]]:
    """What a descriptor is; None where it is closed."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def leave_bundle(fd: int) -> None:
    """Forget the file that we were loaded from: its descriptor may soon be something else, which
    nobody may read our source from."""
    path = "/proc/self/fd/%d" % fd
    sys.path[:] = [each for each in sys.path if each != path]
    for cached in (sys.path_importer_cache, getattr(sys.modules.get("zipimport"),
                                                    "_zip_directory_cache", {})):
        for key in [each for each in cached if str(each).startswith(path)]:
            del cached[key]
    for module in list(sys.modules.values()):
        if str(getattr(module, "__file__", None)).startswith(path + os.sep):
            module.__loader__ = None
            if module.__spec__ is not None:
                module.__spec__.loader = None
    os.close(fd)
