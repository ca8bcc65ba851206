"""The page, in a real browser, on real masters: whatever happens is seen, also by those who see or
use it differently."""

from __future__ import annotations

import importlib.resources
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from einhornpy.control.web.feed import sample
from playwright.sync_api import Browser, Locator, Page, Route, expect

from .. import documents
from ..browser import chromium
from ..harness import APPS, BIN, DEADLINE, EXAMPLE, Master, get, wait_gone, wait_until
from ..steering.test_upgrade import COMMAND, Start, release

expect.set_options(timeout=DEADLINE * 1000)
AXE = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
# What the browser says when the stream is cut off or nobody listens: the very thing that some tests
# do.
LOST = re.compile(
    "Failed to load resource: "
    "(net::ERR_(CONNECTION_(REFUSED|RESET)|INCOMPLETE_CHUNKED_ENCODING|EMPTY_RESPONSE)"
    "|the server responded with a status of 503)")
# Notes every change of what is read aloud.
LISTEN = """addEventListener("DOMContentLoaded", () => {
  window.heard = [];
  const said = document.getElementById("announcement");
  new MutationObserver(() => window.heard.push(said.textContent)).observe(said, {childList: true});
})"""


class Viewer:
    """Opens pages, and notes whatever a page does that it should not: errors, and requests to
    anybody else."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._may_lose = False
        self._noted: list[str] = []

    def open(self, master: Master, width: int = 1280, **options: Any) -> Page:
        """The page of a master, as soon as it shows something."""
        page = self.new(master.web, width, **options)
        page.goto(master.web)
        expect(page.locator("#gate-word")).not_to_have_text("unknown")
        return page

    def new(self, origin: str, width: int = 1280, **options: Any) -> Page:
        page = self._browser.new_context(viewport={"width": width, "height": 900},
                                         **options).new_page()
        page.set_default_timeout(DEADLINE * 1000)
        page.add_init_script(LISTEN)
        page.on("console", lambda message: self._noted.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self._noted.append(f"error: {error}"))
        page.on("request", lambda request: self._check(request.url, origin))
        return page

    def _check(self, url: str, origin: str) -> None:
        if not url.startswith((f"{origin}/", "data:image/svg+xml", "data:,")):
            self._noted.append(f"request to {url}")

    def may_lose(self) -> None:
        """Forgive what the browser says of a lost connection: what it said, and, while it tries to
        come back, will say."""
        self._may_lose = True

    def problems(self) -> list[str]:
        return [each for each in self._noted if not (self._may_lose and LOST.search(each))]


@pytest.fixture
def viewer(start: Start) -> Iterator[Viewer]:
    """Before the masters are stopped the browser is gone; it has noted nothing that it should
    not."""
    with chromium() as browser:
        viewer = Viewer(browser)
        yield viewer
    assert not viewer.problems()


@pytest.fixture
def serve(start: Start, place: Path) -> Callable[..., Master]:
    """A master with a page, whose workers do what the newest release says."""

    def factory(*arguments: str, words: str = "notify", number: int = 3) -> Master:
        release(place, "r1", words)
        master = start("-n", str(number), "-m", "notify", "-c", "shop",
                       "--labels", "region=north", "--web", "127.0.0.1:0", "--chdir",
                       str(place / "current"), *arguments, "--", *COMMAND)
        master.wait_ready()
        return master

    return factory


def check_accessible(page: Page) -> None:
    """axe-core finds nothing."""
    page.evaluate(AXE)
    # What fades in or out is not yet, or no longer, what is to be read.
    page.evaluate(
        "Promise.all(document.getAnimations().filter((each) => each.effect.getTiming().iterations "
        "=== 1)"
        ".map((each) => each.finished.catch(() => {})))")
    violations = page.evaluate("axe.run().then((found) => found.violations)")
    assert not violations, json.dumps([(each["id"], [(node["html"][:200], node["failureSummary"])
                                                     for node in each["nodes"][:3]])
                                       for each in violations], indent=1)


def tiles(page: Page, seat: int) -> list[str]:
    """What the cells of a seat say, without those that are just going."""
    texts: list[str] = page.locator(".seat").nth(seat).locator(".tile:not(.gone)").evaluate_all(
        "(all) => all.map((each) => each.getAttribute('aria-label'))")
    return [re.sub(r", pid \d+", "", text) for text in texts]


def wait_tiles(page: Page, seat: int, *wanted: str) -> None:
    page.wait_for_function(
        """([seat, wanted]) => {
          const place = document.querySelectorAll(".seat")[seat];
          const found = [...place?.querySelectorAll(".tile:not(.gone)") ?? []]
            .map((each) => each.getAttribute("aria-label").replace(/, pid [0-9]+/, ""));
          return JSON.stringify(found) === wanted;
        }""", arg=[seat, json.dumps(list(wanted), separators=(",", ":"))])


def test_an_upgrade_from_its_start_to_its_end(serve: Callable[..., Master], place: Path,
                                              viewer: Viewer) -> None:
    master = serve(words="notify deaf")
    page = viewer.open(master)
    expect(page.locator("#gate-word")).to_have_text("ready")
    expect(page.locator("#gate-reason")).to_have_text("3 of 3 workers ready on generation 1")
    expect(page).to_have_title("ready · shop · einhornpy")
    expect(page.locator("#labels")).to_contain_text("region=north")
    expect(page.locator("#facts")).to_contain_text(f"pid {master.pid}, 0.1.0")
    expect(page.locator("#upgrade")).to_have_text("None since the master started.")

    # A canary that is held: the old worker and the new one in the same seat.
    release(place, "r2", "notify")
    assert master.cli("upgrade", "--no-wait", "--release", "3f2c1ab", "--canary", "1", "--hold",
                      "until-resume").returncode == 0
    expect(page.locator("#gate-word")).to_have_text("paused")
    wait_tiles(page, 0, "Seat 0: generation 1, ready", "Seat 0: generation 2, ready")
    wait_tiles(page, 1, "Seat 1: generation 1, ready")
    upgrade = page.locator("#upgrade")
    expect(upgrade).to_contain_text("1 → 2")
    expect(upgrade).to_contain_text("1 of 3 replaced")
    expect(upgrade).to_contain_text("held until somebody says resume or abort")
    expect(upgrade).to_contain_text("3f2c1ab")
    expect(page.locator("#windows")).to_contain_text("1 → 2 running")

    # Old workers that do not leave: they drain.
    master.cli("resume")
    old = master.wait_status(
        lambda each: sum(worker["state"] == "retiring" for worker in each["workers"]) == 3)
    wait_tiles(page, 1, "Seat 1: generation 1, retiring", "Seat 1: generation 2, ready")
    page.get_by_role("button", name="Seat 1: generation 1, retiring").click()
    details = page.locator("#details")
    expect(details).to_contain_text("the end of its process, killed in")
    expect(details).to_contain_text("memory")
    for worker in old["workers"]:
        if worker["state"] == "retiring":
            os.kill(worker["pid"], signal.SIGKILL)
    expect(page.locator("#gate-word")).to_have_text("ready")
    wait_tiles(page, 1, "Seat 1: generation 2, ready")
    expect(details).to_contain_text("gone")
    expect(page.locator("#facts")).to_contain_text("3f2c1ab")
    expect(upgrade.locator(".outcome").first).to_have_text("done")

    # The airbag can be seen, and is said.
    page.get_by_role("button", name="1 → 2 done").click()
    expect(page.locator("#airbag-verdict")).to_have_text(
        re.compile(r"^Never below N: at least 3 ready of 3, at most [45]\.$"))
    words = re.compile(r"^Ready workers against N during the upgrade 1 → 2, done\. Never below N")
    expect(page.locator("#timeline svg[role=img]")).to_have_attribute("aria-label", words)
    assert page.locator("#timeline .area.below, #timeline .area.filling").count() == 0
    assert page.locator("#timeline .area.above").count() == 1
    assert page.locator("#timeline .mark").count() >= 2
    # Read aloud was the gate, whenever it changed, and nothing else.
    heard = page.evaluate("window.heard")
    said = [text.partition(":")[0].removeprefix("Gate ") for text in heard]
    # What lasts for less than a few frames is neither shown nor said.
    assert [word for word in said if word != "upgrading"] == ["ready", "paused", "ready"]
    assert all(one != other for one, other in pairwise(said))


def test_a_refused_release_and_why(serve: Callable[..., Master], place: Path,
                                   viewer: Viewer) -> None:
    master = serve("--max-failures", "1", "--worker-output", "prefix")
    page = viewer.open(master)
    release(place, "r2", "eat=much")
    assert master.cli("upgrade", "--release", "bad").returncode == 5
    expect(page.locator("#gate-word")).to_have_text("rolled-back")
    why = "a worker exited with code 1 before it was ready"
    expect(page.locator("#gate-reason")).to_contain_text(why)
    expect(page.locator("#upgrade")).to_contain_text("rolled-back")
    expect(page.locator("#upgrade .error")).to_contain_text(why)
    expect(
        page.locator("#events .bad").first).to_contain_text("upgrade to generation 2 rolled-back")
    expect(page.locator("#failed-start pre")).to_contain_text(
        "ValueError: invalid literal for int() with base 10: 'much'")
    expect(page.locator("#airbag-verdict")).to_contain_text("Never below N")
    check_accessible(page)
    page.get_by_label("only what needs attention").check()
    expect(page.locator("#events li:not(.bad)")).to_have_count(0)
    assert page.locator("#events li").count() >= 2
    page.get_by_label("only what needs attention").uncheck()

    # The next good one is shown beside it, and one can go back to look at the refused one.
    release(place, "r3", "notify")
    assert master.cli("upgrade").returncode == 0
    expect(page.locator("#gate-word")).to_have_text("ready")
    expect(page.locator("#upgrade .earlier")).to_contain_text("Before: 1 → 2")
    expect(page.locator("#failed-start")).to_be_hidden()
    expect(page.locator("#upgrade .earlier .error")).to_contain_text(why)
    page.get_by_role("button", name="1 → 2 rolled-back").click()
    expect(page.get_by_role("button",
                            name="1 → 2 rolled-back")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#airbag-verdict")).to_have_text(
        re.compile("^Never below N: at least 3 ready of 3"))
    expect(page.locator("#timeline .mark.bad")).not_to_have_count(0)


def test_scaling_moves_the_line_and_a_crash_is_below_it(serve: Callable[..., Master],
                                                        viewer: Viewer) -> None:
    master = serve()
    page = viewer.open(master)
    assert page.locator("#timeline .area.below").count() == 0
    for wanted in (5, 2):
        master.cli("scale", str(wanted))
        expect(page.locator(".seat")).to_have_count(wanted)
        expect(page.locator("#workers-summary")).to_contain_text(f"{wanted} of {wanted} ready")
        expect(page.locator("#timeline .label.target")).to_have_text(f"N = {wanted}")
    expect(page.locator("#airbag-verdict")).to_contain_text("Never below N once it was reached")
    victim = master.status()["workers"][0]["pid"]
    os.kill(victim, signal.SIGKILL)
    expect(page.locator("#airbag-verdict")).to_have_text(
        re.compile(r"Below N for .*: at worst 1 ready of 2\."))
    expect(page.locator("#timeline .area.below")).to_have_count(1)
    expect(page.locator("#events")).to_contain_text(
        f"worker 0 (pid {victim}, generation 1) died with status -9")
    # What the crash cost is said to whoever points at it; a page that is paused doesn't move on
    # meanwhile.
    page.get_by_role("button", name="Pause").click()
    page.locator("#timeline").scroll_into_view_if_needed()
    x, y = page.evaluate(
        "(({x, y, width, height}) => [x + width / 2, y + height / 2])"
        "(document.querySelector('#timeline .area.below').getBoundingClientRect())")
    page.mouse.move(x, y)
    expect(page.locator(".readout")).to_contain_text("1 ready, N is 2")


def test_a_paused_page_waits_and_catches_up(serve: Callable[..., Master], viewer: Viewer) -> None:
    master = serve()
    page = viewer.open(master)
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#paused")).to_contain_text("Paused since")
    expect(page.locator("#freshness")).to_have_text("paused")
    shown = page.locator("#events").inner_text()
    assert master.cli("upgrade").returncode == 0
    recorded = master.status()
    # Each of three workers: starting, ready, retiring, gone; and the upgrade's own three.
    expect(page.locator("#paused")).to_contain_text("15 events wait")
    assert tiles(page, 0) == ["Seat 0: generation 1, ready"]
    assert page.locator("#events").inner_text() == shown
    # Looking closer is still possible, at what was then.
    page.get_by_role("button", name="Seat 2").click()
    expect(page.locator("#details")).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#paused")).to_be_hidden()
    wait_tiles(page, 0, "Seat 0: generation 2, ready")
    expect(page.locator("#events li").first).to_contain_text("upgrade to generation 2 done")
    expect(page.locator("#freshness")).to_contain_text("live, ")
    page.get_by_role("button", name=f"pid {recorded['workers'][0]['pid']}").click()
    expect(page.locator("#details-heading")).to_contain_text(str(recorded["workers"][0]["pid"]))


def test_a_lost_connection_is_said_and_found_again(start: Start, place: Path,
                                                   viewer: Viewer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = [
        "-n", "2", "-m", "notify", "-c", "shop", "--web", f"127.0.0.1:{port}", "--", sys.executable,
        str(APPS / "worker.py"), "notify"]
    master = start(*arguments)
    master.wait_ready()
    page = viewer.open(master)
    sidecar = int(re.findall(r"pid=(\d+)", master.wait_log("web started"))[0])
    # While the page does not look, the sidecar dies and another one is started.
    os.kill(sidecar, signal.SIGKILL)
    expect(page.locator("#lost")).to_have_text(
        re.compile(r"^Connection lost since \d\d:\d\d:\d\d UTC, trying again\."))
    expect(page.locator("body")).to_have_class("stale")
    expect(page.locator("#announcement")).to_have_text("Gate unknown: the connection is lost")
    expect(page).to_have_title("lost · shop · einhornpy")
    expect(page.locator("#lost")).to_be_hidden()
    expect(page.locator("body")).not_to_have_class("stale")
    expect(page.locator("#freshness")).to_contain_text("live, ")
    expect(page.locator("#events")).to_contain_text("the page's server died")
    expect(page).to_have_title("ready · shop · einhornpy")
    expect(page.locator("#announcement")).to_have_text(
        "Gate ready: 2 of 2 workers ready on generation 1")
    # A reload replaces the sidecar too; the page goes on with the next one.
    assert master.cli("reload").returncode == 0
    assert master.cli("upgrade").returncode == 0
    wait_tiles(page, 0, "Seat 0: generation 2, ready")
    expect(page.locator("#lost")).to_be_hidden()
    # One master after the other: what was between them nobody knows, so the line is broken.
    master.signal(signal.SIGKILL)
    master.wait_exit()
    expect(page.locator("#lost")).to_be_visible()
    second = start(*arguments)
    second.wait_ready()
    expect(page.locator("#lost")).to_be_hidden()
    expect(page.locator("#facts")).to_contain_text(f"pid {second.pid},")
    page.wait_for_function(
        "document.querySelector('#timeline .line.ready').getAttribute('d').match(/M/g).length >= 2")
    viewer.may_lose()


def test_a_stream_that_is_refused_is_asked_for_again(serve: Callable[..., Master],
                                                     viewer: Viewer) -> None:
    master = serve(number=1)
    page = viewer.new(master.web)
    page.route("**/stream",
               lambda route: route.fulfill(status=503, body="too many pages listen already"))
    page.goto(master.web)
    expect(page.locator("#lost")).to_contain_text("Connection lost since")
    page.unroute("**/stream")
    expect(page.locator("#gate-word")).to_have_text("ready")
    expect(page.locator("#lost")).to_be_hidden()
    viewer.may_lose()


def test_a_master_that_says_nothing(serve: Callable[..., Master], viewer: Viewer) -> None:
    master = serve(number=1)
    page = viewer.new(master.web)
    page.clock.install()
    page.goto(master.web)
    expect(page.locator("#freshness")).to_contain_text("live, ")
    master.signal(signal.SIGSTOP)
    # The connection stands, but for a quarter of a minute, by a clock put forward, nothing comes; a
    # word may still be under way.

    def missed() -> bool:
        page.clock.fast_forward(20_000)
        return page.locator("#lost").is_visible()

    wait_until(missed, "the page missing the master")
    expect(page.locator("#lost")).to_contain_text("No news from the master since")
    master.signal(signal.SIGCONT)
    expect(page.locator("#lost")).to_be_hidden()
    expect(page.locator("#freshness")).to_contain_text("live, ")


def test_a_master_that_stops(serve: Callable[..., Master], viewer: Viewer) -> None:
    master = serve(words="notify deaf", number=1)
    page = viewer.open(master)
    (worker,) = master.status()["workers"]
    master.signal(signal.SIGTERM)
    expect(page.locator("#stopping")).to_have_text("The master is stopping: 1 worker still there.")
    expect(page.locator("#gate-word")).to_have_text("stopping")
    os.kill(worker["pid"], signal.SIGKILL)
    wait_gone(master.pid, master.log)
    expect(page.locator("#lost")).to_contain_text("The master was stopping.")
    viewer.may_lose()


def test_traffic(start: Start, viewer: Viewer) -> None:
    master = start("-n", "1", "-b", "127.0.0.1:0", "--web", "127.0.0.1:0", "--chdir", str(EXAMPLE),
                   "--", "gunicorn", "--threads", "2", "app:wsgi")
    master.wait_ready()
    page = viewer.open(master)
    expect(page.locator("#queue-now")).to_have_text("0 of 2,048")
    with socket.create_connection(master.address) as slow:
        slow.sendall(b"GET /slow/3 HTTP/1.0\r\n\r\n")
        expect(page.locator("#in-flight-now")).to_have_text("1")
        expect(page.locator("#in-flight svg")).to_have_attribute("aria-label",
                                                                 re.compile("now 1, at most 1"))
    assert get(master.address)[0] == 200
    page.get_by_role("button", name="Seat 0").click()
    expect(page.locator("#details-facts")).to_contain_text("requests done")
    expect(page.locator("#details-facts")).to_contain_text("requests a second")
    # Old against new code, as soon as there are both.
    expect(page.locator("#comparison")).to_be_hidden()
    assert master.cli("upgrade", "--no-wait", "--canary", "1", "--hold",
                      "until-resume").returncode == 0
    expect(page.locator("#compared tbody tr").nth(0)).to_contain_text("old, generation 1")
    expect(page.locator("#compared tbody tr").nth(1)).to_have_text("new, generation 20––––0")
    expect(page.locator("#rate .line")).to_have_count(2)
    check_accessible(page)


@pytest.mark.parametrize("mode", ["warn", "auto"])
def test_templates_and_what_is_not_safe_to_fork(start: Start, viewer: Viewer, mode: str) -> None:
    master = start("-n", "2", "-b", "127.0.0.1:0", "--web", "127.0.0.1:0", f"--preload={mode}",
                   "--chdir", str(APPS), "--", str(BIN / "gunicorn"), "preloaded:wsgi")
    (template,) = master.wait_ready()["templates"]
    width = 360 if mode == "auto" else 1280
    page = viewer.open(master, width)
    card = page.locator("#templates-card")
    (row,) = card.locator(".template").all()
    expect(row).to_contain_text(f"pid{template['pid']}")
    expect(row).to_contain_text("forks2")
    expect(row).to_contain_text(re.compile(r"memory\d+ MiB"))
    expect(row).to_contain_text(re.compile(r"ready for\d"))
    expect(row.get_by_text("app imported in")).to_have_count(1 if mode == "warn" else 0)
    expect(page.locator("#facts")).to_contain_text(
        re.compile(r"memory\d+ MiB, sharing saves \d+ MiB"))
    warning = card.get_by_role("region", name="Not safe to fork in generation 1")
    expect(warning).to_contain_text("thread 'poller' (queue.Queue.get), since the import of "
                                    "preloaded")
    expect(warning).to_contain_text("start it in each")
    themselves = warning.get_by_text("Its workers import the app themselves.")
    expect(themselves).to_have_count(1 if mode == "auto" else 0)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    check_accessible(page)


def test_with_the_keyboard_alone(serve: Callable[..., Master], viewer: Viewer) -> None:
    page = viewer.open(serve(), reduced_motion="reduce")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Pause")).to_be_focused()
    page.keyboard.press("Tab")
    # All cells are one stop; arrows go on.
    expect(page.locator(".tile").nth(0)).to_be_focused()
    outline = page.locator(".tile").nth(0).evaluate("(tile) => getComputedStyle(tile).outlineWidth")
    assert outline == "3px"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("End")
    expect(page.locator(".tile").nth(2)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#details-heading")).to_contain_text("Seat 2: worker with pid")
    expect(page.locator(".tile").nth(2)).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Escape")
    expect(page.locator("#details")).to_be_hidden()
    expect(page.locator(".tile").nth(2)).to_be_focused()
    page.keyboard.press("Home")
    expect(page.locator(".tile").nth(0)).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Live")).to_be_focused()
    assert page.locator(".tile").nth(0).evaluate(
        "(tile) => getComputedStyle(tile).animationName") == "none"
    headings = page.locator("h1:visible, h2:visible").all_inner_texts()
    assert headings == ["shop", "Gate", "Workers", "Airbag", "Upgrade", "Events (UTC)", "Traffic"]


@pytest.mark.parametrize("number", [1, 64])
def test_few_and_many_on_small_and_large_screens(serve: Callable[..., Master], viewer: Viewer,
                                                 number: int) -> None:
    master = serve(number=number)
    for width, scheme in ((360, "light"), (1600, "dark")):
        page = viewer.open(master, width, color_scheme=scheme)
        expect(page.locator(".tile.ready")).to_have_count(number)
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        cells = page.locator(".tile").evaluate_all(
            "(all) => all.map((each) => each.getBoundingClientRect()).map((box) => "
            "[box.left, box.right, box.width, box.height])")
        assert all(left >= 0 and right <= width and min(wide, high) >= 18
                   for left, right, wide, high in cells)
        page.locator(".tile").last.click()
        expect(page.locator("#details")).to_be_visible()
        check_accessible(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(serve: Callable[..., Master], place: Path, viewer: Viewer,
                           scheme: str) -> None:
    master = serve("--max-failures", "1")
    release(place, "r2", "crash-before")
    assert master.cli("upgrade").returncode == 5
    release(place, "r3", "notify")
    page = viewer.open(master, color_scheme=scheme)
    dark = page.evaluate(
        "getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).every((each) => "
        "each < 50)"
    )
    assert dark == (scheme == "dark")
    expect(page.locator("#gate-word")).to_have_text("rolled-back")
    page.locator(".tile").first.click()
    expect(page.locator("#details")).to_be_visible()
    check_accessible(page)
    # In the middle of an upgrade, paused by its canary; the page paused as well.
    assert master.cli("upgrade", "--no-wait", "--canary", "1", "--hold",
                      "until-resume").returncode == 0
    expect(page.locator("#gate-word")).to_have_text("paused")
    expect(page.locator("#upgrade .outcome").first).to_have_text("paused")
    page.get_by_role("button", name="Pause").click()
    check_accessible(page)
    page.get_by_role("button", name="Resume").click()
    master.signal(signal.SIGKILL)
    master.wait_exit()
    expect(page.locator("#lost")).to_be_visible()
    check_accessible(page)
    viewer.may_lose()


def test_a_thousand_workers(serve: Callable[..., Master], viewer: Viewer) -> None:
    """Not started, but told of: the page gets the document that a master with so many would
    send."""
    master = serve(number=1)
    document = master.status()
    (one,) = document["workers"]
    workers = [{
        **one, "index": index, "pid": 10000 + index, "generation": 1 + (index < 400),
        "last_lines": ["one", f"two {index}"]} for index in range(1000)]
    workers.append({**one, "index": 400, "pid": 20000, "generation": 2, "state": "starting"})
    status = {**document, "workers": workers, "target": 1000, "ready": 1000}
    samples = [{
        "unix_time": 1e9 + second, "ready": 1000, "target": 1000, "queue": 9, "in_flight": 1}
               for second in range(300)]
    hello = {"status": status, "events": [], "samples": samples}

    def tell(route: Route) -> None:
        route.fulfill(content_type="text/event-stream",
                      body=f"retry: 1000000\nevent: hello\ndata: {json.dumps(hello)}\n\n")

    for width in (360, 1600):
        page = viewer.new(master.web, width)
        page.route("**/stream", tell)
        page.goto(master.web)
        expect(page.locator(".tile")).to_have_count(1001)
        expect(page.get_by_text("region=north")).to_be_visible()
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        page.get_by_role("button", name="Seat 400: generation 2, starting").click()
        expect(page.locator("#details-heading")).to_have_text("Seat 400: worker with pid 20000")
        page.get_by_role("button", name="Seat 999: generation 1, ready").click()
        # A key that the page has never heard of is shown as it is.
        expect(page.locator("#details-lines pre")).to_have_text("one\ntwo 999")


def figures(requests: int, failed: int, p99: float | None) -> dict[str, Any]:
    """Signals as the status has them, of 10 seconds."""
    return {
        "seconds": 10.0, "requests": requests, "requests_per_second": requests / 10,
        "failed": failed, "failed_share": failed / requests if requests else None, "exceptions": 0,
        "aborted": 0, "bytes_out": 0, "responses": {}, "p50_seconds": p99 and p99 / 10,
        "p95_seconds": p99 and p99 / 2, "p99_seconds": p99}


def judged(document: Mapping[str, Any], **upgrade: Any) -> dict[str, Any]:
    """What a stream begins with, two minutes into an upgrade from generation 1 to 2."""
    now = 1.7e9
    course = {
        "from": 1, "to": 2, "kind": "rolling", "phase": "held", "release": "3f2c1ab",
        "outcome": None, "replaced": 1, "failures": 0, "cause": None, "reason": None, "error": None,
        "last_lines": [], "requested_by": "deploy", "canary": 1, "check": None, "paused_by": None,
        "hold_left_seconds": 60.0, "recipe_of": None, "ended_at": None, "took_seconds": 120.0,
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - 120)), **upgrade}
    traffic = [{"generation": number, "recent": each, "since_start": each}
               for number, each in ((1, figures(4000, 8, 0.12)), (2, figures(1310, 54, 0.31)))]
    samples = [sample({**document, "traffic": traffic[: 1 + (second > 20)]})
               | {"unix_time": now - 120 + second} for second in range(121)]
    return {"status": {**document, "generation": 2, "traffic": traffic, "upgrade": course},
            "events": [], "samples": samples}


VERDICT = {
    "word": "worse", "reason": "5xx 4.1 % against 0.2 % of 1,310 requests, p < 0.001",
    "requests": 1310, "old_requests": 5200, "overruled_by": None, "measures": [
        {"measure": "failed", "new": 0.041, "old": 0.002, "p_worse": 0.0005, "p_well": 1.0},
        {"measure": "p99", "new": 0.31, "old": 0.12, "p_worse": 0.2, "p_well": 1.0},
        {"measure": "memory", "new": 12288.0, "old": None, "p_worse": 1.0, "p_well": 1.0},
        {"measure": "hung", "new": 0.03, "old": 0.0, "p_worse": 1.0, "p_well": 1.0}]}


def test_old_against_new_and_the_verdict(serve: Callable[..., Master], viewer: Viewer) -> None:
    """By documents that a master would send in the middle of an upgrade."""
    master = serve(number=1)
    document = master.status()
    told: dict[str, Any] = {}

    def show(page: Page, hello: Mapping[str, Any]) -> None:
        told.clear()
        told.update(hello)
        page.goto(master.web)
        expect(page.locator("#gate-word")).to_have_text("ready")

    for width, scheme in ((360, "dark"), (1280, "light")):
        page = viewer.new(master.web, width, color_scheme=scheme)
        page.route("**/stream", lambda route: route.fulfill(
            content_type="text/event-stream",
            body=f"retry: 1000000\nevent: hello\ndata: {json.dumps(told)}\n\n"))
        show(page, judged(document, verdict=VERDICT))
        verdict = page.get_by_role("region", name="Verdict on the new code")
        expect(verdict).to_contain_text("Verdict: worse5xx 4.1 % against 0.2 % of 1,310 requests")
        assert verdict.locator("tbody tr").all_inner_texts() == [
            "failed\t0.2%\t4.1%", "p99\t120 ms\t310 ms",
            "memory that grows with a request\t–\t12.0 KiB", "without an answer\t0%\t3%"]
        card = page.locator("#comparison")
        assert card.locator("tbody tr").all_inner_texts() == [
            "old, generation 1\t400\t0.2%\t12 ms\t60 ms\t120 ms\t4,000",
            "new, generation 2\t131\t4.1%\t31 ms\t155 ms\t310 ms\t1,310"]
        for chart, said in (
                ("rate", "Requests a second .*generation 1: now 400, .*generation 2: now 131, "),
                ("failed", "Failed .*generation 1: now 0.2%, .*generation 2: now 4.1%, "),
                ("p99", "99 of 100 .*generation 1: now 120 ms, .*generation 2: now 310 ms, ")):
            expect(card.locator(f"#{chart} svg")).to_have_attribute("aria-label", re.compile(said))
            for side in ("old", "new"):
                expect(card.locator(f"#{chart} .line.{side}")).to_have_count(1)
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        # A stream that ended has taken the colours away.
        page.evaluate("document.body.classList.remove('stale')")
        check_accessible(page)
    # Watched after its end; long over; from a master that knows nothing of it.
    done = {"outcome": "done", "phase": "ended", "hold_left_seconds": None,
            "ended_at": "2023-11-14T22:10:00Z"}
    show(page, judged(document, **done, watch_left_seconds=599.0, verdict=None))
    expect(page.locator("#comparison")).to_be_visible()
    expect(page.locator("#upgrade")).to_contain_text("can go back for9 min 59 s")
    expect(page.get_by_role("region", name="Verdict on the new code")).to_have_count(0)
    show(page, judged(document, **done, watch_left_seconds=None))
    expect(page.locator("#comparison")).to_be_hidden()
    # One that went back while it was watched ended twice, and is one.
    counts = {"ready": 1, "live": 1, "target": 1, "gate": "ready", "unix_time": 1.7e9 - 60}
    twice = [counts | {"event": "upgrade-started", "from": 1, "to": 2},
             *(counts | {"event": "upgrade-ended", "generation": 2, "outcome": outcome,
                         "took_seconds": 1.0} for outcome in ("done", "rolled-back"))]
    show(page, judged(document, **done, watch_left_seconds=None) | {"events": twice})
    assert [text.partition(",")[0] for text in page.locator("#windows button").all_inner_texts()
            ] == ["Live", "1 → 2 rolled-back"]
    older = judged(document)
    older["samples"] = [{**each, "traffic": {}} for each in older["samples"]]
    show(page, older)
    expect(page.locator("#comparison")).to_be_hidden()


@pytest.mark.parametrize("width", [360, 1280])
def test_a_judged_upgrade_is_shown_as_a_master_tells_it(serve: Callable[..., Master],
                                                        viewer: Viewer, width: int) -> None:
    master = serve(number=1)
    told: dict[str, Any] = {}
    page = viewer.new(master.web, width)
    page.route("**/stream", lambda route: route.fulfill(
        content_type="text/event-stream",
        body=f"retry: 1000000\nevent: hello\ndata: {json.dumps(told)}\n\n"))

    def show(document: dict[str, Any]) -> Locator:
        """The card of the upgrade."""
        told.update(status=document, events=[], samples=[sample(document)])
        page.goto(master.web)
        expect(page.locator("#gate-word")).to_have_text(document["gate"])
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        page.evaluate("document.body.classList.remove('stale')")
        check_accessible(page)
        return page.locator("#upgrade")

    upgrade = show(documents.held())
    expect(upgrade).to_contain_text("hold left4 min")
    expect(upgrade).to_contain_text(
        f"Verdict: no-worsenothing is worse beyond doubt: {documents.WHY}")
    expect(page.locator("#comparison tbody tr")).to_have_count(2)
    baseline = page.get_by_role(
        "button", name="Seat 3: generation 1, ready, pid 4004, baseline", exact=True)
    expect(baseline.locator(".state")).to_have_text("baseline")
    expect(page.locator(".tile .state", has_text="baseline")).to_have_count(1)
    baseline.click()
    expect(page.locator("#details")).to_contain_text(
        "baselineruns the old code, to compare new workers with")
    page.get_by_role("button", name="Seat 1: ").click()
    expect(page.locator("#details")).not_to_contain_text("baseline")
    upgrade = show(documents.watched())
    expect(upgrade).to_contain_text("can go back for9 min")
    expect(upgrade).to_contain_text("Verdict: well")
    expect(page.locator("#comparison")).to_be_visible()
    upgrade = show(documents.refused())
    expect(upgrade).to_contain_text(f"Verdict: worse{documents.WHY}")
    expect(upgrade).not_to_contain_text("can go back")
