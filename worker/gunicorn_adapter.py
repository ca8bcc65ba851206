"""Runs one gunicorn worker in this process, without gunicorn's arbiter; run as a file, in
gunicorn's own Python. Only the entry: what it does stands in the files beside it.

Plain standard library from Python 3.9 on, besides gunicorn itself; nothing here may import asyncio
before gunicorn does, since the gevent worker patches the world first. gunicorn has no API for this:
what leans on its insides stands in the files `gunicorn_*` and is tested against the installed
version (written against 27.0).

The master says what to do in EINHORNPY_ADAPTER, a JSON object: `mode` is `settings` (read
gunicorn's settings, write them to `result_fd`, leave), `hook` (run one of the arbiter's server
hooks, leave) or `worker`.
"""

import importlib
import json
import os
import sys
import types

# Python put this file's own directory first, links resolved: nothing beside it may shadow a module
# of the app's.
_HERE = os.path.dirname(os.path.realpath(__file__))
if sys.path and os.path.realpath(sys.path[0]) == _HERE:
    del sys.path[0]

# The files beside this one are imported as modules of a package of their own, which no path leads
# to: einhornpy need not be installed in this Python.
_PARTS = types.ModuleType("einhornpy_adapter")
_PARTS.__path__ = [_HERE]
MODES = {"settings": "gunicorn_settings", "hook": "gunicorn_hooks", "worker": "gunicorn_worker"}


def main() -> int:
    instructions = json.loads(os.environ.pop("EINHORNPY_ADAPTER"))
    sys.argv[0] = "gunicorn"
    sys.modules[_PARTS.__name__] = _PARTS
    part = importlib.import_module("%s.%s" % (_PARTS.__name__, MODES[instructions["mode"]]))
    code: int = part.run(instructions)
    return code


if __name__ == "__main__":
    sys.exit(main())
