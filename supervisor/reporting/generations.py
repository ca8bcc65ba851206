"""What a generation was made of and what differs from the one before, for people: nothing secret is
told (redaction.py). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..core.generation import Generation, Recipe
from ..core.pool import Pool
from .redaction import MASK, Redaction, secrets_of

# Different in every generation, or the same thing said twice.
_NOT_TOLD = {"PWD", "OLDPWD"}
# What command and program mean in other words, and the text of files, in which secrets may be.
NOT_SHOWN = ("interpreter", "words", "files", "started")


def known(pool: Pool) -> dict[int, Generation]:
    """Every generation that is still known, by its number."""
    return dict(sorted((dict(pool.remembered) | dict(pool.generations)).items()))


def find(pool: Pool, number: int) -> Generation | None:
    """The generation of this number, if it is still known."""
    return pool.generations.get(number) or pool.remembered.get(number)


def rollback_target(pool: Pool, wanted: int | str | None) -> int:
    """The generation that a rollback takes its recipe from.

    Args:
        wanted: its number; or a release, of which the newest is meant; or None for the newest one
            before the current.

    Raises:
        ValueError: there is none such, or it has never proven itself.
    """
    # What was thrown out once is not what anybody wants back, however well it seemed to start.
    refused = {upgrade.to_generation for upgrade in pool.history
               if upgrade.outcome is not None and upgrade.outcome.refused}
    every = known(pool)
    proven = [number for number, each in every.items() if each.proven and number not in refused]
    if isinstance(wanted, int):
        if wanted in proven:
            return wanted
        raise ValueError(f"cannot go back to generation {wanted}: "
                         f"{_why_not(wanted, every, refused)}; expected one of {_listed(proven)}")
    if wanted is None:
        found = [number for number in proven if number < pool.current]
        if not found:
            raise ValueError(
                f"cannot go back: no proven generation before {pool.current} is remembered")
        return found[-1]
    return _of_release(wanted, every, proven)


def _of_release(wanted: str, every: Mapping[int, Generation], proven: list[int]) -> int:
    """The newest proven generation of a release."""
    found = [number for number in proven if every[number].recipe.release == wanted]
    if not found:
        releases = sorted({each for number in proven if (each := every[number].recipe.release)})
        raise ValueError(f"cannot go back to release {wanted}: no proven generation has it; "
                         f"expected one of {_listed(releases)}")
    return found[-1]


def _why_not(number: int, every: Mapping[int, Generation], refused: set[int]) -> str:
    if number not in every:
        return "it is not remembered"
    return "it was refused or aborted" if number in refused else "it has never proven itself"


def _listed(names: list[Any]) -> str:
    """The choice as words: `'a b' or '5'`; of many, the last ten and how many more."""
    *most, last = [repr(name) for name in names[-10:]] or ["none, since none is remembered"]
    listed = f"{', '.join(most)} or {last}" if most else last
    older = len(names) - 10
    if older <= 0:
        return listed
    return f"{listed}, or {'an older one' if older == 1 else f'one of {older} older ones'}"


def redaction(pool: Pool, *environments: Mapping[str, str]) -> Redaction:
    """What may be told of these generations: their releases, and of what their environments hold
    nothing secret. `environments`: others that hold secrets, such as that of the generation which
    is being made."""
    releases = {each.recipe.release for each in known(pool).values()}
    if pool.upgrade is not None:
        releases.add(pool.upgrade.terms.release)
    # Of the remembered ones too: a rollback may go to any of them.
    recipes = [each.recipe for each in known(pool).values()]
    every = [*environments, *(each.environment for each in recipes),
             *(each.started.environment for each in recipes if each.started is not None)]
    secrets = set().union(*(secrets_of(each) for each in every))
    return Redaction({release for release in releases if release}, secrets)


def generation_document(pool: Pool, number: int, values: bool) -> dict[str, Any]:
    """Generation `number` and how it differs from the one before that is known. `values`: with
    those of its environment, as far as they aren't secret; else with none.

    Raises:
        ValueError: it isn't known.
    """
    generations = known(pool)
    if number not in generations:
        raise ValueError(
            f"generation {number} is not remembered; expected one of {_listed(list(generations))}")
    before = max((each for each in generations if each < number), default=None)
    recipe, told = generations[number].recipe, redaction(pool)
    return {
        "generation": number, "current": number == pool.current,
        "proven": generations[number].proven, "release": recipe.release,
        "command": told.command(recipe.command), "directory": recipe.directory,
        "environment": told.environment(recipe.environment) if values else dict.fromkeys(
            sorted(recipe.environment), MASK), "before": before, "changes": []
        if before is None else changes(generations[before].recipe, recipe, told, values),}


def changes(before: Recipe, after: Recipe, told: Redaction, values: bool) -> list[dict[str, Any]]:
    """Each thing that differs: `what`, and its value `before` and `after`, None where it wasn't
    there; `secret` where that isn't all, so that the two may look the same."""
    found = []
    names = [each.name for each in fields(Recipe)
             if each.name not in ("release", "environment", *NOT_SHOWN)]
    for what in ("release", *names):
        one, other = getattr(before, what), getattr(after, what)
        if one != other:
            shown = [told.command(each)
                     for each in (one, other)] if what == "command" else [one, other]
            found.append({
                "what": what, "before": shown[0], "after": shown[1], "secret": shown
                != [_plain(one), _plain(other)]})
    for name in sorted({*before.environment, *after.environment} - _NOT_TOLD):
        pair = [each.environment.get(name) for each in (before, after)]
        if pair[0] != pair[1]:
            shown = [
                value if value is None else told.value(name, value) if values else MASK
                for value in pair]
            found.append({
                "what": f"environment {name}", "before": shown[0], "after": shown[1],
                "secret": shown != pair})
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
