# Hooks that know each other by what they leave on the server.
import json
import threading
import time

workers = 2


def on_starting(server):
    server.lock = threading.Lock()
    server.tally = {"forked": 0, "exited": 0, "sizes": []}
    server.started = time.time()


def nworkers_changed(server, new_value, old_value):
    if hasattr(server, "tally"):
        server.tally["sizes"].append(new_value)


def pre_fork(server, worker):
    with server.lock:
        server.tally["forked"] += 1
        worker.number = server.tally["forked"]


def post_fork(server, worker):
    with open("numbers", "a") as numbers:
        numbers.write(f"{worker.number} {server.tally['forked']}\n")


def child_exit(server, worker):
    server.tally["exited"] += 1
    with open("exited", "a") as exited:
        exited.write(f"{worker.number}\n")


def on_exit(server):
    with open("tally", "a") as tally:
        tally.write(json.dumps(server.tally) + "\n")
