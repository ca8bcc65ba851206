"""gunicorn's settings: what is recorded while gunicorn reads them, how its files are frozen, and
what the master is told. Starts no worker.

Plain standard library from Python 3.9 on, besides gunicorn itself.
"""

import importlib.machinery
import importlib.util
import linecache
import os
import sys
import traceback
from typing import Any, Callable, Dict, List, Mapping, Optional, Set, TextIO

from . import gunicorn_classes, gunicorn_counters
from .describing import describe

# What the master is told as gunicorn has it.
AS_THEY_ARE = ("umask", "user", "group", "backlog", "workers", "timeout", "graceful_timeout",
               "max_requests", "max_requests_jitter", "reuse_port", "preload_app")
# The hooks that the master asks for, or must know of.
ARBITER_HOOKS = ("on_starting", "on_reload", "when_ready", "child_exit", "nworkers_changed",
                 "on_exit")
# Where the code is.
PLACES = ("chdir", "pythonpath")
# What nobody here does anything with; docs/generate_gunicorn.py says why.
NOT_OURS = ("control_socket", "control_socket_mode", "dirty_graceful_timeout", "dirty_post_fork",
            "dirty_threads", "dirty_timeout", "dirty_worker_exit", "dirty_worker_init",
            "dirty_workers", "on_dirty_starting", "pre_exec", "reuse_port", "worker_tmp_dir")


class Reading:
    """What gunicorn reads, once: `given`, the settings that somebody set; `files`, the text of each
    configuration file by its path, as in the recipe. `frozen`: what an earlier process of the same
    generation read; it counts, whatever has become of the files."""

    def __init__(self, frozen: Optional[Mapping[str, Any]]) -> None:
        self.given: Set[str] = set()
        self.files: Dict[str, str] = dict(frozen["files"]) if frozen else {}
        self.frozen = frozen

    def places(self, name: str, value: Any) -> Any:
        """gunicorn's own `chdir` or `pythonpath`, links resolved. What is relative in the latter
        begins in the former."""
        if self.frozen and self.frozen.get(name):
            return self.frozen[name]
        if not isinstance(value, str):
            return value
        if name == "chdir":
            return os.path.realpath(value) if os.path.exists(value) else value
        return ",".join(os.path.realpath(path) if os.path.isabs(path) else path
                        for path in value.split(","))

    def text(self, filename: str) -> bytes:
        """What a configuration file says.

        Raises:
            RuntimeError: it isn't there.
        """
        path = os.path.abspath(filename)
        if path not in self.files:
            if not os.path.exists(path) or self.frozen:
                raise RuntimeError("%r doesn't exist" % filename)
            with open(path, "rb") as file:
                self.files[path] = file.read().decode("utf-8", "surrogateescape")
        return self.files[path].encode("utf-8", "surrogateescape")

    def patch_config(self, module: Any) -> None:
        """Let the class Config of `gunicorn.config` tell what is set."""
        set_one = module.Config.set

        def set_and_note(config: Any, name: str, value: Any) -> None:
            set_one(config, name, self.places(name, value) if name in PLACES else value)
            self.given.add(name)

        module.Config.set = set_and_note

    def patch_base(self, module: Any) -> None:
        """Let the applications of `gunicorn.app.base` read their files by us."""
        default_file = module.get_default_config_file

        def run_file(_: Any, filename: str) -> Dict[str, Any]:
            return run_config(os.path.abspath(filename), self.text(filename))

        def frozen_default() -> Optional[str]:
            path = os.path.join(os.path.abspath(os.getcwd()), "gunicorn.conf.py")
            return path if path in self.files else None

        module.Application.get_config_from_filename = run_file
        module.get_default_config_file = frozen_default if self.frozen else default_file


