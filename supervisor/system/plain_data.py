"""The state document: what one master hands the next across exec, as JSON in a sealed file in
memory.

It knows how frozen data becomes JSON and JSON frozen data again, by the types of its fields: what
is unknown is ignored, what is missing takes its default, so that neighbouring versions read each
other. What a state holds is the master's business.
"""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import enum
import fcntl
import functools
import json
import os
import types
import typing
from collections.abc import Mapping
from typing import Any

# Raised only when an older program could not read the document any more.
FORMAT = 1
# fcntl(2), F_ADD_SEALS; the module knows it from Python 3.8 on, but not everywhere.
_SEALS = 0x1 | 0x2 | 0x4 | 0x8
# No number of ours is beyond it; one that is would break the arithmetic of whoever believes it.
_LARGEST = 1 << 64


class Unreadable(ValueError):
    """One line: why this program can't go on from that state."""


def to_plain(value: Any) -> Any:
    """Frozen data as what JSON knows: dataclasses and mappings as objects, tuples and sets as
    lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, collections.abc.Mapping):
        return {str(key): to_plain(each) for key, each in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(to_plain(each) for each in value)
    if isinstance(value, list | tuple):
        return [to_plain(each) for each in value]
    return value


def from_plain(kind: Any, value: Any) -> Any:
    """The opposite of `to_plain`: a value of type `kind`.

    Raises:
        Unreadable: `value` is no such thing.
    """
    try:
        return _from_plain(kind, value)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise Unreadable(f"expected {getattr(kind, '__name__', kind)}: {error}") from None


def _from_plain(kind: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _from_plain(next(each for each in arguments if each is not type(None)), value)
    if dataclasses.is_dataclass(kind):
        return _made_record(kind, value)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(value)
    return _made_scalar(kind, value) if origin is None else _made_many(origin, arguments, value)


def _made_record(kind: Any, value: Any) -> Any:
    hints = _fields(kind)
    found = {
        key: _field_from_plain(key, hints[key], each) for key, each in value.items() if key in hints}
    try:
        return kind(**found)
    except TypeError as error:  # a field is missing
        raise TypeError(f"expected {kind.__name__}: {error}") from None


def _made_many(origin: Any, arguments: tuple[Any, ...], value: Any) -> Any:
    if origin in (collections.abc.Mapping, dict):
        return {_key(arguments[0], key): _from_plain(arguments[1], each) for key, each in value.items()}
    if origin is tuple and arguments[-1] is not Ellipsis:
        return tuple(_from_plain(each, one) for each, one in zip(arguments, value, strict=True))
    container: Any = tuple if origin is collections.abc.Sequence else origin
    return container(_from_plain(arguments[0], each) for each in value)


def _made_scalar(kind: Any, value: Any) -> Any:
    if not isinstance(value, (int, float) if kind is float else kind) or (isinstance(value, bool)
                                                                          and kind is not bool):
        raise TypeError(f"{str(value)[:100]!r} is no {kind.__name__}")
    if kind in (int, float) and not abs(value) < _LARGEST:
        raise TypeError(f"{kind.__name__} beyond any that is meant")
    return value


@functools.cache
def _fields(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _field_from_plain(name: str, kind: Any, value: Any) -> Any:
    try:
        return _from_plain(kind, value)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise TypeError(f"{name}: {error}") from None


def _key(kind: Any, key: str) -> Any:
    return int(key) if kind is int else key


def sealed(document: Mapping[str, Any]) -> int:
    """Write a state into a file in memory that nobody can change any more; return its
    descriptor."""
    fd = os.memfd_create("einhornpy-state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    data = memoryview(json.dumps({"format": FORMAT, **document}).encode())
    while data:
        data = data[os.write(fd, data):]
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def read(fd: int) -> dict[str, Any]:
    """Read the state in a file.

    Raises:
        Unreadable: it is none, or of a format that this program doesn't know.
    """
    with contextlib.suppress(OSError):  # it may be a pipe
        os.lseek(fd, 0, os.SEEK_SET)
    data = b""
    while chunk := os.read(fd, 1 << 20):
        data += chunk
    try:
        document = json.loads(data)
        found = document["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Unreadable("it is no state of a master") from None
    if found != FORMAT:
        raise Unreadable(f"the state has format {found}, this program reads {FORMAT}")
    assert isinstance(document, dict)
    return document
