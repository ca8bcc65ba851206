"""`einhornpy top`: the live view against real masters, by Textual's own pilot, and in a real
tmux."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import pwd
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from einhornpy.control import show, watch
from einhornpy.control.top import app, screens, table
from textual.pilot import Pilot

from .. import documents
from ..harness import APPS, BIN, DEADLINE, EINHORNPY, EXAMPLE, Master, base_environment, get
from ..terminals import Tmux, on_terminal

Start = Callable[..., Master]
WORKER = [sys.executable, str(APPS / "worker.py")]
PATIENCE = 30.0


class Eyes:
    """Somebody who looks at the view and presses keys."""

    def __init__(self, pilot: Pilot[None]) -> None:
        assert isinstance(pilot.app, app.Top)
        self.app, self.pilot = pilot.app, pilot

    async def until(self, true: Callable[[], Any], what: str) -> Any:
        """Wait until it is so on the screen."""
        deadline = time.monotonic() + PATIENCE
        while True:
            value = true()
            if value:
                return value
            assert time.monotonic(
            ) < deadline, f"never came: {what}\n{self.screen()}\n{self.answers()}"
            await self.pilot.pause(0.02)

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    def screen(self) -> str:
        """All that is to be seen."""
        return "\n".join(strip.text for strip in self.app.screen._compositor.render_strips())

    def state(self) -> str:
        """What is to be seen of the state that keys act on: the events are ahead of it."""
        if len(self.app.screen_stack) > 1:  # a dialog or the help lies over them
            return self.screen()
        events = self.app.events.region
        lines = self.screen().splitlines()
        return "\n".join([*lines[:events.y], *lines[events.bottom:]])

    async def sees(self, text: str) -> None:
        """Wait for a text of the state, be it broken into lines or not."""
        await self.until(lambda: text in self.state() or text in " ".join(self.state().split()),
                         repr(text))

    def answers(self) -> str:
        """The notifications."""
        return "\n".join(each.message for each in self.app._notifications)

    async def hears(self, text: str) -> None:
        await self.until(lambda: text in self.answers(), f"the answer {text!r}")

    async def asked(self, key: str, text: str) -> None:
        """Press a key; a question with `text` follows."""
        await self.press(key)
        await self.until(lambda: isinstance(self.app.screen, screens.Dialog),
                         f"a question after {key}")
        assert isinstance(self.app.screen, screens.Dialog)
        assert text in self.app.screen._question

    async def answer(self, key: str) -> None:
        await self.press(key)
        await self.until(lambda: not isinstance(self.app.screen, screens.Dialog),
                         "the question gone")

    async def until_document(self, true: Callable[[dict[str, Any]], Any],
                             what: str) -> dict[str, Any]:
        await self.until(lambda: self.app.document is not None and true(self.app.document), what)
        assert self.app.document is not None
        return self.app.document

    def pids(self) -> list[int]:
        """The rows of the table, from top to bottom."""
        return [
            int(self.app.table.get_row_at(number)[1].plain)
            for number in range(self.app.table.row_count)]

    def events(self) -> str:
        return "\n".join(each.plain for each in self.app.events.sentences)


def look(path: str, scenario: Callable[[Eyes], Awaitable[None]],
         size: tuple[int, int] = (80, 24)) -> None:
    """Run a scenario with the view of a master."""
    async def run() -> None:
        async with app.Top(path).run_test(size=size) as pilot:
            await scenario(Eyes(pilot))

    asyncio.run(run())


def good(start: Start, *arguments: str, number: int = 2) -> Master:
    master = start("-n", str(number), "-m", "notify", *arguments, "--", *WORKER, "notify")
    master.wait_ready()
    return master


def fragile(start: Start, flag: Path, *arguments: str) -> Master:
    """A master whose workers exit with 9 while the flag is there."""
    master = start("-n", "2", "-m", "notify", *arguments, "--", "sh", "-c",
                   f'test -e {flag} && exit 9; exec "$0" "$@"', *WORKER, "notify")
    master.wait_ready()
    return master


def test_through_an_upgrade(start: Start) -> None:
    master = good(start, "-c", "shop", "-b", "127.0.0.1:0")
    old = [worker["pid"] for worker in master.status()["workers"]]
    address = ":".join(map(str, master.address))

    async def scenario(eyes: Eyes) -> None:
        await eyes.sees("shop: ready: 2 of 2 workers ready on generation 1")
        await eyes.sees(f"{address} (queue 0 of ")
        await eyes.sees("no upgrade so far")
        assert eyes.pids() == old
        assert "master started" in eyes.events()  # from before we looked
        await eyes.asked("u", "Upgrade shop?")
        await eyes.answer("n")
        await eyes.asked("u", "All 2 workers are replaced")
        await eyes.answer("escape")
        assert master.status()["newest_generation"] == 1
        await eyes.asked("u", "The new generation has no release label.")
        await eyes.answer("y")
        await eyes.hears("upgrade to generation 2 accepted")
        await eyes.sees("2 of 2 workers ready on generation 2")
        await eyes.sees("last upgrade: 1 -> 2, rolling, done after ")
        assert not {*eyes.pids()} & {*old}
        await eyes.until(lambda: "upgrade to generation 2 done after " in eyes.events(),
                         "its end among the events")
        assert " ready after " in eyes.events()

    look(master.path, scenario)


def test_a_canary_is_shown_paused_and_resumed(start: Start) -> None:
    master = good(start)
    master.ask("upgrade", canary=1, hold="until-resume", release="new", wait=False)

    async def scenario(eyes: Eyes) -> None:
        await eyes.sees("upgrade 1 -> 2 (rolling, new) ████████████░░░░░░░░░░░░ 1/2")
        await eyes.sees("held until somebody says resume or abort")
        await eyes.asked("p", "ends its hold and goes on")
        await eyes.answer("y")
        await eyes.sees("2 of 2 workers ready on generation 2")
        master.ask("upgrade", canary=1, hold="1000", wait=False)
        await eyes.sees("hold ends in 16 min ")
        await eyes.asked("p", "ends its hold")
        await eyes.answer("n")
        master.ask("pause")
        await eyes.sees("paused by ")
        await eyes.asked("p", "Resume?\n\nThe upgrade to generation 3 goes on.")
        await eyes.answer("y")
        await eyes.hears("upgrade to generation 3 goes on")

    look(master.path, scenario)


def test_an_upgrade_that_stands_still_is_paused(start: Start, place: Path) -> None:
    flag = place / "stuck"
    master = start("-n", "1", "-m", "notify", "--", "sh", "-c",
                   f'test -e {flag} && exec sleep 1000; exec "$0" "$@"', *WORKER, "notify")
    master.wait_ready()
    flag.touch()
    master.ask("upgrade", wait=False)

    async def scenario(eyes: Eyes) -> None:
        await eyes.sees("starting")
        await eyes.asked("p", "Pause?")
        await eyes.answer("y")
        await eyes.hears("paused")
        await eyes.sees("paused by ")

    look(master.path, scenario)


def test_a_refused_upgrade(start: Start, place: Path) -> None:
    master = fragile(start, place / "broken", "--max-failures", "1")

    async def scenario(eyes: Eyes) -> None:
        await eyes.sees("ready: 2 of 2")
        (place / "broken").touch()
        await eyes.asked("u", "Upgrade")
        await eyes.answer("y")
        await eyes.sees("rolled-back: generation 2 was refused: a worker exited with code 9")
        await eyes.sees("last upgrade: 1 -> 2, rolling, rolled-back after ")
        await eyes.until(lambda: "generation 2 refused, going back to 1" in eyes.events(),
                         "the refusal among the events")
        for key in ("p", "a"):
            await eyes.press(key)
            await eyes.hears("no upgrade runs")

    look(master.path, scenario)


def test_an_abort_and_what_the_master_refuses(start: Start) -> None:
    master = good(start, number=1)
    master.ask("upgrade", canary=1, hold="until-resume", wait=False)

    async def scenario(eyes: Eyes) -> None:
        await eyes.until_document(lambda each: each["gate"] == "paused", "the hold")
        await eyes.asked(
            "a",
            "The upgrade to generation 2 is refused, and what was replaced goes back to generation "
            "1."
        )
        await eyes.answer("n")
        assert master.status()["gate"] == "paused"
        await eyes.asked("a", "Abort?")
        await eyes.answer("y")
        await eyes.hears("upgrade to generation 2 goes back")
        await eyes.sees("rolled-back: generation 2 was refused: aborted by ")
        await eyes.asked("minus", "from 1 to 0")
        await eyes.answer("y")
        await eyes.hears("0 workers asked for, expected 1 to 10000")
        assert [each.severity for each in eyes.app._notifications
                if "10000" in each.message] == ["error"]

    look(master.path, scenario)


def test_scale(start: Start) -> None:
    master = good(start)

    async def scenario(eyes: Eyes) -> None:
        await eyes.until(lambda: len(eyes.pids()) == 2, "two rows")
        await eyes.asked("plus", "Change the number of workers from 2 to 3?")
        await eyes.answer("n")
        await eyes.asked("plus", "One more is started.")
        await eyes.answer("y")
        await eyes.hears("number of workers: 2 -> 3")
        await eyes.until(lambda: len(eyes.pids()) == 3, "three rows")
        await eyes.until_document(lambda each: each["ready"] == 3, "all ready")
        await eyes.asked("minus", "from 3 to 2")
        await eyes.answer("y")
        await eyes.until(lambda: len(eyes.pids()) == 2, "two rows again")

    look(master.path, scenario)


def test_recycle_the_chosen_worker(start: Start) -> None:
    master = good(start, number=3)
    old = [worker["pid"] for worker in master.status()["workers"]]

    async def scenario(eyes: Eyes) -> None:
        await eyes.until(lambda: eyes.pids() == old, "the rows")
        await eyes.press("down")
        await eyes.asked("r", f"Recycle worker 1 (pid {old[1]}, ready)?")
        await eyes.answer("n")
        await eyes.asked("r", "When that is ready, this one finishes its requests and leaves.")
        await eyes.answer("y")
        await eyes.hears(
            f"worker 1 (pid {old[1]}) leaves as soon as another one is ready in its place")
        await eyes.until(lambda: len(eyes.pids()) == 3 and old[1] not in eyes.pids(),
                         "another worker")
        assert (eyes.pids()[0], eyes.pids()[2]) == (old[0], old[2])
        chosen = eyes.app.table.chosen()
        assert chosen is not None
        # the choice goes to whoever has the seat
        assert (chosen["index"], chosen["pid"]) == (1, eyes.pids()[1])
        await eyes.asked("r", "Recycle worker 1 ")
        meant = eyes.pids()[1]
        os.kill(meant, signal.SIGKILL)
        await eyes.until_document(lambda each: each["ready"] == 3 and meant not in eyes.pids(),
                                  "its replacement")
        seen = eyes.pids()
        await eyes.answer("y")
        await eyes.hears(f"worker {meant} leaves already: nothing was asked")
        assert [worker["pid"] for worker in master.status()["workers"]] == seen

    look(master.path, scenario)
    assert master.status()["generation"] == 1


def test_sorting_by_key_and_by_click(start: Start) -> None:
    master = good(start, number=3)
    os.kill(master.status()["workers"][1]["pid"], signal.SIGKILL)
    master.wait_status(lambda each: each["ready"] == 3 and each["workers"][1]["restarts"] == 1)
    first, second, third = (worker["pid"] for worker in master.status()["workers"])

    async def scenario(eyes: Eyes) -> None:
        await eyes.until(lambda: eyes.pids() == [first, second, third], "by index")
        await eyes.press("down")
        await eyes.press("o")
        assert eyes.pids() == [third, second, first]
        await eyes.sees("▼INDEX")
        await eyes.press("s")
        assert eyes.pids() == sorted([first, second, third])
        await eyes.sees("▲PID")
        await eyes.press("S", "S")  # backwards, over the first to the last
        await eyes.sees("▼BUSY")
        left = sum(column.width for column in table.COLUMNS[:6])
        await eyes.pilot.click(eyes.app.table, offset=(left + 3, 0))
        await eyes.sees("▼RESTARTS")
        assert eyes.pids()[0] == second  # the only one that has died
        chosen = eyes.app.table.chosen()
        assert chosen is not None
        assert chosen["pid"] == second  # the choice went with its worker
        await eyes.pilot.click(eyes.app.table, offset=(left + 3, 0))
        await eyes.sees("▲RESTARTS")
        assert eyes.pids()[-1] == second
        for column in table.COLUMNS:
            eyes.app.table.sort_by(column, True)
            assert {*eyes.pids()} == {first, second, third}

    look(master.path, scenario)


def test_the_master_goes_away_and_comes_back(start: Start, place: Path) -> None:
    arguments = ("-d", f"{place}/x.sock", "-c", "again")
    master = good(start, *arguments)

    async def scenario(eyes: Eyes) -> None:
        await eyes.sees("again: ready")
        await asyncio.to_thread(master.stop)
        await eyes.sees("CONNECTION LOST: ")
        await eyes.sees("Next try in ")
        await eyes.press("u")
        await eyes.hears("not connected to the master")
        other = await asyncio.to_thread(good, start, *arguments, "--release", "second")
        await eyes.sees("generation 1 (second), up ")
        await eyes.until(lambda: "CONNECTION LOST" not in eyes.screen(), "the warning gone")
        assert eyes.pids() == [worker["pid"] for worker in other.status()["workers"]]
        # They are the new master's, which come in an answer of their own after the status.
        await eyes.until(lambda: "master stopped" not in eyes.events(),
                         "the new master's events alone")
        assert eyes.events()

    look(f"{place}/x.sock", scenario)


def test_a_reload_of_the_master_loses_nothing(start: Start) -> None:
    master = good(start)

    async def scenario(eyes: Eyes) -> None:
        await eyes.sees("ready: 2 of 2")
        await asyncio.to_thread(master.ask, "reload")
        await eyes.until_document(lambda each: each["master"]["reloads"] == 1,
                                  "the next master's status")
        await eyes.until(lambda: "master replaced" in eyes.events(), "the reload among the events")
        master.ask("scale", to=3)
        await eyes.until(lambda: len(eyes.pids()) == 3, "three rows")
        assert "CONNECTION LOST" not in eyes.screen()

    look(master.path, scenario)


def test_a_master_that_does_not_answer(start: Start) -> None:
    master = good(start)

    async def scenario(eyes: Eyes) -> None:
        await eyes.sees("ready: 2 of 2")
        master.signal(signal.SIGSTOP)
        try:
            await eyes.sees("THE MASTER DOES NOT ANSWER.")
        finally:
            master.signal(signal.SIGCONT)
        await eyes.until(lambda: "DOES NOT ANSWER" not in eyes.screen(), "the warning gone")

    look(master.path, scenario)


def test_after_a_hang_it_looks_as_often_as_before(start: Start) -> None:
    master = good(start)
    follower = watch.Watch(master.path)
    uptimes: list[float] = []
    for news in follower.news():
        match news:
            case watch.Status(document):
                uptimes.append(document["uptime_seconds"])
                if len(uptimes) == 2:
                    master.signal(signal.SIGSTOP)
                elif len(uptimes) == 5:
                    follower.close()
            case watch.Silent(seconds):
                assert seconds >= watch.SILENCE
                master.signal(signal.SIGCONT)
            case watch.Lost(reason, _):
                assert uptimes[4:], reason
    assert max(later - earlier for earlier, later in pairwise(uptimes[2:])) < watch.LONGEST_LOOK


@contextlib.contextmanager
def another_user(uid: int, gid: int) -> Iterator[None]:
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else for a while")
def test_who_may_only_look_sees_the_refusal(start: Start, place: Path) -> None:
    place.chmod(0o755)
    gid = pwd.getpwnam("nobody").pw_gid
    master = good(start, "-d", f"{place}/x.sock", "--observers", grp.getgrgid(gid).gr_name)

    async def scenario(eyes: Eyes) -> None:
        await eyes.sees("ready: 2 of 2")
        await eyes.asked("u", "Upgrade")
        with another_user(65000, gid):
            await eyes.answer("y")
            await eyes.hears("upgrade: user 65000 may look, but not touch")

    look(master.path, scenario)
    assert master.status()["newest_generation"] == 1


def test_help_and_quit_and_small_and_large_terminals(start: Start) -> None:
    master = good(start, "-b", "127.0.0.1:0", number=3)

    async def scenario(eyes: Eyes) -> None:
        await eyes.sees("ready: 3 of 3")
        await eyes.press("question_mark")
        for text in ("upgrade: replace every worker", "BUSY      the part of",
                     "leave: the master goes on"):
            await eyes.sees(text)
        await eyes.press("escape")
        await eyes.sees("ready: 3 of 3")
        for size in ((40, 12), (200, 60), (80, 24)):
            await eyes.pilot.resize_terminal(*size)
            await eyes.sees("ready")
            if size[0] >= 80:
                await eyes.sees(
                    "INDEX     PID  GEN STATE       AGE  READY RESTARTS MEMORY REQUESTS FLIGHT BUSY"
                )
                await eyes.until(lambda: " ready after " in eyes.screen(), "an event")
        await eyes.press("q")
        assert not eyes.app._running

    look(master.path, scenario)


def test_traffic_by_worker_and_by_generation(start: Start) -> None:
    master = start("-n", "1", "-b", "127.0.0.1:0", "--chdir", str(EXAMPLE), "--", "gunicorn",
                   "app:wsgi", environment={"BROKEN": "unhealthy"})
    master.wait_ready()

    async def scenario(eyes: Eyes) -> None:
        def seen(pattern: str) -> bool:
            """Whether that is there while every other request fails: of those of long ago nothing
            is told."""
            for path in ("/", "/health"):
                get(master.address, path)
            return re.search(pattern, eyes.screen()) is not None

        await eyes.sees("FLIGHT BUSY REQ/S FAILED    P99")
        await eyes.until(lambda: seen("generation 1: [0-9.]+ requests/s, 50% failed, p50 "),
                         "the traffic of the generation")
        await eyes.until(lambda: seen(r" [0-9.]+ +50% +[0-9.]+m?s *\n"), "its worker's")
        for _ in range(3):
            await eyes.press("S")  # backwards, over the first
        await eyes.sees("▼REQ/S")
        await eyes.press("question_mark")
        await eyes.sees("REQ/S     requests a second")
        await eyes.press("escape")
        # Without the column that it was sorted by, as before.
        await eyes.pilot.resize_terminal(99, 30)
        await eyes.until(lambda: "REQ/S" not in eyes.screen() and "▲INDEX" in eyes.screen(),
                         "the columns gone that don't fit")
        assert eyes.pids() == [master.status()["workers"][0]["pid"]]
        chosen = eyes.app.table.chosen()
        assert chosen is not None
        await eyes.pilot.resize_terminal(100, 30)
        await eyes.sees("REQ/S")
        # The old code against the new one.
        await asyncio.to_thread(master.ask, "upgrade", canary=1, hold="until-resume", wait=False)
        await eyes.sees("generation 2: no request in the last ")
        await eyes.sees("generation 1: ")

    look(master.path, scenario, (100, 30))


def test_a_judged_upgrade_is_seen_with_its_baseline() -> None:
    async def scenario(eyes: Eyes) -> None:
        eyes.app._watch.close()
        eyes.app._news.append(watch.Status(documents.held()))
        await eyes.sees("hold ends in 4 min 0 s")
        await eyes.sees(f"verdict no-worse: nothing is worse beyond doubt: {documents.WHY}")
        (row,) = [line.split() for line in eyes.screen().splitlines() if "baseline" in line]
        assert row[:4] == ["3", "4004", "1", "baseline"]
        eyes.app._news.append(watch.Status(documents.watched()))
        await eyes.sees("can go back for another 9 min 0 s")
        await eyes.sees(f"verdict well: within the tolerance beyond doubt: {documents.WHY}")
        assert "baseline" not in eyes.screen()
        eyes.app._news.append(watch.Status(documents.refused()))
        await eyes.sees(f"was refused: {documents.WHY}")
        await eyes.sees("verdict worse ")
        assert eyes.screen().count("p99 310 ms") == 1, "the figures are told once"
        assert "can go back" not in eyes.screen()

    look("/nonexistent", scenario)


def test_a_thousand_workers_do_not_make_it_slow(start: Start) -> None:
    document = good(start, number=1).status()

    def status(number: int, count: int) -> watch.Status:
        workers = [
            document["workers"][0] | {
                "index": index, "pid": 1000 + index + (5000 if index < 10 * number else 0),
                "age_seconds": 100.0 * index + number, "requests": index * 7919 % 1000 + number}
            for index in range(count)]
        return watch.Status(document | {"workers": workers})

    async def cost(eyes: Eyes, count: int) -> float:
        """Seconds to show a second with very much news."""
        took = []
        for number in range(5):
            eyes.app._news.extend([
                status(number, count), *(watch.Events([{
                    "event": "worker-ready", "time": "2026-01-02T03:04:05Z", "index": each,
                    "pid": each, "generation": 1, "took": "1s", "target": count}])
                                         for each in range(count))])
            before = time.perf_counter()
            eyes.app._draw()
            await eyes.pilot.pause()
            took.append(time.perf_counter() - before)
        return min(took)

    async def scenario(eyes: Eyes) -> None:
        eyes.app._watch.close()
        for column in (table.COLUMNS[0], table.COLUMNS[8]):
            eyes.app.table.sort_by(column, False)
            few, many = await cost(eyes, 100), await cost(eyes, 1000)
            assert many < 6 * few, (many, few)
            assert len(eyes.pids()) == 1000
            assert eyes.pids()[0] == 6000  # seat 0 has no requests but those of `number`
        await eyes.press("ctrl+end")
        await eyes.sees(str(eyes.pids()[-1]))

    look("/nonexistent", scenario)


# --- the command ---


def test_without_a_terminal_or_textual_it_says_so(place: Path) -> None:
    result = subprocess.run([EINHORNPY, "top"], env=base_environment(place), capture_output=True,
                            text=True, timeout=DEADLINE)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert "it wants a terminal" in result.stderr
    (place / "textual.py"
     ).write_text("raise ModuleNotFoundError('No module named textual', name='textual')")
    assert on_terminal(
        [EINHORNPY, "top"],
        base_environment(place) | {"PYTHONPATH": str(place)}) == (
            2, "einhornpy: top: Textual is missing; pip install 'einhornpy[top]' installs it\n")
    # By a name, since root finds the masters of the system too, where some run.
    assert on_terminal([EINHORNPY, "top", "-c", "nobody-has-this-name"],
                       base_environment(place))[0] == 69


def test_in_a_real_terminal(start: Start, place: Path) -> None:
    master = good(start, "-c", "shop", "-b", "127.0.0.1:0")
    tmux = Tmux(place, [EINHORNPY, "top", "-d", master.path], base_environment(place))
    try:
        tmux.sees("shop: ready: 2 of 2 workers ready on generation 1")
        assert max(map(len, tmux.screen().splitlines())) <= 80
        assert "\x1b[32m ready" in tmux.screen("-e")
        tmux.type("u")
        tmux.sees("All 2 workers are replaced")
        tmux.type("n")
        tmux.misses("All 2 workers")
        tmux.type("u")
        tmux.sees("Upgrade shop?")
        tmux.type("y")
        tmux.sees("upgrade to generation 2 accepted")
        tmux.sees("last upgrade: 1 -> 2, rolling, done after ")
        tmux.type("Down")
        tmux.type("r")
        tmux.sees("Recycle worker 1")
        tmux.type("Escape")
        tmux.misses("Recycle worker 1")
        tmux.run("resize-window", "-x", "60", "-y", "16")
        tmux.sees("shop: ready: 2 of 2 workers ready on generation 2")
        tmux.type("q")
        tmux.sees("left with 0")
    finally:
        tmux.close()
    assert master.status()["generation"] == 2


def test_no_colour_where_none_is_wanted_and_sigterm_leaves_the_terminal_whole(
        start: Start, place: Path) -> None:
    master = good(start, "-c", "shop")
    tmux = Tmux(place, [EINHORNPY, "top", "-d", master.path],
                base_environment(place) | {"NO_COLOR": "1"})
    try:
        tmux.sees("shop: ready: 2 of 2 workers ready on generation 1")
        codes = {
            code for found in re.findall(r"\x1b\[([0-9;]*)m", tmux.screen("-e"))
            for code in found.split(";")}
        assert not codes & {
            *map(str, range(30, 39)), *map(str, range(40, 49)), *map(str, range(90, 98))}, codes
        os.kill(tmux.pid(), signal.SIGTERM)
        tmux.sees("left with 0")
        assert tmux.about("alternate_on", "mouse_any_flag") == "0 0"
    finally:
        tmux.close()


def test_every_event_has_a_line() -> None:
    """Also those that no case is made for."""
    assert show.happened({
        "event": "hook-failed", "time": "2026-01-02T03:04:05Z", "hook": "on-worker-ready",
        "error": None, "ready": 1, "target": 1}) == "03:04:05 hook failed: hook on-worker-ready"


def test_templates_and_what_is_not_safe_to_fork(start: Start) -> None:
    master = start("-n", "2", "-b", "127.0.0.1:0", "--preload", "--chdir", str(APPS), "--",
                   str(BIN / "gunicorn"), "preloaded:wsgi")
    (template,) = master.wait_ready()["templates"]

    async def scenario(eyes: Eyes) -> None:
        await eyes.sees(f"template of generation 1: pid {template['pid']}, ready ")
        await eyes.sees(", 2 forks, ")
        await eyes.until_document(
            lambda document: (document["memory"]["saved_bytes"] or 0) > 48 << 20, "what is saved")
        await eyes.until(lambda: re.search(r"^ memory \d+ MiB, sharing saves \d+ MiB +$",
                                           eyes.screen(), re.MULTILINE), "the memory")
        # One line each: the workers need the room.
        (line,) = (line for line in eyes.screen().splitlines() if "not safe to fork (" in line)
        assert line.startswith(" generation 1 is not safe to fork (`einhornpy status` says more): ")
        assert line.rstrip().endswith("…")
        assert "INDEX" in eyes.screen().splitlines()[eyes.screen().splitlines().index(line) + 1]

    look(master.path, scenario)
