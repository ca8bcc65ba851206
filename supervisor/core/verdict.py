"""What the comparison of new workers with old ones says of a release, as frozen data without any
behaviour: `evidence.py` makes it, the planner acts on it, reports show it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Word(enum.StrEnum):
    UNSURE = "unsure"  # too little traffic to tell
    NO_WORSE = "no-worse"  # enough was compared, and nothing is worse beyond doubt
    WELL = "well"  # beyond doubt no worse than the tolerance allows
    WORSE = "worse"  # beyond doubt, and by more than the tolerance


class Measure(enum.StrEnum):
    """What is compared."""

    FAILED = "failed"  # the share of requests that were answered by 5xx or ended in an exception
    P50 = "p50"
    P99 = "p99"
    CPU = "cpu"  # seconds a request
    MEMORY = "memory"  # bytes of growth a request


@dataclass(frozen=True, slots=True)
class Compared:
    """One measure on new and on old workers; None where it isn't known. `p_worse`, `p_well`: how
    probable what was seen would be, at any time, if the new code were no worse, or worse by the
    tolerance."""

    measure: Measure
    new: float | None
    old: float | None
    p_worse: float = 1.0
    p_well: float = 1.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason`: the figures in a sentence. `requests`, `old_requests`: how many were compared."""

    word: Word
    reason: str
    requests: int = 0
    old_requests: int = 0
    measures: tuple[Compared, ...] = ()


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The least effect that matters. `failed`: of the share of failed requests, as a difference.
    `ratio`: of latencies, CPU seconds and memory a request."""

    failed: float = 0.005
    ratio: float = 1.3
