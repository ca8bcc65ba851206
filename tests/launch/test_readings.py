"""What processes use where they share pages: of real ones that share a lot, and when it is read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from einhornpy.supervisor.launch.memory import memory
from einhornpy.supervisor.launch.readings import MOST_AT_ONCE, Readings, read
from einhornpy.supervisor.reporting.sharing import Memory, Reading

from ..harness import APPS, BIN, Master, wait_until

Start = Callable[..., Master]
MIB = 1 << 20
HELD = 48  # what the app has
APP = ["--chdir", str(APPS), "--", str(BIN / "gunicorn"), "preloaded:wsgi"]


# Has 64 MiB, and two forks, which share them; says their pids, and ends when nobody listens.
FAMILY = """
import os, sys
kept = os.urandom(64 << 20)
pids = [os.getpid()]
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        sys.stdin.read()
        os._exit(0)
    pids.append(pid)
print(*pids, flush=True)
sys.stdin.read()
for pid in pids[1:]:
    os.waitpid(pid, 0)
"""


@pytest.fixture
def family() -> Iterator[list[int]]:
    """A process with 64 MiB of its own, and its two forks, which have all of them."""
    with subprocess.Popen([sys.executable, "-c", FAMILY], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield [int(pid) for pid in process.stdout.readline().split()]
        process.communicate()


def test_what_is_shared_counts_in_part(family: list[int]) -> None:
    first, *forks = (reading for pid in family if (reading := read(pid)) is not None)
    assert len(forks) == 2
    for each in (first, *forks):
        # A third of the 64.
        assert 21 * MIB < each.anonymous_share <= each.share < each.anonymous
        assert each.anonymous > 64 * MIB
    together = Memory(None, {1: first}, {1: forks[0], 2: forks[1]})
    assert together.total == first.share + forks[0].share + forks[1].share
    assert 64 * MIB < together.total < 2 * 64 * MIB
    # Two workers alone have it twice; with the template all have it once.
    assert together.saved == sum(each.anonymous for each in forks) - sum(
        each.anonymous_share for each in (first, *forks))
    assert 60 * MIB < together.saved < 2 * first.anonymous - 64 * MIB
    # A template without workers saves nothing, and costs more than nothing.
    assert Memory(first, {1: first}, {}).saved == 0
    assert Memory(first, {1: first}, {}).total == 2 * first.share


def test_what_may_not_be_seen_is_resident(family: list[int],
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    resident = memory(family[0])
    assert resident is not None
    assert read(family[0]) == Reading(resident)
    assert Memory(None, {}, {1: Reading(resident)}).saved == 0


def test_one_that_is_gone_has_none() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert read(pid) is None, "its parent hasn't taken note yet"
    os.waitpid(pid, 0)
    assert read(pid) is None
    assert Readings().of([pid, os.getpid()])[0].keys() == {os.getpid()}
    assert Readings().of([pid])[1], "it has been looked at"


# --- when ---


class Host:
    """Processes with a clock of our own: each reading costs what `costs` says of its pid, and is as
    large as there have been readings."""

    def __init__(self, cost: float) -> None:
        self.now = 1000.0
        self.worked = 0.0
        self.costs: dict[int, float] = {}
        self._cost = cost
        self.asked: list[int] = []
        self.readings = Readings(lambda: self.now, lambda: self.worked, self._read)

    def _read(self, pid: int) -> Reading | None:
        cost = self.costs.get(pid, self._cost)
        self.now += cost
        self.worked += cost
        self.asked.append(pid)
        return Reading(len(self.asked))

    def of(self, *pids: int) -> list[int]:
        """Who is measured now."""
        before = len(self.asked)
        self.readings.of(pids)
        return self.asked[before:]

    def later(self, seconds: float, *pids: int) -> list[int]:
        """Who is measured then."""
        self.now += seconds
        return self.of(*pids)


def test_a_reading_is_kept_for_a_while_and_until_somebody_comes_or_goes() -> None:
    host = Host(0.0005)
    assert host.of(1, 2) == [1, 2]
    assert host.later(20, 1, 2) == [1, 2]
    for _ in range(3):
        assert host.later(3, 1, 2) == []
    assert host.later(1, 1, 2) == [1, 2]
    assert host.later(1, 1, 2, 3) == [3, 1, 2], "the new one shares with them"
    assert host.later(1, 1, 3)[:2] == [3, 1], "what one that is gone has shared is theirs"
    assert host.readings.of([1, 3])[0].keys() == {1, 3}


def test_one_that_is_new_may_grow() -> None:
    host = Host(0.0)
    host.of(1)
    asked = [second for second in range(1, 41) if host.later(1, 1)]
    assert asked == [1, 2, 4, 8, 16, 26, 36]


def test_nobody_stalls_the_master_by_asking_often() -> None:
    host = Host(0.004)
    pids = range(1, 101)
    measured = host.of(*pids)
    assert measured == [*range(1, 14)], "those that come first, until the allowance is used up"
    found, whole = host.readings.of(pids)
    assert found.keys() == {*measured}
    assert not whole
    began, before = host.now, len(host.asked)
    times = []
    while len({*host.asked}) < len(pids):
        times.append(len(host.later(0.01, *pids)) * 0.004)
    assert host.asked[:100] == [*pids], "whoever has never been measured comes first"
    assert host.readings.of(pids)[1]
    spent = (len(host.asked) - before) * 0.004
    assert spent <= 0.011 * (host.now - began)
    assert max(times) <= 0.004
    # The rest again, the oldest reading first.
    host.asked.clear()
    while len(host.asked) < 100:
        assert len(host.later(1, *pids)) * 0.004 <= MOST_AT_ONCE + 0.004
    assert host.asked[:100] == [*pids]


def test_a_huge_process_is_measured_seldom() -> None:
    host = Host(0.0005)
    host.costs[1] = 0.3
    assert host.of(1, 2) == [1], "what one has begun, it ends"
    asked = [second for second in range(1, 121) if 1 in host.later(1, 1, 2)]
    assert len(asked) <= 2
    assert host.asked.count(2) >= 5, "and that keeps nobody else from his turn"


# --- of a real master ---


def test_the_status_tells_what_preloading_saves(start: Start) -> None:
    master = start("-n", "3", "-b", "127.0.0.1:0", "--preload", *APP)
    master.wait_ready()

    def measured() -> dict[str, Any] | None:
        document = master.status()
        return document if (document["memory"]["saved_bytes"] or 0) > 2 * HELD * MIB * 0.8 else None

    document: dict[str, Any] = wait_until(measured, "what is saved", master.log)
    (template,) = document["templates"]
    each = [template["memory_bytes"], *(worker["memory_bytes"] for worker in document["workers"])]
    assert all(HELD / 4 * MIB < bytes < HELD * MIB for bytes in each)
    assert document["memory"]["total_bytes"] == document["master"]["memory_bytes"] + sum(each)
    assert document["memory"]["saved_bytes"] < 3 * HELD * MIB
    assert (template["preloads"], template["forks"]) == (True, 3)
    assert template["import_seconds"] > 0
    (finding,) = document["findings"]
    assert finding.items() >= {
        "generation": 1, "kind": "thread", "module": "preloaded", "separate": False}.items()
    assert "'poller'" in finding["what"]


def test_auto_saves_nothing_and_says_why(start: Start) -> None:
    master = start("-n", "2", "-b", "127.0.0.1:0", "--preload=auto", *APP)
    document = master.wait_ready()
    (template,) = document["templates"]
    assert (template["preloads"], template["import_seconds"]) == (False, None)
    (finding,) = document["findings"]
    assert (finding["generation"], finding["separate"]) == (1, True)

    def measured() -> bool:
        workers = [worker["memory_bytes"] or 0 for worker in master.status()["workers"]]
        return min(workers) > HELD * MIB

    wait_until(measured, "each with an app of its own", master.log)
    assert (master.status()["memory"]["saved_bytes"] or 0) < HELD * MIB


def test_the_template_itself_is_measured_not_what_has_started_it(start: Start) -> None:
    master = start("-n", "1", "-b", "127.0.0.1:0", "--chdir", str(APPS), "--preload", "--", "sh",
                   "-c", f"{BIN / 'gunicorn'} preloaded:wsgi; exit")
    master.wait_ready()

    def large() -> bool:
        (template,) = master.status()["templates"]
        return (template["memory_bytes"] or 0) > HELD / 4 * MIB

    wait_until(large, "more than a shell", master.log)
    (template,) = master.status()["templates"]
    shell = read(template["pid"])
    assert shell is not None
    assert shell.share < 2 * MIB


def test_the_import_is_waited_for_in_words(start: Start, place: Path) -> None:
    fifo = place / "waits"
    os.mkfifo(fifo)
    master = start("-n", "1", "-c", "shop", "-b", "127.0.0.1:0", "--preload", *APP,
                   environment={"IMPORT_WAITS": str(fifo)})

    def wait(said: str) -> None:
        master.wait_status(lambda document: document["reason"] == said, said)
        fifo.write_text("go")

    wait("generation 1's template imports the app; 0 of 1 workers ready")
    master.wait_ready()
    assert master.cli("upgrade", "--no-wait").returncode == 0
    wait("generation 2's template imports the app; 0 of 1 workers on generation 2")
    document = master.wait_ready()
    assert document["generation"] == 2
