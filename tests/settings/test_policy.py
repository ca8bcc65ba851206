"""Settings that count in the policy or a recipe get there by name, and none is forgotten."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from einhornpy.supervisor.core.generation import Recipe
from einhornpy.supervisor.core.pool import Policy
from einhornpy.supervisor.settings.declaring import Counts
from einhornpy.supervisor.settings.policy import policy_of, rules_of_recipe
from einhornpy.supervisor.settings.sources import load
from einhornpy.supervisor.settings.table import SETTINGS

# What a recipe is made of besides: the program, where and with what it runs, and how it says ready.
PROGRAM = {"command", "directory", "environment", "release", "ack_seconds", "program",
           "interpreter", "words", "chdir", "pythonpath", "files", "started", "preload",
           "program_forks", "preload_file"}
# What several settings make together.
GUESSES_AND_SIGNALS = {"guessed_min_ready_seconds", "stop_signal", "terminate_signal"}


@pytest.mark.parametrize(("counts", "kind", "besides"), [
    (Counts.POLICY, Policy, GUESSES_AND_SIGNALS), (Counts.RECIPE, Recipe, PROGRAM)])
def test_every_field_is_one_setting(counts: Counts, kind: Any, besides: set[str]) -> None:
    counting = [each.counts_as for each in SETTINGS.values() if each.counts_in is counts]
    assert sorted([*counting, *besides]) == sorted(each.name for each in fields(kind))


def test_the_policy() -> None:
    assert policy_of(load({}, ["app"], {}, "/")) == Policy(
        guessed_min_ready_seconds=5.0, stop_signal="SIGTERM")
    given = {"max_surge": "2", "seconds": "0.5", "min_ready_seconds": "3"}
    assert policy_of(load(given, ["app"], {}, "/")) == Policy(
        max_surge=2, first_delay=0.5, min_ready_seconds=3.0, guessed_min_ready_seconds=3.0,
        stop_signal="SIGTERM")


@pytest.mark.parametrize(("flags", "stop", "terminate"), [
    ({}, "SIGTERM", "SIGTERM"), ({"ack_mode": "manual"}, "SIGUSR2", "SIGTERM"),
    ({"stop_signal": "INT"}, "SIGINT", "SIGINT")])
def test_what_asks_a_worker_to_leave(flags: dict[str, str], stop: str, terminate: str) -> None:
    policy = policy_of(load(flags, ["app"], {}, "/"))
    assert (policy.stop_signal, policy.terminate_signal) == (stop, terminate)


@pytest.mark.parametrize(("ours", "gunicorn", "rules"), [
    ({}, {}, {}),
    ({"timeout": "7"}, {"timeout": 30, "graceful_timeout": 9},
     {"timeout": 7.0, "graceful_timeout": 9.0}),
    ({}, {"max_requests": 500}, {"max_requests": 500, "max_requests_jitter": 50}),
    ({"max_requests": "300"}, {"max_requests": 500, "max_requests_jitter": 7},
     {"max_requests": 300, "max_requests_jitter": 7}),
    ({"max_requests_jitter": "1"}, {"max_requests": 500, "max_requests_jitter": 7},
     {"max_requests": 500, "max_requests_jitter": 1}),
    ({"max_lifetime": "6h"}, {}, {"max_lifetime": 21600.0, "max_lifetime_jitter": 2160.0})])
def test_the_rules_of_a_recipe(ours: dict[str, str], gunicorn: dict[str, Any],
                               rules: dict[str, Any]) -> None:
    found = Recipe(("app",), "/", **rules_of_recipe(load(ours, ["app"], {}, "/"), gunicorn))
    assert found == Recipe(("app",), "/", **rules)
    assert all(type(getattr(found, name)) is type(value) for name, value in rules.items())
