"""Follows imports, whoever imports: is around the execution of modules, and changes some as soon as
they are imported. Knows nothing of gunicorn.

Plain standard library from Python 3.9 on.
"""

import sys
from typing import Any, Callable, Dict, Set

Patches = Dict[str, Callable[[Any], None]]


class Follower:
    """Stands before those that find modules, and finds none itself."""

    def __init__(self) -> None:
        self._searched: Set[str] = set()

    def begin(self) -> None:
        sys.meta_path.insert(0, self)

    def end(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def follows(self, name: str) -> bool:
        """Whether `around` is to be called for the module of this name."""
        return True

    def around(self, name: str, module: Any, execute: Callable[[Any], None]) -> None:
        """Execute a module, with whatever is to be done before and after it."""
        raise NotImplementedError

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """What the next finder finds; see importlib.abc.MetaPathFinder."""
        # Searched by another one that asks all others, as ddtrace and wrapt do.
        if name in self._searched or not self.follows(name):
            return None
        self._searched.add(name)
        try:
            for finder in list(sys.meta_path):
                find = None if finder is self else getattr(finder, "find_spec", None)
                spec = None if find is None else find(name, path, target)
                if spec is not None:
                    self._follow(spec.loader, name)
                    return spec
        finally:
            self._searched.discard(name)
        return None

    def _follow(self, loader: Any, name: str) -> None:
        own = getattr(loader, "__dict__", None)
        execute = getattr(loader, "exec_module", None)
        # What is built in has one loader for all, and starts nothing.
        if (own is None or isinstance(loader, type) or execute is None
                or getattr(execute, "follower", None) is self):
            return
        before = own.get("exec_module")

        def execute_followed(module: Any) -> None:
            if before is None:
                own.pop("exec_module", None)
            else:
                own["exec_module"] = before
            self.around(name, module, execute)

        execute_followed.follower = self  # type: ignore[attr-defined]
        own["exec_module"] = execute_followed


class Patching(Follower):
    """Calls the function of a module's name with it, once, and ends when all are called."""

    def __init__(self, patches: Patches) -> None:
        super().__init__()
        self.patches = patches

    def follows(self, name: str) -> bool:
        return name in self.patches

    def around(self, name: str, module: Any, execute: Callable[[Any], None]) -> None:
        execute(module)
        # Once, though who follows imports too may ask more often.
        patch = self.patches.pop(name, None)
        if patch is not None:
            patch(module)
        if not self.patches:
            self.end()


def when_imported(patches: Patches) -> None:
    """Call each function with the module of its name: at once where that is there already, else
    when it has been imported."""
    awaited = dict(patches)
    for name in patches:
        module = sys.modules.get(name)
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            awaited.pop(name)(module)
    if awaited:
        Patching(awaited).begin()
