import ddtrace.auto
from ddtrace.trace import tracer


def answer(token):
    with tracer.trace("case", resource=token):
        return token
