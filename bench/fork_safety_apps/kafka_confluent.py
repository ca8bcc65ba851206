import os

from confluent_kafka import Producer


def connect():
    global producer
    producer = Producer({"bootstrap.servers": os.environ["KAFKA"]})


def answer(token):
    delivered = []
    producer.produce("case", token.encode(), on_delivery=lambda error, _: delivered.append(error))
    producer.flush(5)
    return token if delivered == [None] else f"not delivered: {delivered}"


post_fork = connect
if "ADVISED" not in os.environ:
    connect()
    answer("imported")
