"""How sure a verdict is: thousands of simulated rollouts, good ones and bad ones, with both errors
of what `core/verdict.py` says of them, as a table (docs/judging.md).

An app is drawn anew for each rollout: how fast it is, how often it fails, how unevenly its load is
spread. Its traffic comes in bursts, its failures and its slow answers also in clumps, and its new
workers are cold. Nothing here reads a clock: a rollout is the same whenever it is made of the same
seed.

    python -m bench.judging [--rollouts 1000] [--seed 1] [--processes 2] [--picture FILE.svg]
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import random
import statistics
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

from einhornpy.supervisor.core.evidence import Evidence, look
from einhornpy.supervisor.core.slices import Group, Pair, Slice, Tolerance
from einhornpy.supervisor.core.traffic import BOUNDS, Traffic
from einhornpy.supervisor.core.verdict import Word, verdict

from .judging_picture import Curve, Mark, picture

YOUNG = 60  # seconds for which a worker counts as young


@dataclass(frozen=True)
class Release:
    """What is wrong with the new code, from second `since` on: `failed`, which share more of its
    requests fail; `slower`, by which factor all are slower, `tail`, the slowest of them alone;
    `leak`, bytes a request; `cpu`, by which factor it needs more."""

    failed: float = 0.0
    slower: float = 1.0
    tail: float = 1.0
    leak: float = 0.0
    cpu: float = 1.0
    since: int = 0


@dataclass(frozen=True)
class Shape:
    """How the rollout goes: so many seconds of one canary (with a baseline worker of the old code
    of the same age, or none), then one worker every `each` seconds, then so many of watch."""

    hold: int
    watch: int
    workers: int = 4
    rate: float = 50.0  # requests a second of one worker
    baseline: bool = True
    each: int = 8
    clumps: float = 0.5  # a minute and host: one client's failures in a second or two
    cold: float = 2.0  # how much slower the very first answers are
    sticky: int = 0  # so many requests a second of a client on a new worker, all of which fail
    even: bool = False  # new workers get the same load as old ones, but for chance


class App:
    """One app with its traffic, drawn from a seed."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.failed = draw.choice((0.0, 0.0005, 0.002, 0.005, 0.01))
        fast, slow = draw.uniform(0.004, 0.08), draw.uniform(4, 15)
        share = draw.uniform(0.02, 0.15)
        spread, wide = draw.uniform(0.5, 1.0), draw.uniform(0.3, 0.7)
        self.kinds = ((1 - share, fast, spread), (share, fast * slow, wide))
        self.uneven = draw.uniform(0.0, 0.35)
        self.tables: dict[tuple[float, float], list[float]] = {}

    def answers(self, count: int, slower: float, tail: float) -> list[int]:
        """How many of so many answers fall into each bucket."""
        key = (round(slower * 16) / 16, tail)
        table = self.tables.get(key)
        if table is None:
            upto = [0.0, *(self.quicker_than(bound, *key) for bound in BOUNDS), 1.0]
            table = self.tables[key] = upto[1:]
        latencies, toss = [0] * len(table), self.draw.random
        for _ in range(count):
            latencies[bisect_right(table, toss())] += 1
        return latencies

    def quicker_than(self, seconds: float, slower: float, tail: float) -> float:
        """The share of answers that take no longer; `tail`: how much slower the slow ones are."""
        return sum(share * NormalDist(math.log(median * slower * scale), spread).cdf(
            math.log(seconds)) for (share, median, spread), scale in zip(
                self.kinds, (1.0, tail), strict=True))

    def p99(self, tail: float) -> float:
        return halved(0.001, 1000.0, lambda seconds: self.quicker_than(seconds, 1.0, tail) < 0.99)

    def tail_for(self, ratio: float) -> float:
        """How much slower the slow answers must be for a p99 that is so many times what it was."""
        usual = self.p99(1.0)
        return halved(1.0, 50.0, lambda tail: self.p99(tail) < ratio * usual)

    def poisson(self, mean: float) -> int:
        """Drawn from a Poisson distribution."""
        if mean > 30:
            return max(0, round(self.draw.gauss(mean, math.sqrt(mean))))
        count, left = -1, 1.0
        limit = math.exp(-mean)
        while left >= limit:
            left *= self.draw.random()
            count += 1
        return count


