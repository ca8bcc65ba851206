"""Evidence that may be looked at as often as one likes: e-values for two shares, and the bets that
multiply them. Pure arithmetic; it must not know what is counted.

An e-value is a number of which the mean is at most 1 where the null hypothesis is true. A product
of them, each made of new data by a rule fixed before, exceeds 1/alpha at any time at all with a
probability of at most alpha (Ville's inequality): so nobody has to say beforehand how often he
looks, or when he stops. See Ramdas, Grünwald, Vovk and Shafer, "Game-theoretic statistics and safe
anytime-valid inference", Statistical Science 38 (2023).
"""

from __future__ import annotations

import math

from ...shared.frozen import dataclass

# The first bet gets half of the stake, those that start later share the other half: the one that
# starts at look t (from 1 on) gets 300 / ((t + 299) (t + 300)) of it, all together no more than 1.
FIRST, LATER = 0.5, 300
TINY = 1e-6


@dataclass(frozen=True, slots=True)
class Sample:
    """So many cases: `hits` of them count as 1, `parts` of them as `worth` (between 0 and 1), the
    others as 0."""

    cases: int
    hits: int
    parts: int = 0
    worth: float = 0.0

    @property
    def share(self) -> float:
        return (self.hits + self.parts * self.worth) / self.cases if self.cases else 0.0


@dataclass(frozen=True, slots=True)
class Bets:
    """What has become of a stake of 1 that was put against a null hypothesis.

    `looks`: how often new data came. `wealth`: the logarithm of what each guess has made of its
    share, the bets that started at different looks together. `best`: the logarithm of the most
    that they ever made together.
    """

    looks: int = 0
    wealth: tuple[float, ...] = ()
    best: float = 0.0

    @property
    def ever(self) -> float:
        """A p-value that is valid at any time: for "it was so at some time"."""
        return math.exp(-max(0.0, self.best))

    @property
    def now(self) -> float:
        """A p-value that counts what has been lost again since."""
        return math.exp(-max(0.0, together(self.wealth))) if self.wealth else 1.0


def together(wealth: tuple[float, ...]) -> float:
    """The logarithm of the mean of what the guesses have."""
    most = max(wealth)
    return most + math.log(sum(math.exp(each - most) for each in wealth) / len(wealth))


def bet(bets: Bets, factors: tuple[float, ...], most: float) -> Bets:
    """The bets after new data: `factors` are the logarithms of the e-values that each guess has
    made of them, of which none counts for more than `most` (a smaller one is an e-value too).

    A new bet starts at each look: one that has stood from the beginning has lost nearly all by the
    time at which something goes bad. The sum of what they have is a single product:
    sum(t) = (sum(t - 1) + stake(t)) * e-value(t).
    """
    step = bets.looks
    stake = FIRST if not step else (1 - FIRST) * LATER / ((step + LATER - 1) * (step + LATER))
    before = bets.wealth or (-math.inf,) * len(factors)
    wealth = tuple(math.log(math.exp(min(held, 600.0)) + stake) + min(factor, most)
                   for held, factor in zip(before, factors, strict=True))
    return Bets(step + 1, wealth, max(bets.best, together(wealth)))


def e_value(new: Sample, old: Sample, guess_new: float, guess_old: float, margin: float) -> float:
    """The logarithm of an e-value against `new share <= old share + margin` (where `guess_new` is
    beyond that) or against `new share >= old share + margin` (where it is below).

    The likelihood of the guess over that of its reverse information projection, the point of the
    null next to it: Turner, Ly and Grünwald, "Generic E-variables for exact sequential k-sample
    tests that allow for optional stopping", J. Statistical Planning and Inference 230 (2024), with
    a margin Turner and Grünwald, "Exact anytime-valid confidence intervals for contingency tables
    and beyond", Statistics and Probability Letters 198 (2023). It is linear in each case, so that
    its mean is at most 1 whatever the shares are, may they change from one look to the next, and
    for cases worth a part as well. The cases must be independent of each other. No case at all
    tells nothing.
    """
    if not new.cases and not old.cases:
        return 0.0
    null = projection(new.cases, old.cases, guess_new, guess_old, margin)
    return likelihood(new, guess_new, null + margin) + likelihood(old, guess_old, null)


def projection(new: int, old: int, guess_new: float, guess_old: float, margin: float) -> float:
    """The share p of the old for which (p + margin, p) is next to the guess, by the divergence of
    Kullback and Leibler, of so many new and old cases."""
    if not margin:
        return (new * guess_new + old * guess_old) / (new + old)
    low, high = sorted((guess_old, min(max(guess_new - margin, TINY), 1 - margin - TINY)))
    for _ in range(40):
        p = (low + high) / 2
        q = p + margin
        if old * (p - guess_old) * q * (1 - q) + new * (q - guess_new) * p * (1 - p) > 0:
            high = p
        else:
            low = p
    return (low + high) / 2


def likelihood(sample: Sample, guess: float, null: float) -> float:
    """The logarithm of how much likelier a sample is by the guess than by the null."""
    rest = sample.cases - sample.hits - sample.parts
    found = 0.0
    if sample.hits:
        found += sample.hits * math.log(guess / null)
    if rest:
        found += rest * math.log((1 - guess) / (1 - null))
    if sample.parts:
        found += sample.parts * math.log(sample.worth * guess / null
                                         + (1 - sample.worth) * (1 - guess) / (1 - null))
    return found


def upper_limit(sample: Sample) -> float:
    """What the true share hardly exceeds (one-sided 99.5 %): Wilson's score interval (1927), which
    holds for few hits too."""
    if not sample.cases:
        return 1.0
    z, n, share = 2.576, sample.cases, sample.share
    middle = share + z * z / (2 * n)
    return min(1.0, (middle + z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
               / (1 + z * z / n))
