import os

import sentry_sdk


def post_fork():
    sentry_sdk.init(os.environ["SINK"].replace("//", "//key@") + "/1")


def answer(token):
    sentry_sdk.capture_message(token)
    return token


if "ADVISED" not in os.environ:
    post_fork()
    answer("imported")
    sentry_sdk.flush(2)
