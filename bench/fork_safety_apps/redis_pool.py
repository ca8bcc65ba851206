import os

import redis

client = redis.Redis(port=int(os.environ["REDIS_PORT"]), decode_responses=True)


def answer(token):
    return client.echo(token)


answer("imported")
if "ADVISED" in os.environ:
    client.close()
