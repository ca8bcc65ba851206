"""A master with planted faults: `faulty_master.py` and the master's own arguments.

Each function that is called while it runs fails once, at its first call after the file `armed` has
appeared in the current directory; which ones have is written to the file `failed`. They are found
by their place: every function and method of these modules.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Iterator
from typing import Any

from einhornpy.supervisor import __main__ as program

# Rooms whose every module is meant, and modules of others. Not: what runs before there are
# workers, or in other processes.
ROOMS = ("core", "reporting", "logs", "outside")
MODULES = (
    "carrying_out", "exits", "master", "system.ledger", "system.loop", "system.errands",
    "system.processes", "launch.measures", "launch.notices", "launch.spawning",
    "launch.shared_page", "launch.recipes", "steering.hooks", "steering.answers",
    "steering.orders", "steering.signals", "steering.upgrades", "steering.commands",
    "steering.reloads", "steering.einhorn", "places.notify_socket", "sockets.systemd",
    "sockets.listeners", "control_socket.server", "control_socket.session")
SHARED = ("protocol", "peer", "einhorn")
# What the guard itself stands on, and what runs before there is a master or in the child's side of
# a fork.
SPARED = {
    "Loop._call", "Loop._hold", "Loop._note", "Loop.close", "Master._go_on", "Master.run",
    "Master._clean_up", "Processes._become", "_arrange_descriptors",
    "_die_with_parent", "find_program",}
KINDS: list[type[Exception]] = [RuntimeError, MemoryError, OSError, KeyError]
left: set[str] = set()


def faulty(name: str, function: Any) -> Any:
    kind = KINDS[len(left) % len(KINDS)]
    left.add(name)

    @functools.wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        if name in left and os.path.exists("armed"):
            left.discard(name)
            with open("failed", "a") as file:
                file.write(f"{name}\n")
            raise kind(28, f"planted in {name}")
        return function(*arguments, **named)

    return wrapped


def owners(module: Any) -> Iterator[Any]:
    """What has functions in a module: itself and its classes."""
    yield module
    for _, found in inspect.getmembers(module, inspect.isclass):
        frozen = hasattr(found, "__dataclass_fields__") or getattr(found, "_is_protocol", False)
        if found.__module__ == module.__name__ and not frozen and not issubclass(found, Exception):
            yield found


def modules() -> Iterator[str]:
    for room in ROOMS:
        folder = importlib.import_module(f"einhornpy.supervisor.{room}").__path__
        yield from (f"supervisor.{room}.{found.name}" for found in pkgutil.iter_modules(folder))
    yield from (f"supervisor.{name}" for name in MODULES)
    yield from (f"shared.{name}" for name in SHARED)


def plant() -> None:
    for name in modules():
        module = importlib.import_module(f"einhornpy.{name}")
        for owner in owners(module):
            for attribute, value in list(vars(owner).items()):
                own = (inspect.isfunction(value) and value.__module__ == module.__name__
                       and not attribute.startswith("__"))
                if own and value.__qualname__ not in SPARED and not inspect.isgeneratorfunction(
                        inspect.unwrap(value)):
                    setattr(owner, attribute, faulty(f"{name}.{value.__qualname__}", value))


if __name__ == "__main__":
    plant()
    sys.exit(program.main())
