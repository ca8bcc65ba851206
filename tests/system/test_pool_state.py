"""The pool's part of a state: what earlier versions wrote, and what they can read."""

from __future__ import annotations

from typing import Any

import pytest
from einhornpy.supervisor.core.causes import Recycling, Refusal
from einhornpy.supervisor.core.pool import Pool, State
from einhornpy.supervisor.core.upgrade import Outcome, Phase, Terms
from einhornpy.supervisor.system.plain_data import from_plain
from einhornpy.supervisor.system.pool_state import adapted, written

from ..reporting.pools import NOW, pool, upgrade, worker

FLAGS = ("preparing", "on_canary", "rolling_back", "aborted")
NEW = ("phase", "cause")
CANARY = Terms(canary=1)
# The phase and what stands beside it, and the four flags that said so before.
PHASES: list[tuple[Any, tuple[bool, bool, bool, bool]]] = [
    (upgrade(Phase.PREPARING), (True, False, False, False)),
    (upgrade(Phase.PREPARING, terms=CANARY), (True, True, False, False)),
    (upgrade(Phase.CANARY, terms=CANARY), (False, True, False, False)),
    (upgrade(Phase.HELD, terms=CANARY, held_since=NOW), (False, True, False, False)),
    (upgrade(Phase.EXCHANGING, terms=CANARY), (False, False, False, False)),
    (upgrade(Phase.GOING_BACK, cause=Refusal.FAILED_STARTS), (False, False, True, False)),
    (upgrade(Phase.GOING_BACK, cause=Refusal.ABORTED), (False, False, True, True)),
    (upgrade(Phase.ENDED, Outcome.DONE), (False, False, False, False)),
    (upgrade(Phase.ENDED, Outcome.ABORTED, cause=Refusal.ABORTED), (False, False, False, True)),
]


@pytest.mark.parametrize(("course", "flags"), PHASES, ids=[str(row[0].phase) for row in PHASES])
def test_both_versions_read_an_upgrade(course: Any, flags: tuple[bool, ...]) -> None:
    before = pool(1, [worker(1)], course, history=(course,))
    document = written(before)
    for told in (document["upgrade"], *document["history"]):
        assert tuple(told[key] for key in FLAGS) == flags
        for key in NEW:
            del told[key]
    assert from_plain(Pool, adapted(document)) == before


@pytest.mark.parametrize(("reason", "over", "cause"), [
    ("served 500 requests", False, Recycling.REQUESTS),
    ("has lived for 60 s", False, Recycling.LIFETIME),
    ("used 900 MiB, and is due from 800 MiB on", True, Recycling.MEMORY),
    ("was asked to go by ann", False, Recycling.ASKED)])
def test_both_versions_read_why_a_worker_is_due(reason: str, over: bool, cause: Recycling) -> None:
    before = pool(1, [worker(1, recycled_for=reason, recycling=cause)])
    document = written(before)
    assert document["workers"]["1"]["over_memory"] is over
    del document["workers"]["1"]["recycling"]
    assert from_plain(Pool, adapted(document)) == before


def test_what_this_version_has_written_it_reads() -> None:
    before = pool(1, [worker(1, State.STARTING)], upgrade(Phase.HELD, terms=CANARY, held_since=1.0))
    assert from_plain(Pool, adapted(written(before))) == before


@pytest.mark.parametrize("nonsense", [None, 3, "x", [], {"upgrade": 3}, {"history": [3]},
                                      {"workers": {"1": []}}, {"upgrade": {"phase": "x"}}])
def test_nonsense_is_left_for_others_to_refuse(nonsense: Any) -> None:
    assert adapted(nonsense) == nonsense
