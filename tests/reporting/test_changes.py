"""What differs between two generations: every field of the recipe that is shown."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from einhornpy.supervisor.core.generation import Recipe
from einhornpy.supervisor.reporting.generations import NOT_SHOWN, changes
from einhornpy.supervisor.reporting.redaction import Redaction

BEFORE = Recipe(("app",), "/srv/1", {"A": "1"}, "r1")
OTHER: dict[str, Any] = {
    "command": ("app", "-v"), "directory": "/srv/2", "environment": {"A": "2"}, "release": "r2"}


@pytest.mark.parametrize("name", [each.name for each in fields(Recipe)
                                  if each.name not in NOT_SHOWN])
def test_each_field_that_differs_is_told(name: str) -> None:
    after = replace(BEFORE, **{name: OTHER.get(name, 77)})
    (found,) = changes(BEFORE, after, Redaction(), values=True)
    assert found["what"] == ("environment A" if name == "environment" else name)
    assert found["before"] != found["after"]
    assert not found["secret"]


def test_the_release_comes_first_and_the_environment_last() -> None:
    found = changes(BEFORE, replace(BEFORE, timeout=1.0, **OTHER), Redaction(), values=True)
    assert [each["what"] for each in found] == [
        "release", "command", "directory", "timeout", "environment A"]
