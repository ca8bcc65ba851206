"""What every case is served by: the worker asks its case for an answer, which must be the token
that the request has brought."""

import importlib
import json
import os
import time

case = importlib.import_module(os.environ["CASE"])


def wsgi(environ, start_response):
    try:
        said = case.answer(environ["QUERY_STRING"])
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    time.sleep(0.005)  # so that the other workers take part
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"pid": os.getpid(), "said": said}).encode()]
