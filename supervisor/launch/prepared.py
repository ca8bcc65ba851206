"""What each generation that is in use was made from, beside its recipe: gunicorn's settings, where
it is gunicorn's."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from ...shared.frozen import dataclass
from ..system.ledger import Ledger
from ..system.part import Keep, Kept, Part, State
from ..system.plain_data import to_plain
from .recipes import Prepared
from .recognition import Gunicorn


@dataclass(frozen=True, slots=True)
class KeptPrepared(Kept):
    gunicorn: Gunicorn | None
    guessed: bool


class Generations(Part):
    """`prepared`: by the number of the generation."""

    name = "generations"
    keeps = {"prepared": Keep(Mapping[int, KeptPrepared], {}, needed=True)}

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.prepared: dict[int, Prepared] = {}

    @property
    def current(self) -> Prepared:
        """What the wanted generation was made from."""
        return self.prepared[self._ledger.pool.current]

    def forget_all_but(self, needed: Container[int]) -> None:
        self.prepared = {number: each for number, each in self.prepared.items() if number in needed}

    def hand_over(self) -> dict[str, Any]:
        return {"prepared": {
            str(number): {"gunicorn": to_plain(each.gunicorn), "guessed": each.guessed}
            for number, each in self.prepared.items()}}

    def take_over(self, state: State) -> None:
        kept: Mapping[int, KeptPrepared] = state["prepared"]
        generations = self._ledger.pool.generations
        self.prepared = {
            number: Prepared(generations[number].recipe, each.gunicorn, each.guessed)
            for number, each in kept.items() if number in generations}
