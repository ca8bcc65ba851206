"""One gunicorn worker of the configured class in this process, which the template has forked:
mended, served, left.

Plain standard library from Python 3.9 on, besides gunicorn itself; asyncio is imported by the
worker class.
"""

import logging
import os
import signal
import socket
import sys
import time
import traceback
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from . import (
    asgi_counting,
    busy_slot,
    gunicorn_classes,
    gunicorn_counters,
    gunicorn_draining,
    gunicorn_http2,
    gunicorn_lingering,
    gunicorn_older,
    gunicorn_third_party,
    gunicorn_warm_up,
    traffic_slot,
)
from .describing import describe
from .gunicorn_master import Master, Notices
from .gunicorn_warm_up import AsgiApp
from .template_process import IMPORT_ERROR

# So long a worker may serve before it has all that it needs: one that beats in a thread of its own
# does so before its loop runs.
COMPLETE_SECONDS = 3.0


def overruling(instructions: Mapping[str, Any]) -> Dict[str, Any]:
    """The settings of gunicorn's that are something else in a worker: what the master does itself,
    or knows better."""
    return {
        "workers": instructions["workers"], "graceful_timeout": instructions["graceful_timeout"],
        "max_requests": 0, "max_requests_jitter": 0, "reuse_port": False}


def run(instructions: Mapping[str, Any], server: Any, worker: Any, captured: bool,
        settle: Callable[[], None]) -> int:
    """Be a worker until it is over; return the exit code.

    Args:
        instructions: the master's, the `life` of its message.
        server: the stand-in for gunicorn's arbiter.
        worker: an object of the worker class.
        captured: whether gunicorn has put something else in the place of standard error.
        settle: what is to be done first; as all that follows it may fail.
    """
    life = Life(instructions, server, worker, captured)
    try:
        settle()
        life.listen()
        life.mend()
        life.serve()
        if worker.alive:  # it was not asked to go
            life.failed(gunicorn_classes.never_ran(worker))
        return 0
    except SystemExit as exit:
        if exit.code not in (0, None):
            life.failed(life.last_error.message or "exited with code %s" % exit.code)
        raise
    except BaseException as error:
        life.failed(describe(error))
        life.log.exception("Exception in worker process")
        return 1 if worker.booted else IMPORT_ERROR
    finally:
        life.leave()


