"""What is known of new workers against old ones under the same load, and the verdict on it. Pure:
it is told what came in each slice of time, and knows neither clock nor workers.

Each measure has a null hypothesis, "no worse by more than the tolerance", against which it bets
(`sequential.py`), and one the other way round, for "well". What one slice says is capped, so that a
clump of failures in one second can't decide. docs/judging.md says how sure it is.
"""

from __future__ import annotations

import enum
import math
from bisect import bisect_left
from dataclasses import replace

from ...shared.frozen import dataclass
from .sequential import Bets, Sample, bet, e_value, likelihood, upper_limit
from .slices import NOTHING, Group, Pair, Slice, Tolerance
from .traffic import BOUNDS, Traffic


class Measure(enum.StrEnum):
    """What is compared."""

    FAILED = "failed"
    P50 = "p50"
    P99 = "p99"
    CPU = "cpu"
    MEMORY = "memory"
    HUNG = "hung"


# The most that one slice may say, as a logarithm: "worse" takes five of them at least, so that what
# one client does in a second or two can't decide. Without old workers beside them nothing tells an
# incident that would have hit the old ones too: there it takes a quarter of a minute at least.
MOST, MOST_ALONE = math.log(4), 0.4
# By how much the odds of a failure, or of a slow answer, are guessed to be beyond what is
# tolerated.
GUESSES = (2.0, 6.0)
# A slow answer tells less than a failed one: to be beyond doubt slower than all that is tolerated
# would take a quarter longer, too long for a p99 that has doubled to be refused in two minutes. So
# it must be beyond doubt slower than by two thirds of that ratio (as a power), and slower than
# tolerated by its figures (`verdict.py`). At a third, releases 20 % slower were often refused.
NEAR = 2 / 3
# Where the slowest answers are looked at. Whether they are well is seen at the first; the others
# show sooner that they are not, where many are slower, or few are slow at all.
TAIL = (0.99, 0.98, 0.995)
# By how much more of the requests must hang: what is in flight at the moment comes and goes.
HUNG_MARGIN = 0.02
# Of old code nearly all of whose requests fail, nothing worse can be thought of.
MOST_FAILED = 0.9
# How slow is slow is known from so many old answers on; it is looked up again after so many slices.
# What is recent: the last three rounds at least, six at most.
KNOWN, ROUND, ROUNDS = 200, 10, 3
# An app so steady that more than this share of its answers falls into one bucket, or beyond: there
# slow is what is beyond that bucket, since nothing could exceed the share of what is in it.
STEADY = 0.8
# CPU and memory: over how many seconds and requests they are compared, and how much of what is left
# is put on "more than tolerated" against an even chance.
BLOCK_SECONDS, BLOCK_REQUESTS, STAKE = 3.0, 20, 0.8
# What allocators take at a time is no leak: in a block it must be more (bytes a worker, a request).
LEAK_STEP, LEAK_REQUEST = 1 << 18, 1 << 13
NO_BETS = Bets()


@dataclass(frozen=True, slots=True)
class Sums:
    """What new and old workers answered in the same time."""

    new: Traffic = NOTHING
    old: Traffic = NOTHING

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.new + other.new, self.old + other.old)


@dataclass(frozen=True, slots=True)
class Edge:
    """A latency that is no bound of a bucket: it lies in that one, of which `worth` is taken to be
    beyond it."""

    bucket: int
    worth: float

    def beyond(self, traffic: Traffic) -> Sample:
        return Sample(sum(traffic.latencies), traffic.slower_than(self.bucket),
                      traffic.latencies[self.bucket], self.worth)


@dataclass(frozen=True, slots=True)
class Yard:
    """How slow is slow. For old workers: beyond `BOUNDS[index]`, as is the share `old` of their
    answers. For new ones: a little more than that (`near`), or all that is tolerated more (`far`),
    beyond which is the share `tolerated` of the old ones' answers."""

    index: int
    old: float
    near: Edge
    far: Edge
    tolerated: float


