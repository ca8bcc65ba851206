import os

import requests

session = requests.Session()


def answer(token):
    return session.get(os.environ["SINK"] + "/echo/" + token, timeout=5).text


answer("imported")
if "ADVISED" in os.environ:
    session.close()
