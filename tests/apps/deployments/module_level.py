# What is done where the file is read: once for all workers.
import os
import secrets
import shutil

workers = 2
cache = os.path.abspath("cache")
shutil.rmtree(cache, ignore_errors=True)
os.mkdir(cache)
os.environ["SHOP_SECRET"] = secrets.token_hex(16)
with open("drawn", "a") as drawn:
    drawn.write(os.environ["SHOP_SECRET"] + "\n")


def post_worker_init(worker):
    with open(os.path.join(cache, str(worker.pid)), "w") as file:
        file.write(os.environ["SHOP_SECRET"])
