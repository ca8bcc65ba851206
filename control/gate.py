"""The gate: what a status document means for a script: an exit code, and whether it is worth
waiting for another.

Pure; the table of exit codes stands here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..shared.frozen import dataclass
from ..shared.gate import Gate

READY, USAGE, NOT_YET, DEGRADED, ROLLED_BACK, STOPPING, SUPERSEDED = 0, 2, 3, 4, 5, 6, 7
BAD_RELEASE, NO_MASTER, BUSY, TIMED_OUT, INTERRUPTED = 65, 69, 75, 124, 130

CODES: Mapping[str, int] = {
    Gate.READY: READY, Gate.STARTING: NOT_YET, Gate.UPGRADING: NOT_YET, Gate.PAUSED: NOT_YET,
    Gate.DEGRADED: DEGRADED, Gate.ROLLED_BACK: ROLLED_BACK, Gate.STOPPING: STOPPING}
OUTCOMES = {
    "done": READY, "rolled-back": ROLLED_BACK, "aborted": ROLLED_BACK, "superseded": SUPERSEDED}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`final`: waiting longer won't change it unless somebody does something."""

    code: int
    final: bool
    reason: str


def verdict(document: Mapping[str, Any], generation: int | None = None,
            release: str | None = None) -> Verdict:
    """Judge a status document; with `generation` or `release`, ready means that that one is
    ready."""
    gate = str(document["gate"])
    code, reason = CODES.get(gate, DEGRADED), str(document["reason"])
    if code != READY:
        return Verdict(code, code in (DEGRADED, ROLLED_BACK), reason)
    running = document["generation"]
    if generation is not None and running != generation:
        told = f"generation {running} is ready, not {generation}"
        if generation > document["newest_generation"]:
            return Verdict(NOT_YET, False, f"{told}, which has not been asked for yet")
        return Verdict(ROLLED_BACK, True, f"{told}, which is over")
    if release is not None and document["release"] != release:
        return Verdict(
            NOT_YET, False,
            f"release {document['release'] or 'without a name'} is ready, not {release}")
    return Verdict(READY, True, reason)