@dataclass(frozen=True, slots=True)
class Kind:
    """Young or warm workers: what they answered since the last round, in the rounds just before, in
    those before these, and in all; how slow is slow."""

    open: Sums = Sums()
    lately: Sums = Sums()
    before: Sums = Sums()
    total: Sums = Sums()
    p50: tuple[Yard, ...] = ()
    p99: tuple[Yard, ...] = ()

    def all(self) -> Sums:
        return self.total + self.open

    def recent(self) -> Sums:
        """Of the last half minute to minute."""
        return self.before + self.lately + self.open


@dataclass(frozen=True, slots=True)
class Use:
    """What requests used: on new workers, and on old ones of the same kind."""

    new_requests: int = 0
    old_requests: int = 0
    new_cpu: float = 0.0
    old_cpu: float = 0.0
    new_growth: float = 0.0
    old_growth: float = 0.0
    workers: int = 0

    def plus(self, pair: Pair) -> Use:
        if pair.old is None:
            return self
        new, old = pair.new, pair.old
        return Use(self.new_requests + new.traffic.requests,
                   self.old_requests + old.traffic.requests, self.new_cpu + new.cpu_seconds,
                   self.old_cpu + old.cpu_seconds, self.new_growth + new.memory_growth,
                   self.old_growth + old.memory_growth, max(self.workers, new.workers))

    def enough(self) -> bool:
        return min(self.new_requests, self.old_requests) >= BLOCK_REQUESTS


@dataclass(frozen=True, slots=True)
class Block:
    """Some seconds over which CPU and memory are compared."""

    seconds: float = 0.0
    young: Use = Use()
    warm: Use = Use()


@dataclass(frozen=True, slots=True)
class Used:
    """What the requests of all blocks used, and what they would have used on old workers of the
    same kind. `leaked`: by how many bytes a worker the new ones have outgrown the old ones."""

    requests: int = 0
    new_cpu: float = 0.0
    old_cpu: float = 0.0
    new_growth: float = 0.0
    old_growth: float = 0.0
    leaked: float = 0.0