def halved(low: float, high: float, below: Callable[[float], bool]) -> float:
    """Where `below` ends to be true, to a thousandth."""
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if below(middle) else (low, middle)
    return low


class Host:
    """A host on which a release is rolled out: what happens in each second."""

    def __init__(self, app: App, release: Release, shape: Shape) -> None:
        self.app, self.draw, self.release, self.shape = app, app.draw, release, shape
        self.tail = app.tail_for(release.tail) if release.tail != 1.0 else 1.0
        # The new workers have a lasting luck of their own in what load they get.
        self.luck = 1.0 if shape.even else math.exp(self.draw.gauss(0, app.uneven))
        self.burst, self.bursts = 1.0, 0
        self.outage = self.slow = self.clump = 0
        self.clump_new = False
        self.held: dict[str, tuple[int, float]] = {}

    def slices(self) -> Iterator[Slice]:
        """The rollout, second by second."""
        shape = self.shape
        for second in range(shape.hold + shape.each * (shape.workers - 1) + shape.watch):
            there = sides(second, shape)
            self.turn(there)
            bad = second >= self.release.since
            made = {name: self.group(name, workers, age, bad and name.startswith("new"))
                    for name, (workers, age) in there.items() if workers}
            yield Slice(1.0, Pair(made.get("new young", Group()), made.get("old young")),
                        Pair(made.get("new warm", Group()), made.get("old warm")))

    def turn(self, there: dict[str, tuple[int, float]]) -> None:
        """Bursts; what old and new workers suffer alike: an upstream that is down for 3 s, a host
        that is busy for 5 s; and what only one of them does: a client with a clump of failures."""
        draw = self.draw
        self.bursts -= 1
        if self.bursts < 0:
            self.burst, self.bursts = draw.choice((0.6, 1.0, 1.0, 1.3)), draw.randrange(2, 20)
            if draw.random() < 0.05:
                self.burst, self.bursts = 3.0, 3
        self.outage = self.outage - 1 if self.outage else 3 * (draw.random() < 1 / 900)
        self.slow = self.slow - 1 if self.slow else 5 * (draw.random() < 1 / 300)
        if self.clump:
            self.clump -= 1
        elif draw.random() < self.shape.clumps / 60:
            self.clump = draw.randrange(1, 3)
            new = there["new young"][0] + there["new warm"][0]
            self.clump_new = draw.random() < new / sum(workers for workers, _ in there.values())

    def group(self, name: str, workers: int, age: float, bad: bool) -> Group:
        """What these workers did in this second."""
        draw, app, shape, release = self.draw, self.app, self.shape, self.release
        new = name.startswith("new")
        count = app.poisson(shape.rate * workers * self.burst * (self.luck if new else 1)
                            * math.exp(draw.gauss(0, 0.15)))
        slower = 1 + shape.cold * math.exp(-age / 10)
        if self.slow:
            slower *= 2
        elif draw.random() < workers / 120:  # one of them stalls for a second
            slower *= 1 + 2 / workers
        if bad:
            slower *= release.slower
        latencies = app.answers(count, slower, self.tail if bad else 1.0)
        share = app.failed + (0.5 if self.outage else 0.0) + (release.failed if bad else 0.0)
        failed = min(count, app.poisson(count * share))
        more = draw.randrange(3, 11) if self.clump and new == self.clump_new else 0
        more += shape.sticky if new else 0
        latencies[3] += more
        cpu = count * 0.004 * slower * draw.gauss(1, 0.1) * (release.cpu if bad else 1)
        growth = self.growth(name, workers, age) + (release.leak * count if bad else 0.0)
        return Group(Traffic(count + more, failed=failed + more, latencies=tuple(latencies)),
                     max(0.0, round(cpu, 2)), growth, workers)

    def growth(self, name: str, workers: int, age: float) -> float:
        """Bytes: caches that fill up in some minutes, and what allocators hold at the moment."""
        held = sum(self.draw.expovariate(1e-6) for _ in range(workers))
        before, self.held[name] = self.held.get(name), (workers, held)
        filled = workers * 40e6 * (math.exp(-max(0, age - 1) / 60) - math.exp(-age / 60))
        return filled + (held - before[1] if before and before[0] == workers else 0)


