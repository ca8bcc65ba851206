"""A broker of librdkafka's, for tests of clients; prints its address."""

import signal

from confluent_kafka import Producer

broker = Producer({"test.mock.num.brokers": 1})
(address,) = broker.list_topics(timeout=20).brokers.values()
print(f"{address.host}:{address.port}", flush=True)
signal.pause()
