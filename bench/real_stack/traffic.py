"""Which requests the app gets; needs nothing but the standard library."""

from __future__ import annotations

import random

ROWS = 100_000
REGIONS = ("north", "east", "south", "west", "centre", "coast", "hills", "islands")


# How often each kind is asked for. "light": the first page of rows, and a health check; "varied":
# what makes clients, templates and queries when it is first asked for, and looks at rows all over
# the table, each of which a worker that looks at it gets a copy of, since Python counts references.
WEIGHTS = {
    "light": {"first": 3, "health": 1},
    "varied": {"rows": 25, "row": 25, "search": 10, "summary": 10, "orders": 10, "link": 10,
               "page": 10},
}
# One of each kind, as an operator would give them to `--warm-up`.
ONE_OF_EACH = ("/rows?start=0&limit=20", "/rows/0", "/search?region=north&start=0",
               "/summary?start=0", "/orders?start=0", "/link?row=0", "/page?start=0")


def path(number: int, traffic: str = "varied") -> str:
    """The path of request `number`: always the same one for the same number. `traffic`: a key of
    WEIGHTS."""
    chance = random.Random(number)
    start = chance.randrange(ROWS)
    weights = WEIGHTS[traffic]
    kind = chance.choices([*weights], [*weights.values()])[0]
    return {
        "rows": f"/rows?start={start}&limit=20",
        "row": f"/rows/{start}",
        "first": "/rows?start=0&limit=20",
        "health": "/health",
        "search": f"/search?region={chance.choice(REGIONS)}&start={start}",
        "summary": f"/summary?start={start}",
        "orders": f"/orders?start={start}",
        "link": f"/link?row={start}",
        "page": f"/page?start={start}",
    }[kind]
