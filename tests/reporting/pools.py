"""Pools for the pure tests of what is told of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from einhornpy.supervisor.core.generation import Generation, Recipe
from einhornpy.supervisor.core.pool import Policy, Pool, State, Worker
from einhornpy.supervisor.core.upgrade import Outcome, Phase, Terms, Upgrade

RECIPE = Recipe(("app",), "/srv/app")
NOW = 1000.0


def worker(number: int, state: State = State.READY, generation: int = 1, **changes: Any) -> Worker:
    """A worker of seat `number - 1`, ready for long."""
    made: dict[str, Any] = {
        "index": number - 1, "ready_at": None if state is State.STARTING else 2.0,
        "retired_at": NOW if state is State.RETIRING else None}
    return Worker(id=number, generation=generation, pid=4000 + number, state=state,
                  **{"spawned_at": 0.0, **made, **changes})


def pool(target: int, workers: Iterable[Worker], upgrade: Upgrade | None = None,
         generations: Mapping[int, Mapping[str, Any]] | None = None, **changes: Any) -> Pool:
    """A pool of generations 1 and 2; the current one is 2 where `upgrade` is on its way there."""
    there = upgrade is not None and upgrade.phase not in (Phase.PREPARING, Phase.GOING_BACK) and (
        upgrade.outcome is None or not upgrade.outcome.refused)
    known = {number: Generation(**{
        "number": number, "recipe": RECIPE, **(generations or {}).get(number, {})})
             for number in (1, 2)}
    return Pool(Policy(), target, **{
        "current": 2 if there else 1, "generations": known, "newest": 2, "ever_ready": True,
        "complete": True, "workers": {each.id: each for each in workers}, "upgrade": upgrade,
        **changes})


def upgrade(phase: Phase, outcome: Outcome | None = None, terms: Terms | None = None,
            **changes: Any) -> Upgrade:
    return Upgrade(1, 2, terms or Terms(), "deploy", 900.0, 1.8e9, 900.0, phase=phase,
                   outcome=outcome, **changes)
