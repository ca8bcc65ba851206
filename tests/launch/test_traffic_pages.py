"""The page of traffic: its layout, what is recent, reads while it is written, nonsense in it, pages
of workers' own, and what is kept over a reload."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from einhornpy.supervisor.core import traffic
from einhornpy.supervisor.core.traffic import Traffic
from einhornpy.supervisor.launch import shared_page, traffic_reports
from einhornpy.supervisor.launch.slot_file import LARGEST
from einhornpy.supervisor.launch.traffic_pages import OWN_SIZE, Slot, TrafficPages
from einhornpy.supervisor.launch.traffic_reports import Report
from einhornpy.supervisor.steering.state import Schema
from einhornpy.worker import own_page, traffic_slot
from einhornpy.worker.traffic_slot import HEAD, RECORD, RING, SLOT_SIZE, TrafficSlot

from ..harness import DEADLINE, ROOT

NOW = 1000.5


@pytest.fixture
def pages() -> Iterator[TrafficPages]:
    first = shared_page.SharedPage()
    made = TrafficPages(first)
    yield made
    made.close()
    first.close()


def slot_of(pages: TrafficPages, worker: int = 1, generation: int = 1,
            since: float = 0.0) -> TrafficSlot:
    return TrafficSlot((pages.fd, pages.take(worker, generation, since)))


def recent(pages: TrafficPages, now: float) -> tuple[int, float]:
    """How many requests, and of how many seconds."""
    found = pages.recent(1, now)
    assert found is not None
    return found[0].requests, round(found[1], 6)


def test_worker_and_master_agree_on_the_layout(pages: TrafficPages) -> None:
    assert traffic_slot.BOUNDS == traffic.BOUNDS
    assert 8 * (HEAD + RECORD * (1 + RING)) == SLOT_SIZE
    assert traffic_slot.LATENCIES + len(traffic.NO_LATENCIES) < RECORD
    assert OWN_SIZE == own_page.SIZE
    for worker in range(3):
        slot = slot_of(pages, worker)
        assert pages.of(worker) is None  # nobody is known to count
        slot.counts()
        assert pages.of(worker) == Traffic()
    for status, seconds, bytes_out, exception, aborted in (
            (200, 0.001, 5, False, False), (204, 0.0011, 0, False, False),
            (101, 9.0, 0, False, False), (302, 61.0, 0, False, False),
            (404, 60.0, 7, False, False), (500, 0.0, 0, True, False), (503, 0.0, 0, False, False),
            (200, 0.5, 1000, True, False), (0, 0.5, 0, True, False), (206, 0.5, 3, False, True),
            (0, 0.5, 0, False, True)):
        slot.note(NOW, status, seconds, bytes_out, exception, aborted)
    found = pages.of(2)
    assert found is not None
    assert (found.requests, found.responses, found.failed, found.exceptions, found.aborted,
            found.bytes_out) == (11, (1, 4, 1, 1, 2), 4, 3, 2, 1015)
    assert found.seconds == pytest.approx(122.0021)
    assert {index: count for index, count in enumerate(found.latencies) if count} == {
        0: 3, 1: 1, traffic.BOUNDS.index(0.56): 2, 58: 1, 59: 1}
    assert pages.of(0) == pages.of(1) == Traffic()
    with pytest.raises(PermissionError):
        os.ftruncate(pages.fd, 0)
    pages.give_back(2)
    assert pages.of(2) is None
    assert slot_of(pages, 3).words.tolist() == [0.0] * 1024  # the slot of worker 2


def test_what_is_recent_came_in_the_last_ten_seconds(pages: TrafficPages) -> None:
    slot = slot_of(pages, since=1000.0)
    slot.counts()
    assert recent(pages, 1000.0) == (0, 0.001)
    slot.note(1000.2, 200, 0.1)
    assert recent(pages, 1000.5) == (1, 0.5)  # all its life
    for second in range(1001, 1041):
        slot.note(second + 0.5, 200, 0.1)
    # From the beginning of second 1030 on, at whatever part of the second somebody asks.
    assert recent(pages, 1040.6) == (11, 10.6)
    assert recent(pages, 1041.0) == (10, 10.0)
    assert recent(pages, 1044.9) == (7, 10.9)
    assert recent(pages, 1050.9) == (1, 10.9)
    assert recent(pages, 1051.0) == (0, 10.0)
    assert recent(pages, 9000.0) == (0, 10.0)
    # Whatever seconds were skipped.
    slot.note(1049.5, 200, 0.1)
    assert recent(pages, 1050.5) == (2, 10.5)
    assert recent(pages, 1051.5) == (1, 10.5)
    slot.note(2000.0, 200, 0.1)
    slot.note(1999.9, 200, 0.1)  # of another thread, a little late
    assert recent(pages, 2009.0) == (2, 10.0)
    assert recent(pages, 2011.0) == (0, 10.0)
    # Who asks for what is long gone by now gets no answer.
    assert pages.recent(1, 1990.0) is None


def test_any_series_of_requests_gives_what_a_list_of_them_would(pages: TrafficPages) -> None:
    draw = random.Random(7)
    slot, now, times = slot_of(pages, since=500.0), 500.0, list[float]()
    slot.counts()
    for _ in range(2000):
        now += draw.choice((0.01, 0.3, 1.0, 2.5, 14.0)) * draw.random()
        if draw.random() < 0.7:
            slot.note(now, 200, 0.1)
            times.append(now)
        begin = int(now) - 10
        assert recent(pages, now)[0] == sum(each >= begin for each in times)


def test_a_generation_keeps_what_its_workers_have_answered(pages: TrafficPages) -> None:
    for worker, generation in ((1, 7), (2, 7), (3, 8), (4, 9)):
        slot = slot_of(pages, worker, generation)
        for _ in range(worker):
            slot.note(NOW, 200, 0.1)
    slot_of(pages, 5, 10)

    def requests() -> dict[int, int]:
        return {key: sums.requests for key, sums in sorted(pages.of_generations().items())}

    assert requests() == {7: 3, 8: 3, 9: 4}
    pages.give_back(1)
    pages.give_back(5)
    assert requests() == {7: 3, 8: 3, 9: 4}
    for worker in range(20, 30):
        slot_of(pages, worker, worker).note(NOW, 200, 0.1)
        pages.give_back(worker)
        # Those of the living are never let go; of the others the last five are kept.
        assert {7, 8, 9} <= requests().keys()
    assert requests() == {7: 3, 8: 3, 9: 4} | dict.fromkeys(range(25, 30), 1)


def test_all_of_it_is_kept_over_a_reload(pages: TrafficPages) -> None:
    schema = Schema([TrafficPages])
    slots = [slot_of(pages, worker, worker, 3.5) for worker in (1, 2, 3)]
    for slot in slots:
        slot.note(NOW, 500, 0.1)
    pages.give_back(2)
    with Memfd(own_page.SIZE) as fd:
        assert pages.adopt(4, 4, 3.5, fd)
    pages.report(5, 5, 3.5, NOW, [Report(200, 0.1, 5, False)])
    document = json.loads(json.dumps(pages.hand_over()))
    state = schema.read(document)
    own = pages._slots[4].fd
    assert schema.descriptors(state) == [pages.fd, own]
    first = shared_page.SharedPage()
    taken = TrafficPages(first)
    taken.take_over(state)
    assert taken.of_generations() == pages.of_generations()
    assert taken.hand_over() == pages.hand_over()
    assert first.elsewhere == {4: own}
    slots[0].note(NOW, 200, 0.1)
    taken.report(5, 5, 3.5, NOW, [Report(200, 0.1, 5, False)])
    assert [getattr(taken.of(worker), "requests", None) for worker in (1, 2, 3, 4, 5)] == [
        2, None, 1, None, 2]
    # What isn't true of it is not believed; what an earlier version had no place for is missing.
    kept = state["traffic"]
    assert not [*kept.doubts()]
    for wrong in ({"size": 8193}, {"slots": {1: Slot(8, 1, 0.0)}}, {"slots": {1: Slot(1 << 20, 1, 0.0)}}):
        assert [*type(kept)(**{name: getattr(kept, name) for name in ("fd", "size", "slots", "gone")}
                            | wrong).doubts()]
    assert schema.empty() == {"traffic": None}
    first.close()


class Memfd:
    """A file in memory."""

    def __init__(self, size: int, seals: int = fcntl.F_SEAL_SHRINK) -> None:
        self.fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)

    def __enter__(self) -> int:
        return self.fd

    def __exit__(self, *error: object) -> None:
        os.close(self.fd)


def test_no_other_page_is_read_than_one_that_can_make_nobody_wait(
        pages: TrafficPages, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_bytes(bytes(own_page.SIZE))
    with Memfd(own_page.SIZE) as good:
        others = [os.open(tmp_path / "fifo", os.O_RDWR), os.open(tmp_path / "file", os.O_RDWR),
                  os.open(f"/proc/self/fd/{good}", os.O_WRONLY),
                  os.open(f"/proc/self/fd/{good}", os.O_PATH),
                  Memfd(own_page.SIZE, 0).fd, Memfd(own_page.SIZE - 8).fd, Memfd(1 << 30).fd]
        before = os.listdir("/proc/self/fd")
        for fd in (*others, 9999, -1):
            assert not pages.adopt(1, 1, 0.0, fd)
        assert os.listdir("/proc/self/fd") == before
        assert pages.adopt(1, 1, 0.0, good)
        assert not pages.adopt(1, 1, 0.0, good)  # one a worker
        assert not pages.report(1, 1, 0.0, NOW, [])  # who counts isn't believed on top
        page = own_page.OwnPage(good)
        page.busy.begin()
        page.traffic.note(time.monotonic(), 200, 0.1)
        assert pages.of(1) == Traffic(1, (0, 1, 0, 0, 0), seconds=0.1, latencies=traffic_at(0.1))
        found = pages._first_page.counters(1, time.monotonic(), 1.0)
        assert found is not None
        assert (found.in_flight, pages._first_page.heartbeat(1)) == (1, None)
        page.let_go()
        page.traffic.note(time.monotonic(), 200, 0.1)
        pages.give_back(1)
        assert os.listdir("/proc/self/fd") == before
        assert pages.of_generations()[1].requests == 1
    for fd in others:
        os.close(fd)


def traffic_at(seconds: float) -> tuple[int, ...]:
    """One latency."""
    return tuple(int(bound == seconds) for bound in (*traffic.BOUNDS, None))


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
import traffic_slot
slot = traffic_slot.TrafficSlot((int(sys.argv[2]), 0))
now = 100.0
slot.note(now, 200, 0.1)  # before that nobody is known to count
print(flush=True)
while True:
    now += 0.3
    slot.note(now, 200, 0.1)
    for _ in range(2000):
        pass
    slot.note(now, 500, 0.1)
    for _ in range(2000):
        pass
"""


