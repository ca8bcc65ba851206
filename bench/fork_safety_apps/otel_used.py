import os

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(
    OTLPSpanExporter(os.environ["SINK"] + "/v1/traces"), schedule_delay_millis=50))
tracer = provider.get_tracer("case")


def answer(token):
    with tracer.start_as_current_span(token):
        return token


if "ADVISED" not in os.environ:
    answer("imported")
    provider.force_flush(2000)
