"""Einhorn's dialect of the wire: percent-escaped YAML in, and the YAML that its tools read out. Without I/O.

Einhorn's clients escape at least `%` and newline as `%25` and `%0A` (lib/einhorn/client.rb). Nothing that a client writes
makes any object but texts, numbers, lists and mappings. PyYAML is a well-kept reader of all of YAML 1.1; it is imported
when the first such line comes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# YAML is slow to read, and the master reads it between two other things that it does.
LONGEST_YAML = 1 << 14
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

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            """Aliases make a short text a huge document, unless they stand for scalars, as Ruby's sometimes do."""
            coming: Any = self.peek_event()  # type: ignore[no-untyped-call]
            if isinstance(coming, yaml.events.AliasEvent) and not isinstance(self.anchors.get(coming.anchor), yaml.nodes.ScalarNode):
                raise ValueError("an alias of something large")
            return super().compose_node(parent, index)

    if len(text) > LONGEST_YAML:
        raise ValueError(f"YAML is longer than {LONGEST_YAML} bytes")
    try:
        return yaml.load(text.decode(), Loader)
    except Exception as error:  # whatever a reader of strangers' text stumbles over, it is their text that is wrong
        raise ValueError(f"not YAML: {type(error).__name__}") from None


def write_yaml(document: Mapping[str, Any]) -> str:
    """Write plain YAML in block style; keys such as `:state` are symbols to Ruby."""
    import yaml

    written: str = yaml.safe_dump(document, default_flow_style=False, sort_keys=False)
    return written
