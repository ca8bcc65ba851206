# The app is imported once, before its workers are forked, and what must be a worker's own begins
# there: a pool of threads, a seed, a pid that logs tell.
import os
import random

preload_app = True
workers = 2
worker_class = "gthread"
threads = 2


def imported_by():
    import deployed

    return deployed.IMPORTED_BY


def note(words):
    with open("preloaded", "a") as file:
        file.write(words + "\n")


def when_ready(server):
    note(f"when_ready: {'before' if imported_by() == os.getpid() else 'after'} the fork")


def post_fork(server, worker):
    random.seed()
    worker.pool = __import__("concurrent.futures").futures.ThreadPoolExecutor(1)
    mine = worker.pool.submit(os.getpid).result() == worker.pid
    note(f"post_fork: {mine}, {imported_by() == os.getpid()}")


def post_worker_init(worker):
    note(f"post_worker_init: {worker.wsgi is not None}, {imported_by() == os.getpid()}")