class Life:
    """A worker's, from the master's instructions to its exit."""

    def __init__(self, instructions: Mapping[str, Any], server: Any, worker: Any,
                 captured: bool) -> None:
        self.instructions = instructions
        self.arbiter = server
        self.log = server.log
        self.worker = worker
        worker.pid = os.getpid()
        self.master = Master(instructions["control"])
        self.notices = Notices(instructions["notify"])
        fd, offset = instructions["page"]
        slot = busy_slot.Slot(
            fd, offset, instructions["max_requests"],
            lambda reason: self.notices.send("X_EINHORNPY_DUE=" + reason))
        self.traffic = traffic_slot.TrafficSlot(instructions.get("traffic"))  # an older master's
        if "traffic" in instructions:
            os.close(instructions["traffic"][0])
        # What the app forks is no worker: it counts nothing in our name.
        os.register_at_fork(after_in_child=slot.let_go)
        os.register_at_fork(after_in_child=self.traffic.let_go)
        self.heartbeat = gunicorn_counters.Heartbeat(fd, slot, self.first_sign_of_life)
        self.last_error = LastError()
        self.log.error_log.addHandler(self.last_error)
        self.take_real_stderr = real_stderr(instructions["stderr"], captured)
        self.ready = False
        self.serves_since = 0.0
        self.asgi_app = AsgiApp()

    def listen(self) -> None:
        """Take the listeners that we were given, in the place of the template's."""
        count = int(os.environ.get("EINHORN_FD_COUNT", "0"))
        self.arbiter.LISTENERS = self.worker.sockets = adopt_listeners(
            range(3, 3 + count), self.worker.cfg, self.log)

    def mend(self) -> None:
        """Give the worker what it lacks: a heartbeat and counters in the master's page, the
        warm-up, ways to leave well."""
        worker = self.worker
        worker.tmp.close()
        worker.tmp = self.heartbeat
        slot = self.heartbeat.slot
        take_usr2_for_term(worker)
        worker.run = self.running(worker.run)
        remember_lifespan(worker, self.asgi_app)
        leaving = gunicorn_draining.Draining(self.instructions["graceful_timeout"])
        gunicorn_draining.mend(worker, leaving)
        gunicorn_third_party.mend(worker, leaving)
        if "h2" in getattr(worker.cfg, "http_protocols", ()):
            gunicorn_http2.mend(worker, leaving)
        if hasattr(worker, "murder_pending"):  # gthread, as of gunicorn 25
            gunicorn_lingering.mend(worker)
        elif hasattr(worker, "_keep"):  # before 24
            gunicorn_older.mend(worker)
        gunicorn_counters.count_requests(worker, slot, self.traffic)

        def around(asgi: Any) -> Any:
            self.asgi_app.asgi = asgi  # a warm-up is no client's request
            return asgi_counting.counted(leaving.around(asgi), slot, self.traffic)

        if gunicorn_counters.way_of_counting(type(worker)) == "asgi":
            wrap_asgi(worker, around)

    def running(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """A worker's `run`, which gunicorn's `init_process` calls when the app is imported."""

        def run_and_serve() -> Any:
            self.serves_since = time.monotonic()
            self.heartbeat.serving = True
            return run()

        return run_and_serve

    def serve(self) -> None:
        from gunicorn import util

        util._setproctitle("worker [%s]" % self.worker.cfg.proc_name)
        self.log.info("Booting worker with pid: %s", self.worker.pid)
        self.worker.cfg.post_fork(self.arbiter, self.worker)
        self.worker.init_process()

    def first_sign_of_life(self) -> bool:
        """Say ready, if we are; return whether that is settled."""
        missing = gunicorn_classes.missing(self.worker)
        if missing:
            if time.monotonic() < self.serves_since + COMPLETE_SECONDS:
                return False
            self.end(missing)
        tell_where_it_hangs()
        gunicorn_warm_up.warm_up(self.worker, self.asgi_app, self.instructions["warm_up"],
                                 self.say_ready, self.warm_up_failed)
        return True

    def say_ready(self) -> None:
        if not self.ready:
            self.ready = True
            self.log.error_log.removeHandler(self.last_error)
            self.take_real_stderr()
            self.master.say("worker:ack", framework=gunicorn_warm_up.framework())

    def warm_up_failed(self, given: str, error: BaseException) -> None:
        known = isinstance(error, gunicorn_warm_up.WarmUpFailed)
        self.end("warm-up %s: %s" % (given, error if known else describe(error)))

    def end(self, error: str) -> None:
        """Say why we are not fit to serve, and be gone."""
        self.failed(error)
        os._exit(IMPORT_ERROR)

    def failed(self, error: str) -> None:
        """Say why we never were ready, unless we were."""
        if not self.ready:
            self.master.say("worker:failed", error=error)

    def leave(self) -> None:
        self.log.info("Worker exiting (pid: %s)", self.worker.pid)
        try:
            self.worker.cfg.worker_exit(self.arbiter, self.worker)
        except Exception:
            self.log.warning("Exception during worker exit:\n%s", traceback.format_exc())


class SharedListener(socket.socket):
    """A listening socket that is the master's: asyncio would set its backlog anew, for
    everybody."""

    def listen(self, *_: Any) -> None:
        pass


def adopt_listeners(descriptors: Sequence[int], cfg: Any, log: Any) -> List[Any]:
    """gunicorn's socket objects around the descriptors of listeners, which become theirs."""
    from gunicorn import sock

    classes = {
        socket.AF_INET: sock.TCPSocket, socket.AF_INET6: sock.TCP6Socket,
        socket.AF_UNIX: sock.UnixSocket}
    listeners = []
    for fd in descriptors:
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


def real_stderr(fd: Optional[int], captured: bool) -> Callable[[], None]:
    """The master reads our standard error until we are ready, to tell why if we never are. Return
    what then puts descriptor `fd` in its place, unless gunicorn's capture_output or the app has put
    something else there."""
    if fd is None:
        return lambda: None
    os.set_inheritable(fd, False)
    given = os.fstat(2)

    def take() -> None:
        now = os.fstat(2)
        if not captured and (now.st_dev, now.st_ino) == (given.st_dev, given.st_ino):
            sys.stderr.flush()
            os.dup2(fd, 2)
        os.close(fd)

    return take


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


def remember_lifespan(worker: Any, app: AsgiApp) -> None:
    """uvicorn keeps the state of an app's lifespan where only its server sees it; the warm-up needs
    it too."""
    config: Any = getattr(worker, "config", None)
    if not hasattr(config, "load"):
        return

    def remember() -> None:
        made = config.lifespan_class

        def make(config: Any) -> Any:
            app.lifespan = made(config)
            return app.lifespan

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
