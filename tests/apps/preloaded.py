"""An app that a template may import: it holds 48 MiB, which all its forks share, and a thread, which none of them has. Where IMPORT_WAITS
names a FIFO, its import waits until somebody has written there."""

import os
import queue
import threading

held = os.urandom(48 << 20)
threading.Thread(target=queue.Queue().get, name="poller", daemon=True).start()
if "IMPORT_WAITS" in os.environ:
    with open(os.environ["IMPORT_WAITS"]) as fifo:
        fifo.read()


def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
