import os

import structlog

file = open(os.environ["PLACE"] + "/structlog", "a" if "ADVISED" in os.environ else "w")  # noqa: SIM115
structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=file))
logger = structlog.get_logger()


def answer(token):
    logger.info(token, padding="x" * 5000)
    return token
