"""An exception, or a text of several lines, as one line for the master's log and status.

Plain standard library from Python 3.9 on.
"""

import os
import traceback

# Of a traceback.
LINES_TOLD = 20
HERE = os.path.dirname(__file__)


def app_traceback(error: BaseException) -> str:
    """Its traceback, from the first place that isn't ours on."""
    where = error.__traceback__
    while where is not None and os.path.dirname(where.tb_frame.f_code.co_filename) == HERE:
        where = where.tb_next
    return "".join(traceback.format_exception(type(error), error, where or error.__traceback__))


def one_line(text: str) -> str:
    """A text as one line: what gunicorn says of a class that can't be loaded is a whole traceback,
    so that of a long one only the beginning and the end stay."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" []")]
    return " ".join(lines if len(lines) < 4 else [lines[0], lines[-1]])


def describe(error: BaseException) -> str:
    """One line: the exception, and the last place of the app's that it came through."""
    while error.__cause__ is not None and type(error).__module__.startswith("gunicorn"):
        error = error.__cause__
    last = one_line(traceback.format_exception_only(type(error), error)[-1])
    if isinstance(error, SyntaxError) and error.filename:
        return "%s (%s, line %s)" % (last, error.filename, error.lineno)
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if os.sep + "gunicorn" +
        os.sep not in frame.filename and not frame.filename.startswith("<frozen")
        and os.path.dirname(frame.filename) != HERE and "importlib" not in frame.filename]
    if not frames:
        return last
    where = frames[-1]
    return "%s (%s, line %s, in %s)" % (last, where.filename, where.lineno, where.name)
