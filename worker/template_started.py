"""What this process was started with, where something else has led to it: so it is started again,
whatever has become of that. Changes nothing.

Plain standard library from Python 3.9 on.
"""

import os
import sys
from typing import Any, Dict, List, Mapping, Optional


def how_started(instructions: Mapping[str, Any]) -> Optional[Dict[str, Any]]:
    """Words, directory and environment, without what the master has put there to find us; links are
    resolved where code is found. None where nothing else has led to it, and before Python 3.10,
    which doesn't know its words: who sets the process's title wipes them out elsewhere."""
    words = list(getattr(sys, "orig_argv", ()))
    if not words or not instructions.get("wrapped"):
        return None
    bundle = "/proc/self/fd/%d" % instructions["bundle"]
    with open("/proc/self/environ", "rb") as file:
        variables = [os.fsdecode(entry).partition("=") for entry in file.read().split(b"\0")]
    environment = {name: value for name, equals, value in variables if equals}
    environment.pop("EINHORNPY_ADAPTER", None)
    for name in {"PATH", "PYTHONPATH", "VIRTUAL_ENV"}.intersection(environment):
        entries = [each for each in environment[name].split(os.pathsep) if each != bundle]
        environment[name] = os.pathsep.join(resolved(entries))
    script = next((place for place, word in enumerate(words)
                   if place and "/" in word and os.path.isfile(word)), 0)
    words[0] = sys.executable or words[0]
    for place in {0, script}:
        above, name = os.path.split(words[place])
        words[place] = os.path.join(os.path.realpath(above), name)
    return {"words": words, "directory": os.getcwd(), "environment": environment}


def resolved(paths: List[Any]) -> List[Any]:
    """The entries of sys.path with their links resolved, so that what is imported later is found
    where it is now."""
    return [os.path.realpath(path) if isinstance(path, str) and path else path for path in paths]
