"""Runs one gunicorn worker in this process, without gunicorn's arbiter; run as a file, in
gunicorn's own Python.

Plain standard library from Python 3.9 on, besides gunicorn itself; it may not import asyncio before
gunicorn does, since the gevent worker patches the world first. gunicorn has no API for this:
everything here that leans on its insides stands in this one file and is tested against the
installed version (written against 27.0).

The master says what to do in EINHORNPY_ADAPTER, a JSON object: `mode` is `settings` (read
gunicorn's settings, write them to `result_fd`, leave), `hook` (run one of the arbiter's server
hooks, leave) or `worker`.
"""

import importlib.util
import json
import logging
import os
import signal
import socket
import struct
import sys
import traceback
from typing import Any, Callable, Dict, List, Optional, Set, TextIO, Tuple

# Python put this file's own directory first, links resolved: nothing beside it may shadow a module
# of the app's.
_HERE = os.path.dirname(os.path.realpath(__file__))
if sys.path and os.path.realpath(sys.path[0]) == _HERE:
    del sys.path[0]

BOOT_ERROR = 3
# Hooks of the arbiter, which isn't there: those that make sense without it run in a short-lived
# process of their own.
ARBITER_HOOKS = ("on_starting", "on_reload", "when_ready", "child_exit", "nworkers_changed",
                 "on_exit")


