"""Where settings count by their names: in the planner's policy and in the rules of a recipe. Pure:
a setting that is declared to count there is passed on without a word here. What depends on whether
somebody gave a setting is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..core.generation import Recipe
from ..core.pool import Policy
from .declaring import Counts
from .table import SETTINGS, Settings

# gunicorn knows whole seconds alone, where ours may be fractions.
_KINDS = {each.name: float if isinstance(each.default, float) else int for each in fields(Recipe)}


def policy_of(settings: Settings) -> Policy:
    """The operator's rules, as the planner knows them."""
    return Policy(**{each.counts_as: getattr(settings, each.name) for each in SETTINGS.values()
                     if each.counts_in is Counts.POLICY},
                  guessed_min_ready_seconds=settings.guessed_min_ready_seconds,
                  stop_signal=settings.stop_signal, terminate_signal=settings.stop_signal
                  if settings.given("stop_signal") else "SIGTERM")


def rules_of_recipe(settings: Settings, gunicorn: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a recipe that settings decide. `gunicorn`: what counts where nobody gave ours,
    by our names."""
    found: dict[str, Any] = {}
    for each in SETTINGS.values():
        if each.counts_in is Counts.RECIPE:
            if settings.given(each.name):
                value = getattr(settings, each.name)
            else:
                value = gunicorn.get(each.name, each.default_after(found))
            found[each.counts_as] = _KINDS[each.counts_as](value)
    return found
