"""The template of a generation: one process in the place of gunicorn's arbiter, which reads the
settings once, runs the arbiter's hooks and forks the workers. It accepts on no socket, and decides
nothing: the master does, see template_channel.py and template_messages.py.

Plain standard library from Python 3.9 on, besides gunicorn itself.
"""

import contextlib
import os
import sys
import time
import traceback
import types
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Set, Tuple

# Everything that a worker may need of ours later: by then the bundle is closed.
from . import (  # noqa: F401
    gunicorn_http2,
    gunicorn_lingering,
    gunicorn_patching,
    gunicorn_settings,
    gunicorn_worker,
    template_forking,
    template_marks,
    template_messages,
    template_started,
)
from .describing import describe
from .template_channel import Channel

# Seconds, as gunicorn's arbiter looks at its sockets' backlog.
BACKLOG_INTERVAL = 1.0


def install(instructions: Mapping[str, Any],
            when_taken: Callable[[], None] = lambda: None) -> Channel:
    """Let gunicorn, wherever and whenever it is started in this process, become the template.
    `when_taken`: called when it reads its settings, which is when this process is surely the one.
    """
    channel = Channel(instructions, when_taken)
    reading = gunicorn_settings.Reading(instructions["frozen"])
    template = Template(channel, reading)

    def patch_base(module: Any) -> None:
        def load(app: Any) -> None:
            channel.take()
            gunicorn_settings.load(app, reading.given, channel.failed, channel.wrapped)

        reading.patch_base(module)
        module.BaseApplication.do_load_config = load
        module.Arbiter = sys.modules["gunicorn.arbiter"].Arbiter

    def patch_arbiter(module: Any) -> None:
        module.Arbiter = stand_in(module.Arbiter, template)

    gunicorn_patching.when_imported({
        "gunicorn.config": reading.patch_config, "gunicorn.arbiter": patch_arbiter,
        "gunicorn.app.base": patch_base})
    return channel


def run() -> None:
    """Start gunicorn; does not return."""
    from gunicorn.app import wsgiapp

    wsgiapp.run()


def stand_in(arbiter: Any, template: "Template") -> Any:
    """The class that takes the place of gunicorn's arbiter: it is made as that is, and then runs
    the template."""

    channel = template.channel

    class StandIn(arbiter):  # type: ignore[misc]
        def __init__(self, app: Any) -> None:
            channel.take()
            with channel.telling_errors():
                sys.path[:] = template_started.resolved(sys.path)
                self.LISTENERS: List[Any] = []
                self.WORKERS: Dict[int, Any] = {}
                self.pid = channel.master
                workers = channel.instructions["workers"]
                with overruled(app.cfg, {
                        "preload_app": False,
                        "workers": app.cfg.workers if workers is None else workers}):
                    super().__init__(app)

        def run(self) -> None:
            template.run(self)

    return StandIn


