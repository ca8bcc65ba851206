"""What speaks Einhorn is understood: the wire and the commands, and its state."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from einhornpy.shared import protocol
from hypothesis import given
from hypothesis import strategies as st

from ..einhorn import conversation, escaped, say, state_of
from ..harness import (
    Master,
)

Start = Callable[..., Master]


# --- the wire ---

texts = st.text(
    st.characters(codec="utf-8") | st.sampled_from("%+ \\\"'\n\t\x7f\x85\u2028\ufeff:#{}[]&*!|>"),
    max_size=40)
documents = st.dictionaries(
    texts,
    st.one_of(texts, st.integers(-2**53, 2**53), st.booleans(), st.none(),
              st.floats(0, 1e9).map(lambda number: round(number, 3)), st.lists(texts, max_size=3)),
    max_size=4)


@given(documents)
def test_a_reply_reads_the_same_as_json_as_yaml_and_unescaped(document: dict[str, Any]) -> None:
    line = protocol.encode(document)
    assert line.count(b"\n") == 1
    assert json.loads(line) == document
    assert yaml.safe_load(line.decode()) == document
    for decoded in (urllib.parse.unquote_plus(line.decode()),
                    line.decode().replace("%25", "%").replace("%0A", "\n")):
        assert json.loads(decoded) == document


@given(texts.filter(bool), texts)
def test_a_request_in_escaped_yaml_is_understood(command: str, word: str) -> None:
    text = yaml.safe_dump({"id": 7, "command": command, "args": [word], "pid": 3})
    for all_of_it in (False, True):
        request = protocol.parse_request(escaped(text, all_of_it).removesuffix(b"\n"))
        assert (request.id, request.command, request.words, request.beside) == (7, command, (word,),
                                                                                {"pid": 3})


@pytest.mark.parametrize("text", [
    "!!python/object/apply:os.system ['touch /tmp/never']", "!ruby/object:Gem::Installer {}",
    "a: &a {b: 1}\nc: {<<: *a}", "command: [", "- 1", "x" * 20_000,
    "command: ping\nargs: {a: &a [*a]}", "command: " + "[" * 5000, "id: 0x" + "f" * 5000,
    "{id: 0x" + "f" * 5000 + ", command: ping}",
    "command: ping\nargs: [[[[[[[[[[[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]]]]]]]]]]",])
def test_yaml_that_makes_objects_or_makes_work_is_refused(text: str) -> None:
    with pytest.raises(protocol.BadRequest):
        protocol.parse_request(escaped(text).removesuffix(b"\n"))


# --- commands ---


def test_every_command_of_einhorns(master: Master) -> None:
    assert say(master, "ehlo", user="gdb").startswith("Welcome, gdb! This is the master web, pid ")
    listed = say(master, "help")
    for command in ("state", "upgrade", "upgrade_fleet", "inc", "dec", "set_workers", "signal",
                    "die", "config", "quieter", "louder", "reload", "ehlo", "help"):
        assert f"\n{command}: " in listed
    assert say(master, "inc") == "number of workers: 2 -> 3"
    assert say(master, "dec") == "number of workers: 3 -> 2"
    assert say(master, "set_workers", "4") == "number of workers: 2 -> 4"
    assert say(master, "config", "{':number':", "1}") == "number of workers: 4 -> 1"
    assert say(master, "config", "config: {number: 2}") == "number of workers: 1 -> 2"
    master.wait_status(lambda each: each["ready"] == 2 == len(each["workers"]))
    assert say(master, "signal", "cont",
               "SIGURG") == "SIGCONT sent to 2 workers\nSIGURG sent to 2 workers"
    assert say(master, "louder") == "logging details too"
    assert say(master, "quieter") == "logging what happens"
    assert "pid" in say(master, "reload")
    assert say(master, "die") == "stopping (graceful)"
    assert master.wait_exit() == 0


@pytest.mark.parametrize(("command", "args", "line"), [
    ("set_workers", ["many"], "set_workers: got 'many', expected a whole number"),
    ("set_workers", [], "got 0 arguments"), ("set_workers", ["0"], "0 workers asked for"),
    ("signal", ["NOPE"], "got 'NOPE'"), ("signal", [], "got 0 arguments"),
    ("die", ["CONT"], "die: got 'CONT', expected one of SIGUSR2"),
    ("config", ["seconds: 3"], "seconds cannot change"),
    ("config", ["[1]"], "expected a YAML mapping"), ("config", ["number: x"], "number: got 'x'"),
    ("fly", [], "no such command"), ("ping", ["x"], "ping takes no words"),])
def test_wrong_words_are_one_line_and_change_nothing(master: Master, command: str, args: list[str],
                                                     line: str) -> None:
    assert line in say(master, command, *args)
    assert master.status()["target"] == 2


# What lib/einhorn.rb keeps, whatever it was told (1.1.1).
KEPT_BY_EINHORN = {
    "children", "config", "versions", "version", "sockets", "orig_cmd", "bind", "bind_fds",
    "bound_ports", "cmd", "script_name", "respawn", "upgrading", "smooth_upgrade",
    "reloading_for_upgrade", "path", "cmd_name", "verbosity", "generation", "last_spinup",
    "ack_mode", "kill_children_on_exit", "command_socket_as_fd", "socket_path", "pidfile",
    "lockfile", "consecutive_deaths_before_ack", "last_upgraded", "nice", "reexec_commandline",
    "drop_environment_variables", "signal_timeout", "preloaded"}


def test_state_has_einhorns_keys(master: Master) -> None:
    state = state_of(master)
    assert {key.lstrip(":") for key in state} == KEPT_BY_EINHORN
    children = state[":children"]
    assert set(children) == {worker["pid"] for worker in master.status()["workers"]}
    for child in children.values():
        assert {
            key: child[key]
            for key in (":type", ":version", ":acked", ":signaled", ":pinged_at",
                        ":pinged_request_id")} == {
                            ":type": ":worker", ":version": 1, ":acked": True, ":signaled": [],
                            ":pinged_at": None, ":pinged_request_id": None}
    assert sorted(child[":index"] for child in children.values()) == [0, 1]
    assert (state[":version"], state[":upgrading"], state[":respawn"],
            state[":cmd_name"]) == (1, False, True, "web")
    assert state[":config"][":number"] == 2
    assert state[":ack_mode"] == {":type": ":manual"}
    assert state[":socket_path"] == master.path
    (fd,), (port,) = state[":bind_fds"], state[":bound_ports"]
    assert (state[":bind"], fd, port) == ([["127.0.0.1", port, []]], 3, master.address[1])
    assert (state[":signal_timeout"], state[":preloaded"],
            state[":nice"][":renice_cmd"]) == (30, False, None)


def test_times_in_the_state_are_times(master: Master) -> None:
    begun = datetime.now(UTC)
    assert state_of(master)[":last_upgraded"] is None
    conversation(master, escaped("command: upgrade\nid: 1\n"))
    state = state_of(master)
    assert begun <= state[":last_upgraded"] <= state[":last_spinup"] <= datetime.now(UTC)
    for child in state[":children"].values():
        assert isinstance(child[":spinup_time"], datetime)
        assert (child[":last_signaled_at"] is None) == (child[":signaled"] == [])
