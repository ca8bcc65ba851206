"""What is known of new workers against old ones: the e-values are what they are said to be, the
verdicts have their figures, and what is kept survives as plain data. How sure a verdict is:
`python -m bench.judging`, and the soak test below."""

from __future__ import annotations

import math
import os
import random
from bisect import bisect_left
from dataclasses import replace
from itertools import product
from xml.etree import ElementTree

import pytest
from einhornpy.supervisor.core.evidence import Evidence, look
from einhornpy.supervisor.core.sequential import Bets, Sample, bet, e_value
from einhornpy.supervisor.core.slices import Group, Pair, Slice, Tolerance
from einhornpy.supervisor.core.traffic import BOUNDS, NO_LATENCIES, Traffic
from einhornpy.supervisor.core.verdict import Verdict, Word, verdict
from einhornpy.supervisor.system.plain_data import from_plain, to_plain

from bench.judging import ROWS, Outcome, judged, times
from bench.judging_picture import Curve, Mark, picture

FAST = BOUNDS.index(0.01)
BY_NAME = {row.name.replace("*", ""): row for row in ROWS}
CORES = os.cpu_count() or 1
SVG = "{http://www.w3.org/2000/svg}"


def traffic(requests: int, failed: int = 0, bucket: int = FAST, slow: int = 0) -> Traffic:
    """So many requests in one bucket of latencies; `slow` of them take a second."""
    latencies = list(NO_LATENCIES)
    latencies[bucket] += requests - slow
    latencies[BOUNDS.index(1.0)] += slow
    return Traffic(requests, failed=failed, latencies=tuple(latencies))


def after(seconds: int, new: Traffic, old: Traffic, cpu: float = 0.1,
          growth: float = 0.0) -> tuple[Evidence, Verdict]:
    """What is known after so many seconds that are all alike."""
    evidence, tolerance = Evidence(), Tolerance()
    for _ in range(seconds):
        pair = Pair(Group(new, cpu, growth, 1), Group(old, 0.1, 0.0, 1))
        evidence = look(evidence, Slice(1.0, young=pair), tolerance)
    return evidence, verdict(evidence, tolerance)


def chance(sample: Sample, share: float) -> float:
    return (math.comb(sample.cases, sample.hits) * share**sample.hits
            * (1 - share)**(sample.cases - sample.hits))


@pytest.mark.parametrize(("new", "old"), [(1, 1), (3, 5), (6, 2)])
@pytest.mark.parametrize("margin", [0.0, 0.05])
@pytest.mark.parametrize("worse", [True, False])
def test_the_mean_of_an_e_value_is_at_most_1_wherever_its_null_is_true(
        new: int, old: int, margin: float, worse: bool) -> None:
    """Every outcome, weighed by its probability, over a grid of shares."""
    guess_new, guess_old = (0.4, 0.1) if worse else (0.1, 0.3)
    outcomes = [(Sample(new, x), Sample(old, y)) for x, y in product(range(new + 1),
                                                                     range(old + 1))]
    factors = [math.exp(e_value(one, other, guess_new, guess_old, margin))
               for one, other in outcomes]
    grid = [step / 20 for step in range(21)]
    highest = 0.0
    for p_new, p_old in product(grid, grid):
        null = p_new <= p_old + margin if worse else p_new >= p_old + margin
        mean = sum(chance(one, p_new) * chance(other, p_old) * factor
                   for (one, other), factor in zip(outcomes, factors, strict=True))
        if null:
            assert mean <= 1 + 1e-9, (p_new, p_old)
        highest = max(highest, mean)
    assert highest > 1.05, "it never wins where its null is false"


def test_bets_win_nothing_on_the_average() -> None:
    """Fair tosses of a coin, all 2**12 of them: the mean of what was ever made of 1 stays 1 or
    less, and the chance to have seen p <= 0.1 at any look is at most 0.1."""
    tosses = list(product((True, False), repeat=12))
    ever = []
    for each in tosses:
        bets = Bets()
        for heads in each:
            bets = bet(bets, (math.log(1.5 if heads else 0.5), math.log(1.9 if heads else 0.1)),
                       math.log(8))
        ever.append(bets.ever)
    assert sum(p <= 0.1 for p in ever) / len(tosses) <= 0.1
    assert min(ever) < 0.1, "it never wins"


def test_words_and_figures() -> None:
    assert after(3, traffic(10), traffic(10))[1].reason == (
        "too little traffic to tell: 30 requests on new workers, 30 on old ones")
    fine = after(60, traffic(50), traffic(50))[1]
    assert fine.word in (Word.NO_WORSE, Word.WELL)
    assert (fine.requests, fine.old_requests) == (3000, 3000)
    failing = after(30, traffic(50, failed=3), traffic(50))[1]
    assert failing.word is Word.WORSE
    assert failing.reason == (
        "failed requests 6.0 % against 0.0 % of 1,500 requests, p < 0.001")
    slow = after(60, traffic(50, bucket=FAST + 8), traffic(50))[1]
    assert slow.word is Word.WORSE
    assert slow.reason.startswith("p50 ")
    tail = after(60, traffic(50, slow=5), traffic(50))[1]
    assert tail.word is Word.WORSE
    assert "p99 0.9" in tail.reason


