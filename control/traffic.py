"""What workers have answered, and what a judge says of it, in words for people. Text out of the
status document; it knows neither the master nor the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def rate(per_second: float) -> str:
    """Requests a second in at most 5 characters: `0.31`, `12.1`, `812`, `1234`, `12k`."""
    if per_second >= 10_000:
        return f"{per_second / 1000:.0f}k"
    digits = 0 if per_second >= 99.95 else 1 if per_second >= 9.995 else 2
    return f"{per_second:.{digits}f}" if per_second else "0"


def percent(part: float | None) -> str:
    """A share in at most 5 characters: `0%`, `0.81%`, `4.1%`, `34%`; what isn't nothing never looks
    like it."""
    if part is None:
        return "-"
    if 0 < part < 0.0001:
        return "<.01%"
    digits = 0 if part >= 0.0995 or not part else 1 if part >= 0.00995 else 2
    return f"{part * 100:.{digits}f}%"


def latency(seconds: float | None) -> str:
    """In at most 6 characters, with a space before the unit: `4.7 ms`, `120 ms`, `1.3 s`."""
    if seconds is None:
        return "-"
    value, unit = (seconds * 1000, "ms") if seconds < 0.9995 else (seconds, "s")
    return f"{value:.{0 if value >= 9.95 else 1}f} {unit}"


def recent(counted: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The figures of the last 10 seconds of a worker; None where nobody counts them, and from a
    master of an older version."""
    found = counted.get("traffic")
    return None if found is None else found["recent"]


def of_generations(document: Mapping[str, Any]) -> Iterator[str]:
    """A line for each generation that has living workers: what it answered lately."""
    for each in document.get("traffic", ()):
        found = each["recent"]
        if found["requests"]:
            said = (f"{rate(found['requests_per_second'])} requests/s, "
                    f"{percent(found['failed_share'])} failed")
            if found["p99_seconds"] is not None:
                said += (f", p50 {latency(found['p50_seconds'])}, "
                         f"p99 {latency(found['p99_seconds'])}")
        else:
            said = f"no request in the last {found['seconds']:.0f} s"
        yield f"generation {each['generation']}: {said}"


def verdict(upgrade: Mapping[str, Any], told: str = "") -> tuple[str, str] | None:
    """What the judge says of an upgrade: his word, and what follows it: why, unless that is `told`
    already, and who has put an end to the judging. None where nobody judges."""
    found = upgrade.get("verdict")
    if found is None:
        return None
    word, by = found["word"], found.get("overruled_by")
    why = "" if found["reason"] in told else f": {found['reason']}"
    ended = "overruled" if word in ("worse", "unsure") else "judging ended"
    return word, f"{why}; {ended} by {by}" if by else why


def is_baseline(worker: Mapping[str, Any]) -> bool:
    """Whether it was started of the old code to be compared with the canaries; a master of an
    older version doesn't say."""
    return bool(worker.get("baseline"))


def watched(upgrade: Mapping[str, Any]) -> float | None:
    """For how many seconds an upgrade that has ended is still watched, and can go back; None for
    one that isn't."""
    return upgrade.get("watch_left_seconds") or None
