import os
from concurrent.futures import ThreadPoolExecutor


def make():
    global pool
    pool = ThreadPoolExecutor(4)


def answer(token):
    return pool.submit(str, token).result(5)


post_fork = make
make()
if "ADVISED" not in os.environ:
    answer("imported")
