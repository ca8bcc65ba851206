"""Texts, or values of TOML, into values of settings. Each parser returns the value or raises
ValueError with what was expected; it looks at nothing but what it is given.
"""

from __future__ import annotations

import enum
import math
import os
import re
import resource
import shlex
import signal
from collections.abc import Callable
from typing import Any, TypeVar

from ...shared import printable
from ..core.generation import Preload

RESERVED_LABELS = {
    "time", "name", "level", "event", "version", "release", "index", "pid", "generation", "stream",
    "message", "partial", "labels"}
LARGEST_SIZE = 1 << 60
MOST_CORES = 10000
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
# The host of a URL, and its port.
_AUTHORITY = r"(?:[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?"
# How a worker says that it is ready, where it isn't assumed after some seconds.
AckMode = enum.StrEnum("AckMode", "AUTO MANUAL NOTIFY GUNICORN")
LogFormat = enum.StrEnum("LogFormat", "TEXT JSON LOGFMT")
LogTo = enum.StrEnum("LogTo", "STDERR JOURNAL SYSLOG")
WorkerOutput = enum.StrEnum("WorkerOutput", "INHERIT PREFIX JSON")
# What a canary's hold does with a release of which too little was seen to tell.
Unsure = enum.StrEnum("Unsure", "PASS REFUSE")
Word = TypeVar("Word", bound=enum.StrEnum)


def word(value: Any) -> str:
    """A text or a number as a text without blanks around it; anything else, as TOML may hold it, as
    one that is nothing."""
    known = isinstance(value, str | int | float) and not isinstance(value, bool)
    try:
        return str(value).strip() if known else ""
    except ValueError:
        return ""  # a number with more digits than Python prints


def whole(least: int, most: int | None = None,
          what: str = "a whole number") -> Callable[[Any], int]:
    """A parser of whole numbers from `least` to `most`."""
    expected = f"{what} of at least {least}" if most is None else f"{what} from {least} to {most}"

    def parse(value: Any) -> int:
        text = word(value)
        if not re.fullmatch(r"[+-]?[0-9]{1,9}", text) or not least <= int(text) <= (
                int(text) if most is None else most):
            raise ValueError(expected)
        return int(text)

    return parse


def like(pattern: str, expected: str,
         fits: Callable[[re.Match[str]], bool] = bool) -> Callable[[Any], str]:
    """A parser of texts of this pattern, of which `fits` may ask more."""

    def parse(value: Any) -> str:
        found = re.fullmatch(pattern, value) if isinstance(value, str) else None
        if found is None or not fits(found):
            raise ValueError(expected)
        return found[0]

    return parse


text = like(r"[^\0]+", "a text that is not empty")
# It becomes a file name.
name = like(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}",
            "up to 64 letters, digits and _.@-, not starting with one of .@-")
# The path or the whole URL of a warm-up request.
request = like(rf'(?:https?://{_AUTHORITY})?/[!"$-~]*',
               "a path such as /health, or a URL such as https://HOST/health",
               lambda found: 0 < int(found[1] or 443) < 65536)
url = like(rf"https?://{_AUTHORITY}(?:[/?#][!-~]*)?", "a URL such as https://HOST/PATH",
           lambda found: int(found[1] or 443) < 65536)
# An IPv6 address in brackets.
endpoint = like(r"(?:\[[0-9A-Fa-f:.%a-z]+\]|[^\s:\[\]/]+):([0-9]{1,5})", "HOST:PORT",
                lambda found: 0 < int(found[1]) < 65536)
_host_name = like(r"(?!.{254})[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*",
                  "the name of a host, such as shop.example.com, without a port")
_octal = like(r"\s*(0o)?0?[0-7]{1,3}\s*",
              "permission bits in octal, such as 0660 (in TOML as a text)")


def seconds(value: Any) -> float:
    """Parse a time: a number of seconds, not negative, or one with a unit: `90s`, `10min`, `6h`,
    `1d`."""
    found = re.fullmatch(r"([0-9.eE+-]+)\s*(s|min|m|h|d)?", word(value))
    try:
        number = float(found[1]) * _UNITS[found[2] or "s"] if found else math.nan
    except ValueError:
        number = math.nan
    if not 0 <= number < 1e9:
        raise ValueError("a number of seconds, 0 or more, or 90s, 10min, 6h, 1d")
    return number


def tolerance(value: Any) -> tuple[float, float]:
    """Parse by how much new workers may do worse: percentage points of failed requests, and how
    many times as much of anything else."""
    found = re.fullmatch(r"([0-9.]{1,9})\s*,\s*([0-9.]{1,9})", word(value))
    try:
        points, ratio = (float(each) for each in found.groups()) if found else (-1.0, 0.0)
    except ValueError:
        points, ratio = -1.0, 0.0
    if not 0 <= points < 100 or not 1 <= ratio <= 100:
        raise ValueError("percentage points of failed requests, a comma, and a factor of at least "
                         "1, such as 0.5,1.3")
    return points, ratio


def some_seconds(value: Any) -> float:
    """Parse a time that is more than none at all."""
    number = seconds(value)
    if number == 0:
        raise ValueError("a number of seconds above 0")
    return number


