"""Einhorn's dialect of the wire: percent-escaped YAML in, and the YAML that its tools read out.
Without I/O.

Einhorn's clients escape at least `%` and newline as `%25` and `%0A` (lib/einhorn/client.rb).
Nothing that a client writes makes any object but texts, numbers, lists and mappings. PyYAML is a
well-kept reader of all of YAML 1.1; it is imported when the first such line comes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# YAML is slow to read, and the master reads it between two other things that it does.
LONGEST_YAML = 1 << 14
DEEPEST_YAML = 20
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")


def unescape(line: bytes) -> bytes:
    """Undo percent-encoding, all of it; a `+` stays one."""
    return _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), line)


def read_yaml(text: bytes) -> Any:
    """Read plain YAML: no object, no alias but of scalars, at most 16 KiB.

    Raises:
        ValueError: it is none.
    """
    import yaml

    # Before anything is built of it: a row of brackets costs its reader more than its sender.
    if len(text) > LONGEST_YAML or max(text.count(b"["), text.count(b"{")) > LONGEST_YAML // 64:
        raise ValueError(f"YAML is longer than {LONGEST_YAML} bytes, or full of brackets")

    class Loader(yaml.SafeLoader):
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            """Aliases make a short text a huge document, unless they stand for scalars, as Ruby's
            sometimes do."""
            coming: Any = self.peek_event()  # type: ignore[no-untyped-call]
            if isinstance(coming, yaml.events.AliasEvent) and not isinstance(
                    self.anchors.get(coming.anchor), yaml.nodes.ScalarNode):
                raise ValueError("an alias of something large")
            self.depth += 1
            if self.depth > DEEPEST_YAML:
                raise ValueError("nested too deeply")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def construct_yaml_int(self, node: Any) -> Any:
            """A number that no field of ours has room for, and that Python would not print, is
            refused."""
            number: int = super().construct_yaml_int(node)
            if abs(number) >= 1 << 63:
                raise ValueError("a number is too large")
            return number

    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
    try:
        return yaml.load(text.decode(), Loader)
    # whatever a reader of strangers' text stumbles over, it is their text that is wrong
    except Exception as error:
        raise ValueError(f"not YAML: {type(error).__name__}") from None


def write_yaml(document: Mapping[str, Any]) -> str:
    """Write plain YAML in block style; keys such as `:state` are symbols to Ruby."""
    import yaml

    written: str = yaml.safe_dump(document, default_flow_style=False, sort_keys=False)
    return written
