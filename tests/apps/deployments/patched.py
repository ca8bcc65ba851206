# gevent, with the world patched before anything else is imported.
from gevent import monkey

monkey.patch_all()

import socket  # noqa: E402

workers = 2
worker_class = "gevent"
worker_connections = 500


def post_fork(server, worker):
    from gevent import getcurrent

    server.log.info("patched: %s", monkey.is_module_patched("socket"))
    worker.greenlet = getcurrent()


def post_worker_init(worker):
    with open("patched", "a") as patched:
        patched.write(socket.socket.__module__.split(".")[0] + "\n")
