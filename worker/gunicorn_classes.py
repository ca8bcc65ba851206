"""What a worker class lacks that others rely on: told by its name, before it is accepted and then
broken. Loaded by the template.

gunicorn's own base class promises nothing more of a worker than that it calls `notify` and that
SIGTERM ends it well. Plain standard library from Python 3.9 on, besides gunicorn itself.
"""

import signal
import sys
import types
from typing import Any, Dict, Iterator, List, Optional

CAUGHT, BLOCKED = "SigCgt", "SigBlk"


def notifies(worker_class: Any) -> bool:
    """Whether a worker class calls `notify`, as far as its code tells: its methods, and whatever
    else stands in the modules that they are from. True too where there is code that can't be read.
    """
    from gunicorn.workers.base import Worker

    bases = [base for base in worker_class.__mro__ if base not in (Worker, object)]
    return any(may_mention("notify", each) for each in (*methods(bases), *beside(bases, Worker)))


def methods(bases: List[Any]) -> Iterator[Any]:
    """What an object has of its classes, the most special first: nothing that is overridden, unless
    what does that calls it, for which it must mention its name."""
    overriding: Dict[str, List[Any]] = {}
    for base in bases:
        for name, value in vars(base).items():
            above = overriding.get(name)
            if above is None or any(may_mention(name, each) for each in above):
                yield value
            overriding.setdefault(name, []).append(value)


def beside(bases: List[Any], worker: Any) -> Iterator[Any]:
    """Functions, and methods of classes that are no workers, of the modules that classes are
    from."""
    for module in {base.__module__ for base in bases}:
        for each in list(vars(sys.modules.get(module, types)).values()):
            if getattr(each, "__module__", None) != module:
                continue
            if not isinstance(each, type):
                yield each
            elif not issubclass(each, worker):
                yield from vars(each).values()


def may_mention(name: str, value: Any) -> bool:
    """Whether a function mentions a name, or a value is one whose code can't be read."""
    function = getattr(value, "__func__", getattr(value, "fget", value))  # of a method, a property
    if isinstance(function, types.FunctionType):
        return mentions(name, function.__code__)
    return "cython" in type(function).__name__ or isinstance(
        function, (types.BuiltinFunctionType, types.MethodDescriptorType))


def mentions(name: str, code: types.CodeType) -> bool:
    return name in code.co_names or any(
        mentions(name, each) if isinstance(each, types.CodeType) else each == name
        for each in code.co_consts)


def heeds(number: int) -> bool:
    """Whether this process does something about a signal, by proc(5): catches it, or keeps it
    pending for whoever waits for it. True where that can't be known."""
    masks: List[int] = []
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith((CAUGHT, BLOCKED)):
                    masks.append(int(line.split()[1], 16))
    except OSError:
        return True
    return any(mask >> (number - 1) & 1 for mask in masks) or not masks


def missing(worker: Any) -> Optional[str]:
    """What a worker that serves lacks, as a sentence; None if nothing."""
    if not heeds(signal.SIGTERM):
        return ("its worker class %s does nothing about SIGTERM, by which a worker is asked to "
                "finish and leave: whoever it serves then would be lost" % name_of(worker))
    return None


def never_ran(worker: Any) -> str:
    """Why a worker was over before it was ready, and nobody had asked for it."""
    return ("its worker class %s has ended without a call of notify: its init_process has to end "
            "with that of gunicorn's Worker, which imports the app and calls run"
            % name_of(worker))


def name_of(worker: Any) -> str:
    return "%s.%s" % (type(worker).__module__, type(worker).__qualname__)
