from opentelemetry import trace

tracer = trace.get_tracer("case")


def answer(token):
    with tracer.start_as_current_span(token):
        return token
