import os
import threading

import newrelic.agent

newrelic.agent.initialize()
if "ADVISED" not in os.environ:
    newrelic.agent.register_application(timeout=5)


def post_fork():
    newrelic.agent.register_application()


def answer(token):
    there = any(each.name == "NR-Harvest-Thread" for each in threading.enumerate())
    return token if there else "no harvest thread"
