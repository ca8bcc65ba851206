"""aiohttp on the master's socket: says ready, and ends each connection with an answer when it is asked to leave."""

import asyncio
import os

from aiohttp import web
from einhornpy import worker

KEEP_ALIVE = 2  # seconds that an idle connection is kept; aiohttp's default is 75
retiring = asyncio.Event()


async def answer(request):
    await asyncio.sleep(float(request.path.partition("/slow/")[2] or 0))
    return web.Response(text=f"{os.environ['EINHORNPY_GENERATION']} {os.getpid()}\n")


async def announce_the_end(request, response):
    if retiring.is_set():
        response.force_close()
        response.headers["Connection"] = "close"


async def main():
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    app.on_response_prepare.append(announce_the_end)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=KEEP_ALIVE, shutdown_timeout=25)
    await runner.setup()
    listener = worker.listeners()[0]
    site = web.SockSite(runner, listener, backlog=2048)
    await site.start()
    loop = asyncio.get_running_loop()
    worker.on_retire(lambda: loop.call_soon_threadsafe(retiring.set))
    worker.ready()
    await retiring.wait()
    loop.remove_reader(listener)  # accepts nobody any more; asyncio would drop those of this moment if it closed at once
    await asyncio.sleep(0)
    await site.stop()
    await asyncio.sleep(KEEP_ALIVE)  # runner.cleanup() closes idle connections at once; now none is left
    await runner.cleanup()


asyncio.run(main())
