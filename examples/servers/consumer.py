"""A worker without sockets: it takes jobs from a directory one by one, and finishes the one in hand before it leaves.

`consumer.py QUEUE`: a job is a file in QUEUE/new that holds how many seconds it takes; what is done stands in QUEUE/done. Both
directories that it needs are made if they are not there.
"""

import os
import select
import sys
import time

from einhornpy import worker

QUEUE = sys.argv[1]
wake, woken = os.pipe()
retiring = []


def take():
    """The name of a job that is ours alone: a file can be moved away only once."""
    for name in sorted(os.listdir(f"{QUEUE}/new")):
        try:
            os.rename(f"{QUEUE}/new/{name}", f"{QUEUE}/taken/{name}")
        except FileNotFoundError:
            continue  # another worker was faster
        return name
    return None


def do(name):
    with open(f"{QUEUE}/taken/{name}") as job:
        time.sleep(float(job.read()))
    with open(f"{QUEUE}/done", "a") as done:
        done.write(f"{name} {os.environ['EINHORNPY_GENERATION']} {os.getpid()}\n")
    os.unlink(f"{QUEUE}/taken/{name}")


def retire():
    retiring.append(True)
    os.write(woken, b"x")


for directory in ("new", "taken"):
    os.makedirs(f"{QUEUE}/{directory}", exist_ok=True)
worker.on_retire(retire)
worker.ready()
while not retiring:
    name = take()
    if name is None:
        select.select([wake], [], [], 0.1)  # nothing to do: until we are asked to leave, or look again
    else:
        do(name)