def sides(second: int, shape: Shape) -> dict[str, tuple[int, float]]:
    """How many new and old workers there are, young and warm, and their mean age in seconds."""
    replaced = 0 if second < shape.hold else 1 + min((second - shape.hold) // shape.each,
                                                     shape.workers - 1)
    births = [0, *(shape.hold + number * shape.each for number in range(replaced - 1))]
    ages = [second - birth for birth in births]
    young, warm = ([age for age in ages if age < YOUNG], [age for age in ages if age >= YOUNG])
    baseline = int(shape.baseline and second < min(YOUNG, shape.hold))
    return {"new young": (len(young), sum(young) / max(1, len(young))),
            "new warm": (len(warm), sum(warm) / max(1, len(warm))),
            "old young": (baseline, second),
            "old warm": (shape.workers - replaced - baseline, 1e6)}


@dataclass(frozen=True)
class Outcome:
    """`seconds` from when the release was bad to the refusal; None if it was not refused. `well`:
    the first second at which it was well beyond doubt. `bad`: how many requests saw bad code."""

    word: Word
    seconds: int | None
    well: int | None
    reason: str
    bad: int


def rollout(release: Release, shape: Shape, seed: str) -> Outcome:
    """One rollout, until it is over or refused; the verdict is asked for each second."""
    evidence, tolerance = Evidence(), Tolerance()
    said, well, bad = verdict(evidence, tolerance), None, 0
    for second, part in enumerate(Host(App(random.Random(seed)), release, shape).slices(), 1):
        evidence = look(evidence, part, tolerance)
        if second > release.since:
            bad += part.young.new.traffic.requests + part.warm.new.traffic.requests
        said = verdict(evidence, tolerance)
        if said.word is Word.WORSE:
            return Outcome(said.word, second - release.since, well, said.reason, bad)
        if said.word is Word.WELL and well is None:
            well = second
    return Outcome(said.word, None, well, said.reason, bad)


@dataclass(frozen=True)
class Row:
    """So many times the usual number of rollouts of one release; `within`: the seconds within which
    it has to be refused, 0: it must not be; `drawn`: what the picture calls it, if it is in it."""

    name: str
    release: Release
    shape: Shape
    times: float
    within: int = 0
    drawn: str = ""