class Template:
    """The template itself. `server`: the stand-in for gunicorn's arbiter."""

    def __init__(self, channel: Channel, reading: gunicorn_settings.Reading) -> None:
        self.channel = channel
        self.reading = reading
        self.directory = ""
        # What when_ready listens on: it moves to the next template, so no worker must hold it.
        self.own_sockets: Set[Tuple[int, int]] = set()
        self.heed_signals: Callable[[], None] = lambda: None
        self.server: Any = None

    def run(self, server: Any) -> None:
        """Be the template until it is over; in a worker, be that."""
        self.server, cfg = server, server.cfg
        with self.channel.telling_errors():
            getattr(server, "_stats", {})["start_time"] = time.time()
            cfg.on_starting(server)
            if self.channel.instructions["reloads"]:
                cfg.on_reload(server)
            if hasattr(server.worker_class, "check_config"):
                server.worker_class.check_config(cfg, server.log)
            server.log.close_on_exec()
            self.heed_signals = template_forking.heed_no_signals()
            settings = gunicorn_settings.told(cfg, self.reading.given)
            from gunicorn import util
            from gunicorn.workers import base  # not before its class, which may patch the world

            # gunicorn's own would be a file, and there need be no directory where one can be made.
            base.WorkerTmp = lambda _: NoHeartbeat()
            if "setproctitle" not in sys.modules:
                util._setproctitle = lambda title: template_marks.show("gunicorn: " + title)
            util._setproctitle("template [%s]" % server.proc_name)
            self.directory = os.getcwd()
            self.channel.answer({
                "version": template_messages.VERSION, "pid": os.getpid(), "settings": settings,
                "files": self.reading.files, "started": self.channel.started})
        while True:
            received = self.channel.receive(self.patience())
            if received is None:
                self.measure_backlog()
                continue
            data, descriptors = received
            try:
                message = template_messages.read(data)
            except ValueError as error:
                server.log.error("The master said what isn't understood here: %s", error)
            else:
                self.obey(message, descriptors)
            for fd in descriptors:
                os.close(fd)

    def patience(self) -> Optional[float]:
        """After so many seconds in which nothing was asked, the backlog is measured."""
        wanted = getattr(self.server.cfg, "enable_backlog_metric", False)
        return BACKLOG_INTERVAL if wanted and self.server.LISTENERS else None

    def measure_backlog(self) -> None:
        backlog = sum(listener.get_backlog() or 0 for listener in self.server.LISTENERS)
        self.measure("socket backlog: %d", "gunicorn.backlog", "histogram", backlog)

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
            self.channel.say(template_messages.hook_failed(name, describe(error)))

    def hook(self, name: str, arguments: List[Any], descriptors: List[int]) -> None:
        server = self.server
        if name == "when_ready":
            self.take_listeners(descriptors)
            before = template_forking.listening()
            try:
                server.cfg.when_ready(server)
            finally:
                self.own_sockets |= template_forking.listening() - before
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
            pid = template_forking.fork(number, self.channel.master, self.channel.say,
                                        self.heed_signals)
        except template_forking.CannotFork as error:
            self.channel.say(template_messages.cannot(number, str(error)))
        except (Exception, SystemExit) as error:
            server.log.exception("Cannot make a worker")
            self.channel.say(template_messages.cannot(number, describe(error)))
        else:
            if pid == 0:
                self.be_worker(worker, message, descriptors)
            worker.pid = pid
            server.WORKERS[pid] = worker
            with contextlib.suppress(Exception):  # an earlier version has none
                server._stats["workers_spawned"] += 1

    def check(self, message: Dict[str, Any], descriptors: List[int]) -> None:
        """Raises CannotFork if a worker can't be given what it is to have."""
        try:
            os.stat(os.path.join(self.directory, "."))
        except OSError as error:
            # else it would be told as a module that can't be found
            raise template_forking.CannotFork("cannot start workers in %s: %s" % (
                self.directory, error.strerror)) from None
        wanted = message["descriptors"]
        if len(descriptors) != wanted + message["stdout"] + message["stderr"]:
            raise template_forking.CannotFork(
                "cannot give a worker its descriptors: too few came; see the limit of open files")
        if wanted > self.channel.reserved:
            raise template_forking.CannotFork(
                "cannot give a worker %d descriptors: only %d were kept free for them: listen on "
                "fewer addresses, or raise the limit of open files (ulimit -n)" % (
                    wanted, self.channel.reserved))

    def make(self, life: Mapping[str, Any]) -> Any:
        """An object of the worker class, made as the arbiter makes it, before the fork."""
        server = self.server
        server.worker_age += 1
        parent = self.channel.master
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
        server, life, master = self.server, message["life"], self.channel.master
        captured = self.channel.captured()
        try:
            self.channel.close()
            for listener in server.LISTENERS:
                listener.close()
            template_forking.let_go(self.own_sockets)
            template_forking.arrange(descriptors, {1: message["stdout"], 2: message["stderr"]},
                                     self.channel.reserved, captured)
            template_forking.take_environment(message["environment"])
            overrule(server.cfg, gunicorn_worker.overruling(life))
            code = gunicorn_worker.run(
                life, server, worker, 2 in captured,
                lambda: template_forking.belong(master, message["farewell"], message["core"]))
        except Exception:
            # A worker must never go on as a template.
            traceback.print_exc()
            code = gunicorn_worker.BOOT_ERROR
        sys.exit(code)


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
