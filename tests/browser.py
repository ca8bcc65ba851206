"""A real browser without a screen: Debian's chromium, told to talk to nobody but the page."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from .harness import child_pids, wait_until

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync"]


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; afterwards all its processes are gone."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()
    wait_until(lambda: not any(_is_of_the_browser(pid) for pid in child_pids()), "the browser gone")


def _is_of_the_browser(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()  # empty once it has exited
    except FileNotFoundError:
        return False
    return b"chromium" in command or b"playwright" in command
