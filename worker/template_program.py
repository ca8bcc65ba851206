"""A program that becomes the template of its generation by itself: it imports what it needs, says
that it can fork, and goes on in each worker. Also the file that is loaded for a command, by
Einhorn's `-p FILE`.

Plain standard library from Python 3.9 on.
"""

import json
import os
import runpy
import stat
import sys
import time
from typing import Any, Callable, List, Mapping, NoReturn, Optional

from . import fork_safety, template_forking, template_messages
from .describing import LINES_TOLD, app_traceback, describe
from .template_channel import Channel
from .template_process import TemplateProcess, end

INSTRUCTIONS = "EINHORNPY_ADAPTER"
# What a file that is loaded by -p defines, as Einhorn wants it.
MAIN = "einhorn_main"


class Begun:
    """What is imported from now on is watched. `instructions`: the master's."""

    def __init__(self, instructions: Mapping[str, Any]) -> None:
        self.channel = Channel(instructions, lambda: None)
        self.watch = fork_safety.Watch()
        self.at = time.monotonic()
        self.channel.take()
        self.watch.begin()
        self.excepthook, sys.excepthook = sys.excepthook, self.failed

    def failed(self, kind: Any, error: BaseException, where: Any) -> None:
        """Tell the master of what ends this process, beside what Python prints of it."""
        self.channel.failed(describe(error), app_traceback(error).splitlines()[-LINES_TOLD:])
        self.excepthook(kind, error, where)


def begin() -> Optional[Begun]:
    """Begin to be a template, if the master has started us as one that becomes it by itself."""
    text = os.environ.get(INSTRUCTIONS)
    if text is None:
        return None
    try:
        instructions = json.loads(text)
    except ValueError:
        return None
    if not instructions.get("by_itself") or not _is_socket(instructions["channel"]):
        return None  # inherited by somebody else
    return Begun(instructions)


def _is_socket(fd: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False


def fork_here(begun: Begun) -> None:
    """Be the template until it is over; returns in each worker."""
    begun.watch.end()
    sys.excepthook = begun.excepthook
    process = ProgramTemplate(begun)
    with begun.channel.telling_errors():
        process.directory = os.getcwd()
        process.heed_signals = template_forking.heed_no_signals()
        begun.channel.answer({
            "version": template_messages.VERSION, "pid": os.getpid(), "settings": {}})
    process.serve()


class ProgramTemplate(TemplateProcess):
    """It has imported what it needs before it is asked to."""

    def __init__(self, begun: Begun) -> None:
        super().__init__(begun.channel)
        self.begun = begun

    def preload(self) -> None:
        self.imported(self.begun.watch, self.begun.at)

    def be_worker(self, worker: Any, message: Mapping[str, Any], descriptors: List[int]) -> None:
        self.become(message, descriptors)()


def load_file(instructions: Mapping[str, Any]) -> NoReturn:
    """Load a file, and run its `einhorn_main` in each worker. Its name in the file is not
    `__main__`, so what stands under that condition isn't run."""
    begun = Begun(instructions)
    path: str = instructions["file"]
    sys.argv[:] = instructions["arguments"]
    sys.path[0] = os.path.dirname(path)
    with begun.channel.telling_errors():
        names = runpy.run_path(path, run_name="einhorn_preloaded")
        main: Optional[Callable[[], Any]] = names.get(MAIN)
        if not callable(main):
            raise LookupError("%s defines no function %s()" % (path, MAIN))
    fork_here(begun)
    try:
        main()
    except SystemExit as exit:
        end(exit.code)
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        end(1)
    end(0)
