"""The entry of the bundle: becomes the template of a generation, in gunicorn's own Python. Only the
entry: what it does stands in the files beside it.

Plain standard library from Python 3.9 on, besides gunicorn itself; nothing here may import asyncio
before gunicorn does, since the gevent worker patches the world first. gunicorn has no API for this:
what leans on its insides stands in the files `gunicorn_*` and is tested against the installed
version (written against 27.0).

The master says what to do in EINHORNPY_ADAPTER, a JSON object; see gunicorn_template.py.
"""

import importlib
import json
import os
import sys


def main() -> None:
    instructions = json.loads(os.environ["EINHORNPY_ADAPTER"])
    # Python put the bundle itself first, which holds nothing else than us and this package.
    if "file" in instructions:
        importlib.import_module("einhornpy_adapter.template_program").load_file(instructions)
    importlib.import_module("einhornpy_adapter.gunicorn_template").install(instructions).take()
    sys.argv[0] = "gunicorn"
    importlib.import_module("einhornpy_adapter.gunicorn_template").run()


if __name__ == "__main__":
    main()
