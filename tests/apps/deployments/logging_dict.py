# Structured logs of gunicorn and of the app, into files of their own.
workers = 2
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(name)s|%(levelname)s|%(message)s"}},
    "handlers": {
        "errors": {"class": "logging.FileHandler", "filename": "errors.log",
                   "formatter": "plain"},
        "access": {"class": "logging.FileHandler", "filename": "access.log",
                   "formatter": "plain"},},
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["errors"], "propagate": False},
        "gunicorn.access": {"level": "INFO", "handlers": ["access"], "propagate": False},
        "shop": {"level": "INFO", "handlers": ["errors"], "propagate": False},},
    "root": {"level": "WARNING", "handlers": ["errors"]},}
access_log_format = "%(m)s %(U)s %(s)s"


def post_worker_init(worker):
    worker.log.info("worker has loaded the app")
