"""Fixtures: a factory of masters, and the proof that nothing is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hypothesis
import pytest

from .harness import (
    Master,
    adopt_orphans,
    keepers,
    reap_leftovers,
    wait_until,
    what_they_do,
)

LONGEST = ("test_chaos.py", "test_judge.py", "test_planner.py", "test_templates.py")
# What is drawn is the same each time, so that whoever changes something else sees no new failure;
# `make fuzz` draws others.
if not {"FUZZ_EXAMPLES", "EINHORN_PLANNER_RANDOM"} & os.environ.keys():
    hypothesis.settings.register_profile("suite", derandomize=True, database=None)
    hypothesis.settings.load_profile("suite")
adopt_orphans()
# A shell without job control lets what it starts in the background ignore ^C, nohup lets it ignore
# SIGHUP, and so would every process of ours.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts masters: `make check` leaves it out. What takes longest comes first, so that
    nobody waits for it in the end."""
    for item in items:
        if "start" in getattr(item, "fixturenames", ()):
            item.add_marker("masters")
    items.sort(key=lambda item: item.path.name not in LONGEST)


def open_descriptors() -> set[str]:
    """Every open descriptor of this process and what it is."""
    found = set()
    for name in os.listdir("/dev/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/dev/fd/{name}')}")
        except OSError:
            continue
    return found


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short path, since the path of a UNIX socket has room for 107 bytes."""
    directory = Path(tempfile.mkdtemp(prefix="eh", dir="/tmp"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def start(place: Path) -> Iterator[Callable[..., Master]]:
    """Start masters; afterwards everything is gone, or the test fails."""
    masters: list[Master] = []
    before = open_descriptors()

    def factory(*arguments: str, environment: dict[str, str] | None = None, cwd: Path | None = None,
                directory: Path | None = None, stderr: int | None = None,
                program: str | None = None, pass_fds: Sequence[int] = ()) -> Master:
        master = Master(directory or place, list(arguments), environment, cwd, stderr=stderr,
                        pass_fds=pass_fds, program=program)
        masters.append(master)
        return master

    yield factory
    stopped = [master for master in masters if master.process.poll() is None]
    for master in stopped:
        master.process.terminate()
    for master in masters:
        try:
            master.process.wait(60)
        finally:
            master.close()
    # One whose master was killed leaves when the last worker has: at once, but by itself.
    try:
        wait_until(lambda: not keepers(), "the keepers gone", what_they_do)
    finally:
        left = reap_leftovers()  # also if that fails: the next test must not wait for the same ones
    assert not left, f"processes left behind: {left}\n" + "\n".join(master.log()
                                                                    for master in masters)
    sockets = [str(path) for path in place.glob("run/einhornpy/*")]
    unclean = any(master.process.returncode < 0 for master in masters)
    assert unclean or not sockets, f"files left behind: {sockets}"
    wait_until(lambda: open_descriptors() <= before or open_descriptors() == before,
               "our descriptors closed again")
