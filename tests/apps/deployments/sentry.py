# Sentry's transport is a thread, which no fork takes along: it begins in each worker.
import os

workers = 2
graceful_timeout = 20
keepalive = 5


def post_fork(server, worker):
    import sentry_sdk
    from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware

    sentry_sdk.init(dsn=os.environ["SENTRY_DSN"], default_integrations=False,
                    auto_enabling_integrations=False, release="shop@1")
    server.log.info("sentry in worker %s", worker.pid)
    load = worker.app.load
    worker.app.load = lambda: SentryWsgiMiddleware(load())


def worker_exit(server, worker):
    import sentry_sdk

    sentry_sdk.flush(timeout=5)