@dataclass(frozen=True, slots=True)
class Hung:
    """Requests of new and of old workers that began in the same time, and those of them that got no
    answer for some seconds."""

    new_begun: int = 0
    new: int = 0
    old_begun: int = 0
    old: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """The bets against "no worse than tolerated", and those against "worse than tolerated"."""

    worse: Bets = NO_BETS
    well: Bets = NO_BETS


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is kept of a comparison: plain data of a fixed size."""

    slices: int = 0
    young: Kind = Kind()
    warm: Kind = Kind()
    failed_share: float = 0.002  # of the old ones, in earlier slices
    failed: Case = Case()
    p50: Case = Case()
    p99: Case = Case()
    cpu: Case = Case()
    memory: Case = Case()
    hung: Case = Case()
    block: Block = Block()
    used: Used = Used()
    unfinished: Hung = Hung()


def look(evidence: Evidence, slice: Slice, tolerance: Tolerance) -> Evidence:
    """What is known after one more slice of about a second, with or without traffic in it.

    Failures are compared over all workers, since being cold excuses none; latencies, CPU and memory
    only among workers of one kind; what hangs only among young ones, since what stays open (a
    websocket) gathers on them. Where no old worker is there any more, failures and latencies are
    compared with what the old ones did before.
    """
    alone = slice.young.old is None and slice.warm.old is None
    kinds = ((evidence.young, slice.young), (evidence.warm, slice.warm))
    grown = replace(
        evidence, slices=evidence.slices + 1, young=_added(*kinds[0]), warm=_added(*kinds[1]),
        failed=_failed(evidence, slice, tolerance, alone),
        p50=_slow(evidence.p50, [(kind.p50, kind, pair) for kind, pair in kinds], alone),
        p99=_slow(evidence.p99, [(kind.p99, kind, pair) for kind, pair in kinds], alone))
    grown = _hung(_use(grown, slice, tolerance), slice.young)
    return grown if grown.slices % ROUND else _round(grown, tolerance)


def _added(kind: Kind, pair: Pair) -> Kind:
    new, old = pair.new.traffic, pair.old.traffic if pair.old else None
    if not new.requests and not (old and old.requests):
        return kind
    return replace(kind, open=Sums(kind.open.new + new if new.requests else kind.open.new,
                                   kind.open.old + old if old and old.requests else kind.open.old))


def _round(evidence: Evidence, tolerance: Tolerance) -> Evidence:
    """Look up again what is usual among the old workers: what the next slices are held against must
    come from earlier ones."""
    turn = evidence.slices % (ROUND * ROUNDS) == 0
    young, warm = _closed(evidence.young, turn, tolerance), _closed(evidence.warm, turn, tolerance)
    requests = young.total.old.requests + warm.total.old.requests
    failed = young.total.old.unanswered + warm.total.old.unanswered
    return replace(evidence, young=young, warm=warm, failed_share=(failed + 0.2) / (requests + 100))


def _closed(kind: Kind, turn: bool, tolerance: Tolerance) -> Kind:
    total, lately = kind.total + kind.open, kind.lately + kind.open
    return Kind(lately=Sums() if turn else lately, before=lately if turn else kind.before,
                total=total, p50=_yards(total.old, (0.5,), tolerance.ratio),
                p99=_yards(total.old, TAIL, tolerance.ratio))


def _yards(old: Traffic, quantiles: tuple[float, ...], ratio: float) -> tuple[Yard, ...]:
    cases = sum(old.latencies)
    return tuple(_yard(old, cases, each, ratio) for each in quantiles) if cases >= KNOWN else ()


def _yard(old: Traffic, cases: int, quantile: float, ratio: float) -> Yard:
    index = bisect_left(BOUNDS, old.quantile(quantile) or 0.0) - 1
    if old.slower_than(max(0, index)) > STEADY * cases:
        index += 1
    index = max(0, min(index, bisect_left(BOUNDS, BOUNDS[-1] / ratio) - 1))
    far = _edge(BOUNDS[index] * ratio)
    return Yard(index, (old.slower_than(index) + 1) / (cases + 2),
                _edge(BOUNDS[index] * ratio**NEAR), far,
                (far.beyond(old).share * cases + 0.5) / (cases + 2))


def _edge(seconds: float) -> Edge:
    bucket = bisect_left(BOUNDS, seconds)
    low, high = BOUNDS[bucket - 1], BOUNDS[bucket]
    return Edge(bucket, math.log(high / seconds) / math.log(high / low))


def _failed(evidence: Evidence, slice: Slice, tolerance: Tolerance, alone: bool) -> Case:
    new, old = _failures(slice.young.new, slice.warm.new), _failures(slice.young.old,
                                                                     slice.warm.old)
    share, margin = evidence.failed_share, tolerance.failed
    if share + margin >= MOST_FAILED:
        return evidence.failed
    if alone:
        young, warm = evidence.young.all().old, evidence.warm.all().old
        record = _failures(Group(young), Group(warm))
        return _alone(evidence.failed, new, record, upper_limit(record) + margin, share)
    if not new.cases or not old.cases:
        return evidence.failed
    factors = [e_value(new, old, _odds(share + margin, times), share, margin) for times in GUESSES]
    return _both(evidence.failed, factors, e_value(new, old, share, share, margin)
                 if margin else 0.0, MOST)


def _failures(*groups: Group | None) -> Sample:
    there = [group.traffic for group in groups if group]
    return Sample(sum(traffic.requests for traffic in there),
                  sum(traffic.unanswered for traffic in there))


def _hung(evidence: Evidence, young: Pair) -> Evidence:
    if young.old is None or not (young.new.begun and young.old.begun):
        return evidence
    new, old = (Sample(group.begun, min(group.begun, group.hung))
                for group in (young.new, young.old))
    before = evidence.unfinished
    share = (before.old + 0.2) / (before.old_begun + 100)
    unfinished = Hung(before.new_begun + new.cases, before.new + new.hits,
                      before.old_begun + old.cases, before.old + old.hits)
    if share + HUNG_MARGIN >= MOST_FAILED:
        return replace(evidence, unfinished=unfinished)
    worse = [e_value(new, old, _odds(share + HUNG_MARGIN, times), share, HUNG_MARGIN)
             for times in GUESSES]
    return replace(evidence, unfinished=unfinished,
                   hung=replace(evidence.hung, worse=bet(evidence.hung.worse, tuple(worse), MOST)))


def _slow(case: Case, kinds: list[tuple[tuple[Yard, ...], Kind, Pair]], alone: bool) -> Case:
    factors: list[float] = []
    well = 0.0
    for yards, kind, pair in kinds:
        new = pair.new.traffic
        if not yards or not new.requests:
            continue
        if alone:
            yard, old = yards[0], kind.total.old
            record = Sample(sum(old.latencies), old.slower_than(yard.index))
            case = _alone(case, yard.far.beyond(new), record, upper_limit(record), yard.tolerated,
                          len(yards))
        elif pair.old and pair.old.traffic.requests:
            old = pair.old.traffic
            made = [_slower(yard, new, old, times) for yard in yards for times in GUESSES]
            factors = [sum(both) for both in zip(factors, made, strict=True)] if factors else made
            well += _not_slower(yards[0], new, old)
    return _both(case, factors, well, MOST) if factors else case


def _slower(yard: Yard, new: Traffic, old: Traffic, times: float) -> float:
    sample = Sample(sum(old.latencies), old.slower_than(yard.index))
    return e_value(yard.near.beyond(new), sample, _odds(yard.old, times), yard.old, 0.0)


def _not_slower(yard: Yard, new: Traffic, old: Traffic) -> float:
    if yard.tolerated >= yard.old:
        return 0.0
    sample = Sample(sum(old.latencies), old.slower_than(yard.index))
    return e_value(yard.far.beyond(new), sample, yard.tolerated, yard.old, 0.0)


def _alone(case: Case, new: Sample, record: Sample, limit: float, share: float,
           yards: int = 1) -> Case:
    """One more look at new workers without old ones beside them: held against the most that can be
    believed of the old ones before. `yards`: by how many they are compared where there are some."""
    if not new.cases or record.cases < KNOWN or limit >= MOST_FAILED:
        return case
    factors = [likelihood(new, _odds(limit, times), limit) for times in GUESSES] * yards
    return _both(case, factors, likelihood(new, share, limit), MOST_ALONE)


def _both(case: Case, worse: list[float], well: float, most: float) -> Case:
    return Case(bet(case.worse, tuple(worse), most), bet(case.well, (well,), most))


def _odds(share: float, times: float) -> float:
    """The share whose odds are so many times those of this one."""
    return times * share / (1 - share + times * share)


def _use(evidence: Evidence, slice: Slice, tolerance: Tolerance) -> Evidence:
    """CPU and growth of memory a request, over a block of some seconds: whether the new ones needed
    more than tolerated would be even chances at most, if they were on the edge of it (a sequential
    sign test)."""
    block = Block(evidence.block.seconds + slice.seconds, evidence.block.young.plus(slice.young),
                  evidence.block.warm.plus(slice.warm))
    kinds = [use for use in (block.young, block.warm) if use.enough()]
    if block.seconds < BLOCK_SECONDS or not kinds:
        return replace(evidence, block=block)
    requests = sum(use.new_requests for use in kinds)
    workers = max(1, sum(use.workers for use in kinds))
    new_cpu = sum(use.new_cpu for use in kinds)
    old_cpu = sum(use.old_cpu * use.new_requests / use.old_requests for use in kinds)
    grown = sum(use.new_growth for use in kinds)
    usual = sum(max(0.0, use.old_growth) * use.new_requests / use.old_requests for use in kinds)
    more = grown - max(usual, 0.0) * tolerance.ratio
    leaks = more > max(LEAK_STEP * workers, LEAK_REQUEST * requests)
    used = evidence.used
    used = Used(used.requests + requests, used.new_cpu + new_cpu, used.old_cpu + old_cpu,
                used.new_growth + grown, used.old_growth + usual,
                max(0.0, used.leaked + more / workers))
    cpu, memory = evidence.cpu, evidence.memory
    if old_cpu > 0:
        cpu = _sign(cpu, new_cpu > old_cpu * tolerance.ratio)
    return replace(evidence, block=Block(), used=used, cpu=cpu, memory=_sign(memory, leaks))


def _sign(case: Case, more: bool) -> Case:
    return replace(case, worse=bet(case.worse, (math.log(1 + STAKE if more else 1 - STAKE),), MOST))
