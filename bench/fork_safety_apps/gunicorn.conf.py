"""Where a case's advice is to be followed, and is a hook, this is the hook."""

import os
import sys

timeout = 60
graceful_timeout = 2


def post_fork(server, worker):
    hook = getattr(sys.modules.get(os.environ["CASE"]), "post_fork", None)
    if "ADVISED" in os.environ and hook is not None:
        hook()


def when_ready(server):
    hook = getattr(sys.modules.get(os.environ["CASE"]), "when_ready", None)
    if "ADVISED" in os.environ and hook is not None:
        hook()
