"""What may reach a terminal: printable characters, and nothing that steers it. Pure.

Whatever others have said (apps, workers, operators, file names) may hold escape sequences, C1
controls, marks that turn the direction of text, and line breaks of six kinds. They are shown as
their escapes, `\\x1b`. JSON needs none of this: it has escapes of its own.
"""

from __future__ import annotations

import json
from typing import Any, TypeGuard

LONGEST_LABEL = 200
# What a release may be called, for whoever called it something else.
LABEL = f"a label of 1 to {LONGEST_LABEL} printable characters"
_SHORT = {9: "\\t", 10: "\\n", 13: "\\r"}


def escaped(text: str, but: str = "") -> str:
    """The text on one line, as it is where it can be printed. `but`: characters that may stay."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in but else _escape(each) for each in text)


def _escape(character: str) -> str:
    """As Python writes it. (Not by its codec, which a process that has become nobody could not
    load.)"""
    number = ord(character)
    if number in _SHORT:
        return _SHORT[number]
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def document(value: Any) -> Any:
    """The same for every text in what JSON gave."""
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, dict):
        return {escaped(key): document(each) for key, each in value.items()}
    return [document(each) for each in value] if isinstance(value, list) else value


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON that any terminal can show: in ASCII, and DEL, which JSON itself leaves, escaped too."""
    return json.dumps(value, indent=indent).replace("\x7f", "\\u007f")


def is_label(text: Any) -> TypeGuard[str]:
    """Whether it can name a release: printable, since it is shown everywhere."""
    return isinstance(text, str) and 0 < len(text) <= LONGEST_LABEL and text.isprintable()
