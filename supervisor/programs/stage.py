"""The first moments of a next master: its program is run from here, so that one that fails at once
is replaced by the one before.

The text of this module is what a master execs, as `python -P -S -c TEXT --take-over FD`: so it is
the running program's own, whatever lies on the disk by now, and may import the standard library
alone. FD is the state; while it is open there is a way back, and the program that takes over closes
it when it has settled. One that hasn't after `PATIENCE` seconds hangs, which is a failure too;
Python is started with -S, so that what it loads by itself (sitecustomize, .pth files) counts as a
part of the program.

On the way back, `--take-over FD REASON`, the program is loaded from the copy of itself that the
state names (see system/own_code.py), and finds the rest by the path that it had: on the disk lies
the one that failed.
"""

import _thread
import contextlib
import json
import os
import runpy
import select
import signal
import site
import sys
import time
import traceback
from typing import Any

PROGRAM = "einhornpy.supervisor"
TAKE_OVER = "--take-over"
PATIENCE, AGAIN = 10.0, 1.0
# Nobody sends it otherwise, and the program has no use for it: ALRM is an order to it.
TOO_LATE = signal.SIGVTALRM


class Hung(BaseException):
    """The program has not settled in time. Nothing that only handles errors takes it for one of
    them."""


def is_state(fd: int) -> bool:
    """Whether there is still a way back."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:einhornpy-state")
    except OSError:
        return False


def read(fd: int) -> bytes:
    data, size = b"", os.fstat(fd).st_size
    while len(data) < size:
        data += os.pread(fd, size - len(data), len(data))
    return data


def watch(fd: int) -> None:
    """Raise `Hung` here, in the main thread, when it is time. All signals are blocked: the watching
    thread never gets one."""
    def on_signal(number: int, frame: Any) -> None:
        if is_state(fd):
            raise Hung(f"it had not settled after {PATIENCE:g} s")

    def wait() -> None:
        until = time.monotonic() + PATIENCE
        while is_state(fd):
            if time.monotonic() >= until:
                signal.pthread_kill(here, TOO_LATE)
                # whoever was interrupted may have swallowed it: a finalizer, for instance
                until = time.monotonic() + AGAIN
            select.select([], [], [], 0.1)

    here = _thread.get_ident()
    signal.signal(TOO_LATE, on_signal)
    _thread.start_new_thread(wait, ())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (TOO_LATE,))


def run(fd: int, returning: bool) -> None:
    """Be that program; it ends when it does."""
    if returning:
        back = json.loads(read(fd))["way_back"]
        # the one that failed was of an older version, and has forgotten it
        if back.get("path") is None:
            site.main()
        else:
            sys.path[:] = back["path"]
        sys.path.insert(0, f"/proc/self/fd/{back['copy']}")
    else:
        watch(fd)
        site.main()
    runpy.run_module(PROGRAM, run_name="__main__", alter_sys=True)


def go_back(fd: int, reason: str, text: str) -> None:
    """Exec the program before. Does not return, unless that is not possible either.

    Raises:
        OSError, ValueError, KeyError: it isn't.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # kept for the one that comes
    signal.signal(TOO_LATE, signal.SIG_IGN)  # but for this one
    state = json.loads(read(fd))
    back = state["way_back"]
    for each in (fd, back["copy"], *state["descriptors"]):
        with contextlib.suppress(OSError):
            os.set_inheritable(each, True)
    os.execve(back["command"][0], [*back["command"], "-S", "-c", text, TAKE_OVER,
                                   str(fd), reason], back["environment"])


def why(error: BaseException) -> str:
    """One line."""
    if isinstance(error, SystemExit):
        return str(error.code) if isinstance(error.code,
                                             str) else f"it left with exit code {error.code or 0}"
    if isinstance(error, Hung):
        return str(error)
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def main() -> None:
    fd, reasons = int(sys.argv[2]), sys.argv[3:]
    text = sys.orig_argv[sys.orig_argv.index("-c") + 1]
    try:
        run(fd, bool(reasons))
    except BaseException as error:
        if not is_state(fd):
            raise  # it had settled: its end is its own
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        if reasons:
            print(
                f"einhornpy: the next master failed ({reasons[0]}), and the one before can't go "
                f"on: {why(error)}",
                file=sys.stderr)
            raise
        try:
            go_back(fd, why(error), text)
        except (OSError, ValueError, KeyError) as none:
            print(
                f"einhornpy: the next master failed ({why(error)}), and there is no way back: "
                f"{none}",
                file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