def test_no_read_is_torn(pages: TrafficPages) -> None:
    """A process writes all the time; what belongs together is never seen apart."""
    slot_of(pages)
    with subprocess.Popen([sys.executable, "-c", WRITER, str(ROOT / "worker"), str(pages.fd)],
                          pass_fds=[pages.fd], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        torn = wrong = reads = 0
        deadline = time.monotonic() + DEADLINE
        # On a busy machine the two seldom run at the same time.
        while reads < 5_000 or (time.monotonic() < deadline and not torn):
            reads += 1
            raw = os.pread(pages.fd, 8 * 88, 0)
            words = memoryview(raw).cast("d")
            torn += words[16] != words[18] + words[21]
            head, then = pages._read(pages._slots[1], 7)
            if head[1] % 2:  # it is taken off the core in the middle of a write
                continue
            found = pages.of(1)
            wrong += found is None or found.requests < sum(found.latencies)
            wrong += head[16] != head[18] + head[21] or head[16] != sum(head[27:87])
            # In the ring, too: only whole seconds' totals, all of one moment.
            wrong += then[0] != then[2] + then[5] or then[0] != sum(then[11:71])
        writer.kill()
    assert not wrong
    assert torn, "without the sequence no read was torn either: this test shows nothing"


def test_a_worker_that_was_stopped_in_the_middle_of_a_write(pages: TrafficPages) -> None:
    slot = slot_of(pages, since=NOW)
    slot.note(NOW, 200, 0.1)
    whole = slot.words.tolist()
    slot.note(NOW + 1, 500, 0.2, 10, True)
    done = slot.words.tolist()
    changed = [index for index, pair in enumerate(zip(whole, done, strict=True))
               if pair[0] != pair[1] and index != 1]
    # In the order in which they are written: those of the ring, the head, the totals.
    changed.sort(key=lambda index: (index < 88, index > 16, index))
    for stopped in range(len(changed) + 1):
        for index in range(1024):
            slot.words[index] = (done if index in changed[:stopped] else whole)[index]
        slot.words[1] = 3.0
        found, window = pages.of(1), pages.recent(1, NOW + 1.2)
        assert found is not None
        assert found.requests in (1, 2)
        assert window is not None
        assert window[0].requests in (1, 2)
    pages.give_back(1)
    assert pages.of_generations()[1].requests == 2


def test_nonsense_in_the_page_is_never_believed(pages: TrafficPages) -> None:
    slot = slot_of(pages)
    draw = random.Random(3)
    strange = (float("nan"), float("inf"), -1.0, 1e300, 2.0**53 + 2, -0.0, 0.5, 5e-324)
    for attempt, at in itertools.product(range(20), (0, 1, 2, 16, 17, 22, 26, 27, 70, 88, None)):
        slot.words[:] = memoryview(bytearray(SLOT_SIZE)).cast("d")
        slot.next_second = 0
        for _ in range(50):
            slot.note(draw.uniform(990, 1010), 200, 0.1, 5)
        if at is None:
            slot.words[:] = memoryview(bytearray(draw.randbytes(SLOT_SIZE))).cast("d")
            slot.words[0] = 2.0
            slot.words[1] = 2.0
        else:
            for index in range(at, min(1024, at + draw.choice((1, 3, 900)))):
                slot.words[index] = draw.choice(strange)
        if attempt % 2:
            slot.words[0], slot.words[1] = 2.0, 2.0
        for found in (pages.of(1), (pages.recent(1, 1010.0) or [None])[0],
                      pages.of_generations().get(1)):
            if found is not None:
                numbers = (found.requests, *found.responses, found.failed, found.exceptions,
                           found.aborted, found.bytes_out, found.seconds, *found.latencies)
                assert all(0 <= each <= LARGEST for each in numbers)
                assert found.requests >= max(found.failed, found.aborted, sum(found.responses))


@pytest.mark.parametrize(("text", "reports"), [
    (b"200:0.012:5120", [Report(200, 0.012, 5120, False)]),
    (b"404:1", [Report(404, 1.0, 0, False)]),
    (b"500:1.3:0! 000:4 000:2!", [Report(500, 1.3, 0, True), Report(0, 4.0, 0, False),
                                  Report(0, 2.0, 0, True)]),
    (b" 101:0  204:0.1! ", [Report(101, 0.0, 0, False), Report(204, 0.1, 0, True)]),
    *((wrong, None) for wrong in (
        b"", b" ", b"200", b"200:", b"200:-1", b"200:nan", b"200:1e9", b"200:0.1:-5", b"200:0.1:",
        b"099:0.1", b"600:0.1", b"1:0.1", b"200:0.1 x", b"x 200:0.1", b"200:0.1?", b"200:1234567",
        b"200:0.1:1234567890123", b"200:0.1\0", b"\xff", "２００:0.1".encode(), b"200:.5"))])
def test_a_report_is_read_as_a_whole_or_not_at_all(text: bytes, reports: list[Report] | None) -> None:
    assert traffic_reports.read(text) == reports
