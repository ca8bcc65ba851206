"""The messages between master and template: there and back, and nonsense."""

from __future__ import annotations

import json

import pytest
from einhornpy.worker import template_messages
from hypothesis import given
from hypothesis import strategies as st

FORK = template_messages.fork(7, 0, {"NAME": "v\udcff"}, 3, True, False, 15, None, {"page": [5, 0]})
MESSAGES = [
    (FORK, {"do": "fork", "worker": 7, "index": 0, "environment": {"NAME": "v\udcff"},
            "descriptors": 3, "stdout": True, "stderr": False, "farewell": 15, "core": None,
            "life": {"page": [5, 0]}}),
    (template_messages.hook("when_ready", listeners=2),
     {"do": "hook", "name": "when_ready", "arguments": [], "listeners": 2}),
    (template_messages.hook("nworkers_changed", 3, 2),
     {"do": "hook", "name": "nworkers_changed", "arguments": [3, 2], "listeners": 0}),
    (template_messages.workers(4), {"do": "workers", "count": 4}),
    (template_messages.environment({"NAME": "value"}),
     {"do": "environment", "variables": {"NAME": "value"}}),
    (template_messages.reopen(), {"do": "reopen"}),
    (template_messages.leave(True), {"do": "leave", "on_exit": True}),
    (template_messages.forked(7, 123), {"say": "forked", "worker": 7, "pid": 123}),
    (template_messages.cannot(7, "cannot fork:\nno\tmemory"),
     {"say": "cannot", "worker": 7, "why": "cannot fork: no memory"}),
    (template_messages.hook_failed("child_exit", "KeyError: 1"),
     {"say": "hook", "name": "child_exit", "error": "KeyError: 1"}),
]


@pytest.mark.parametrize(("made", "read"), MESSAGES, ids=lambda each: "")
def test_what_is_made_is_read(made: bytes, read: dict[str, object]) -> None:
    assert template_messages.read(made) == read
    assert template_messages.read(json.dumps(read | {"later": [1]}).encode())["later"] == [1]
    for name in read:
        with pytest.raises(ValueError, match=name if name not in ("do", "say") else "no such"):
            template_messages.read(json.dumps(
                {key: value for key, value in read.items() if key != name}).encode())


@pytest.mark.parametrize("nonsense", [
    b"", b"{", b"[]", b"null", b"7", b"\xff", b"{}", b'{"do": "dance"}', b'{"do": ["fork"]}',
    b'{"say": "fork"}', b'{"do": "leave", "on_exit": 1}', b'{"do": "workers", "count": true}',
    b'{"do": "workers", "count": -1}', b'{"say": "forked", "worker": 7, "pid": "8"}',
    b'{"do": "hook", "name": "when_ready", "arguments": [], "listeners": 254}',
    b'{"do": "environment", "variables": {"NAME": null}}',
    FORK.replace(b'"NAME": "v', b'"OTHER": 1, "NAME": "v'), b"[" * 100_000])
def test_nonsense_is_refused(nonsense: bytes) -> None:
    with pytest.raises(ValueError):
        template_messages.read(nonsense)


@given(st.binary() | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["do", "say", "worker", "pid", "fork"]), inner),
    max_leaves=9).map(lambda each: json.dumps(each).encode()))
def test_nothing_but_a_value_error(data: bytes) -> None:
    try:
        message = template_messages.read(data)
    except ValueError:
        return
    assert "do" in message or "say" in message