TEN_MINUTES = Shape(hold=300, watch=268)
CANARY = Shape(hold=300, watch=0, even=True)
ONE_OF_FIVE = Shape(hold=300, watch=0, even=True, workers=4, rate=10)
ROWS = (
    Row("fine", Release(), TEN_MINUTES, 1, drawn="fine"),
    Row("fine, clumps of failures 6 times as often", Release(),
        Shape(hold=300, watch=268, clumps=3), 0.3),
    Row("fine, at first 7 times as slow, no baseline worker", Release(),
        Shape(hold=300, watch=268, cold=6, baseline=False), 0.3),
    Row("fine, 2 workers with 10 requests/s each", Release(),
        Shape(hold=300, watch=268, workers=2, rate=10), 0.3),
    Row("fine, 400 requests/s each", Release(), Shape(hold=300, watch=268, rate=400), 0.05),
    Row("10 % slower", Release(slower=1.1), TEN_MINUTES, 0.3),
    Row("20 % slower", Release(slower=1.2), TEN_MINUTES, 0.3),
    Row("0.3 points more failures", Release(failed=0.003), TEN_MINUTES, 0.3),
    Row("**5 points more failures**", Release(failed=0.05), CANARY, 2, 30,
        "5 points more failures"),
    Row("1 point more failures", Release(failed=0.01),
        Shape(hold=600, watch=0, even=True), 0.3, 300, "1 point more failures"),
    Row("**p99 doubled** by its slow requests alone", Release(tail=2), CANARY, 1.5, 120,
        "p99 doubled"),
    Row("all requests twice as slow", Release(slower=2), CANARY, 1, 120,
        "all requests twice as slow"),
    Row("leaks 100 KiB a request, at 10 requests/s", Release(leak=102400),
        Shape(hold=300, watch=0, even=True, rate=10), 0.5, 120, "leaks 100 KiB a request"),
    Row("needs 1.6 times the CPU", Release(cpu=1.6), CANARY, 0.5, 120, "needs 1.6 times the CPU"),
    Row("5 points more failures, canary gets 10 requests/s of 50", Release(failed=0.05),
        ONE_OF_FIVE, 1, 120),
    Row("p99 doubled, canary gets 10 requests/s of 50", Release(tail=2), ONE_OF_FIVE, 0.5, 300),
    Row("5 points more failures from minute 5 on, beside old workers",
        Release(failed=0.05, since=300), Shape(hold=480, watch=0), 0.2, 30),
    Row("5 points more failures from minute 5 on, no old workers left",
        Release(failed=0.05, since=300), Shape(hold=120, watch=400), 0.2, 60),
    Row("fine, but a client whose 5 requests/s all fail stays with the new workers",
        Release(), Shape(hold=120, watch=0, sticky=5), 0.2),
)


MARKS = (Mark(30, "5 points: 99 % by 30 s"), Mark(120, "p99: 99 % by 120 s"))


def judged(row: Row, rollouts: int, seed: int, processes: int = 1) -> list[Outcome]:
    """The outcomes of a row; the same ones in however many processes."""
    jobs = [(row.release, row.shape, f"{seed} {row.name} {number}")
            for number in range(max(1, round(rollouts * row.times)))]
    if processes < 2:
        return [rollout(*job) for job in jobs]
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        return pool.starmap(rollout, jobs, chunksize=max(1, min(20, len(jobs) // processes)))


def times(outcomes: list[Outcome]) -> list[int]:
    """After how many seconds each of those that were refused was."""
    return sorted(each.seconds for each in outcomes if each.seconds is not None)


def line(row: Row, outcomes: list[Outcome]) -> str:
    """The row as one of a table in Markdown."""
    refused, number = times(outcomes), len(outcomes)

    def after(share: float) -> str:
        place = math.ceil(share * number)
        return f"{refused[place - 1]} s" if place <= len(refused) else "–"

    soon = sum(each <= row.within for each in refused) / number * 100
    within = f"{soon:.1f} % in {row.within} s" if row.within else "–"
    well = sum(each.well is not None for each in outcomes) / number
    bad = statistics.median(each.bad for each in outcomes) if row.within else None
    return (f"| {row.name} | {number:,} | {len(refused) / number * 100:.1f} % | {within} | "
            f"{after(0.5)} | {after(0.99)} | {'–' if bad is None else f'{bad:,.0f}'} | "
            f"{well * 100:.0f} % |")


HEAD = ("| release | rollouts | refused | of them | half of them after | 99 % after "
        "| requests that saw it (median) | well beyond doubt |\n" + "| --- |" + " ---: |" * 7)


def drawn(found: dict[Row, list[Outcome]]) -> str:
    """The rows that are in it as a picture."""
    curves = [Curve(row.drawn, times(outcomes), len(outcomes))
              for row, outcomes in found.items() if row.drawn]
    return picture(curves, MARKS, CANARY.hold)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rollouts", type=int, default=1000)
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    asked.add_argument("--picture", type=Path, help="where to draw it as SVG")
    options = asked.parse_args()
    print(f"Seed {options.seed}.\n\n{HEAD}", flush=True)
    found = {}
    for row in ROWS:
        found[row] = judged(row, options.rollouts, options.seed, options.processes)
        print(line(row, found[row]), flush=True)
    if options.picture:
        options.picture.write_text(drawn(found))


if __name__ == "__main__":
    main()
