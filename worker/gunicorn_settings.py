"""gunicorn's settings, read by gunicorn itself and told to the master. Loaded by the adapter;
starts no worker.

Plain standard library from Python 3.9 on, besides gunicorn itself.
"""

import json
import os
import sys
import traceback
from typing import Any, Dict, List, Set, TextIO, Tuple

from . import gunicorn_counters, gunicorn_hooks

HERE = os.path.dirname(os.path.realpath(__file__))
# What the master is told as gunicorn has it.
AS_THEY_ARE = ("umask", "user", "group", "backlog", "workers", "timeout", "graceful_timeout",
               "max_requests", "max_requests_jitter", "reuse_port", "preload_app")
# What nobody here does anything with; docs/generate_gunicorn.py says why.
NOT_OURS = ("control_socket", "control_socket_mode", "dirty_graceful_timeout", "dirty_post_fork",
            "dirty_threads", "dirty_timeout", "dirty_worker_exit", "dirty_worker_init",
            "dirty_workers", "on_dirty_starting", "pre_exec", "preload_app", "reuse_port",
            "worker_tmp_dir")


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


def run(instructions: Dict[str, Any]) -> int:
    """Write the settings, or the error, to `result_fd`; return the exit code."""
    stderr = StderrTail(sys.stderr)
    sys.stderr = stderr
    with os.fdopen(instructions["result_fd"], "w") as result:
        try:
            app, given = make_app()
            refuse_what_needs_the_arbiter(app.cfg)
            settings = told(app.cfg, given)
            hook = instructions["hook"]
            if hook in settings["hooks"]:
                getattr(app.cfg, hook)(gunicorn_hooks.Arbiter(app, instructions))
            json.dump({"settings": settings}, result)
            return 0
        except SystemExit as exit:
            lines = [line.strip() for line in stderr.tail.splitlines() if line.strip()]
            error = lines[-1] if lines else "gunicorn exited with %s" % exit.code
        except BaseException as problem:
            error = describe(problem)
        json.dump({"error": error}, result)
        return 1


def refuse_what_needs_the_arbiter(cfg: Any) -> None:
    for name in ("daemon", "check_config", "print_config"):
        if getattr(cfg, name, False):
            raise ValueError("%s makes no sense under einhornpy: run gunicorn itself for it" % name)
    if getattr(cfg, "dirty_apps", None):
        raise ValueError("dirty_apps need gunicorn's own arbiter, which einhornpy replaces")


def told(cfg: Any, given: List[str]) -> Dict[str, Any]:
    """What the master wants to know of the settings; `given`: those that somebody set."""
    import gunicorn

    return {
        **{name: getattr(cfg, name) for name in AS_THEY_ARE},
        "version": gunicorn.__version__,
        "given": given,
        "bind": [format_address(address) for address in cfg.address],
        "pidfile": cfg.pidfile and os.path.abspath(cfg.pidfile),
        "proc_name": cfg.settings["proc_name"].get(),
        "worker_class": cfg.worker_class_str,
        "hooks": [name for name in gunicorn_hooks.ARBITER_HOOKS if name in given],
        "ignored": ignored(cfg, given),
        # A class that can't be loaded would fail in every worker: better here, before any is
        # touched.
        "counts_requests": bool(gunicorn_counters.way_of_counting(cfg.worker_class)),
    }


def ignored(cfg: Any, given: List[str]) -> List[str]:
    """The names of what somebody set to something else than gunicorn's default, and what isn't
    ours."""
    return [name for name in NOT_OURS if name in given
            and cfg.settings[name].get() != type(cfg.settings[name])().get()]


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
        and os.path.dirname(os.path.realpath(frame.filename)) != HERE
        and "importlib" not in frame.filename]
    if not frames:
        return last
    where = frames[-1]
    return "%s (%s, line %s, in %s)" % (last, where.filename, where.lineno, where.name)
