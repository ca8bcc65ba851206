"""What the log says, once, of an app that counts as ready before it has answered anything, of a
server that does by itself what is the master's to do, and of settings without effect. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ...shared.frozen import dataclass
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


def about_ignored(ignored: Sequence[str], before: Sequence[str] = ()) -> Iterator[Entry]:
    """Which of gunicorn's settings are not ours, where it was told of others before."""
    if ignored and set(ignored) != set(before):
        yield Entry(Event.GUNICORN_SETTINGS_NOT_OURS, {"settings": ", ".join(sorted(ignored))})


@dataclass(frozen=True, slots=True)
class _Way:
    """What a server does where one of these words is on its command line, and `unless` is not, or
    this variable in its environment."""

    words: tuple[str, ...]
    variable: str
    reason: str
    so: str
    better: str
    unless: str = ""


_LOST = "whoever it serves then may be lost, and its seat is empty until another worker is ready"
_WRAPPED = ("einhornpy.worker.asgi with -m notify, which asks for a replacement first, or "
            "--max-lifetime")
_UNKNOWN = "requests are lost then, and the master doesn't know"
_FORKED = "the master takes them for one worker, and replaces all of them for one"
_WAYS = {
    "uvicorn": (
        _Way(("--limit-max-requests",), "UVICORN_LIMIT_MAX_REQUESTS",
             "with --limit-max-requests it leaves by itself", _LOST, _WRAPPED),
        _Way(("--reload",), "UVICORN_RELOAD", "with --reload it restarts at every change of a file",
             _UNKNOWN, "einhornpy upgrade"),
        _Way(("--workers",), "UVICORN_WORKERS", "with --workers it starts processes of its own",
             _FORKED, "-n")),
    "hypercorn": (
        _Way(("--max-requests",), "", "with --max-requests it leaves by itself", _LOST, _WRAPPED),
        _Way(("--reload",), "", "with --reload it restarts at every change of a file", _UNKNOWN,
             "einhornpy upgrade")),
    "manage.py": (
        _Way(("runserver",), "", "runserver restarts at every change of a file", _UNKNOWN,
             "runserver --noreload, or gunicorn", unless="--noreload"),)}


def about_own_ways(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Entry]:
    """What a server that says nothing to the master is told to do by itself, as far as its command
    line and environment tell."""
    names = [word.rpartition("/")[2] for word in command]
    server = next((name for name in names if name in _WAYS), None)
    if server is None:
        return
    words = [word.partition("=")[0] for word in command[names.index(server) + 1:]]
    for way in _WAYS[server]:
        given = any(word in way.words for word in words) or environment.get(way.variable)
        if given and way.unless not in words:
            yield Entry(Event.SERVER_HAS_ITS_OWN_WAYS, {
                "server": server, "reason": way.reason, "so": way.so, "better": way.better})
