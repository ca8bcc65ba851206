import os

from kafka import KafkaProducer


def connect():
    global producer
    producer = KafkaProducer(  # the rest is for librdkafka's broker
        bootstrap_servers=os.environ["KAFKA"], max_block_ms=5000, api_version=(2, 1),
        enable_idempotence=False)


def answer(token):
    producer.send("case", token.encode()).get(5)
    return token


post_fork = connect
if "ADVISED" not in os.environ:
    connect()
    answer("imported")
