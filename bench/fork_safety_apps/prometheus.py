from prometheus_client import Counter

COUNTER = Counter("answers", "Answers.", ["token"])
COUNTER.labels("imported").inc()


def answer(token):
    from prometheus_client import generate_latest
    COUNTER.labels(token).inc()
    return token if f'answers_total{{token="{token}"}} 1.0'.encode() in generate_latest() else "no"
