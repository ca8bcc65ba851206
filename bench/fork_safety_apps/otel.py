import os

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(
    OTLPSpanExporter(os.environ["SINK"] + "/v1/traces"), schedule_delay_millis=500))
tracer = provider.get_tracer("case")
with tracer.start_as_current_span("imported"):
    pass


def answer(token):
    with tracer.start_as_current_span(token):
        return token
