# OpenTelemetry's fork-process model: the batch's thread is started after the fork.
workers = 2
worker_class = "gthread"
threads = 4


def post_fork(server, worker):
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

    server.log.info("Worker spawned (pid: %s)", worker.pid)
    spans = open("spans", "a", buffering=1)  # noqa: SIM115
    provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
    exporter = ConsoleSpanExporter(out=spans, formatter=lambda span: span.name + "\n")
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=50))
    trace.set_tracer_provider(provider)


def pre_request(worker, req):
    from opentelemetry import trace

    req.span = trace.get_tracer("shop").start_span(f"{req.method} {req.path}")


def post_request(worker, req, environ, resp):
    req.span.end()


def worker_exit(server, worker):
    from opentelemetry import trace

    trace.get_tracer_provider().force_flush()
