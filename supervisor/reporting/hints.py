"""What the log says, once, of an app that counts as ready before it has answered anything. Pure."""

from __future__ import annotations

from .events import Entry, Event

# What an app is made with → what it has not done yet when its worker serves, and what shows whether
# it can.
_UNTRIED = {
    "django": (
        "Django reads its URLconf at the first request, so a release that is broken there counts "
        "as ready",
        "--warm-up https://HOST/PATH, with one of ALLOWED_HOSTS"),
    "fastapi": ("FastAPI tries nothing that its routes need before the first request",
                "--warm-up /health, or any GET that uses the database"),
    "flask": ("Flask tries no view, template or database before the first request",
              "--warm-up /health, or any GET that uses the database"),}
_OF_ANY = ("what an app loads lazily fails at the first request, when it counts as ready",
           "--warm-up /health")


def about_warm_up(framework: str | None) -> Entry:
    """What to warm up, for an app made with `framework`; None: nobody knows with what."""
    reason, better = _UNTRIED.get(framework or "", _OF_ANY)
    return Entry(Event.NOTHING_IS_WARMED_UP, {"reason": reason, "better": better})
