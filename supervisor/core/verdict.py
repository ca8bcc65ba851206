"""What the evidence on new workers says in one word, with the figures for people. Pure; how the
evidence is gathered is the business of `evidence.py`, what is done about it that of others.
"""

from __future__ import annotations

import enum

from ...shared.frozen import dataclass
from .evidence import HUNG_MARGIN, Case, Evidence, Kind, Measure, Sums
from .slices import Tolerance


class Word(enum.StrEnum):
    """What the comparison says."""

    UNSURE = "unsure"
    NO_WORSE = "no-worse"
    WELL = "well"
    WORSE = "worse"


# By how much each measure may be wrong in saying "worse": 1 % in all. And in saying "well".
ALPHA = {Measure.FAILED: 0.002, Measure.P99: 0.004, Measure.P50: 0.001, Measure.CPU: 0.001,
         Measure.MEMORY: 0.001, Measure.HUNG: 0.001}
ALPHA_WELL = 0.01
# Below so many requests on either side, a release with 5 % more failures could go unseen.
ENOUGH = 500
# Caches fill up for a while: a leak has grown by more than this (bytes a worker) beyond what the
# old ones did.
LEAK = 32 << 20


@dataclass(frozen=True, slots=True)
class Compared:
    """A measure of new and of old workers: a share of requests, seconds, seconds of CPU a request,
    bytes of growth a request; None: not known. `p_worse`: how likely so much against "no worse than
    tolerated" would ever be if it was true. `p_well`: against "worse than tolerated". `requests`:
    from how many of new workers `new` comes; it may be the last half minute to minute only, where
    something has gone bad."""

    measure: Measure
    new: float | None
    old: float | None
    p_worse: float
    p_well: float
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparison says, why (a sentence for people), and with which figures; how many
    requests new and old workers have answered meanwhile."""

    word: Word
    reason: str
    requests: int = 0
    old_requests: int = 0
    measures: tuple[Compared, ...] = ()


def verdict(evidence: Evidence, tolerance: Tolerance) -> Verdict:
    """What the evidence says by now."""
    kinds = evidence.young, evidence.warm
    whole = [kind.all() for kind in kinds]
    requests = sum(sums.new.requests for sums in whole)
    old_requests = sum(sums.old.requests for sums in whole)
    measures = [_compared(evidence, measure, whole) for measure in Measure]
    doubtless = [each.p_worse <= ALPHA[each.measure] for each in measures]
    worse = []
    if any(doubtless):
        # What went bad later shows in what is recent only.
        recent = [Sums(sums.new, sums.old if sums.old.requests else in_all.old)
                  for sums, in_all in zip(map(Kind.recent, kinds), whole, strict=True)]
        for place, each in enumerate(measures):
            if doubtless[place]:
                measures[place] = max(each, _compared(evidence, each.measure, recent),
                                      key=lambda one: _effect(one, evidence, tolerance))
        worse = [each for place, each in enumerate(measures)
                 if doubtless[place] and _effect(each, evidence, tolerance) >= 1]
    if worse:
        word, reason = Word.WORSE, "; ".join(
            f"{_against(each, whole)}, {_p(each.p_worse)}" for each in worse)
    elif min(requests, old_requests) < ENOUGH:
        word, reason = Word.UNSURE, (f"too little traffic to tell: {requests:,} requests on new "
                                     f"workers, {old_requests:,} on old ones")
    else:
        well = all(each.p_well <= ALPHA_WELL for each in measures[:3])
        word = Word.WELL if well else Word.NO_WORSE
        reason = ("within the tolerance beyond doubt: " if well else
                  "nothing is worse beyond doubt: ")
        reason += ", ".join(_against(each, whole) for each in (measures[0], measures[2])
                            if each.new is not None)
    return Verdict(word, reason, requests, old_requests, tuple(measures))


def _effect(compared: Compared, evidence: Evidence, tolerance: Tolerance) -> float:
    """How much worse the figures are, in units of what is tolerated."""
    new, old = compared.new, compared.old
    if new is None or old is None:
        return 0.0
    match compared.measure:
        case Measure.FAILED:
            return (new - old) / tolerance.failed if tolerance.failed else float(new > old)
        case Measure.MEMORY:
            return evidence.used.leaked / LEAK
        case Measure.HUNG:
            return (new - old) / HUNG_MARGIN
        case _:
            return new / (old * tolerance.ratio) if old else 0.0


def _compared(evidence: Evidence, measure: Measure, kinds: list[Sums]) -> Compared:
    case: Case = getattr(evidence, measure)
    hung = measure is Measure.HUNG
    return Compared(
        measure, *_figures(evidence, measure, kinds), case.worse.ever, case.well.now,
        evidence.unfinished.new_begun if hung else sum(sums.new.requests for sums in kinds))


def _figures(evidence: Evidence, measure: Measure,
             kinds: list[Sums]) -> tuple[float | None, float | None]:
    """Of new and of old workers. Latencies are of the kind of workers that has more to show."""
    used, unfinished = evidence.used, evidence.unfinished
    most = max(kinds, key=lambda sums: min(sums.new.requests, sums.old.requests))
    match measure:
        case Measure.FAILED:
            return (_share(sum(sums.new.unanswered for sums in kinds),
                           sum(sums.new.requests for sums in kinds)),
                    _share(sum(sums.old.unanswered for sums in kinds),
                           sum(sums.old.requests for sums in kinds)))
        case Measure.P50:
            return most.new.quantile(0.5), most.old.quantile(0.5)
        case Measure.P99:
            return most.new.quantile(0.99), most.old.quantile(0.99)
        case Measure.CPU:
            return _share(used.new_cpu, used.requests), _share(used.old_cpu, used.requests)
        case Measure.MEMORY:
            return _share(used.new_growth, used.requests), _share(used.old_growth, used.requests)
        case Measure.HUNG:
            return (_share(unfinished.new, unfinished.new_begun),
                    _share(unfinished.old, unfinished.old_begun))


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def _against(compared: Compared, kinds: list[Sums]) -> str:
    new, old = compared.new or 0.0, compared.old or 0.0
    match compared.measure:
        case Measure.FAILED:
            aborted = any(sums.new.aborted or sums.old.aborted for sums in kinds)
            lately = compared.requests < sum(sums.new.requests for sums in kinds)
            return (f"failed {'or aborted ' if aborted else ''}requests {new * 100:.1f} % against "
                    f"{old * 100:.1f} % of {'the last ' if lately else ''}{compared.requests:,} "
                    "requests")
        case Measure.HUNG:
            return (f"requests without an answer {new * 100:.1f} % against {old * 100:.1f} % of "
                    f"{compared.requests:,} that began")
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