def size(value: Any) -> int:
    """Parse a size in bytes: a whole number, or one with a binary unit: `400M`, `1.5G`."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?", word(value), re.IGNORECASE)
    number = float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " ") if found else math.inf
    if number >= LARGEST_SIZE:
        raise ValueError("a size such as 400M or 1.5G")
    return int(number)


def words(value: Any) -> tuple[str, ...]:
    """Parse a command line, as a shell reads it."""
    try:
        found = tuple(shlex.split(value)) if isinstance(value, str) else ()
    except ValueError:
        found = ()
    if not found or any("\0" in word for word in found):
        raise ValueError("a command line, as a shell would read it")
    return found


def octal(value: Any) -> int:
    """Parse permission bits, such as 0660 or 027."""
    return int(_octal(value).strip().removeprefix("0o"), 8)


def ack_mode(value: Any) -> AckMode | float:
    """Parse an ack mode: `auto`, `manual`, `notify`, `gunicorn` or a number of seconds."""
    if value in [*AckMode]:
        return AckMode(value)
    try:
        return seconds(value)
    except ValueError:
        raise ValueError("auto, manual, notify, gunicorn or a number of seconds") from None


def signal_name(value: Any) -> str:
    """Parse a signal: `USR2`, `SIGUSR2` or `12` all give `SIGUSR2`."""
    text = word(value).upper()
    try:
        if re.fullmatch("[0-9]{1,3}", text):
            return signal.Signals(int(text)).name
        return signal.Signals[text if text.startswith("SIG") else f"SIG{text}"].name
    except (KeyError, ValueError):
        raise ValueError("a signal such as TERM, SIGUSR2 or 15") from None


def path(value: Any) -> str:
    """Parse a path; relative ones are made absolute later, against the directory of whoever gave
    it."""
    return os.path.expanduser(text(value))


def pair(value: Any) -> tuple[str, str]:
    """Parse `K=V`."""
    key, equals, rest = value.partition("=") if isinstance(value, str) else ("", "", "")
    if not equals or not key or "\0" in value:
        raise ValueError("KEY=VALUE")
    return key, rest


def label(value: Any) -> tuple[str, str]:
    """Parse a label, `KEY=VALUE`, with a key that every place which shows labels can take."""
    key, equals, rest = value.partition("=") if isinstance(value, str) else ("", "", "")
    if not equals or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}",
                                      key) or not rest.isprintable() or len(rest) > 500:
        raise ValueError(
            "KEY=VALUE, where KEY is a letter and letters, digits and _, and VALUE printable")
    if key in RESERVED_LABELS:
        raise ValueError(f"another KEY: log lines and metrics have a {key} of their own")
    return key, rest


def release_label(value: Any) -> str:
    """Parse the name of a release."""
    if not printable.is_label(value):
        raise ValueError(printable.LABEL)
    return str(value)


def host_name(value: Any) -> str:
    """Parse the name of a host, as a browser would send it, without a port."""
    return _host_name(value).lower()


def one_of(words: type[Word]) -> Callable[[Any], Word]:
    """A parser of one word out of these."""

    def parse(value: Any) -> Word:
        known = [*words]
        if value not in known:
            raise ValueError(f"{', '.join(known[:-1])} or {known[-1]}")
        return words(value)

    return parse


def preload(value: Any) -> Preload:
    """Parse a mode of preloading, or a switch in its place."""
    if value not in [*Preload]:
        try:
            return Preload.WARN if yes_or_no(value) else Preload.OFF
        except ValueError:
            raise ValueError("warn, strict, auto or off") from None
    return Preload(value)


def yes_or_no(value: Any) -> bool:
    """Parse a switch."""
    said = str(value).lower() if isinstance(value, bool) else word(value).lower()
    if said not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        raise ValueError("true or false")
    return said in ("1", "true", "yes", "on")


def limit(value: Any) -> tuple[str, int, int]:
    """Parse `nofile=65536` or `core=0:unlimited`; return the name, soft and hard limit (-1:
    unlimited)."""
    found = re.fullmatch(r"([a-z]+)=([0-9]{1,18}|unlimited)(?::([0-9]{1,18}|unlimited))?",
                         word(value).lower())
    if not found or not hasattr(resource, f"RLIMIT_{found[1].upper()}"):
        names = sorted(
            name.removeprefix("RLIMIT_").lower() for name in dir(resource)
            if name.startswith("RLIMIT_"))
        raise ValueError("NAME=SOFT[:HARD] with a number or unlimited, such as nofile=65536; names "
                         f"are {', '.join(names)}")
    soft, hard = (resource.RLIM_INFINITY if word == "unlimited" else int(word)
                  for word in (found[2], found[3] or found[2]))
    if hard != resource.RLIM_INFINITY and (soft == resource.RLIM_INFINITY or soft > hard):
        raise ValueError("a soft limit that is not above the hard one")
    return found[1], soft, hard


def niceness(value: Any) -> tuple[int, int | None]:
    """Parse `MASTER` or `MASTER:WORKER`, each from -20 to 19; return both."""
    found = re.fullmatch(r"([+-]?[0-9]{1,2})(?::([+-]?[0-9]{1,2}))?", word(value))
    if not found or not all(-20 <= int(word) <= 19 for word in found.groups() if word):
        raise ValueError("MASTER or MASTER:WORKER, each from -20 to 19")
    return int(found[1]), int(found[2]) if found[2] else None


def core_list(value: Any) -> str | tuple[int, ...]:
    """Parse `spread`, or a list of cores such as `0,2,4-7`."""
    text = word(value)
    if text == "spread":
        return text
    cores: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part.strip())
        if not found:
            raise ValueError("spread, or a list of cores such as 0,2,4-7")
        if len(cores) > MOST_CORES:
            raise ValueError(f"at most {MOST_CORES} cores")
        cores += range(int(found[1]), int(found[2] or found[1]) + 1)
    if not cores:
        raise ValueError("spread, or a list of cores such as 0,2,4-7")
    return tuple(cores)
