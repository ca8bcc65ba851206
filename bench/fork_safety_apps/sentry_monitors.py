"""Its other threads: of sessions, of the monitor that a transaction starts, of logs and metrics."""

import os

import sentry_sdk

sentry_sdk.init(os.environ["SINK"].replace("//", "//key@") + "/1", traces_sample_rate=1.0,
                enable_logs=True)


def answer(token):
    with sentry_sdk.isolation_scope(), sentry_sdk.start_transaction(name=token):
        sentry_sdk.logger.warning("log-" + token)
        return token


from sentry_sdk.sessions import track_session

with sentry_sdk.start_transaction(name="imported"), track_session(sentry_sdk.Scope()):
    sentry_sdk.logger.warning("imported")