def test_what_makes_no_difference_is_not_worse() -> None:
    for new in (traffic(50, bucket=FAST + 1), traffic(50, failed=0)):
        assert after(300, new, traffic(50))[1].word is not Word.WORSE
    assert after(300, Traffic(), traffic(50))[1].word is Word.UNSURE


def test_a_second_without_any_latency_tells_nothing() -> None:
    """Clients that have left, or websockets alone, on either side."""
    evidence, tolerance = after(40, traffic(50), traffic(50))[0], Tolerance()
    for old in (Traffic(3, aborted=3), Traffic(), None):
        group = None if old is None else Group(old, workers=1)
        pair = Pair(Group(Traffic(2, aborted=2), workers=1), group)
        seen = look(evidence, Slice(1.0, young=pair, warm=pair), tolerance)
        assert seen.p99.worse.best == evidence.p99.worse.best
        assert verdict(seen, tolerance).word is not Word.WORSE


def test_what_has_gone_bad_later_is_told_of_the_last_requests() -> None:
    evidence, tolerance = after(120, traffic(50), traffic(50))[0], Tolerance()
    for _ in range(30):
        pair = Pair(Group(traffic(50, failed=3), workers=1), Group(traffic(50), workers=1))
        evidence = look(evidence, Slice(1.0, young=pair), tolerance)
    found = verdict(evidence, tolerance)
    assert (found.word, found.requests) == (Word.WORSE, 7500)
    assert found.reason == (
        "failed requests 6.0 % against 0.0 % of the last 1,500 requests, p < 0.001")


def test_clients_that_leave_count_as_failures_do() -> None:
    seen = after(30, Traffic(50, aborted=4, latencies=traffic(46).latencies), traffic(50))[1]
    assert (seen.word, seen.reason) == (
        Word.WORSE, "failed or aborted requests 8.0 % against 0.0 % of 1,500 requests, p < 0.001")


def hanging(new: tuple[int, int], old: tuple[int, int], seconds: int = 20) -> Verdict:
    """After so many seconds in each of which so many requests began, and so many more hang."""
    evidence, tolerance = Evidence(), Tolerance()
    for _ in range(seconds):
        pair = Pair(*(Group(traffic(begun - hung), workers=1, begun=begun, hung=hung)
                      for begun, hung in (new, old)))
        evidence = look(evidence, Slice(1.0, young=pair), tolerance)
    return verdict(evidence, tolerance)


def test_requests_that_get_no_answer() -> None:
    found = hanging((25, 8), (25, 0))
    assert (found.word, found.reason) == (
        Word.WORSE, "requests without an answer 32.0 % against 0.0 % of 500 that began, p < 0.001")
    assert hanging((1, 1), (25, 0)).word is Word.WORSE, "nobody is answered any more"
    assert hanging((1, 1), (25, 0), 5).word is Word.UNSURE
    # Websockets stay open on either side.
    assert hanging((25, 8), (5, 2)).word is not Word.WORSE
    assert hanging((25, 8), (25, 25)).word is not Word.WORSE


def test_nothing_is_worse_than_old_code_that_always_fails() -> None:
    """The hotfix for it is not refused, neither at once nor once all is well."""
    evidence, tolerance = Evidence(), Tolerance()
    for _ in range(300):
        pair = Pair(Group(traffic(50), workers=1), Group(traffic(200, failed=200), workers=4))
        evidence = look(evidence, Slice(1.0, warm=pair), tolerance)
        assert verdict(evidence, tolerance).word is not Word.WORSE
    assert evidence.failed.worse.ever == 1.0


@pytest.mark.parametrize("first", [60, 0])
def test_old_workers_may_go_and_come_back(first: int) -> None:
    evidence, tolerance = Evidence(), Tolerance()
    both = Pair(Group(traffic(50), workers=1), Group(traffic(50), workers=1))
    for pair in (*[Pair(Group(), both.old)] * 60, *[both] * first, Pair(both.new, None), both,
                 Pair(both.new, None), both):
        evidence = look(evidence, Slice(1.0, warm=pair), tolerance)
    assert verdict(evidence, tolerance).word is not Word.WORSE


def test_cpu_and_leaks() -> None:
    busy = after(120, traffic(50), traffic(50), cpu=0.2)[1]
    assert (busy.word, busy.reason.startswith("CPU a request")) == (Word.WORSE, True)
    leak = after(120, traffic(50), traffic(50), growth=50 * 102400.0)[1]
    assert (leak.word, leak.reason.startswith("memory grows by 100 KiB")) == (Word.WORSE, True)


