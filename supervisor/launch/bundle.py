"""The code that a template runs, held by the master in a file that exists in memory alone: whatever
becomes of einhornpy's own files meanwhile, every generation is made by the code of its master.

The file is a zip archive, which Python runs by its `__main__.py` and finds in PYTHONPATH.
"""

from __future__ import annotations

from ..system import archive
from ..system.own_code import OwnCode

# What the files gunicorn_* and template_* import of what is beside them.
_BESIDE = ("accepting.py", "asgi_counting.py", "busy_slot.py", "describing.py", "fork_safety.py",
           "traffic_slot.py")
# How the archive calls those that Python looks for by their names.
_ENTRIES = {"__main__.py": "gunicorn_adapter.py", "sitecustomize.py": "gunicorn_wrapped.py"}
_PACKAGE = "einhornpy_adapter"


def make(own_code: OwnCode) -> int:
    """Return a descriptor of the bundle.

    Raises:
        OSError: there can be none.
    """
    held = {name: content for name, content in own_code.room("worker").items()
            if name.startswith(("gunicorn_", "template_")) or name in _BESIDE}
    files = {f"{_PACKAGE}/{name}": content for name, content in held.items()}
    files[f"{_PACKAGE}/__init__.py"] = b""
    files |= {name: held[source] for name, source in _ENTRIES.items()}
    return archive.write("einhornpy", files.items())
