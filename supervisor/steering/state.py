"""A state as a whole: what one master hands the next, by what its parts declare (system/part.py).
It knows no part by itself, and has no effect.

`read` makes of a document exactly what was declared: what is unknown is left out, what an earlier
version didn't write is as on a fresh start, what can't be read refuses the whole. Whoever takes
over may then believe it.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..system.part import Keep, Kept, Part, State
from ..system.plain_data import Unreadable, from_plain, to_plain

# Of this program; each state names that of its own.
VERSION = "0.1.0"


class Schema:
    """What these parts hand over. `keeps`: by key."""

    def __init__(self, parts: Iterable[type[Part]]) -> None:
        self.keeps: dict[str, Keep] = {
            key: keep for part in parts for key, keep in part.keeps.items()}

    def empty(self) -> State:
        """The state of a fresh start."""
        return {key: keep.empty for key, keep in self.keeps.items()}

    def read(self, document: Mapping[str, Any]) -> State:
        """Read plain data.

        Raises:
            Unreadable: something is missing, or isn't what it should be.
        """
        missing = [key for key, keep in self.keeps.items() if keep.needed and key not in document]
        if missing:
            raise Unreadable(f"the state has no {', '.join(sorted(missing))}")
        return _read(self.keeps, document)

    def descriptors(self, state: State) -> list[int]:
        """Every descriptor that a state speaks of."""
        return [*(state[key] for key, keep in self.keeps.items()
                  if keep.descriptor and state[key] is not None),
                *(fd for each in kepts(state) for fd in each.descriptors())]

    def whole(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """A state as it is written down for the next program: whoever stands in between (stage.py)
        knows nothing of it but this."""
        # The pool of a thousand workers has none, and takes its time.
        some = {key: keep for key, keep in self.keeps.items() if keep.descriptor or _tells(keep)}
        state = {**self.empty(), **_read(some, document)}
        return {**document, "descriptors": self.descriptors(state)}


def _tells(keep: Keep) -> bool:
    """Whether it may tell of descriptors."""
    kinds = (keep.kind, *typing.get_args(keep.kind))
    return any(isinstance(kind, type) and issubclass(kind, Kept) for kind in kinds)


def _read(keeps: Mapping[str, Keep], document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _made(key, keep, document[key]) if key in document else keep.empty
            for key, keep in keeps.items()}


def _made(key: str, keep: Keep, value: Any) -> Any:
    try:
        return from_plain(keep.kind, keep.adapt(value))
    except Unreadable as error:
        raise Unreadable(f"{key}: {error}") from None


def kepts(state: State) -> Iterator[Kept]:
    """All that parts have told of themselves."""
    for value in state.values():
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Kept):
                yield each


def as_plain(state: State) -> dict[str, Any]:
    """The opposite of `read`."""
    return {key: to_plain(value) for key, value in state.items()}
