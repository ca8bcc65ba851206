import logging
import logging.handlers
import os
import queue

from telling import tell


class Telling(logging.Handler):
    def emit(self, record):
        tell(record.getMessage())


records = queue.Queue()
logger = logging.getLogger("case")
logger.addHandler(logging.handlers.QueueHandler(records))
logger.propagate = False
listener = logging.handlers.QueueListener(records, Telling())
post_fork = listener.start
if "ADVISED" not in os.environ:
    listener.start()


def answer(token):
    logger.warning(token)
    return token
