"""What happened in which order, and what should not have: kept for whoever has to repeat a run."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Story:
    """`loud`: print each line at once. `counts`: what the figures at the end are made of, such as
    `faults kill-worker`."""

    seed: int
    loud: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.round = 0
        self._lock = threading.Lock()

    def begin_round(self, number: int) -> None:
        self.round, self.lines = number, []

    def tell(self, text: str) -> None:
        """One line of what happens, with its time since the beginning."""
        line = f"{time.monotonic() - self.began:8.2f}  {text}"
        with self._lock:
            self.lines.append(line)
            if self.loud:
                print(line, flush=True)

    def count(self, what: str, by: int = 1) -> None:
        with self._lock:
            self.counts[what] += by

    def wrong(self, text: str) -> None:
        """Something that must never be."""
        self.tell(f"WRONG: {text}")
        with self._lock:
            self.violations.append(f"round {self.round}: {text}")

    def figures(self) -> str:
        """The counts as a table, the kinds of one thing below each other."""
        groups: dict[str, list[str]] = {}
        for what in sorted(self.counts):
            group, _, kind = what.partition(" ")
            groups.setdefault(group, []).append(f"  {kind:<28}{self.counts[what]:>8}")
        total = {
            group: sum(self.counts[each] for each in self.counts if each.startswith(f"{group} "))
            for group in groups}
        seconds = time.monotonic() - self.began
        head = (
            f"seed {self.seed}: {seconds:.0f} s, {self.round + 1} rounds, {len(self.violations)} wrong"
        )
        counted = {
            group: f" {total[group]}" if group in ("faults", "operations") else ""
            for group in groups}
        return "\n".join([
            head, *(line for group, lines in groups.items()
                    for line in (f"{group}:{counted[group]}", *lines))])
