# gunicorn's own instrumentation.
import os

workers = 2
statsd_host = os.environ["STATSD"]
statsd_prefix = "shop"
dogstatsd_tags = "env:test"
enable_backlog_metric = True
accesslog = "-"
