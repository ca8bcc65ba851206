"""Whatever strangers, apps, files and versions before us may say: the one exception that is
documented comes out, or nothing.

Each target gets many inputs from each of Hypothesis's examples: a seed, from which good inputs are
spoilt. `make fuzz` runs them for long and says how many there were (FUZZ_EXAMPLES: how many seeds
for each target).
"""

from __future__ import annotations

import array
import json
import os
import random
import re
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import hypothesis
import pytest
from einhornpy.control import metadata
from einhornpy.shared import einhorn, protocol
from einhornpy.shared.commands import OURS
from einhornpy.supervisor import reload_check
from einhornpy.supervisor.control_socket.server import Access, Server
from einhornpy.supervisor.core.pool import Pool
from einhornpy.supervisor.launch import shared_page
from einhornpy.supervisor.logs.strangers import Strangers
from einhornpy.supervisor.outside import labels
from einhornpy.supervisor.places import notify_socket
from einhornpy.supervisor.settings import sources, table
from einhornpy.supervisor.sockets import addresses, systemd
from einhornpy.supervisor.sockets.addresses import Address
from einhornpy.supervisor.steering import audience, commands
from einhornpy.supervisor.system import errands, plain_data
from einhornpy.supervisor.system.guard import Guard
from einhornpy.supervisor.system.loop import Loop
from hypothesis import strategies as st

from ..harness import ROOT

STATES = [
    json.loads(path.read_text()) for path in sorted((ROOT / "tests" / "states").glob("*.json"))]
AT_ONCE = 20
# No single input may cost more, in seconds of processor time on a slow machine.
MOST_WORK = 2.0
TRIED: Counter[str] = Counter()
fuzz = hypothesis.settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES") or 5), deadline=None,
                           database=None, suppress_health_check=list(hypothesis.HealthCheck))
seeds = st.integers(0, (1 << 64) - 1)
WORDS = [
    b"\0", b"\xff", b"\xed\xa0\x80", b"'", b'"', b"[", b"{", b"[" * 2000, b"{a: " * 50, b"9" * 400,
    b"9" * 5000, b"-1", b"inf", b"0x" + b"f" * 5000, b"1e999", b"NaN", b"null", b"true", b"\\ud800",
    b"%0A", b"%", b"\r\n", b"a.b." * 500, b"&a ", b"*a", b"=", b"!!python/object:x",
    "\u202e".encode(), "²".encode(), "٣".encode(), b"#", b",", b":", b"\x1b[2J", b"1979-05-27",
    b"<<: ",]


def any_value(rng: random.Random) -> Any:
    """What JSON may hold in the place of anything."""
    return rng.choice([
        None, True, False, 0, -1, 1, 2**63, 10**400, -(10**20), 1.5,
        float("inf"),
        float("nan"), "", "x", "\udcff", "9" * 5000, "\0", "1", [], [[]], {}, {"x": 1}, [None],
        [1, 2], {"1": {}},
        nested(300)])


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.fixture(scope="module", autouse=True)
def figures() -> Iterator[None]:
    yield
    for name, count in TRIED.items():
        print(f"\nfuzz {name}: {count} inputs", end="")


def spoilt(rng: random.Random, good: bytes) -> bytes:
    """Some bytes changed, lost, doubled, put in between."""
    data = bytearray(good)
    for _ in range(rng.randint(1, 4)):
        place = rng.randint(0, len(data))
        match rng.randrange(5):
            case 0:
                data[place:place] = rng.choice(WORDS)
            case 1:
                data[place:place + 1] = bytes([rng.randrange(256)])
            case 2:
                del data[place:place + rng.randint(1, 8)]
            case 3:
                data[place:place] = data[place:place + rng.randint(1, 20)]
            case _:
                data[place:place + rng.randint(0, 8)] = rng.choice(WORDS)
    return bytes(data)


