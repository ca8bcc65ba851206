"""What a generation was made of and what differs from the one before, for people: nothing secret is told. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .pool import Generation, Pool, Recipe

MASK = "***"
_SECRET_NAME = re.compile(r"pass|secret|token|credential|private|api_?key|access_?key|auth|salt|dsn|_key$|^key$", re.IGNORECASE)
# scheme://user:password@host
_PASSWORD_IN_URL = re.compile(r"(?<=://)([^/@\s:]*):([^/@\s]+)@")
# Different in every generation, or the same thing said twice.
_NOT_TOLD = {"PWD", "OLDPWD"}


def known(pool: Pool) -> dict[int, Generation]:
    """Every generation that is still known, by its number."""
    return dict(sorted((dict(pool.remembered) | dict(pool.generations)).items()))


def rollback_target(pool: Pool, wanted: int | str | None) -> int:
    """The generation that a rollback takes its recipe from.

    Args:
        wanted: its number; or a release, of which the newest is meant; or None for the newest one before the current.

    Raises:
        ValueError: there is none such, or it has never proven itself.
    """
    proven = [number for number, each in known(pool).items() if each.proven]
    if isinstance(wanted, int):
        if wanted in proven:
            return wanted
        why = "it has never proven itself" if wanted in known(pool) else "it is not remembered"
        raise ValueError(f"cannot go back to generation {wanted}: {why}; expected one of {_listed(proven)}")
    if wanted is None:
        found = [number for number in proven if number < pool.current]
        if not found:
            raise ValueError(f"cannot go back: no proven generation before {pool.current} is remembered")
        return found[-1]
    found = [number for number in proven if known(pool)[number].recipe.release == wanted]
    if not found:
        releases = sorted({str(known(pool)[number].recipe.release) for number in proven if known(pool)[number].recipe.release})
        raise ValueError(f"cannot go back to release {wanted}: no proven generation has it; expected one of {_listed(releases)}")
    return found[-1]


def _listed(names: list[Any]) -> str:
    older = f"{len(names) - 10} older ones, " if len(names) > 10 else ""
    return older + (", ".join(str(name) for name in names[-10:]) or "none, since none is remembered")


def generation_document(pool: Pool, number: int) -> dict[str, Any]:
    """Generation `number` and how it differs from the one before that is known.

    Raises:
        ValueError: it isn't known.
    """
    generations = known(pool)
    if number not in generations:
        raise ValueError(f"generation {number} is not remembered; expected one of {_listed(list(generations))}")
    before = max((each for each in generations if each < number), default=None)
    recipe = generations[number].recipe
    return {
        "generation": number,
        "current": number == pool.current,
        "proven": generations[number].proven,
        "release": recipe.release,
        "command": list(recipe.command),
        "directory": recipe.directory,
        "environment": masked(recipe.environment),
        "before": before,
        "changes": [] if before is None else changes(generations[before].recipe, recipe),
    }


def changes(before: Recipe, after: Recipe) -> list[dict[str, Any]]:
    """Each thing that differs: `what`, and its value `before` and `after`, None where it wasn't there."""
    pairs: list[tuple[str, Any, Any]] = [
        (what, getattr(before, what), getattr(after, what))
        for what in ("release", "command", "directory", "ack_seconds", "graceful_timeout", "timeout", "max_requests",
                     "max_lifetime", "max_memory", "max_memory_hard")
    ]
    old, new = masked(before.environment), masked(after.environment)
    found = [{"what": what, "before": _plain(one), "after": _plain(other)} for what, one, other in pairs if one != other]
    for name in sorted({*before.environment, *after.environment} - _NOT_TOLD):
        if before.environment.get(name) != after.environment.get(name):
            found.append({"what": f"environment {name}", "before": old.get(name), "after": new.get(name)})
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def masked(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what looks secret: by its name, or a password in an address."""
    return {
        name: MASK if _SECRET_NAME.search(name) else _PASSWORD_IN_URL.sub(rf"\1:{MASK}@", value)
        for name, value in sorted(environment.items())
    }
