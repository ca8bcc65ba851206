"""A part of the master, and what it hands the next one: each says both in its own module, and
nowhere else.

The master holds its parts in one list (parts.py): they take over and have their turn in that order,
and end in reverse. This is the base, which has nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ...shared.frozen import dataclass

if TYPE_CHECKING:
    from .processes import Exit

# What is kept, by its key: made by the types that parts declare, so that it may be believed.
State = Mapping[str, Any]


class Kept:
    """Base of the frozen dataclasses that a part hands over: the types of its fields are the
    format. What has a default was added later, or is not always there."""

    __slots__ = ()

    def descriptors(self) -> Iterable[int]:
        """Those that must stay open through exec."""
        return ()

    def process_ids(self) -> Iterable[int]:
        """The processes that this speaks of."""
        return ()

    def texts(self) -> Iterable[str]:
        """Bytes that travel as text."""
        return ()

    def doubts(self) -> Iterator[str]:
        """What can't be true of it, though each field by itself may be."""
        return iter(())


@dataclass(frozen=True, slots=True)
class Keep:
    """One key of the state. `kind`: the type of its value. `empty`: what it is on a fresh start,
    and where a state doesn't have it. `needed`: a state without it is refused. `descriptor`: it is
    one that must stay open through exec. `adapt`: makes of what an earlier version wrote what this
    one reads."""

    kind: Any
    empty: Any = None
    needed: bool = False
    descriptor: bool = False
    adapt: Callable[[Any], Any] = lambda value: value


class Part:
    """`name`: what the master's guard calls it. `keeps`: what it hands over, by key."""

    name: ClassVar[str] = ""
    keeps: ClassVar[Mapping[str, Keep]] = {}

    @property
    def deadline(self) -> float | None:
        """When it would like to have its turn even if nothing happens, in monotonic seconds."""
        return None

    def on_time(self, now: float) -> None:
        """It has its turn, in time or before."""

    def on_suspended(self, now: float, seconds: float | None) -> None:
        """Nobody ran for a while (`seconds`, None where that isn't known), until `now`: whatever it
        measures from an earlier time counts from now."""

    def on_exit(self, exit: Exit) -> bool:
        """A child has exited; return whether it was one of this part's."""
        return False

    def hand_over(self) -> dict[str, Any]:
        """What the next master needs to know, as plain data, with the keys of `keeps`."""
        return {}

    def take_over(self, state: State) -> None:
        """Go on where the master before was; a fresh start is an empty state."""

    def close(self) -> None:
        """End: what it holds is given back."""
