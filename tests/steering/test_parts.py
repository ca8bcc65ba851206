"""The one list of parts: no two are called alike or keep the same, and what they keep is what
states hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from einhornpy.supervisor.parts import ORDER, SCHEMA
from einhornpy.supervisor.steering.state import as_plain
from einhornpy.supervisor.system.part import Part
from einhornpy.supervisor.system.plain_data import Unreadable

from ..harness import ROOT

STATES = sorted((ROOT / "tests" / "states").glob("*.json"))


def test_no_two_parts_are_called_alike_or_keep_the_same() -> None:
    names = [part.name for part in ORDER]
    assert all(names)
    assert len({*names}) == len(names)
    keys = [key for part in ORDER for key in part.keeps]
    assert len({*keys}) == len(keys)


def test_whoever_keeps_something_hands_it_over_and_takes_it_over() -> None:
    for part in ORDER:
        # What a reload is told of itself, it says when it happens (reloads.py).
        assert not part.keeps or part.hand_over is not Part.hand_over, part
        assert not part.keeps or part.take_over is not Part.take_over, part


@pytest.mark.parametrize("path", STATES, ids=lambda path: path.stem)
def test_every_key_of_a_state_is_a_parts(path: Path) -> None:
    document = json.loads(path.read_text())
    assert document.keys() - {"format", "how", "descriptors"} <= SCHEMA.keeps.keys()
    state = SCHEMA.read(document)
    assert as_plain(SCHEMA.read(as_plain(state))) == as_plain(state)
    for key, keep in SCHEMA.keeps.items():
        without = {name: value for name, value in document.items() if name != key}
        if keep.needed:
            with pytest.raises(Unreadable, match=f"the state has no {key}"):
                SCHEMA.read(without)
        else:
            assert SCHEMA.read(without)[key] == keep.empty


def test_an_empty_state_speaks_of_no_descriptor() -> None:
    assert SCHEMA.descriptors(SCHEMA.empty()) == []
