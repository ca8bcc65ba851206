"""Frozen data, as `dataclass(frozen=True, slots=True)` of the standard library makes it, for less:
that one compiles six functions for each class, which was a third of what a master's start cost.
Here `__init__` alone is compiled; that nobody changes what is frozen, the type checker sees to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:
    import dataclasses
    from operator import attrgetter

    def dataclass(*, frozen: bool = False, kw_only: bool = False, **options: bool) -> Any:
        """The decorator. Two of one class are equal if their fields are; so are their hashes. What
        isn't to be frozen the standard library makes."""
        if not frozen:
            return dataclasses.dataclass(kw_only=kw_only, **options)

        def decorate(plain: type) -> type:
            made = dataclasses.dataclass(slots=True, repr=False, eq=False, kw_only=kw_only)(plain)
            names = [each.name for each in dataclasses.fields(made)]
            made._values = attrgetter(*names) if names else staticmethod(_none)
            for name, function in _SHARED.items():
                if name not in plain.__dict__:
                    setattr(made, name, function)
            return made

        return decorate

    def _none(one: Any) -> tuple[()]:
        return ()

    def _equal(one: Any, other: Any) -> Any:
        if other.__class__ is not one.__class__:
            return NotImplemented
        return one._values(one) == one._values(other)

    def _hash(one: Any) -> int:
        return hash(one._values(one))

    def _shown(one: Any) -> str:
        fields = (f"{each.name}={getattr(one, each.name)!r}" for each in dataclasses.fields(one)
                  if each.repr)
        return f"{one.__class__.__qualname__}({', '.join(fields)})"

    _SHARED = {"__eq__": _equal, "__hash__": _hash, "__repr__": _shown}
