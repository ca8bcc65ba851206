import os

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()


def post_fork():
    provider.add_span_processor(BatchSpanProcessor(
        OTLPSpanExporter(os.environ["GRPC"], insecure=True), schedule_delay_millis=500))


if "ADVISED" not in os.environ:
    post_fork()
tracer = provider.get_tracer("case")
with tracer.start_as_current_span("imported"):
    pass
provider.force_flush(2000)


def answer(token):
    with tracer.start_as_current_span(token):
        return token
