"""What the master gives a template, and how the two talk: instructions, descriptors, messages. It
starts nobody, and knows nothing of gunicorn.

Plain standard library from Python 3.9 on. The instructions, a JSON object: `master`, its pid;
`channel`, `result`, `bundle`, descriptors: of the messages (template_messages.py), of our one
answer, of the file that we were loaded from; `reserved`: so many from 3 on are kept free for what
workers are given; `reloads`: whether this is an upgrade; `workers`: how many there are to be, null
for as many as gunicorn's settings say; `frozen`: null, or what of its settings an earlier template
of this generation has answered; `wrapped`: whether something else starts gunicorn;
`warm_up`: what an app is to answer that is preloaded; `by_itself`, `file`, `arguments`: of a
program that is no gunicorn (template_program.py).
"""

import _socket
import array
import contextlib
import json
import os
import select
import socket
import sys
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from . import (
    template_forking,
    template_gevent,
    template_marks,
    template_messages,
    template_started,
)
from .describing import LINES_TOLD, app_traceback, describe
from .template_forking import FIRST_FD
from .template_started import resolved


class Channel:
    """`when_taken`: called when the descriptors are taken."""

    def __init__(self, instructions: Mapping[str, Any], when_taken: Callable[[], None]) -> None:
        self.instructions = instructions
        self.master: int = instructions["master"]
        self.reserved: int = instructions["reserved"]
        self.wrapped = bool(instructions.get("wrapped"))
        self.by_itself = bool(instructions.get("by_itself"))
        self._when_taken = when_taken
        self._socket: Any = None
        self._answered = False
        self._standard: Dict[int, Any] = {}
        self.started: Optional[Dict[str, Any]] = None

    def take(self) -> None:
        """Take what the master gave us; nobody whom we start gets it too."""
        if self._socket is not None:
            return
        given = self.instructions
        os.environ.pop("EINHORNPY_ADAPTER", None)
        template_marks.forget()
        for fd in (*range(FIRST_FD, FIRST_FD + given["reserved"]), given["channel"],
                   given["result"]):
            os.set_inheritable(fd, False)
        self._standard = {number: identity(number) for number in (1, 2)}
        # Whatever becomes of the module socket (gevent), this one waits for nobody else.
        self._socket = _socket.socket(fileno=given["channel"])
        self._socket.setblocking(True)
        self._when_taken()
        self.started = template_started.how_started(given)
        if os.getppid() != self.master:
            template_forking.die_with_parent()
        leave_bundle(given["bundle"])
        sys.path[:] = resolved(sys.path)

    def failed(self, error: str, lines: Sequence[str] = ()) -> None:
        """Tell the master that there will be no template; `error`: one line; `lines`: of a
        traceback."""
        self.answer({"error": error, **({"lines": list(lines)} if lines else {})})

    def answer(self, content: Mapping[str, Any]) -> None:
        """Tell the master what came of it, once."""
        if self._answered:
            return
        # A line: somebody in between may hold the pipe too, so that it doesn't end.
        line = json.dumps(content) + "\n"
        self._answered = True
        with os.fdopen(self.instructions["result"], "w") as result:
            result.write(line)

    @contextlib.contextmanager
    def telling_errors(self) -> Iterator[None]:
        try:
            yield
        except SystemExit as exit:
            who = "it" if "file" in self.instructions or self.by_itself else "gunicorn"
            self.failed("%s exited with %s" % (who, exit.code))
            raise
        except Exception as problem:
            printed = app_traceback(problem)
            print(printed, end="", file=sys.stderr, flush=True)
            self.failed(describe(problem), printed.splitlines()[-LINES_TOLD:])
            sys.exit(1)

    def receive(self, patience: Optional[float]) -> Optional[Tuple[bytes, List[int]]]:
        """The next message, and the descriptors beside it; None if none has come within so many
        seconds (None: for ever). Ends the process when there is no master any more."""
        if not template_gevent.own(select, "select")([self._socket.fileno()], [], [], patience)[0]:
            return None
        data, ancillary, _, _ = self._socket.recvmsg(
            template_messages.LARGEST,
            socket.CMSG_SPACE(array.array("i").itemsize * template_messages.MOST_DESCRIPTORS),
            socket.MSG_CMSG_CLOEXEC)
        if not data:
            os._exit(0)
        descriptors = array.array("i")
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(content[:len(content) - len(content) % descriptors.itemsize])
        return data, list(descriptors)

    def say(self, message: bytes) -> None:
        try:
            self._socket.send(message)
        except OSError:
            os._exit(0)  # the master is gone

    def captured(self) -> Set[int]:
        """Those of standard output and error that have become something else since."""
        return {number for number, was in self._standard.items() if identity(number) != was}

    def close(self) -> None:
        self._socket.close()


def identity(fd: int) -> Optional[Tuple[int, int]]:
    """What a descriptor is; None where it is closed."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def leave_bundle(fd: int) -> None:
    """Forget the file that we were loaded from: its descriptor may soon be something else, which
    nobody may read our source from."""
    path = "/proc/self/fd/%d" % fd
    sys.path[:] = [each for each in sys.path if each != path]
    for cached in (sys.path_importer_cache, getattr(sys.modules.get("zipimport"),
                                                    "_zip_directory_cache", {})):
        for key in [each for each in cached if str(each).startswith(path)]:
            del cached[key]
    for module in list(sys.modules.values()):
        if str(getattr(module, "__file__", None)).startswith(path + os.sep):
            module.__loader__ = None
            if module.__spec__ is not None:
                module.__spec__.loader = None
    os.close(fd)
