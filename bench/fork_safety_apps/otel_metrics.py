import os

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

reader = PeriodicExportingMetricReader(
    OTLPMetricExporter(os.environ["SINK"] + "/v1/metrics"), export_interval_millis=500)
counter = MeterProvider([reader]).get_meter("case").create_counter("answers")


def answer(token):
    counter.add(1, {"token": token})
    return token
