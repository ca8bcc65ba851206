"""The shared page: its layout, reads while it is written, what status makes of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from einhornpy.supervisor.launch import shared_page
from einhornpy.worker import busy_slot

from ..harness import DEADLINE, EXAMPLE, ROOT, Master, get

Start = Callable[..., Master]


@pytest.fixture
def page() -> Iterator[shared_page.SharedPage]:
    made = shared_page.SharedPage()
    yield made
    made.close()


def test_no_worker_can_take_the_page_from_under_the_others(page: shared_page.SharedPage) -> None:
    """Whoever has mapped it would be killed."""
    page.take(1)
    with pytest.raises(PermissionError):
        os.ftruncate(page.fd, 0)


def test_master_and_worker_agree_on_the_layout(page: shared_page.SharedPage) -> None:
    assert (shared_page.LAYOUT_VERSION, shared_page.SLOT_SIZE, shared_page.RING) == (
        busy_slot.LAYOUT_VERSION, busy_slot.SLOT_SIZE, busy_slot.RING)
    reached: list[str] = []

    def note(reason: str) -> bool:
        reached.append(reason)
        return len(reached) > 1  # the first word is lost, so it is said again

    for worker in range(40):  # the slots after the 16th lie on another page of memory
        slot = busy_slot.Slot(page.fd, page.take(worker), 2, note)
        assert page.counters(worker, 0.0, 1.0) is None
        slot.beat()
    slot.begin()
    slot.begin()
    slot.end()
    found = page.counters(39, time.monotonic(), 1000.0)
    assert found is not None
    assert (found.requests, found.in_flight, page.heartbeat(39)) == (1, 1, found.heartbeat)
    assert reached == []
    slot.end()
    slot.begin()
    assert reached == ["served 2 requests"]
    slot.end()
    slot.begin()
    slot.end()
    assert reached == ["served 2 requests"] * 2
    slot.words[0] = 2.0  # written by another version
    assert page.counters(39, 0.0, 1.0) is None


def test_the_busy_share_is_that_of_the_last_ten_seconds(page: shared_page.SharedPage) -> None:
    slot = busy_slot.Slot(page.fd, page.take(1), 0, lambda reason: True)
    clock = [1000.0]
    slot.now = lambda: clock[0]
    slot.beat()

    def share(now: float, age: float = 1000.0) -> float:
        found = page.counters(1, now, age)
        assert found is not None
        assert found.busy_share is not None
        return found.busy_share

    assert share(1000.0) == 0.0
    slot.begin()
    clock[0] = 1005.0
    slot.end()
    assert share(1010.0) == 0.5
    assert share(1012.0) == 0.3
    assert share(1030.0) == 0.0
    assert share(1005.0, age=5.0) == 1.0
    clock[0] = 1100.0
    slot.begin()
    assert share(1104.0) == 0.4
    assert share(1200.0) == 1.0
    clock[0] = 1200.5
    slot.end()
    assert share(1201.0) == pytest.approx(0.95)
    for second in range(1201, 1300):  # a tenth of each second
        clock[0] = second + 0.5
        slot.begin()
        clock[0] = second + 0.6
        slot.end()
    assert share(1300.0) == pytest.approx(0.1)


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
import busy_slot
slot = busy_slot.Slot(int(sys.argv[2]), 0, 0, print)
slot.now = lambda: slot.words[3] + 1.0
slot.beat()
print(flush=True)
while True:
    slot.begin()
    for _ in range(200):
        pass
    slot.end()
    for _ in range(200):
        pass
"""


def test_no_read_is_torn(page: shared_page.SharedPage) -> None:
    """A process writes all the time; words that belong together are never seen apart."""
    page.take(1)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER,
         str(ROOT / "worker"), str(page.fd)], pass_fds=[page.fd], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        torn = wrong = seen = 0
        reads, deadline = 0, time.monotonic() + DEADLINE
        # On a busy machine the two seldom run at the same time.
        while reads < 20_000 or (time.monotonic() < deadline and not (torn and seen)):
            reads += 1
            words = page._words(1)
            assert words is not None
            seen += words[4] == 1.0
            if words[1] % 2:
                # on a busy machine it is taken off the core in the middle of a write, and a reader
                # gives up some time
                continue
            # In flight and since when go together.
            wrong += (words[4] == 1.0) != (words[6] > 0.0)
            raw = shared_page._SLOT.unpack(os.pread(page.fd, shared_page.SLOT_SIZE, 0))
            torn += (raw[4] == 1.0) != (raw[6] > 0.0)
        writer.kill()
    assert not wrong
    assert seen, "never looked while a request was under way"
    assert torn, "without the sequence no read was torn either: this test shows nothing"


def test_status_shows_what_workers_do(start: Start, place: Path) -> None:
    master = start("-n", "1", "-b", "127.0.0.1:0", "--chdir", str(EXAMPLE), "--", "gunicorn", "-k",
                   "gthread", "--threads", "2", "app:wsgi", environment={"IMPORT_SECONDS": "0"})
    master.wait_ready()
    for _ in range(5):
        get(master.address)
    get(master.address, "/slow/1")
    (worker,) = master.status()["workers"]
    assert (worker["requests"], worker["in_flight"], worker["waits_for"]) == (6, 0, None)
    assert 0.05 < worker["busy_share"] <= 1.0
    assert "6+0" in master.cli("status").stdout