def run_config(filename: str, text: bytes) -> Dict[str, Any]:
    """Run the text of a configuration file as gunicorn does; return its names.

    Raises:
        whatever it raises, once that is printed.
    """

    class Source(importlib.machinery.SourceFileLoader):
        def get_data(self, path: Any) -> bytes:
            return text

        # No cache: what was compiled of the file may be of another time.
        def get_code(self, fullname: Any) -> Any:
            return self.source_to_code(text, self.path)

    class Compiled(importlib.machinery.SourcelessFileLoader):
        def get_data(self, path: Any) -> bytes:
            return text

    extension = os.path.splitext(filename)[1]
    if extension not in (".py", ".pyc"):
        from gunicorn import util

        util.warn("configuration file should have a valid Python extension.\n")
    name = "__config__"
    loader: Any = Compiled if extension == ".pyc" else Source
    spec: Any = importlib.util.spec_from_file_location(name, filename,
                                                       loader=loader(name, filename))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if extension != ".pyc":  # tracebacks show it, whatever the file says by then
        lines = text.decode("utf-8", "replace").splitlines(True)
        linecache.cache[filename] = len(text), None, lines, filename
    try:
        spec.loader.exec_module(module)
    except Exception:
        print("Failed to read config file: %s" % filename, file=sys.stderr)
        traceback.print_exc()
        sys.stderr.flush()
        raise
    return vars(module)


def load(app: Any, given: Set[str], failed: Callable[[str], None], wrapped: bool) -> None:
    """Read every setting of one of gunicorn's applications, in the place of its own
    `do_load_config`. What goes wrong is told to `failed` before we exit. `wrapped`: something else
    starts gunicorn, and may ask it for its version before, or for its opinion of the settings."""
    stderr = StderrTail(sys.stderr)
    sys.stderr = stderr
    try:
        app.load_default_config()
        app.load_config()
        if hasattr(app.cfg, "validate"):
            app.cfg.validate()
        if not (wrapped and (app.cfg.check_config or app.cfg.print_config)):
            refuse_what_needs_the_arbiter(app.cfg)
    except SystemExit as exit:
        if wrapped and not exit.code:
            raise
        lines = [line.strip() for line in stderr.tail.splitlines() if line.strip()]
        failed(lines[-1] if lines else "gunicorn exited with %s" % exit.code)
        raise
    except Exception as problem:
        # Which setting it was, gunicorn prints alone.
        named = [line.strip() for line in stderr.tail.splitlines()
                 if line.startswith("Invalid value for ")]
        failed(": ".join([*named[-1:], describe(problem)]))
        sys.exit(1)
    finally:
        if sys.stderr is stderr:
            sys.stderr = stderr.stream
    # They count where nobody says anything else, so gunicorn takes them for its defaults.
    for variable, name in (("WEB_CONCURRENCY", "workers"), ("PORT", "bind")):
        if variable in os.environ:
            given.add(name)


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


def refuse_what_needs_the_arbiter(cfg: Any) -> None:
    for name in ("daemon", "check_config", "print_config"):
        if getattr(cfg, name, False):
            raise ValueError("%s makes no sense under einhornpy: run gunicorn itself for it" % name)
    if getattr(cfg, "dirty_apps", None):
        raise ValueError("dirty_apps need gunicorn's own arbiter, which einhornpy replaces")


def told(cfg: Any, given: Set[str]) -> Dict[str, Any]:
    """What the master wants to know of the settings; `given`: those that somebody set."""
    import gunicorn

    return {
        **{name: getattr(cfg, name) for name in AS_THEY_ARE},
        "version": gunicorn.__version__,
        "given": sorted(given),
        "ignored": ignored(cfg, given),
        "bind": [format_address(address) for address in cfg.address],
        **{name: getattr(cfg, name) if name in given else None for name in PLACES},
        "pidfile": cfg.pidfile and os.path.abspath(cfg.pidfile),
        "proc_name": cfg.settings["proc_name"].get(),
        "worker_class": cfg.worker_class_str,
        "hooks": [name for name in ARBITER_HOOKS if name in given],
        "counts_requests": bool(gunicorn_counters.way_of_counting(cfg.worker_class)),
        "notifies": gunicorn_classes.notifies(cfg.worker_class),
    }


def ignored(cfg: Any, given: Set[str]) -> List[str]:
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
