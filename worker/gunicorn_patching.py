"""Changes modules as soon as they are imported, whoever imports them. Knows nothing of gunicorn.

Plain standard library from Python 3.9 on.
"""

import sys
from typing import Any, Callable, Dict

Patches = Dict[str, Callable[[Any], None]]


def when_imported(patches: Patches) -> None:
    """Call each function with the module of its name: at once where that is there already, else
    when it has been imported."""
    awaited = dict(patches)
    for name in patches:
        module = sys.modules.get(name)
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            awaited.pop(name)(module)
    if awaited:
        sys.meta_path.insert(0, Finder(awaited))


class Finder:
    """Stands before those that find modules, and finds none itself."""

    def __init__(self, patches: Patches) -> None:
        self.patches = patches

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """What the next finder finds; see importlib.abc.MetaPathFinder."""
        if name not in self.patches:
            return None
        for finder in list(sys.meta_path):
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    self.follow(spec.loader, name)
                return spec
        return None

    def follow(self, loader: Any, name: str) -> None:
        execute = loader.exec_module

        def execute_and_patch(module: Any) -> None:
            execute(module)
            # Once, though other finders that follow imports (ddtrace, wrapt) ask more often.
            patch = self.patches.pop(name, None)
            if patch is not None:
                patch(module)
            if not self.patches and self in sys.meta_path:
                sys.meta_path.remove(self)

        loader.exec_module = execute_and_patch
