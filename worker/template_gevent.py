"""gevent in a template: its hub belongs to the workers, and is made there, unless a configuration
or an app has started greenlets before. gevent is looked at, and not imported here.

Plain standard library from Python 3.9 on.
"""

import os
import select
import sys
from typing import Any, Callable, Dict, Tuple

_PLAIN: Dict[Tuple[Any, str], Callable[..., Any]] = {
    (os, "fork"): os.fork, (os, "waitpid"): os.waitpid, (select, "select"): select.select}


def hub() -> Any:
    """gevent's hub; None where there is none."""
    module: Any = sys.modules.get("gevent._hub_local")
    return None if module is None else module.get_hub_if_exists()


def own(module: Any, name: str) -> Callable[..., Any]:
    """A function that gevent may have patched: its own version where greenlets are to run while we
    wait, and else the plain one, since its own would make the hub that each worker is to make."""
    function: Callable[..., Any] = getattr(module, name)
    return _PLAIN[module, name] if hub() is None else function
