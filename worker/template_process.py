"""A template, whatever it runs: it waits for the master's word, and forks workers. It accepts on no
socket, and decides nothing: the master does, see template_channel.py and template_messages.py.

Plain standard library from Python 3.9 on.
"""

import atexit
import contextlib
import gc
import io
import os
import sys
import threading
import time
import traceback
from typing import Any, Callable, List, Mapping, NoReturn, Optional

from . import fork_safety, template_forking, template_messages
from .describing import LINES_TOLD, app_traceback, describe
from .template_channel import Channel

# A worker, or a template, that could not import the app.
IMPORT_ERROR = 3


class CannotImport(Exception):
    """One line."""


def share() -> None:
    """Leave what there is by now out of every later garbage collection: the first full one in each
    worker would write to all of it, and so give each a copy of its own (see gc.freeze in Python's
    library)."""
    gc.collect()
    _streams[:] = open_streams()
    gc.freeze()


def end(code: Any) -> NoReturn:
    """End a worker that was forked with an app in it, as Python does it: threads are waited for,
    what `atexit` has runs, what is held back is written. But no object is taken apart, for which
    the kernel would first give it a copy of all that it shares. `code`: as of SystemExit; does not
    return.
    """
    if not isinstance(code, int):
        if code is not None:
            print(code, file=sys.stderr)
        code = 0 if code is None else 1
    try:
        getattr(threading, "_shutdown", lambda: None)()
        getattr(atexit, "_run_exitfuncs", lambda: None)()
    except BaseException:
        traceback.print_exc()
    write_out()
    os._exit(code & 0xFF)


# Those that were there before the fork.
_streams: List[Any] = []


def open_streams() -> List[Any]:
    """All of this process that may hold back what was written; whatever was frozen isn't seen."""
    # `type`: no object's own word, which may be the app's code, is asked for.
    return [each for each in gc.get_objects()
            if issubclass(type(each), (io.TextIOBase, io.BufferedIOBase))]


def write_out() -> None:
    """Write what open files hold back."""
    streams = [sys.stdout, sys.stderr]
    if fork_safety.writes_files():
        streams += [*_streams, *open_streams()]
    for stream in streams:
        with contextlib.suppress(Exception):
            stream.flush()


