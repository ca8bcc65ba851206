"""waitress on the master's socket: says ready, and ends each connection with an answer when it is asked to leave."""

import os
import time

import waitress
import waitress.channel
import waitress.task
import waitress.wasyncore
from einhornpy import worker

retiring = []


def app(environ, start_response):
    time.sleep(float(environ["PATH_INFO"].partition("/slow/")[2] or 0))
    body = f"{os.environ['EINHORNPY_GENERATION']} {os.getpid()}\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


class Task(waitress.task.WSGITask):
    def build_response_header(self):
        if retiring:
            self.set_close_on_finish()  # a WSGI app may not say `Connection: close` itself
        return super().build_response_header()


def retire():
    retiring.append(True)
    server.accepting = False
    server.pull_trigger()


waitress.channel.HTTPChannel.task_class = Task
connections = {}
server = waitress.create_server(app, map=connections, sockets=worker.listeners(), threads=8, backlog=2048,
                                channel_timeout=2, cleanup_interval=1)  # idle connections: waitress's default is 120 s
worker.on_retire(retire)
worker.ready()
while not retiring or server.active_channels:
    waitress.wasyncore.loop(timeout=1, map=connections, count=1)
server.task_dispatcher.shutdown()
