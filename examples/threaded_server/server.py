"""A threaded HTTP server for einhornpy in 30 lines; alone it serves on 127.0.0.1:8001."""

import http.server
import os
import threading

from einhornpy import worker


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/upgrade":
            self.answer(f"generation {worker.request_upgrade()}\n")
        else:
            threading.Event().wait(float(self.path.partition("/slow/")[2] or 0))
            self.answer(f"{worker.info()} {os.getpid()}\n")

    def answer(self, text):
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # server_close waits for requests that are under way

    def service_actions(self):  # between requests, and every half second
        worker.heartbeat()


listeners = worker.listeners()
server = Server(("127.0.0.1", 0 if listeners else 8001), Handler, bind_and_activate=not listeners)
if listeners:
    server.socket = listeners[0]
    server.socket.setblocking(False)  # another worker may be faster
worker.on_retire(lambda: threading.Thread(target=server.shutdown).start())
worker.heartbeat()  # the first one: from now on they are waited for
worker.ready()
server.serve_forever()
server.server_close()