def test_one_bad_second_decides_nothing() -> None:
    evidence, tolerance = Evidence(), Tolerance()
    usual = Group(traffic(50), 0.1, 0.0, 1)
    clump = Group(traffic(50, failed=40), 0.1, 0.0, 1)
    for second in range(60):
        new = clump if second == 30 else usual
        evidence = look(evidence, Slice(1.0, young=Pair(new, usual)), tolerance)
        assert verdict(evidence, tolerance).word is not Word.WORSE


def test_what_is_kept_survives_as_plain_data() -> None:
    evidence, said = after(45, traffic(20, failed=1), traffic(30))
    assert from_plain(Evidence, to_plain(evidence)) == evidence
    assert from_plain(Verdict, to_plain(said)) == said


def with_streams(behind: int, like_aged: bool) -> Verdict:
    """The verdict on a fine canary whose baseline is so many seconds younger, where four of ten
    answers are streams, of 20 s on the average."""
    draw, ended = random.Random(1), dict[tuple[int, int], list[float]]()
    evidence, tolerance, said = Evidence(), Tolerance(), []

    def in_a_second(born: int, second: int) -> Traffic:
        latencies = list(NO_LATENCIES)
        latencies[FAST] = 30
        for _ in range(20):
            takes = draw.expovariate(1 / 20)
            ended.setdefault((born, int(second + takes)), []).append(takes)
        for each in ended.get((born, second), []):
            latencies[bisect_left(BOUNDS, each)] += 1
        return Traffic(sum(latencies), latencies=tuple(latencies))

    for second in range(-behind, 0):  # the canary is alone
        in_a_second(-behind, second)
    for second in range(60 - behind):
        both = [in_a_second(born, second) for born in (-behind, 0)]
        pair = Pair(Group(both[0], workers=1), Group(both[1], workers=1))
        evidence = look(evidence, Slice(1.0, pair.within(second) if like_aged else pair), tolerance)
        said.append(verdict(evidence, tolerance))
    return next((each for each in said if each.word is Word.WORSE), said[-1])


def test_long_streams_make_nobody_slow_who_was_ready_first() -> None:
    """What a younger worker can't have answered yet is held against nobody."""
    assert with_streams(30, like_aged=False).word is Word.WORSE
    for behind in (0, 5, 15, 30, 50):
        assert with_streams(behind, like_aged=True).word is not Word.WORSE


def simulated(name: str, rollouts: int, processes: int = 1) -> tuple[list[Outcome], float]:
    """The outcomes of a row of the simulation, and which share was refused in its time."""
    row = BY_NAME[name]
    outcomes = judged(replace(row, times=1), rollouts, 1, processes)
    return outcomes, sum(each <= row.within for each in times(outcomes)) / len(outcomes)


def test_simulated_rollouts_in_short() -> None:
    assert not times(simulated("fine", 3)[0])
    assert simulated("5 points more failures", 6)[1] == 1.0


def test_rollouts_are_the_same_in_several_processes() -> None:
    row = BY_NAME["5 points more failures"]
    assert judged(row, 2, 7, processes=2) == judged(row, 2, 7)


def test_the_picture_shows_what_was_refused_when() -> None:
    curves = [Curve("never <refused>", (), 4), Curve("half & half", (50, 30), 4)]
    root = ElementTree.fromstring(picture(curves, (Mark(30, "30 s"),), 100))
    texts = [text for each in root.iter(f"{SVG}text") if (text := each.text)]
    half = texts.index("half & half")
    assert texts[half + 1] == "half after 50 s"
    assert texts[half + 2:half + 4] == ["never <refused>", "none of 4 refused"]
    lines = [each.get("d") for each in root.iter(f"{SVG}path")]
    thirty, fifty = 56 + 564 * 0.3, 56 + 564 * 0.5
    assert f"M56 366H{thirty:.1f}V284.5H{fifty:.1f}V203.0H620" in lines
    assert "M56 366H620" in lines
    with pytest.raises(ValueError, match="colours"):
        picture(curves * 9, (), 100)


@pytest.mark.soak
@pytest.mark.parametrize(("name", "rollouts"), [
    ("5 points more failures", 3000),
    ("p99 doubled by its slow requests alone", 3000)])
def test_bad_releases_are_refused_in_time(name: str, rollouts: int) -> None:
    outcomes, share = simulated(name, rollouts, CORES)
    print(f"\n{name}: {share:.1%} of {len(outcomes)} refused in {BY_NAME[name].within} s")
    assert share >= 0.99


@pytest.mark.soak
@pytest.mark.parametrize(("name", "rollouts"), [
    ("fine", 1000), ("fine, clumps of failures 6 times as often", 1000),
    ("fine, at first 7 times as slow, no baseline worker", 1000),
    ("fine, 2 workers with 10 requests/s each", 500), ("20 % slower", 500),
    ("0.3 points more failures", 300)])
def test_good_releases_are_hardly_ever_refused(name: str, rollouts: int) -> None:
    outcomes, _ = simulated(name, rollouts, CORES)
    wrongly = len(times(outcomes))
    print(f"\n{name}: {wrongly} of {len(outcomes)} refused")
    assert wrongly <= 0.01 * len(outcomes)
