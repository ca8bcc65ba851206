import logging
import os

from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

provider = LoggerProvider()
provider.add_log_record_processor(BatchLogRecordProcessor(
    OTLPLogExporter(os.environ["SINK"] + "/v1/logs"), schedule_delay_millis=500))
logger = logging.getLogger("case")
logger.addHandler(LoggingHandler(logger_provider=provider))
logger.propagate = False


def answer(token):
    logger.warning(token)
    return token
