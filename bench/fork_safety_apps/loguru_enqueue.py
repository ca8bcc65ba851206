import os

from loguru import logger
from telling import tell


def post_fork():
    logger.remove()
    logger.add(lambda message: tell(str(message)), enqueue=True)


if "ADVISED" not in os.environ:
    post_fork()


def answer(token):
    logger.info(token + "x" * 1000)
    return token
