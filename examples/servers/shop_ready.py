"""The same app, which says ready by itself and leaves well, under any single-process ASGI server on asyncio."""

from einhornpy.worker.asgi import ready_when_started
from shop import app

app = ready_when_started(app, keep_alive=2)
