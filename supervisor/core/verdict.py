"""What the evidence on new workers says in one word, with the figures for people. Pure; how the
evidence is gathered is the business of `evidence.py`, what is done about it that of others.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .evidence import Case, Evidence, Kind, Measure, Sums, Tolerance, Used


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
    if any(_is_worse(each) for each in measures):
        # What went bad later shows in the last minutes only.
        recent = [Sums(sums.new, sums.old if sums.old.requests else all_of_it.old)
                  for sums, all_of_it in zip(map(Kind.recent, kinds), whole, strict=True)]
        measures = [_plainer(each, _compared(evidence, each.measure, recent)) for each in measures]
        word, reason = Word.WORSE, "; ".join(
            f"{_against(each, requests)}, {_p(each.p_worse)}"
            for each in measures if _is_worse(each))
    elif min(requests, old_requests) < ENOUGH:
        word, reason = Word.UNSURE, (f"too little traffic to tell: {requests:,} requests on new "
                                     f"workers, {old_requests:,} on old ones")
    else:
        well = all(each.p_well <= ALPHA_WELL for each in measures[:3])
        word = Word.WELL if well else Word.NO_WORSE
        reason = "as good as before beyond doubt: " if well else "nothing is worse beyond doubt: "
        reason += ", ".join(_against(each, requests) for each in (measures[0], measures[2])
                            if each.new is not None)
    return Verdict(word, reason, requests, old_requests, tuple(measures))


def _is_worse(compared: Compared) -> bool:
    return compared.p_worse <= ALPHA[compared.measure]


def _plainer(whole: Compared, recent: Compared) -> Compared:
    """Of two figures of the same, the one that shows better why it is worse."""
    if None in (whole.new, whole.old, recent.new, recent.old) or not _is_worse(whole):
        return whole
    return max(whole, recent, key=lambda each: (each.new or 0.0) - (each.old or 0.0))


def _compared(evidence: Evidence, measure: Measure, kinds: list[Sums]) -> Compared:
    case: Case = getattr(evidence, measure)
    p_worse = case.worse.ever
    if measure is Measure.MEMORY and evidence.used.leaked < LEAK:
        p_worse = 1.0
    return Compared(measure, *_figures(evidence.used, measure, kinds), p_worse, case.well.now)


def _figures(used: Used, measure: Measure, kinds: list[Sums]) -> tuple[float | None, float | None]:
    """Of new and of old workers. Latencies are of the kind of workers that has more to show."""
    most = max(kinds, key=lambda sums: min(sums.new.requests, sums.old.requests))
    match measure:
        case Measure.FAILED:
            return (_share(sum(sums.new.failed for sums in kinds),
                           sum(sums.new.requests for sums in kinds)),
                    _share(sum(sums.old.failed for sums in kinds),
                           sum(sums.old.requests for sums in kinds)))
        case Measure.P50:
            return most.new.quantile(0.5), most.old.quantile(0.5)
        case Measure.P99:
            return most.new.quantile(0.99), most.old.quantile(0.99)
        case Measure.CPU:
            return _share(used.new_cpu, used.requests), _share(used.old_cpu, used.requests)
        case Measure.MEMORY:
            return _share(used.new_growth, used.requests), _share(used.old_growth, used.requests)


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None


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
