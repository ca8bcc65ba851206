# In a container: everything to the standard streams, heartbeats not on overlayfs.
import multiprocessing
import os

workers = int(os.environ.get("WEB_CONCURRENCY", multiprocessing.cpu_count() * 2 + 1))
worker_class = "gthread"
threads = int(os.environ.get("PYTHON_MAX_THREADS", 1))
worker_tmp_dir = "/dev/shm"
control_socket_disable = True
accesslog = "-"
errorlog = "-"
capture_output = True
preload_app = False
reuse_port = False
timeout = int(os.environ.get("WEB_TIMEOUT", 120))


def when_ready(server):
    open("ready", "w").close()


def worker_int(worker):
    worker.log.info("worker received INT or QUIT signal")


def worker_abort(worker):
    worker.log.info("worker received SIGABRT signal")
