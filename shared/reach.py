"""Why a file can't be reached: who may not enter which directory on the way to it. It looks, and
changes nothing."""

from __future__ import annotations

import os
import pwd


def barred(path: str) -> str:
    """`user NAME may not enter DIRECTORY`, where a directory is in the way of this process: `path`
    itself, one above it, or one to which symbolic links lead (path_resolution(7)). Else an empty
    text."""
    try:
        way = os.path.realpath(path)
    except (OSError, ValueError):
        return ""
    steps = way.split("/")
    for count in range(1, len(steps) + 1):
        each = "/".join(steps[:count]) or "/"
        if os.path.isdir(each) and not os.access(each, os.X_OK):
            return f"{we()} may not enter {each}"
    return ""


def we() -> str:
    """The user of this process, for a message."""
    try:
        return f"user {pwd.getpwuid(os.geteuid()).pw_name}"
    except KeyError:
        return f"user {os.geteuid()}"


def why(error: OSError) -> str:
    """What an error says, without the path that it names, and what is in the way there."""
    said = error.strerror or str(error) or type(error).__name__
    way = error.filename if isinstance(error, PermissionError) else None
    reason = barred(os.fsdecode(way)) if isinstance(way, str | bytes) else ""
    return f"{said} ({reason})" if reason else said