class TemplateProcess:
    """`heed_signals`: makes signals mean to a worker what they did before the template ignored
    them."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.directory = ""
        self.heed_signals: Callable[[], None] = lambda: None
        # Of what was imported, where anything was.
        self.watch: Optional[fork_safety.Watch] = None

    def serve(self) -> None:
        """Do what the master asks for, until it is over. Returns in a worker alone, if at all."""
        while True:
            received = self.channel.receive(self.patience())
            if received is None:
                self.on_patience()
                continue
            data, descriptors = received
            try:
                message = template_messages.read(data)
            except ValueError as error:
                self.complain("The master said what isn't understood here: %s" % error)
                message = {}
            if self.obey(message, descriptors):
                return
            for fd in descriptors:
                os.close(fd)

    def patience(self) -> Optional[float]:
        """After so many seconds in which nothing was asked, `on_patience` is called."""
        return None

    def on_patience(self) -> None:
        pass

    def complain(self, words: str) -> None:
        """Say that something went wrong, to whoever reads our log."""
        print("einhornpy: " + words, file=sys.stderr, flush=True)

    def obey(self, message: Mapping[str, Any], descriptors: List[int]) -> bool:
        """Do what one message asks for; return whether this process is a worker now. Who takes one
        of the descriptors takes it out of the list."""
        what = message.get("do")
        if what == "fork":
            return self.fork(message, descriptors)
        if what == "environment":
            os.environ.update(message["variables"])
        elif what == "import":
            os.environ.update(message["variables"])
            self.preload()
        elif what == "leave":
            self.leave(message)
            if self.watch is None:
                sys.exit(0)
            # What the app has registered or begun is its workers' business, and may hang.
            write_out()
            os._exit(0)
        return False

    def preload(self) -> None:
        """Import the app, if that isn't done, and tell the master what came of it."""
        raise NotImplementedError

    def leave(self, message: Mapping[str, Any]) -> None:
        pass

    def import_app(self, load: Callable[[], Any]) -> None:
        """Import the app by calling `load`; it ends us if it can't be."""
        began, watch = time.monotonic(), fork_safety.Watch()
        watch.begin()
        try:
            load()
        except BaseException as error:
            known = isinstance(error, CannotImport)
            printed = "" if known else app_traceback(error)
            with contextlib.suppress(Exception):
                print(printed, end="", file=sys.stderr, flush=True)
                sys.stdout.flush()
            self.channel.say(template_messages.not_imported(
                str(error) if known else describe(error), printed.splitlines()[-LINES_TOLD:]))
            os._exit(IMPORT_ERROR)
        finally:
            watch.end()
        self.imported(watch, began)

    def imported(self, watch: fork_safety.Watch, began: float) -> None:
        """The app is. `watch`: what has watched that, since `began` (monotonic seconds)."""
        share()
        took = time.monotonic() - began
        self.watch = watch
        self.channel.say(template_messages.imported(
            took, [each.told() for each in watch.findings()]))

    def fork(self, message: Mapping[str, Any], descriptors: List[int]) -> bool:
        """Fork a worker, or say why not; return True in the worker, if that returns at all."""
        number = message["worker"]
        try:
            self.check(message, descriptors)
            self.look_again(descriptors)
            worker = self.make(message["life"])
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()  # or the worker would print it again
            pid = template_forking.fork(number, self.channel.master, self.channel.say,
                                        self.heed_signals)
        except template_forking.CannotFork as error:
            self.channel.say(template_messages.cannot(number, str(error)))
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            self.channel.say(template_messages.cannot(number, describe(error)))
        else:
            if pid == 0:
                self.be_worker(worker, message, descriptors)
                return True
            self.made(worker, pid)
        return False

    def check(self, message: Mapping[str, Any], descriptors: List[int]) -> None:
        """Raises CannotFork if a worker can't be given what it is to have."""
        try:
            os.stat(os.path.join(self.directory, "."))
        except OSError as error:
            # else it would be told as a module that can't be found
            raise template_forking.CannotFork("cannot start workers in %s: %s" % (
                self.directory, error.strerror)) from None
        wanted = message["descriptors"]
        if len(descriptors) != wanted + message["stdout"] + message["stderr"]:
            raise template_forking.CannotFork(
                "cannot give a worker its descriptors: too few came; see the limit of open files")
        if wanted > self.channel.reserved:
            raise template_forking.CannotFork(
                "cannot give a worker %d descriptors: only %d were kept free for them: listen on "
                "fewer addresses, or raise the limit of open files (ulimit -n)" % (
                    wanted, self.channel.reserved))

    def look_again(self, given: List[int]) -> None:
        """A thread of the import's may have connected since, for all workers from now on."""
        for each in self.watch.connections_since(given) if self.watch is not None else ():
            self.complain("Not safe to fork: a %s %s, made after the import: %s" % (
                each.kind, each.what, each.told()["advice"]))

    def make(self, life: Mapping[str, Any]) -> Any:
        """What is to be made before the fork; `life`: what the worker is told."""

    def made(self, worker: Any, pid: int) -> None:
        """The worker is there."""

    def be_worker(self, worker: Any, message: Mapping[str, Any], descriptors: List[int]) -> None:
        """Become that worker. Raises whatever keeps it from being one."""
        raise NotImplementedError

    def become(self, message: Mapping[str, Any], descriptors: List[int]) -> Callable[[], None]:
        """Take what the worker is given, and leave the template's; return what ties it to the
        master, which is to be called first of all."""
        captured, master = self.channel.captured(), self.channel.master
        self.channel.close()
        template_forking.arrange(descriptors, {1: message["stdout"], 2: message["stderr"]},
                                 self.channel.reserved, captured)
        template_forking.take_environment(message["environment"])
        return lambda: template_forking.belong(master, message["farewell"], message["core"])
