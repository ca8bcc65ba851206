"""Draws the pictures in docs/pictures from a real master: `make pictures`. Each function below
makes one of them.

Waits for events, never for the clock, so that each picture shows the same moment whenever it is
made.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from einhornpy.control.top.app import Top

from tests.browser import chromium
from tests.harness import EXAMPLE, ROOT, Master
from tests.load import Load

PICTURES = ROOT / "docs" / "pictures"
WORKERS = 6


@contextlib.contextmanager
def shop() -> Iterator[tuple[Master, Callable[..., None]]]:
    """A master with the example app, which takes a second to import, and a function that puts
    another release in its place."""
    with tempfile.TemporaryDirectory(prefix="shop-", dir="/tmp") as name:
        place = Path(name)

        def release(release: str, broken: bool = False) -> None:
            directory = place / release
            shutil.copytree(EXAMPLE, directory)
            if broken:
                (directory / "app.py").write_text("import payments_v2\n" +
                                                  (directory / "app.py").read_text())
            os.symlink(directory, place / "next")
            os.replace(place / "next", place / "current")

        release("a1")
        # Each new worker has to prove itself for a moment, so that the one more can be seen in the
        # timeline.
        master = Master(place, [
            "-n",
            str(WORKERS), "-b", "127.0.0.1:0", "-c", "shop", "--labels", "region=north",
            "--release", "3f2c1ab", "--min-ready-seconds", "0.4", "--max-failures", "2", "--web",
            "127.0.0.1:0", "--chdir",
            str(place / "current"), "--", "gunicorn", "--threads", "4", "app:wsgi"],
                        {"IMPORT_SECONDS": "1"})
        try:
            yield master, release
        finally:
            master.stop()
            master.close()


def page() -> None:
    """The page in the middle of an upgrade, with one before it that was refused."""
    with shop() as (master, release), chromium() as browser:
        view = browser.new_page(viewport={"width": 1200, "height": 1275}, reduced_motion="reduce",
                                locale="en-GB")
        view.goto(master.web)
        master.wait_ready()
        with Load(master.address, rate=40, slow=0.4):
            release("a2", broken=True)
            master.cli("upgrade", "--release", "9c1d22e")
            release("a3")
            master.cli("upgrade", "--release", "9c1d22f", "--no-wait")
            view.locator("#upgrade").get_by_text(f"{WORKERS // 2} of {WORKERS} replaced").wait_for()
            view.locator(".tile.starting").first.wait_for()
            view.screenshot(path=PICTURES / "page.png")
    squeeze(PICTURES / "page.png")


def top() -> None:
    """The same moment in a terminal of 80 by 24, as Textual draws it."""
    with shop() as (master, release):
        master.wait_ready()

        async def look() -> str:
            app = Top(master.path)
            async with app.run_test(size=(80, 24)) as pilot:
                master.cli("upgrade", "--release", "9c1d22f", "--no-wait")
                while not half_way(app.document):
                    await pilot.pause(0.02)
                await pilot.pause(0.2)  # it is drawn ten times a second
                return app.export_screenshot(title="einhornpy top")

        with Load(master.address, rate=40, slow=0.4):
            release("a2", broken=True)
            master.cli("upgrade", "--release", "9c1d22e")
            release("a3")
            drawn = asyncio.run(look())
    # Textual names a font on a server of somebody else's; one of ours will do.
    drawn = re.sub(r"@font-face \{.*?\}", "", drawn,
                   flags=re.DOTALL).replace("Fira Code", "DejaVu Sans Mono")
    with chromium() as browser:
        view = browser.new_page(viewport={"width": 1000, "height": 700})
        view.set_content(f"<body style='margin: 0'>{drawn}</body>")
        view.locator("svg").screenshot(path=PICTURES / "top.png")
    squeeze(PICTURES / "top.png")


def half_way(document: Mapping[str, Any] | None) -> bool:
    """Whether half of the workers are replaced, and somebody stands beside his successor."""
    return (document is not None and document["upgrade"] is not None
            and document["upgrade"]["replaced"] == WORKERS // 2
            and len(document["workers"]) > WORKERS)


def squeeze(picture: Path) -> None:
    """Make a PNG small: with 256 colours of its own it looks the same."""
    subprocess.run(
        ["pngquant", "--force", "--speed", "1", "--strip", "--ext", ".png", "256",
         str(picture)], check=True)


MAKERS = {"page": page, "top": top}


def main() -> None:
    if shutil.which("pngquant") is None:
        sys.exit("pngquant is missing: install Debian's package pngquant")
    PICTURES.mkdir(exist_ok=True)
    for name in sys.argv[1:] or MAKERS:
        MAKERS[name]()


if __name__ == "__main__":
    main()
