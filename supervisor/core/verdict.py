"""What the evidence on new workers says in one word, with the figures for people. Pure; how the
evidence is gathered is the business of `evidence.py`, what is done about it that of others.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .evidence import Case, Evidence, Measure, Sums, Tolerance


class Word(enum.StrEnum):
    """What the comparison says."""

    UNSURE = "unsure"
    NO_WORSE = "no-worse"
    WELL = "well"
    WORSE = "worse"


# By how much each measure may be wrong in saying "worse": 1 % in all. And in saying "well".
ALPHA = {Measure.FAILED: 0.004, Measure.P99: 0.002, Measure.P50: 0.002, Measure.CPU: 0.001,
         Measure.MEMORY: 0.001}
ALPHA_WELL = 0.01
# Below so many requests on either side, a release with 5 % more failures could go unseen.
ENOUGH = 500
# Caches fill up for a while: a leak has grown by more than this (bytes a worker) beyond what the
# old ones did.
LEAK = 48 << 20


@dataclass(frozen=True, slots=True)
class Compared:
    """A measure of new and of old workers: a share of requests, seconds, seconds of CPU a request,
    bytes of growth a request; None: not known. `p_worse`: how likely so much against "no worse than
    tolerated" would ever be if it was true. `p_well`: against "worse than tolerated"."""

    measure: Measure
    new: float | None
    old: float | None
    p_worse: float
    p_well: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparison says, why (a sentence for people), and with which figures; how many
    requests new and old workers have answered meanwhile."""

    word: Word
    reason: str
    requests: int
    old_requests: int
    measures: tuple[Compared, ...]


def verdict(evidence: Evidence, tolerance: Tolerance) -> Verdict:
    """What the evidence says by now."""
    young, warm = evidence.young.all(), evidence.warm.all()
    requests = young.new.requests + warm.new.requests
    old_requests = young.old.requests + warm.old.requests
    measures = tuple(_compared(evidence, measure) for measure in Measure)
    worse = [each for each in measures if each.p_worse <= ALPHA[each.measure]]
    if worse:
        word, reason = Word.WORSE, "; ".join(
            f"{_against(each, requests)}, {_p(each.p_worse)}" for each in worse)
    elif min(requests, old_requests) < ENOUGH:
        word, reason = Word.UNSURE, (f"too little traffic to tell: {requests:,} requests on new "
                                     f"workers, {old_requests:,} on old ones")
    else:
        told = (measures[0], measures[2])
        well = all(each.p_well <= ALPHA_WELL for each in measures[:3])
        word = Word.WELL if well else Word.NO_WORSE
        reason = f"{'as good as before' if well else 'nothing is worse'} beyond doubt: " + ", ".join(
            _against(each, requests) for each in told if each.new is not None)
    return Verdict(word, reason, requests, old_requests, measures)


def _compared(evidence: Evidence, measure: Measure) -> Compared:
    case: Case = getattr(evidence, measure)
    p_worse, p_well = case.worse.ever, case.well.now
    new, old = _figures(evidence, measure, recent=False)
    if measure is Measure.MEMORY and evidence.used.leaked < LEAK:
        p_worse = 1.0
    if p_worse <= ALPHA[measure]:  # what went bad later shows in the last minutes only
        new_now, old_now = _figures(evidence, measure, recent=True)
        if (new_now is not None and old_now is not None
                and (new is None or old is None or new_now - old_now > new - old)):
            new, old = new_now, old_now
    return Compared(measure, new, old, p_worse, p_well)


def _figures(evidence: Evidence, measure: Measure, recent: bool) -> tuple[float | None,
                                                                          float | None]:
    used = evidence.used
    if measure in (Measure.CPU, Measure.MEMORY):
        if not used.requests:
            return None, None
        new, old = ((used.new_cpu, used.old_cpu) if measure is Measure.CPU
                    else (used.new_growth, used.old_growth))
        return new / used.requests, old / used.requests
    kinds = [(kind.recent() if recent else kind.all(), kind.all().old)
             for kind in (evidence.young, evidence.warm)]
    # Where no old worker is left, the new ones are held against all that the old ones did.
    sums = [Sums(part.new, part.old if part.old.requests else old) for part, old in kinds]
    if measure is Measure.FAILED:
        both = sums[0] + sums[1]
        return both.new.failed_share, both.old.failed_share
    most = max(sums, key=lambda each: min(each.new.requests, each.old.requests))
    share = 0.5 if measure is Measure.P50 else 0.99
    return most.new.quantile(share), most.old.quantile(share)


def _against(compared: Compared, requests: int) -> str:
    new, old = compared.new or 0.0, compared.old or 0.0
    match compared.measure:
        case Measure.FAILED:
            return f"failed requests {new:.1%} against {old:.1%} of {requests:,} requests".replace(
                "%", " %")
        case Measure.P50 | Measure.P99:
            return f"{compared.measure} {_time(new)} against {_time(old)}"
        case Measure.CPU:
            return f"CPU a request {_time(new)} against {_time(old)}"
        case Measure.MEMORY:
            return (f"memory grows by {new / 1024:,.0f} KiB a request against "
                    f"{max(0.0, old) / 1024:,.0f} KiB")


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1000:.1f} ms"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
