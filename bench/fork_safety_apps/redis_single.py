import os

import redis


def connect():
    global client
    client = redis.Redis(port=int(os.environ["REDIS_PORT"]), decode_responses=True,
                         single_connection_client=True)


def answer(token):
    return client.echo(token)


post_fork = connect
if "ADVISED" not in os.environ:
    connect()
    answer("imported")