def spoilt_tree(rng: random.Random, tree: Any) -> Any:
    """The same as JSON, with one of its values exchanged, lost or of another kind."""
    copy = json.loads(json.dumps(tree))
    for _ in range(rng.randint(1, 2)):
        here, path = copy, rng.randint(1, 6)
        while isinstance(here, dict | list) and here:
            key = rng.choice(list(here)) if isinstance(here, dict) else rng.randrange(len(here))
            path -= 1
            if path <= 0 or not isinstance(here[key], dict | list):
                if rng.random() < 0.2:
                    del here[key]
                else:
                    here[key] = any_value(rng)
                break
            here = here[key]
    return copy


def many(name: str, seed: int, make: Callable[[random.Random], Any],
         attempt: Callable[[Any], object]) -> None:
    """Try many inputs of one seed; `attempt` lets through only what must never come."""
    rng = random.Random(seed)
    for _ in range(AT_ONCE):
        tried = make(rng)
        began = time.process_time()
        try:
            attempt(tried)
        except Exception as error:
            error.add_note(f"{name} was given {tried!r:.2000}")
            raise
        assert time.process_time() - began < MOST_WORK, f"{name} worked too long on {tried!r:.2000}"
        TRIED[name] += 1


def one_line(error: Exception) -> None:
    assert str(error).isprintable(), repr(str(error))
    assert 0 < len(str(error)) < 20_000


# --- the wire ---

REQUESTS = [
    *(json.dumps({"id": number, "command": name, "args": args}).encode()
      for number, (name, args) in enumerate([
          ("ping", {}), ("help", {}), ("status", {"follow": True}), ("scale", {"to": 3}),
          ("scale", {"by": -1}),
          ("upgrade", {
              "kind": "fleet", "release": "x", "canary": 1, "hold": "5min", "check": "true",
              "max_failures": 3}), ("upgrade", {"wait": False}), ("upgrade_fleet", {}),
          ("signal", {"signal": "USR2"}),
          ("rollback", {"to": 1}), ("rollback", {"to": "x", "wait": True}),
          ("show", {"generation": 1}), ("recycle", {"index": 0}), ("stop", {"how": "now"}),
          ("events", {}), ("tally", {}), ("releases", {}), ("reload", {}), ("abort", {"wait": False}), (
              "pause", {}), ("resume", {}), ("history", {}), ("ehlo", []), ("die", ["TERM"]),
          ("config", ["number: 3"]), ("worker:ack", {"pid": 1}), (
              "worker:ping", {"request_id": "x"}), ("worker:failed", {"error": "x"}),
          ("worker:upgrade", {"release": "x"}), ("signal", ["USR2", "TERM"]), ("set_workers",
                                                                               ["3"])])),
    b"---%0Acommand: ehlo%0Auser: gdb%0A", b"---%0Aid: 3%0Acommand: signal%0Aargs:%0A- USR2%0A",
    b"command: state", b"{command: upgrade, args: []}",
    b"--- %0Acommand: config%0Aargs: [':config: {:number: 3}']%0A",
    b'{"command": "worker:ack", "pid": 3}',]


def a_request(rng: random.Random) -> bytes:
    good = rng.choice(REQUESTS)
    if rng.random() < 0.1:
        depth = rng.randint(1, 1000)
        return re.sub(rb': (\d+|"\w+"|true)', b": " + b"[" * depth + b"]" * depth, good)
    if rng.random() < 0.4 and good.startswith(b'{"id'):
        return json.dumps(spoilt_tree(rng, json.loads(good))).encode()
    return spoilt(rng, good)


def test_every_command_of_ours_is_spoilt_too() -> None:
    ones = {json.loads(line)["command"] for line in REQUESTS if line.startswith(b'{"id')}
    assert {each.name for each in OURS} <= ones


@fuzz
@hypothesis.given(seeds)
def test_one_line_of_the_wire(seed: int) -> None:
    def attempt(line: bytes) -> None:
        try:
            request = protocol.parse_request(line)
        except protocol.BadRequest as error:
            answer = protocol.failure(error.request_id, error.code, str(error))
        else:
            assert isinstance(request.command, str)
            answer = protocol.reply(request.id, request.command)
        assert json.loads(protocol.encode(answer))["message"] is not None

    many("wire: one line", seed, a_request, attempt)


