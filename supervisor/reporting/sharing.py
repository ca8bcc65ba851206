"""What processes use of the memory that they partly share, added up. Pure: who reads it is
launch/readings.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field

from ...shared.frozen import dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """A process's memory, in bytes. `share`: its proportional set size, in which a page that so
    many processes share counts as that part of a page. `anonymous`: what it would need of its own
    if it shared nothing but files; `anonymous_share`: how much of `share` is that."""

    share: int
    anonymous: int = 0
    anonymous_share: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    """The readings of the master, of the templates (by generation) and of the workers (by their
    ids). `whole`: none of them has yet to be measured."""

    master: Reading | None = None
    templates: Mapping[int, Reading] = field(default_factory=dict)
    workers: Mapping[int, Reading] = field(default_factory=dict)
    whole: bool = True

    def _all(self) -> Iterator[Reading]:
        if self.master is not None:
            yield self.master
        yield from self.templates.values()
        yield from self.workers.values()

    @property
    def total(self) -> int:
        """All that they use together."""
        return sum(each.share for each in self._all())

    @property
    def saved(self) -> int:
        """How much more it would be if each worker had its pages alone, and there were no
        templates."""
        alone = sum(each.anonymous for each in self.workers.values())
        together = sum(each.anonymous_share
                       for each in (*self.workers.values(), *self.templates.values()))
        return max(0, alone - together)
