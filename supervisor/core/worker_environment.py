"""What a worker is given: its environment, by every convention at once. Pure.

Einhorn's variables, systemd's socket activation (sd_listen_fds(3)) and notification (sd_notify(3)),
and our own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .generation import Generation

FIRST_FD = 3
# By these a process that a worker has left behind is known, see orphans.py.
MASTER, SEAT = "EINHORN_MASTER_PID", "EINHORN_CHILD_INDEX"
GENERATION, WORKER = "EINHORNPY_GENERATION", "EINHORNPY_WORKER"
RELEASE = "EINHORNPY_RELEASE"
# As many digits as orphans.py takes for a number.
PLACEHOLDER = "-" * 18
# What the master was itself given in these words is its own business.
_NOT_INHERITED = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC",
                  "WATCHDOG_PID", "EINHORNPY_", "EINHORN_",
                  )
# Words for the worker's own code, see worker/asgi.py: the master passes them on like any other.
FOR_WORKERS = frozenset({"EINHORNPY_ASGI_APP", "EINHORNPY_ASGI_KEEP_ALIVE"})


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of the master's environment that workers get too."""
    return {
        key: value for key, value in environ.items()
        if key in FOR_WORKERS or not key.startswith(_NOT_INHERITED)}


def without(environ: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """An environment without these variables."""
    dropped = {*names}
    return {key: value for key, value in environ.items() if key not in dropped}


def of_all(environ: Mapping[str, str], directory: str) -> dict[str, str]:
    """What all workers of a generation share."""
    # Or setproctitle, which gunicorn uses, would wipe out what of the environment others can read.
    return {"SPT_NOENV": "1"} | dict(environ) | {"PWD": directory}


def of_template(environ: Mapping[str, str], directory: str, master: int, generation: int,
                release: str | None) -> dict[str, str]:
    """The environment in which a generation's template runs, and which others see of the workers
    that are forked from it: they write their own numbers into it (worker/template_marks.py).
    `release`: its label, which an app may want to know as it is imported."""
    labelled = {} if release is None else {RELEASE: release}
    return of_all(environ, directory) | labelled | {
        MASTER: str(master), GENERATION: str(generation), WORKER: PLACEHOLDER, SEAT: PLACEHOLDER}


def environment(generation: Generation, *, worker: int, index: int, master: int,
                control_socket: str, notify_socket: str, families: Sequence[str],
                names: Sequence[str], stop_signal: str, control_fd: int | None = None,
                ) -> dict[str, str]:
    """The environment of one worker.

    Args:
        worker: our id of it.
        index: its seat.
        master: the master's pid.
        families: the address family of each listener, such as AF_INET, in the order of their
            descriptors from 3.
        names: what each is called, "" for a name by its position.
        stop_signal: what asks it to leave, such as SIGTERM.
        control_fd: a descriptor that is connected to the control socket.

    `LISTEN_PID` and `WATCHDOG_PID` are added by the child, which alone knows its pid.
    """
    recipe = generation.recipe
    descriptors = [str(FIRST_FD + position) for position in range(len(families))]
    built = of_all(recipe.environment, recipe.directory) | {
        "EINHORN_FD_COUNT": str(len(families)),
        "EINHORN_FDS": " ".join(descriptors),
        SEAT: str(index),
        MASTER: str(master),
        "EINHORN_SOCK_PATH": control_socket,
        "NOTIFY_SOCKET": notify_socket,
        GENERATION: str(generation.number),
        WORKER: str(worker),
        "EINHORNPY_RETIRE_SIGNAL": stop_signal,
    }
    if recipe.release is not None:
        built[RELEASE] = recipe.release
    for position, (descriptor, family) in enumerate(zip(descriptors, families, strict=True)):
        built[f"EINHORN_FD_{position}"] = descriptor
        built[f"EINHORN_FD_FAMILY_{position}"] = family
    if families:
        built["LISTEN_FDS"] = str(len(families))
        built["LISTEN_FDNAMES"] = ":".join(name or f"listener{position}"
                                           for position, name in enumerate(names))
    if control_fd is not None:
        built["EINHORN_SOCK_FD"] = str(control_fd)
    if recipe.timeout > 0:
        built["WATCHDOG_USEC"] = str(int(recipe.timeout * 1_000_000))
    return built
