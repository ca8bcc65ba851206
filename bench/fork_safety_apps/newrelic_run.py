import threading
import time

import newrelic.agent


@newrelic.agent.background_task()
def work():
    pass


def answer(token):
    work()  # the first one begins to register, in a thread of its own
    for _ in range(100):
        if any(each.name == "NR-Harvest-Thread" for each in threading.enumerate()):
            return token
        time.sleep(0.02)
    return "no harvest thread"
