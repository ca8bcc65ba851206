"""What both example apps do for a request: look up some items of a catalogue in SQLite. The name of
the release and what it is like stand in a file beside it, which is read when it is imported. It
knows no framework.
"""

from __future__ import annotations

import itertools
import sqlite3
import threading
from pathlib import Path

from . import ITEMS

HERE = Path(__file__).resolve().parent
RELEASE, LIKE = (HERE / "like").read_text().split()
PAGE = 20
number = itertools.count(1)
kept: list[bytes] = []
connections = threading.local()


def catalogue() -> sqlite3.Connection:
    """The connection of this thread."""
    if not hasattr(connections, "mine"):
        connections.mine = sqlite3.connect(HERE.parents[1] / "catalogue.db")
    found: sqlite3.Connection = connections.mine
    return found


def page() -> str:
    """One page of the catalogue, after the name of the release.

    Raises:
        LookupError: one request in 20 of a release that is `failing`.
    """
    request = next(number)
    if LIKE == "failing" and request % 20 == 0:
        raise LookupError("no such item")
    database, first = catalogue(), request * PAGE % (ITEMS - PAGE)
    rows = database.execute("SELECT name, price FROM item WHERE id >= ? ORDER BY id LIMIT ?",
                            (first, PAGE)).fetchall()
    if LIKE == "slow" or (LIKE == "cold" and request <= 50):
        # A query for each row, none of which can use an index; and what has no cache yet.
        for name, _ in rows:
            database.execute("SELECT price FROM item WHERE name = ?", (name,)).fetchone()
    if LIKE == "leaking":
        kept.append(bytes(bytearray(range(256)) * 400))
    return "\n".join([RELEASE, *(f"{name}: {price}" for name, price in rows), ""])
