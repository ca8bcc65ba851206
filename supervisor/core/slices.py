"""What new and old workers did in a slice of time, and how much worse they may do. Data; what it
proves is the business of `evidence.py`.
"""

from __future__ import annotations

from dataclasses import replace

from ...shared.frozen import dataclass
from .traffic import Traffic

NOTHING = Traffic()


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The least that matters: `failed`, by how much the share of failed requests may be greater
    (0.005: by 0.5 percentage points), `ratio`, by which factor anything else may be."""

    failed: float = 0.005
    ratio: float = 1.3


@dataclass(frozen=True, slots=True)
class Group:
    """What some workers did in a slice: `memory_growth` in bytes, negative if it shrank; `workers`,
    how many they are; `begun`, how many requests began, and `hung`, by how many more of theirs than
    ever before have had no answer for some seconds."""

    traffic: Traffic = NOTHING
    cpu_seconds: float = 0.0
    memory_growth: float = 0.0
    workers: int = 0
    begun: int = 0
    hung: int = 0


@dataclass(frozen=True, slots=True)
class Pair:
    """New workers and old ones; None: no old one of that kind is there (any more)."""

    new: Group = Group()
    old: Group | None = None

    def within(self, seconds: float) -> Pair:
        """Both without answers that took longer: nobody younger than that can have given them."""
        new, old = self.new, self.old
        return Pair(replace(new, traffic=new.traffic.within(seconds)),
                    old and replace(old, traffic=old.traffic.within(seconds)))


@dataclass(frozen=True, slots=True)
class Slice:
    """What happened in about a second: among workers that have not been ready for long (60 s), and
    among the others."""

    seconds: float
    young: Pair = Pair()
    warm: Pair = Pair()
