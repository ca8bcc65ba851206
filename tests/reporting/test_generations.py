"""What a generation was made of and where a rollback goes, from pools alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from einhornpy.supervisor.core.generation import Generation
from einhornpy.supervisor.core.pool import Pool
from einhornpy.supervisor.core.upgrade import Outcome, Phase
from einhornpy.supervisor.reporting.generations import generation_document, rollback_target

from .pools import RECIPE, pool, upgrade, worker


def known() -> Pool:
    """Generations 1 to 5: all proven but the fourth, the third was refused; 5 is current."""
    made = {number: Generation(number, replace(RECIPE, release=release), proven=number != 4)
            for number, release in enumerate(("a", "b", "c", "d", "b"), 1)}
    refused = replace(upgrade(Phase.ENDED, Outcome.ROLLED_BACK), to_generation=3)
    return replace(pool(1, [worker(1, generation=5)]), current=5, newest=5, history=(refused,),
                   generations={5: made[5]}, remembered={key: made[key] for key in (1, 2, 3, 4)})


@pytest.mark.parametrize(("wanted", "found"), [(None, 2), (1, 1), ("a", 1), ("b", 5)])
def test_where_a_rollback_goes(wanted: Any, found: int) -> None:
    assert rollback_target(known(), wanted) == found


@pytest.mark.parametrize(("wanted", "why"), [
    (3, "to generation 3: it was refused or aborted; expected one of 1, 2 or 5"),
    (4, "to generation 4: it has never proven itself"), (9, "to generation 9: it is not remember"),
    ("c", "to release c: no proven generation has it; expected one of 'a' or 'b'")])
def test_where_a_rollback_cannot_go(wanted: Any, why: str) -> None:
    with pytest.raises(ValueError, match=f"cannot go back {why}"):
        rollback_target(known(), wanted)


def test_there_may_be_nothing_to_go_back_to() -> None:
    with pytest.raises(ValueError, match="no proven generation before 1 is remembered"):
        rollback_target(pool(1, [worker(1)]), None)
    with pytest.raises(ValueError, match="expected one of none, since none is remembered"):
        rollback_target(pool(1, [worker(1)]), 2)


def test_what_differs_is_told_and_what_is_secret_is_not() -> None:
    recipe = replace(RECIPE, environment={"COLOUR": "red", "API_TOKEN": "s3cret-of-before"})
    later = replace(recipe, command=("app", "--fast"), max_requests_jitter=7, environment={
        "COLOUR": "blue", "API_TOKEN": "s3cret-of-after"})
    of = replace(pool(1, [worker(1, generation=2)]), current=2,
                 generations={1: Generation(1, recipe), 2: Generation(2, later, proven=True)})
    found = generation_document(of, 2, values=True)
    changes = {each["what"]: (each["before"], each["after"]) for each in found["changes"]}
    assert changes["command"] == (["app"], ["app", "--fast"])
    assert changes["max_requests_jitter"] == (0, 7)
    assert changes["environment COLOUR"] == ("red", "blue")
    assert "environment API_TOKEN" in changes
    assert "s3cret" not in str(found)
    assert generation_document(of, 1, values=True)["changes"] == []
    with pytest.raises(ValueError, match="generation 3 is not remembered; expected one of 1 or 2"):
        generation_document(of, 3, values=True)
