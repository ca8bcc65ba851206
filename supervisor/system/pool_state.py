"""The pool's part of a state, as this version and the ones before it read it. Pure.

Earlier versions know an upgrade's phase by four flags, and why a worker is due by its reason's
words: both are written for them, since the master before us goes on from our state if we fail, and
read where a state comes from one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.causes import Recycling, Refusal
from ..core.pool import Pool
from ..core.upgrade import Phase, Upgrade
from .plain_data import to_plain

# What a field of the pool was called before.
_RENAMED = {"complete": "settled", "left_early": "hasty"}


def written(pool: Pool) -> dict[str, Any]:
    """The pool as plain data, with the keys of earlier versions."""
    document: dict[str, Any] = to_plain(pool)
    document |= {old: document[new] for new, old in _RENAMED.items()}
    if pool.upgrade is not None:
        document["upgrade"] |= _flags(pool.upgrade)
    for each, upgrade in zip(document["history"], pool.history, strict=True):
        each |= _flags(upgrade)
    for number, worker in pool.workers.items():
        document["workers"][str(number)]["over_memory"] = worker.over_memory
    return document


def _flags(upgrade: Upgrade) -> dict[str, bool]:
    return {
        "preparing": upgrade.preparing, "on_canary": upgrade.on_canary,
        "rolling_back": upgrade.rolling_back, "aborted": upgrade.cause is Refusal.ABORTED}


def adapted(document: Any) -> Any:
    """A pool as an earlier version wrote it, with what this one reads; anything else as it is."""
    if not isinstance(document, Mapping):
        return document
    found = dict(document)
    found |= {new: found[old] for new, old in _RENAMED.items() if old in found and new not in found}
    if isinstance(found.get("upgrade"), Mapping):
        found["upgrade"] = _upgrade(found["upgrade"])
    if isinstance(found.get("history"), list):
        found["history"] = [_upgrade(each) for each in found["history"]]
    if isinstance(found.get("workers"), Mapping):
        found["workers"] = {key: _worker(each) for key, each in found["workers"].items()}
    return found


def _upgrade(old: Any) -> Any:
    if not isinstance(old, Mapping) or "phase" in old:
        return old
    if old.get("outcome") is not None:
        phase = Phase.ENDED
    elif old.get("rolling_back"):
        phase = Phase.GOING_BACK
    elif old.get("preparing", True):
        phase = Phase.PREPARING
    elif old.get("on_canary"):
        phase = Phase.CANARY if old.get("held_since") is None else Phase.HELD
    else:
        phase = Phase.EXCHANGING
    cause = None
    if old.get("aborted"):
        cause = Refusal.ABORTED
    elif old.get("refusal") is not None or old.get("rolling_back"):
        cause = Refusal.FAILED_STARTS  # which it was, it doesn't say
    held_since = old.get("held_since") if phase is Phase.HELD else None
    return {**old, "phase": phase, "cause": cause, "held_since": held_since}


def _worker(old: Any) -> Any:
    if not isinstance(old, Mapping) or "recycling" in old or old.get("recycled_for") is None:
        return old
    words = str(old["recycled_for"])
    if old.get("over_memory"):
        cause = Recycling.MEMORY
    elif words.startswith("served"):
        cause = Recycling.REQUESTS
    else:
        cause = Recycling.LIFETIME if words.startswith("has lived") else Recycling.ASKED
    return {**old, "recycling": cause}
