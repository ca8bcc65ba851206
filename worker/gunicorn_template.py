"""The template of a generation of gunicorn's: one process in the place of the arbiter, which reads
the settings once, runs the arbiter's hooks, imports the app where it is to be preloaded, and forks
the workers.

Plain standard library from Python 3.9 on, besides gunicorn itself.
"""

import contextlib
import importlib
import os
import sys
import time
import traceback
import types
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Set, Tuple

# Everything that a worker may need of ours later: by then the bundle is closed.
from . import (  # noqa: F401
    fork_safety,
    gunicorn_counters,
    gunicorn_http2,
    gunicorn_lingering,
    gunicorn_settings,
    gunicorn_warm_up,
    gunicorn_worker,
    template_forking,
    template_gevent,
    template_imports,
    template_marks,
    template_messages,
    template_started,
)
from .describing import describe
from .template_channel import Channel
from .template_process import IMPORT_ERROR, CannotImport, TemplateProcess, end, write_out

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

    template_imports.when_imported({
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


class Template(TemplateProcess):
    """The template itself. `server`: the stand-in for gunicorn's arbiter."""

    def __init__(self, channel: Channel, reading: gunicorn_settings.Reading) -> None:
        super().__init__(channel)
        self.reading = reading
        # What when_ready listens on: it moves to the next template, so no worker must hold it.
        self.own_sockets: Set[Tuple[int, int]] = set()
        self.server: Any = None
        self.preloaded = self.warmed_up = False

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
        self.serve()

    def preload(self) -> None:
        self.import_app(self.load_app)

    def load_app(self) -> None:
        """Import the app, and let it answer what is to be warmed up. An ASGI app answers only where
        its lifespan has begun, in a worker."""
        if "GeventWorker" in {base.__name__ for base in self.server.worker_class.__mro__}:
            # as each worker will: what the app imports, and keeps by name, is to be gevent's
            importlib.import_module("gevent.monkey").patch_all()
        self.preloaded = True
        app, wanted = self.server.app.wsgi(), self.channel.instructions.get("warm_up", ())
        way = gunicorn_counters.way_of_counting(self.server.worker_class)
        if wanted and way in ("request", "handler"):
            self.warmed_up = True
            for given in wanted:
                try:
                    gunicorn_warm_up.warm_up_wsgi(app, given)
                except gunicorn_warm_up.WarmUpFailed as error:
                    raise CannotImport("warm-up %s: %s" % (given, error)) from None

    def patience(self) -> Optional[float]:
        wanted = getattr(self.server.cfg, "enable_backlog_metric", False)
        return BACKLOG_INTERVAL if wanted and self.server.LISTENERS else None

    def on_patience(self) -> None:
        backlog = sum(listener.get_backlog() or 0 for listener in self.server.LISTENERS)
        self.measure("socket backlog: %d", "gunicorn.backlog", "histogram", backlog)

    def complain(self, words: str) -> None:
        self.server.log.error("%s", words)

    def obey(self, message: Mapping[str, Any], descriptors: List[int]) -> bool:
        what = message.get("do")
        if what == "hook":
            name, arguments = message["name"], message["arguments"]
            self.call(name, lambda: self.hook(name, arguments, descriptors))
        elif what == "workers":
            self.measure("%d workers", "gunicorn.workers", "gauge", message["count"])
        elif what == "listeners":
            self.take_listeners(descriptors)
        elif what == "reopen":
            self.server.log.reopen_files()
        else:
            return super().obey(message, descriptors)
        return False

    def leave(self, message: Mapping[str, Any]) -> None:
        if message["on_exit"]:
            self.call("on_exit", lambda: self.server.cfg.on_exit(self.server))

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
        had_hub = template_gevent.hub() is not None
        server.LISTENERS[:] = gunicorn_worker.adopt_listeners(given, server.cfg, server.log)
        made = None if had_hub else template_gevent.hub()
        if made is not None:  # by gevent's sockets
            made.destroy(destroy_loop=True)
        for listener in server.LISTENERS:
            listener.set_inheritable(False)

    def make(self, life: Mapping[str, Any]) -> Any:
        """An object of the worker class, made as the arbiter makes it."""
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

    def made(self, worker: Any, pid: int) -> None:
        worker.pid = pid
        self.server.WORKERS[pid] = worker
        with contextlib.suppress(Exception):  # an earlier version has none
            self.server._stats["workers_spawned"] += 1

    def be_worker(self, worker: Any, message: Mapping[str, Any], descriptors: List[int]) -> None:
        """Be that worker; does not return."""
        server, life = self.server, message["life"]
        if self.warmed_up and not life.get("warm_up_each"):
            life = dict(life, warm_up=[])
        captured = self.channel.captured()
        try:
            for listener in server.LISTENERS:
                listener.close()
            template_forking.let_go(self.own_sockets)
            settle = self.become(message, descriptors)
            overrule(server.cfg, gunicorn_worker.overruling(life))
            code: Any = gunicorn_worker.run(life, server, worker, 2 in captured, settle)
        except SystemExit as exit:
            code = exit.code
        except Exception:
            # A worker must never go on as a template.
            traceback.print_exc()
            code = IMPORT_ERROR
        if self.preloaded:
            end(code)
        write_out()  # those that refer to each other may never be taken apart
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
