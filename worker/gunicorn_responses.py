"""What became of a request that gunicorn or gevent has handled, as far as their own objects know.

Nothing of theirs is imported here: what isn't there has no requests either. Plain standard library
from Python 3.9 on.
"""

import errno
import sys
from typing import Any, Iterator, NamedTuple, Tuple

CLIENT_LEFT = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ESHUTDOWN)


class Outcome(NamedTuple):
    """`status`: what was sent, 0 where nothing was."""

    status: int
    bytes_out: int
    exception: bool = False
    aborted: bool = False


def remember() -> None:
    """Let each request of gunicorn's hold its response from when there is one: as an attribute,
    since whoever asks for an object's `__dict__` makes all of its attributes slower for good."""
    wsgi: Any = sys.modules.get("gunicorn.http.wsgi")
    if wsgi is None:
        return
    create = wsgi.create

    def create_and_remember(req: Any, *arguments: Any, **named: Any) -> Any:
        made = create(req, *arguments, **named)
        req._einhornpy_response = made[0]
        return made

    wsgi.create = create_and_remember


def forget(req: Any) -> Any:
    """Take the response from a request: the two would keep each other. None where there is none."""
    response = getattr(req, "_einhornpy_response", None)
    if response is not None:
        req._einhornpy_response = None
    return response


def of_response(response: Any) -> Outcome:
    """What became of a request that was handled without an exception."""
    if response is None:
        return Outcome(0, 0)
    if response.status is None or response.upgrade:
        return Outcome(101, 0)  # somebody else has the connection: a websocket
    return Outcome(*sent(response))


def of_exception(response: Any, error: BaseException) -> Outcome:
    """What becomes of a request whose handling has raised, as the worker classes go on: they send a
    500 if nothing was sent, or nothing at all."""
    status, bytes_out = sent(response) if getattr(response, "headers_sent", False) else (0, 0)
    steps = [*frames(error)]
    if isinstance(error, StopIteration) and steps[-1][0].startswith("gunicorn."):
        # The connection is to be closed: since it was agreed so, or since an app has failed in the
        # middle of its answer.
        if error.__context__ is None:
            return of_response(response)
        return Outcome(status, bytes_out, True)
    kind = type(error).__name__
    if any(module.startswith(("gunicorn.http", "gunicorn.util")) and function != "reraise"
           for module, function in steps):  # while it read from the client, or wrote to it
        if kind in ("HTTP2StreamError", "HTTP2ConnectionError", "NoMoreData") or (
                isinstance(error, OSError) and error.errno in CLIENT_LEFT):
            return Outcome(status, bytes_out, False, True)
        if kind in ("InvalidChunkSize", "ChunkMissingTerminator", "InvalidChunkExtension"):
            return Outcome(status or 400, bytes_out)
    if isinstance(error, OSError):  # no worker class answers after one
        return Outcome(status, bytes_out, True)
    return Outcome(status or 500, bytes_out, True)


def of_handler(handler: Any, bytes_out: int, error: Any) -> Outcome:
    """What becomes of a request that gevent's WSGI server has handled; `error`: what was raised."""
    code = handler.code if handler.status else 0
    status = abs(code) if handler.headers_sent or code == 101 else 0
    if error is None:
        # Nothing was sent: somebody else has the connection.
        return Outcome(status or 101, bytes_out)
    if code < 0 or (isinstance(error, OSError) and error.errno in CLIENT_LEFT
                    and any(function == "_do_read" for _, function in frames(error))):
        return Outcome(status, bytes_out, False, True)
    if type(error).__name__ == "_InvalidClientInput":
        return Outcome(status or 400, bytes_out)
    if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.ECONNRESET):
        return Outcome(status, bytes_out, True)  # the app's own, and the server says nothing
    return Outcome(status or 500, bytes_out, True)


def sent(response: Any) -> Tuple[int, int]:
    """Status and bytes of the body that were sent."""
    status, bytes_out = getattr(response, "status_code", None) or 0, response.sent
    if not bytes_out and response.response_length and not (
            response.req.method == "HEAD" or status in (204, 304)):
        bytes_out = response.response_length  # by sendfile
    return status, bytes_out


def frames(error: BaseException) -> Iterator[Tuple[str, str]]:
    """Modules and functions through which an exception has come, down to where it was raised."""
    step: Any = error.__traceback__
    while step is not None:
        yield str(step.tb_frame.f_globals.get("__name__")), step.tb_frame.f_code.co_name
        step = step.tb_next
