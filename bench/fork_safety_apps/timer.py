import os
import threading

fired = threading.Event()


def start():
    timer = threading.Timer(1, fired.set)
    timer.daemon = True
    timer.start()


post_fork = start
if "ADVISED" not in os.environ:
    start()


def answer(token):
    return token if fired.wait(3) else "it never fired"