def sibling(name: str) -> Any:
    """Load a module that stands beside this file, which is no place to import from."""
    spec = importlib.util.spec_from_file_location("einhornpy_" + name,
                                                  os.path.join(_HERE, name + ".py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> int:
    instructions = json.loads(os.environ.pop("EINHORNPY_ADAPTER"))
    sys.argv[0] = "gunicorn"
    mode = instructions["mode"]
    if mode == "settings":
        return tell_settings(instructions)
    if mode == "hook":
        return run_hook(instructions)
    return run_worker(instructions)


# --- gunicorn's settings ---------------------------------------------------------------------------------------------


def make_app() -> Tuple[Any, List[str]]:
    """Return gunicorn's application object with every setting read, and the names of those that
    somebody set."""
    from gunicorn.app.wsgiapp import WSGIApplication
    from gunicorn.config import Config

    given: Set[str] = set()

    class RecordingConfig(Config):  # type: ignore[misc]
        def set(self, name: str, value: Any) -> None:
            super().set(name, value)
            given.add(name)

    class App(WSGIApplication):  # type: ignore[misc]
        def load_default_config(self) -> None:
            self.cfg = RecordingConfig(self.usage, prog=self.prog)

        # Errors belong to the caller, not to a sys.exit in between.
        def do_load_config(self) -> None:
            self.load_default_config()
            self.load_config()
            if hasattr(self.cfg, "validate"):
                self.cfg.validate()

    app = App("%(prog)s [OPTIONS] [APP_MODULE]", prog="gunicorn")
    cfg = app.cfg
    if "WEB_CONCURRENCY" in os.environ and cfg.workers != 1:
        given.add("workers")
    if "PORT" in os.environ:
        given.add("bind")
    if cfg.pythonpath:
        for path in cfg.pythonpath.split(","):
            if os.path.abspath(path) not in sys.path:
                sys.path.insert(0, os.path.abspath(path))
    return app, sorted(given)


class StderrTail:
    """A standard error that also remembers its end: gunicorn prints its reasons and exits."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.tail = ""

    def write(self, text: str) -> int:
        self.tail = (self.tail + text)[-4000:]
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def tell_settings(instructions: Dict[str, Any]) -> int:
    stderr = StderrTail(sys.stderr)
    sys.stderr = stderr
    result = os.fdopen(instructions["result_fd"], "w")
    try:
        app, given = make_app()
        cfg = app.cfg
        for name in ("daemon", "check_config", "print_config"):
            if getattr(cfg, name, False):
                raise ValueError("%s makes no sense under einhornpy: run gunicorn itself for it" %
                                 name)
        if getattr(cfg, "dirty_apps", None):
            raise ValueError("dirty_apps need gunicorn's own arbiter, which einhornpy replaces")
        import gunicorn

        settings = {
            "version": gunicorn.__version__,
            "given": given,
            "bind": [format_address(address) for address in cfg.address],
            "umask": cfg.umask,
            "backlog": cfg.backlog,
            "workers": cfg.workers,
            "timeout": cfg.timeout,
            "graceful_timeout": cfg.graceful_timeout,
            "pidfile": cfg.pidfile and os.path.abspath(cfg.pidfile),
            "proc_name": cfg.settings["proc_name"].get(),
            "worker_class": cfg.worker_class_str,
            "max_requests": cfg.max_requests,
            "max_requests_jitter": cfg.max_requests_jitter,
            "reuse_port": cfg.reuse_port,
            "preload_app": cfg.preload_app,
            "hooks": [name for name in ARBITER_HOOKS if name in given],
            # A class that can't be loaded would fail in every worker: better here, before any is
            # touched.
            "counts_requests": bool(sibling("gunicorn_counters").way_of_counting(cfg.worker_class)),
        }
        hook = instructions["hook"]
        if hook in settings["hooks"]:
            getattr(cfg, hook)(Arbiter(app, instructions))
        json.dump({"settings": settings}, result)
        return 0
    except SystemExit as exit:
        lines = [line.strip() for line in stderr.tail.splitlines() if line.strip()]
        json.dump({"error": lines[-1] if lines else "gunicorn exited with %s" % exit.code}, result)
        return 1
    except BaseException as error:
        json.dump({"error": describe(error)}, result)
        return 1
    finally:
        result.close()


def format_address(address: Any) -> str:
    if isinstance(address, int):
        return "fd://%d" % address
    if isinstance(address, (str, bytes)):
        return "unix:%s" % os.path.abspath(os.fsdecode(address))
    host, port = address[:2]
    return "[%s]:%d" % (host, port) if ":" in host else "%s:%d" % (host, port)


def describe(error: BaseException) -> str:
    """One line: the exception, and the last place of the app's that it came through."""
    while error.__cause__ is not None and type(error).__module__.startswith("gunicorn"):
        error = error.__cause__
    last = traceback.format_exception_only(type(error), error)[-1].strip()
    if isinstance(error, SyntaxError) and error.filename:
        return "%s (%s, line %s)" % (last, error.filename, error.lineno)
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if os.sep + "gunicorn" +
        os.sep not in frame.filename and not frame.filename.startswith("<frozen")
        and os.path.dirname(os.path.realpath(frame.filename)) != _HERE
        and "importlib" not in frame.filename]
    if not frames:
        return last
    where = frames[-1]
    return "%s (%s, line %s, in %s)" % (last, where.filename, where.lineno, where.name)


class Arbiter:
    """What server hooks get in place of gunicorn's arbiter: its settings and names, none of its
    powers."""

    def __init__(self, app: Any, instructions: Dict[str, Any], log: Any = None) -> None:
        self.app = app
        self.cfg = app.cfg
        self.log = log or app.cfg.logger_class(app.cfg)
        self.pid = instructions.get("master", os.getppid())
        self.num_workers = instructions.get("workers", app.cfg.workers)
        self.address = app.cfg.address
        self.timeout = app.cfg.timeout
        self.proc_name = app.cfg.proc_name
        self.worker_class = app.cfg.worker_class
        self.LISTENERS: List[Any] = []
        self.WORKERS: Dict[int, Any] = {}
        self.master_name = "Master"
        self.master_pid = 0


class GoneWorker:
    """The worker that the child_exit hook gets: it is gone, so only its pid and age are left."""

    def __init__(self, pid: int, age: int) -> None:
        self.pid = pid
        self.age = age


def run_hook(instructions: Dict[str, Any]) -> int:
    app, _ = make_app()
    name, arguments = instructions["hook"], instructions["arguments"]
    arbiter = Arbiter(app, instructions)
    if name == "child_exit":
        arguments = [GoneWorker(*arguments[0])]
    getattr(app.cfg, name)(arbiter, *arguments)
    return 0


# --- one worker ------------------------------------------------------------------------------------------------------


class Master:
    """The way to the master: one connection to its control socket, made while we are still its
    user."""

    def __init__(self, path: str) -> None:
        self.socket: Optional[socket.socket] = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A connection that may block waits in line while the master's queue is full; any other one
        # is refused at once.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 10, 0))
        try:
            self.socket.connect(path)
            listens = struct.unpack(
                "=iII", self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            if listens != os.getppid():
                raise ConnectionError("pid %s listens there, which is not the master" % listens)
            self.socket.settimeout(10)
        except OSError as error:
            print("einhornpy: cannot reach the master at %s: %s" % (path, error), file=sys.stderr)
            self.socket = None

    def say(self, command: str, **arguments: Any) -> None:
        if self.socket is None:
            return
        message = json.dumps(dict(arguments, command=command, pid=os.getpid()))
        try:
            self.socket.sendall(message.encode() + b"\n")
            self.socket.close()
        except OSError:
            pass
        self.socket = None


class Notices:
    """The datagrams of sd_notify(3), from a socket that stays connected when we have become another
    user."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        try:
            self.socket.connect(path)
        except OSError as error:
            print("einhornpy: cannot reach the master at %s: %s" % (path, error), file=sys.stderr)

    def send(self, text: str) -> bool:
        """Return whether it was taken: the queue may be full, or the master gone."""
        try:
            self.socket.send(text.encode())
        except OSError:
            return False
        return True


class SharedListener(socket.socket):
    """A listening socket that is the master's: asyncio would set its backlog anew, for
    everybody."""

    def listen(self, *_: Any) -> None:
        pass


def adopt_listeners(cfg: Any, log: Any) -> List[Any]:
    """gunicorn's socket objects around the descriptors that we were given."""
    from gunicorn import sock

    classes = {
        socket.AF_INET: sock.TCPSocket, socket.AF_INET6: sock.TCP6Socket,
        socket.AF_UNIX: sock.UnixSocket}
    listeners = []
    for fd in range(3, 3 + int(os.environ.get("EINHORN_FD_COUNT", "0"))):
        with socket.socket(fileno=os.dup(fd)) as probe:
            family, address = probe.family, probe.getsockname()
        listener = classes[family](address, cfg, log, fd=fd)
        listener.sock = SharedListener(fileno=listener.sock.detach())
        listeners.append(listener)
    return listeners


class LastError(logging.Handler):
    """Remembers the last error that gunicorn logged: some workers log their reason and then just
    exit."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.message: Optional[str] = None

    def emit(self, record: logging.LogRecord) -> None:
        self.message = record.getMessage().splitlines()[0] if record.getMessage() else None


class OutlivingParent(int):
    """A parent pid that never differs from os.getppid(): the worker is to outlive its master."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


def real_stderr(fd: Optional[int]) -> Callable[[], None]:
    """The master reads our standard error until we are ready, to tell why if we never are. Return
    what then puts descriptor `fd` in its place, unless gunicorn's capture_output has put something
    else there."""
    if fd is None:
        return lambda: None
    os.set_inheritable(fd, False)
    given = os.fstat(2)

    def take() -> None:
        now = os.fstat(2)
        if (now.st_dev, now.st_ino) == (given.st_dev, given.st_ino):
            sys.stderr.flush()
            os.dup2(fd, 2)
        os.close(fd)

    return take


def run_worker(instructions: Dict[str, Any]) -> int:
    master = Master(os.environ["EINHORN_SOCK_PATH"])
    notices = Notices(os.environ["NOTIFY_SOCKET"])
    counters, draining = sibling("gunicorn_counters"), sibling("gunicorn_draining")
    warming = sibling("gunicorn_warm_up")
    state: Dict[str, Any] = {"ready": False, "lifespan": None, "asgi": None}
    last_error = LastError()
    take_real_stderr = real_stderr(instructions["stderr"])
    worker: Any = None
    arbiter: Optional[Arbiter] = None
    log: Any = None
    try:
        from gunicorn import SERVER_SOFTWARE, util

        os.environ["SERVER_SOFTWARE"] = SERVER_SOFTWARE
        app, _ = make_app()
        cfg = app.cfg
        for name, value in (("workers", instructions["workers"]),
                            ("graceful_timeout", instructions["graceful_timeout"]),
                            ("max_requests", 0), ("max_requests_jitter", 0), ("reuse_port", False)):
            # graceful_timeout may be a fraction here, which the setting's own check would refuse.
            cfg.settings[name].value = value
        os.environ.update(cfg.env)
        log = cfg.logger_class(cfg)
        log.error_log.addHandler(last_error)
        worker_class = cfg.worker_class
        if hasattr(worker_class, "check_config"):
            worker_class.check_config(cfg, log)
        arbiter = Arbiter(app, dict(instructions, master=os.getppid()), log)
        parent = OutlivingParent(os.getppid()) if instructions["outlive_master"] else os.getppid()
        listeners = adopt_listeners(cfg, log)
        arbiter.LISTENERS = listeners
        worker = worker_class(int(os.environ["EINHORN_CHILD_INDEX"]) + 1, parent, listeners, app,
                              (instructions["timeout"] or 60) / 2.0, cfg, log)
        worker.pid = os.getpid()

        def say_ready() -> None:
            if not state["ready"]:
                state["ready"] = True
                log.error_log.removeHandler(last_error)
                take_real_stderr()
                master.say("worker:ack", framework=warming.framework())

        worker.tmp.close()
        fd, offset = instructions["page"]
        slot = counters.Slot(fd, offset, instructions["max_requests"],
                             lambda reason: notices.send("X_EINHORNPY_DUE=" + reason))

        def first_sign_of_life() -> None:
            tell_where_it_hangs()
            warming.warm_up(worker, state, instructions["warm_up"], say_ready, warm_up_failed)

        def warm_up_failed(given: str, error: BaseException) -> None:
            why = str(error) if isinstance(error, warming.WarmUpFailed) else describe(error)
            fail("warm-up %s: %s" % (given, why))

        worker.tmp = counters.Heartbeat(fd, slot, first_sign_of_life)

        def fail(error: str) -> None:
            master.say("worker:failed", error=error)
            os._exit(BOOT_ERROR)

        take_usr2_for_term(worker)
        remember_lifespan(worker, state)
        leaving = draining.Draining(instructions["graceful_timeout"], sibling("accepting"))
        draining.mend(worker, leaving)
        if hasattr(worker, "tpool"):
            sibling("gunicorn_lingering").mend(worker)
        counters.count_requests(worker, slot)

        def around(asgi: Any) -> Any:
            state["asgi"] = asgi  # a warm-up is no client's request
            return counters.counted_asgi(leaving.around(asgi), slot)

        if counters.way_of_counting(worker_class) == "asgi":
            wrap_asgi(worker, around)
        util._setproctitle("worker [%s]" % cfg.proc_name)
        log.info("Booting worker with pid: %s", worker.pid)
        cfg.pre_fork(arbiter, worker)
        cfg.post_fork(arbiter, worker)
        worker.init_process()
        return 0
    except SystemExit as exit:
        if not state["ready"] and exit.code not in (0, None):
            master.say("worker:failed", error=last_error.message
                       or "exited with code %s" % exit.code)
        raise
    except BaseException as error:
        if not state["ready"]:
            master.say("worker:failed", error=describe(error))
        if log is not None:
            log.exception("Exception in worker process")
        else:
            traceback.print_exc()
        return BOOT_ERROR if worker is None or not worker.booted else 1
    finally:
        if worker is not None:
            log.info("Worker exiting (pid: %s)", worker.pid)
            try:
                worker.cfg.worker_exit(arbiter, worker)
            except Exception:
                log.warning("Exception during worker exit:\n%s", traceback.format_exc())


def take_usr2_for_term(worker: Any) -> None:
    """Einhorn's stop signal means what SIGTERM means; without this, sync and gthread workers die of
    it."""
    init_signals = worker.init_signals

    def init_signals_and_usr2() -> None:
        init_signals()
        signal.signal(signal.SIGUSR2, lambda *_: os.kill(os.getpid(), signal.SIGTERM))

    worker.init_signals = init_signals_and_usr2


def tell_where_it_hangs() -> None:
    """On SIGABRT, which the master sends to a worker that hangs, print what every thread is doing;
    then do what gunicorn does. Called when the worker serves, since each class installs its own
    handlers until then."""
    import faulthandler

    if not faulthandler.is_enabled():
        faulthandler.enable(file=2, all_threads=True)


def remember_lifespan(worker: Any, state: Dict[str, Any]) -> None:
    """uvicorn keeps the state of an app's lifespan where only its server sees it; the warm-up needs
    it too."""
    config: Any = getattr(worker, "config", None)
    if not hasattr(config, "load"):
        return

    def remember() -> None:
        made = config.lifespan_class

        def make(config: Any) -> Any:
            state["lifespan"] = made(config)
            return state["lifespan"]

        config.lifespan_class = make

    after(config, "load", remember)


def wrap_asgi(worker: Any, around: Callable[[Any], Any]) -> None:
    """Put `around(app)` in the place of the ASGI app, as soon as it is loaded."""
    config: Any = getattr(worker, "config", None)
    if hasattr(config, "load"):  # uvicorn
        after(config, "load", lambda: setattr(config, "loaded_app", around(config.loaded_app)))
    else:
        after(worker, "load_wsgi", lambda: setattr(worker, "asgi", around(worker.asgi)))


def after(owner: Any, method: str, then: Callable[[], None]) -> None:
    """Call `then` whenever a method of `owner` has returned."""
    original = getattr(owner, method)

    def both() -> None:
        original()
        then()

    setattr(owner, method, both)


if __name__ == "__main__":
    sys.exit(main())
