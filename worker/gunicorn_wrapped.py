"""gunicorn started by something else: the `sitecustomize` that every Python on the way to gunicorn
imports at its start. It lets each be what it is, and takes gunicorn into the arbiter's place.

Python imports it from the bundle, which PYTHONPATH names first, see `site` in its library. Programs
on the way may put directories of their own before it, so it puts itself first again where another
program is started. As soon as gunicorn is imported nothing of it is left in the environment. Any
other program that inherits it runs as if it weren't there, with another sitecustomize too.

Plain standard library from Python 3.9 on; imports only what Python has imported before it.
"""

from __future__ import annotations

import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Mapping, Tuple

INSTRUCTIONS, SEARCHED = "EINHORNPY_ADAPTER", "PYTHONPATH"
NAME = "sitecustomize"
PARTS = "einhornpy_adapter"
FIRST_FD = 3


class Way:
    """From here to gunicorn. `entry`: the bundle, as it is searched for modules. `text`: the
    master's instructions. `descriptors`: those that gunicorn needs."""

    def __init__(self, entry: str, text: str, descriptors: range) -> None:
        self.entry = entry
        self.text = text
        self.descriptors = descriptors
        self.over = False
        self.undo: List[Tuple[Any, str, Any, Any]] = []

    def begin(self) -> None:
        """Follow whatever this process starts or becomes."""
        execv, execve = os.execv, os.execve

        def execv_with_us(path: Any, args: Any) -> None:
            if not self.over:
                os.environ.update(self.with_us(os.environ))
            execv(path, args)

        def execve_with_us(path: Any, args: Any, env: Any) -> None:
            execve(path, args, env if self.over else self.with_us(env))

        self.put(os, "execv", execv_with_us)
        self.put(os, "execve", execve_with_us)
        sys.meta_path.insert(0, self)
        if "subprocess" in sys.modules:
            self.follow_children(sys.modules["subprocess"])

    def end(self) -> None:
        """This process is gunicorn's: nothing that it starts is followed any more, and no trace of
        us is left, but where somebody has put something of his own before our functions."""
        self.over = True
        self.hide()
        for owner, name, original, ours in self.undo:
            if getattr(owner, name) is ours:
                setattr(owner, name, original)
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        if getattr(sys.modules.get(NAME), "__dict__", None) is globals():
            del sys.modules[NAME]

    def put(self, owner: Any, name: str, ours: Any) -> None:
        self.undo.append((owner, name, getattr(owner, name), ours))
        setattr(owner, name, ours)

    def with_us(self, environment: Mapping[str, str]) -> Dict[str, str]:
        """An environment in which Python finds us first."""
        found = dict(environment)
        others = self.without_us(found.get(SEARCHED, ""))
        found[SEARCHED] = self.entry + os.pathsep + others if others else self.entry
        found[INSTRUCTIONS] = self.text
        return found

    def without_us(self, searched: str) -> str:
        return os.pathsep.join(each for each in searched.split(os.pathsep) if each != self.entry)

    def hide(self) -> None:
        """Nobody sees us in the environment from here on."""
        os.environ.pop(INSTRUCTIONS, None)
        others = self.without_us(os.environ.pop(SEARCHED, ""))
        if others:
            os.environ[SEARCHED] = others

    def follow_children(self, subprocess: Any) -> None:
        """A child gets our environment and descriptors too, whatever else it is given."""
        start = subprocess.Popen.__init__

        def start_with_us(popen: Any, args: Any, *more: Any, **named: Any) -> None:
            if not self.over and len(more) < 10:  # nobody gives all by position
                env = named.get("env")
                named["env"] = self.with_us(os.environ if env is None else env)
                if more[6] if len(more) > 6 else named.get("close_fds", True):
                    named["pass_fds"] = (*named.get("pass_fds", ()), *self.descriptors)
            start(popen, args, *more, **named)

        self.put(subprocess.Popen, "__init__", start_with_us)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Where a module comes from (importlib.abc.MetaPathFinder): asked at each import."""
        then = {"gunicorn": self.arrive, "subprocess": self.follow_children}.get(name)
        if then is None:
            return None
        for finder in sys.meta_path:
            spec: Any = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = After(spec.loader, then)
                return spec
        return None

    def arrive(self, gunicorn: Any) -> None:
        """Somebody imports gunicorn, and is likely to run it."""
        self.hide()
        import json

        parts: Any = type(sys)(PARTS)
        sys.modules[PARTS] = parts
        parts.__path__ = [self.entry + "/" + PARTS]
        __import__(PARTS + ".gunicorn_template")
        parts.gunicorn_template.install(json.loads(self.text), self.end)


class After:
    """Loads a module as its own loader does, and calls `then` with it."""

    def __init__(self, loader: Any, then: Callable[[Any], None]) -> None:
        self.loader = loader
        self.then = then

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: Any) -> Any:
        return self.loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__loader__ = module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        self.then(module)


def start(entry: str) -> None:
    """Begin, where the way is open; then do what Python would have done without us."""
    sys.path[:] = [each for each in sys.path if each != entry]
    bundle = int(os.path.basename(entry))
    way = Way(entry, os.environ.get(INSTRUCTIONS, ""), range(FIRST_FD, bundle + 1))
    if way.text and are_ours(bundle - 2, bundle - 1):
        way.begin()
    else:
        way.hide()
    ours = sys.modules.pop(NAME)
    try:
        __import__(NAME)
    except ImportError as error:
        if error.name != NAME:
            raise
    finally:
        sys.modules.setdefault(NAME, ours)


def are_ours(channel: int, result: int) -> bool:
    """Whether the descriptors before the bundle's are still what the master gave: somebody on the
    way may have closed them."""
    try:
        return stat.S_ISSOCK(os.fstat(channel).st_mode) and stat.S_ISFIFO(os.fstat(result).st_mode)
    except OSError:
        return False


if __name__ == NAME:
    start(os.path.dirname(__file__))