class Host:
    """A master of whom everything can be asked, with a server on a real loop."""

    def __init__(self) -> None:
        self.guard = Guard(lambda entry: None, lambda: None)  # strict as yet: exceptions come out
        self.loop = Loop([], self.guard)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind("")  # a name of the kernel's choice
        listener.listen()
        self.address = listener.getsockname()
        master, upgrades = MagicMock(early=False), MagicMock()
        master.pool.target, master.signal_workers.return_value, master.recycle.return_value = 2, 2, 7
        master.status.return_value = {"gate": "ready", "reason": "", "workers": []}
        master.identity.return_value = {"name": "x", "pid": 1, "version": "1"}
        master.tally.return_value, master.change_verbosity.return_value = {}, "quieter"
        upgrades.request.return_value = upgrades.roll_back.return_value = upgrades.next_generation.return_value = 2
        upgrades.request_for_worker.return_value = upgrades.steerable.return_value = 2
        upgrades.pause.return_value = upgrades.resume.return_value = "done"
        upgrades.history.return_value, upgrades.generation.return_value = [], {}
        self.commands = commands.Commands(
            master, master, master, MagicMock(), upgrades, MagicMock(),
            audience.Audience(self.guard.failed), Strangers(lambda entry: None), master,
            MagicMock(), self.guard, MagicMock(document=lambda: {}))
        self.commands._einhorn.do_state = lambda request: "state"  # type: ignore[method-assign]
        self.server = Server(self.loop, self.commands.handle, Access(os.geteuid()), lambda pid: 0,
                             lambda worker: False, 16, self.guard.failed)
        self.server.open(listener)
        self.listener = listener

    def converse(self, chunks: list[bytes]) -> bytes:
        """Say this on one connection and hang up; return all answers."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(self.address)
            client.setblocking(False)
            answers = b""
            for chunk in chunks:
                try:
                    client.sendall(chunk)
                except (BrokenPipeError, ConnectionResetError):
                    break
                answers += self.turn(client)
            try:
                client.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            answers += self.turn(client)
        for session in self.server.sessions():
            session.close()
        return answers

    def turn(self, client: socket.socket) -> bytes:
        answers = b""
        for _ in range(100):
            self.loop.wait(0.0)
            self.server.on_turn()
            try:
                answers += client.recv(1 << 20)
            except BlockingIOError:
                pass
            except ConnectionResetError:
                break
            if not self.server.waiting and not self.server.sessions():
                break
            if not self.server.waiting and _ > 2:
                break
        return answers

    def close(self) -> None:
        self.server.close()
        self.listener.close()
        self.loop.close()


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.close()


@fuzz
@hypothesis.given(seeds)
def test_a_conversation_with_the_server(host: Host, seed: int) -> None:
    raised: list[BaseException | None] = []

    def make(rng: random.Random) -> list[bytes]:
        lines = b"".join((a_request(rng) if rng.random() < 0.7 else rng.choice(REQUESTS)) + b"\n"
                         for _ in range(rng.randint(1, 4)))
        cuts = sorted(rng.randint(0, len(lines)) for _ in range(rng.randint(0, 2)))
        return [
            lines[start:end] for start, end in zip([0, *cuts], [*cuts, len(lines)], strict=True)
            if lines[start:end]]

    def attempt(chunks: list[bytes]) -> None:
        for line in host.converse(chunks).splitlines():
            answer = json.loads(line)
            assert answer["ok"] or answer["error"]["code"] != "internal"
        assert not raised, raised
        assert not host.server.sessions()

    with pytest.MonkeyPatch.context() as patch:  # what a server prints of a command that has failed
        patch.setattr(traceback, "print_exc", lambda: raised.append(sys.exception()))
        many("wire: a conversation", seed, make, attempt)


@pytest.mark.parametrize("request_of", [
    '"rollback", "args": {{"to": {}}}', '"worker:ack", "args": {{"pid": {}}}',
    '"stop", "args": {{"how": {}}}', '"ehlo", "user": {}',
    '"upgrade", "args": {{"hold": {}, "canary": 1}}', '"worker:ping", "request_id": {}',
    '"ping", "id": {}'])
def test_arguments_as_deep_as_can_be_read(host: Host, request_of: str,
                                          capfd: pytest.CaptureFixture[str]) -> None:
    """What can just be read must not fail when it is shown: the depth at which that is so depends
    on who calls."""
    for depth in range(960, 1000):
        nested = '{"command": ' + request_of.format("[" * depth + "]" * depth) + "}\n"
        host.converse([nested.encode()])
    assert capfd.readouterr().err == ""


@fuzz
@hypothesis.given(seeds)
def test_yaml_of_einhorns(seed: int) -> None:
    good = [einhorn.unescape(each) for each in REQUESTS if not each.startswith(b'{"')] + [
        b"a: &x [1, 2.5, 1_000, 0o17, 190:20:30, ~, yes, 2001-12-14t21:59:43.10-05:00]\nb: *x\n? "
        b"c\n: |\n  text\nd: >-\n  folded\n",
        b"%YAML 1.1\n--- !!map {!!str a: !!binary aGk=, !!float b: .inf, s: !!set {x}, o: !!omap "
        b"[a: 1], p: !!pairs [a: 1]}\n...\n"
    ]

    def attempt(text: bytes) -> None:
        try:
            einhorn.read_yaml(text)
        except ValueError as error:
            one_line(error)

    many("Einhorn's YAML", seed, lambda rng: spoilt(rng, rng.choice(good)), attempt)


# --- the state ---


@fuzz
@hypothesis.given(seeds)
def test_a_state_of_whatever_master(seed: int) -> None:
    def attempt(state: Any) -> None:
        for kind, value in ((Pool, state.get("pool")), (systemd.Told, state.get("systemd"))):
            try:
                plain_data.from_plain(kind, value)
            except plain_data.Unreadable:
                pass
        for each in state["listeners"] if isinstance(state.get("listeners"), list) else ():
            try:
                plain_data.from_plain(Address,
                                      each.get("address") if isinstance(each, dict) else each)
            except plain_data.Unreadable:
                pass
        if readable := getattr(reload_check, "readable", None):
            try:
                readable(state, plain_data.from_plain(Pool, STATES[-1]["pool"]).policy, 1e6)
            except plain_data.Unreadable:
                pass

    many("state", seed, lambda rng: spoilt_tree(rng, rng.choice(STATES)), attempt)


@fuzz
@hypothesis.given(seeds)
def test_a_file_that_is_no_state(seed: int) -> None:
    good = [
        json.dumps({"format": plain_data.FORMAT, "pool": {"a": [1, 2.0, None]}}).encode(), b"[1]",
        b"1", b'"format"', b""]
    fd = os.memfd_create("state", os.MFD_CLOEXEC)

    def attempt(data: bytes) -> None:
        os.ftruncate(fd, 0)
        os.pwrite(fd, data, 0)
        try:
            assert isinstance(plain_data.read(fd), dict)
        except plain_data.Unreadable as error:
            assert len(str(error)) < 20_000

    try:
        many("state: bytes", seed, lambda rng: spoilt(rng, rng.choice(good)), attempt)
    finally:
        os.close(fd)


# --- settings ---

TOML = ["""number = 3
command = 'gunicorn "app:wsgi"'
bind = [":80", "unix:/x,mode=0660,backlog=3"]
env = {A = "b", C = 3}
max-memory = "1.5G"
ready-timeout = 1e2
ack-mode = "notify"
[labels]
region = "eu"
""", """rlimit = ["nofile=1:2"]
cpu-affinity = "0,2-4"
nice = "1:2"
umask = "027"
stop-signal = 15
max-lifetime = "6h"
oom-score-adj = 5
webhook = "https://x/y"
statsd = "[::1]:1"
command = ["a", "b"]
warm-up = "/x"
verbose = true
backlog = 77
reexec-as = "a 'b c'"
"""]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "f.toml"


def loaded(flags: dict[str, Any], environment: dict[str, str]) -> None:
    try:
        assert isinstance(sources.load(flags, ["app"], environment, "/dir"), table.Settings)
    except sources.BadSetting as error:
        one_line(error)


@fuzz
@hypothesis.given(seeds)
def test_a_file_of_settings(file: Path, seed: int) -> None:
    def attempt(content: bytes) -> None:
        file.write_bytes(content)
        loaded({"config": str(file)}, {})

    many("TOML", seed, lambda rng: spoilt(rng, rng.choice(TOML).encode()), attempt)


@fuzz
@hypothesis.given(seeds)
def test_any_value_of_a_setting_from_a_file(file: Path, seed: int) -> None:
    values = [
        "[" * 3000, "{a = " * 3000, "0x" + "f" * 5000, "9" * 5000, "[[[]]]", "{x = 1}",
        "1979-05-27", "07:32:00", "nan", "-inf", "true", "''", "'\\u0000'", '"\\u0000"', "'\"'",
        "[1, 'a', {}]", "{a = {b = {c = []}}}", "a.b = 3", "'0-9999'", "1e400",
        "'" + "9" * 400 + "G'", "'" + "0-9999," * 1000 + "'", '"\\u202e\\u001b"', "'~nobody/x'",
        "{'a\\nb' = 1}", "'²'", "-1", "{a = 0x" + "f" * 5000 + "}"]
    keys = [
        "command", *table.SETTINGS, "x", '"\\n\\u001b"', "a.b.c",
        ".".join("a" * 3000)]

    def make(rng: random.Random) -> str:
        key = rng.choice(keys)
        if rng.random() < 0.1:
            key += ".a" * rng.choice([1, 3000])
        return f"{key} = {rng.choice(values)}\n"

    def attempt(content: str) -> None:
        file.write_text(content)
        loaded({"config": str(file)}, {})

    many("TOML: values", seed, make, attempt)


@fuzz
@hypothesis.given(seeds)
def test_the_environment(seed: int) -> None:
    samples = [
        "3", ":80", "a 'b c'", "A=b", "1.5G", "6h", "nofile=1:2", "0,2-4", "notify", "USR2", "it's",
        "~x", "https://x/y", "[::1]:1", "spread"]

    def make(rng: random.Random) -> dict[str, str]:
        names = [
            f"EINHORNPY_{rng.choice([*table.SETTINGS, 'command', 'x']).upper()}" for _ in range(2)]
        return {
            os.fsdecode(spoilt(rng, name.encode()) if rng.random() < 0.2 else name.encode()).replace(
                "\0", ""): os.fsdecode(spoilt(rng,
                                              rng.choice(samples).encode())).replace("\0", "")
            for name in names}

    many("environment", seed, make, lambda environment: loaded({}, environment))


@fuzz
@hypothesis.given(seeds)
def test_addresses(seed: int) -> None:
    good = [
        "127.0.0.1:80", "[::1]:80", ":80", "unix:/x/y,mode=0660", "fd://3,n,r", "fd://web.socket",
        "localhost:0,backlog=64"]

    def attempt(text: str) -> None:
        try:
            found = addresses.parse_address(text)
        except addresses.BadAddress as error:
            assert str(error)
            return
        assert 0 <= found.port < 65536
        assert 1 <= found.backlog <= 65535
        assert "\0" not in found.path + found.host
        assert found.mode is None or 0 <= found.mode <= 0o777

    many("addresses", seed, lambda rng: os.fsdecode(spoilt(rng,
                                                           rng.choice(good).encode())), attempt)


@fuzz
@hypothesis.given(seeds)
def test_what_systemd_may_have_set(seed: int) -> None:
    def make(rng: random.Random) -> dict[str, str]:
        values = {
            "LISTEN_FDS": b"3", "LISTEN_PID": b"%d" % os.getpid(), "LISTEN_FDNAMES": b"a:b:c",
            "WATCHDOG_USEC": b"1000", "WATCHDOG_PID": b"%d" % os.getpid(), "NOTIFY_SOCKET": b"/x"}
        return {
            name: os.fsdecode(spoilt(rng, value) if rng.random() < 0.5 else value).replace(
                "\0", "") for name, value in values.items()}

    def attempt(environment: dict[str, str]) -> None:
        assert len(systemd.given_sockets(environment)) <= os.sysconf("SC_OPEN_MAX")
        systemd.Notifier(environment, MagicMock()).close()

    many("systemd's environment", seed, make, attempt)


# --- what workers say ---


@fuzz
@hypothesis.given(seeds)
def test_datagrams_to_the_notify_socket(place_for_fuzz: Path, seed: int) -> None:
    heard: list[notify_socket.Notice] = []
    loop = Loop([], Guard(lambda entry: None, lambda: None))
    workers = {os.getpid(): 7}
    made = notify_socket.NotifySocket(loop, lambda pid: workers.get(pid, 0),
                                      lambda pid: workers.get(pid, 0), heard.append, 0o600)
    made.open(str(place_for_fuzz / "notify"))
    before = len(os.listdir("/dev/fd"))
    good = [
        b"READY=1", b"READY=1\nSTATUS=x", b"WATCHDOG=1", b"X_EINHORNPY_DUE=because",
        b"FDSTORE=1\nFDNAME=einhornpy-traffic", b"X_EINHORNPY_TRAFFIC=200:0.1:512 500:1.3!",
        b"STOPPING=1\nMAINPID=3", b"x" * 5000]

    def attempt(data: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                       array.array("i", [0, 1, 2]))] if len(data) % 3 == 0 else []
            sender.sendmsg([data], rights, 0, made.path)
        loop.wait(0.0)
        for notice in heard:
            assert notice.worker == 7
            assert len(notice.error or "") <= 4000
        heard.clear()

    try:
        many("notify datagrams", seed, lambda rng: spoilt(rng, rng.choice(good)), attempt)
        assert len(os.listdir("/dev/fd")) == before
    finally:
        made.close()
        loop.close()


@pytest.fixture(scope="module")
def place_for_fuzz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("f")


@fuzz
@hypothesis.given(seeds)
def test_the_shared_page(seed: int) -> None:
    page = shared_page.SharedPage()
    offset = page.take(1)
    odd = [float("nan"), float("inf"), -float("inf"), 1e300, -1.0, 0.5, 2.0**53, 2.0**70, 0.0, 1.0]

    def make(rng: random.Random) -> bytes:
        if rng.random() < 0.3:
            return rng.randbytes(shared_page.SLOT_SIZE)
        words = [1.0, 2.0, 99.0, 5.0, 1.0, 3.0, rng.choice([0.0, 98.0]), 99.0, *[1.0] * 24]
        for _ in range(rng.randint(0, 3)):
            words[rng.randrange(32)] = rng.choice(odd)
        return shared_page._SLOT.pack(*words)

    def attempt(slot: bytes) -> None:
        os.pwrite(page.fd, slot, offset)
        for now in (0.0, 100.0, 1e6):
            found = page.counters(1, now, now)
            if found is not None:
                assert found.busy_share is None or 0 <= found.busy_share <= 1
                assert all(count is None or 0 <= count <= 2**53
                           for count in (found.requests, found.in_flight))
        json.dumps([page.heartbeat(1), page.requests(1)], allow_nan=False)

    try:
        many("shared page", seed, make, attempt)
    finally:
        page.close()


@fuzz
@hypothesis.given(seeds)
def test_what_errands_print_of_the_platform(seed: int) -> None:
    good = b'{"Cluster": "a/b", "TaskARN": "arn:x/y", "Family": "f", "Revision": "3"}'

    def attempt(data: bytes) -> None:
        found: list[dict[str, str]] = []
        ledger = MagicMock()
        line = data.decode(errors="replace")
        asked = labels.Labels(MagicMock(), {}, ledger, found.append, MagicMock())
        asked._answered(errands.Ended(None, line))
        assert ledger.log.call_count == 1
        assert len(found) <= 1
        try:
            metadata.labels_of(json.loads(data))
        except (ValueError, AttributeError, RecursionError):
            pass

    many("platform's labels", seed, lambda rng: spoilt(rng, good), attempt)
