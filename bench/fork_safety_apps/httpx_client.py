import os

import httpx

client = httpx.Client(timeout=5)


def answer(token):
    return client.get(os.environ["SINK"] + "/echo/" + token).text


answer("imported")
if "ADVISED" in os.environ:
    client.close()
    client = httpx.Client(timeout=5)
