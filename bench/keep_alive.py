"""How many of 40 clients lose a request that go on reusing their connections while a worker leaves:
each server as it comes, and as docs/servers.md says to run it.

    python -m bench.keep_alive
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from tests.harness import Master
from tests.reuse import lost_while_it_leaves
from tests.worker.test_draining import Connection
from tests.worker.test_servers import EXAMPLES, SERVERS, typed

CLIENTS = 40
WAITRESS = (
    "import waitress; from einhornpy import worker\n"
    "def app(environ, start):\n    start('200 OK', [('Content-Length', '3')])\n    return "
    "[b'ok\\n']\n"
    "waitress.serve(app, sockets=worker.listeners())")
AIOHTTP = ("from aiohttp import web; from einhornpy import worker\n"
           "async def answer(request): return web.Response(text='ok')\n"
           "app = web.Application(); app.router.add_get('/', answer)\n"
           "web.run_app(app, sock=worker.listeners()[0], print=None)")
NODE = ("const server = require('http').createServer((request, response) => response.end('ok'));"
        "server.listen({ fd: 3 }); process.on('SIGTERM', () => server.close());")
ALONE = {
    "uvicorn": ["uvicorn", "--fd", "3",
                "shop:app"], "hypercorn": ["hypercorn", "-w", "0", "--bind", "fd://3", "shop:app"],
    "waitress": [sys.executable, "-c", WAITRESS], "aiohttp": [sys.executable, "-c", AIOHTTP],
    "Node": ["node", "-e", NODE],}


def lost(words: list[str], environment: dict[str, str]) -> int:
    """Run a master with these words and one worker; return how many clients lose a request."""
    place = Path(tempfile.mkdtemp(prefix="eh", dir="/tmp"))
    master = Master(place, ["--chdir", str(EXAMPLES), *words], environment)
    try:
        master.wait_ready()
        connections = [Connection(master.address) for _ in range(CLIENTS)]
        found = len(lost_while_it_leaves(master, connections))
        for connection in connections:
            connection.close()
        return found
    finally:
        master.stop()
        master.close()
        shutil.rmtree(place, ignore_errors=True)


def main() -> None:
    print(f"| of {CLIENTS} clients lost a request | alone | as on the page |\n| --- | --- | --- |")
    for section in [section for section, keeps in SERVERS.items() if keeps]:
        environment, words = typed(section)
        words[words.index("-n") + 1] = "1"
        if words[words.index("--") + 1] == "python":
            words[words.index("--") + 1] = sys.executable
        alone = [
            "-n", "1", "-b", "127.0.0.1:0", "-m", "1", "--min-ready-seconds", "0",
            "--graceful-timeout", "10", "--", *ALONE[section]]
        print(
            f"| {section} | {lost(alone, {})} | "
            f"{lost(words, {'EINHORNPY_ASGI_KEEP_ALIVE': '2'} | environment)} |",
            flush=True)


if __name__ == "__main__":
    main()
