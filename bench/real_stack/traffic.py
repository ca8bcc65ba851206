"""Which requests the app gets; needs nothing but the standard library."""

from __future__ import annotations

import random

ROWS = 100_000
REGIONS = ("north", "east", "south", "west", "centre", "coast", "hills", "islands")


def path(number: int) -> str:
    """The path of request `number`: always the same one for the same number."""
    chance = random.Random(number)
    start = chance.randrange(ROWS)
    kind = chance.choices(("rows", "row", "search", "summary", "orders", "link", "page"),
                          (25, 25, 10, 10, 10, 10, 10))[0]
    return {
        "rows": f"/rows?start={start}&limit=20",
        "row": f"/rows/{start}",
        "search": f"/search?region={chance.choice(REGIONS)}&start={start}",
        "summary": f"/summary?start={start}",
        "orders": f"/orders?start={start}",
        "link": f"/link?row={start}",
        "page": f"/page?start={start}",
    }[kind]
