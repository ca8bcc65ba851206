"""Deployments as people have them behave under einhornpy as under gunicorn itself. Each runs under
both at once, with the same requests, one crash, one upgrade (HUP there) and one stop; every call of
a server hook is recorded (tests/apps/recording.py), and the two records are compared.

The rule. In each phase, each hook is called as often, with arguments of the same description. The
arbiter's hooks come in the same order; at the upgrade, where einhornpy has two processes in the
arbiter's place and exchanges one worker at a time, those of each process do. Each worker's hooks
come in the same order; requests may have gone to another worker. What differs by design stands in
DIFFERENCES.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ..gunicorns import (
    REQUESTS,
    Call,
    Gunicorn,
    Side,
    Start,
    counts,
    environ_of,
    lay_out,
    sequences,
)
from ..harness import APPS, EINHORNPY, Master, free_port, get, wait_until
from ..http2 import certificate
from ..sinks import Datagrams, Envelopes

PHASES = ("start", "crash", "upgrade", "stop")
N = 2


@dataclass(frozen=True, slots=True)
class Difference:
    """`hook` is called `more` times more under einhornpy in `phase`, or what stands in `of` is not
    the same in its arguments."""

    phase: str
    hook: str
    reason: str
    more: int = 0
    of: tuple[str, ...] = ()


OWN = "each generation has an arbiter of its own, which counts its own workers, from 1 on"
DIFFERENCES = (
    Difference("upgrade", "on_starting", "each generation's arbiter starts: what the hook leaves on "
               "`server` must be there", more=1),
    Difference("upgrade", "when_ready", "each generation's arbiter becomes ready, at the end of the "
               "upgrade: what it serves moves there", more=1),
    Difference("upgrade", "nworkers_changed", "a new arbiter had no number before, nor a name, "
               "workers or sockets", of=("old", "name", "timeout", "workers", "listeners")),
    Difference("upgrade", "on_reload", "a new arbiter has no workers yet, and is given the sockets "
               "later", of=("workers", "listeners")),
    Difference("upgrade", "pre_fork", OWN, of=("age", "workers", "listeners")),
    Difference("upgrade", "post_fork", OWN, of=("age", )),
    Difference("upgrade", "post_worker_init", OWN, of=("age", )),
    Difference("upgrade", "child_exit", OWN, of=("workers", )),
    Difference("stop", "worker_exit", OWN, of=("age", )),
    Difference("stop", "child_exit", f"{OWN}; the master closes the sockets, and not before all "
               "have left", of=("age", "listeners")),
    Difference("stop", "on_exit", "the master closes the sockets", of=("listeners", )),)


@dataclass(frozen=True, slots=True)
class Place:
    """One side with all that it talks to."""

    side: Side
    statsd: Datagrams
    sentry: Envelopes
    metrics_port: int

    @property
    def directory(self) -> Path:
        return self.side.directory


@dataclass(frozen=True, slots=True)
class Deployment:
    """`name`: of its configuration in tests/apps/deployments/. `observe`: what else must be the
    same on both sides in the end. `sent`: how much has arrived of what threads send, which a crash
    would take along; `sends` for each round of requests. `before`: what the server is started by.
    """

    name: str
    observe: Callable[[Place], Any] = lambda place: None
    environment: Mapping[str, str] = field(default_factory=dict)
    paths: tuple[str, ...] = ("/", "/", "/x")
    prepare: Callable[[Path], None] = lambda directory: None
    sent: Callable[[Place], int] = lambda place: 0
    sends: int = 0
    before: tuple[str, ...] = ()
    tls: bool = False

    def __str__(self) -> str:
        return self.name


def ask(deployment: Deployment, side: Side, path: str) -> tuple[int, str]:
    """One request on a connection of its own: (status, body)."""
    address = side.server.address
    if not deployment.tls:
        return get(address, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.closing(
            context.wrap_socket(socket.create_connection(address, 60))) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]


# --- what is observed besides hooks ---


def lines_of(name: str, in_order: bool = False) -> Callable[[Place], list[str]]:
    def read(place: Place) -> list[str]:
        found = (place.directory / name).read_text().splitlines()
        return found if in_order else sorted(found)

    return read


def metrics(place: Place) -> list[str]:
    """Requests of the dead count, their gauges don't: nobody is left."""
    from prometheus_client import CollectorRegistry, generate_latest, multiprocess

    registry = CollectorRegistry()
    collect: Callable[..., Any] = multiprocess.MultiProcessCollector
    collect(registry, str(place.directory / "metrics"))
    return sorted(line for line in generate_latest(registry).decode().splitlines()
                  if line.startswith(("shop_requests_total", "shop_live")))


def of_log(*words: str) -> Callable[[Place], list[int]]:
    return lambda place: [place.side.server.log().count(word) for word in words]


def secrets(place: Place) -> list[Any]:
    """One drawn a generation, which all of its workers have; the directory was wiped once."""
    drawn = (place.directory / "drawn").read_text().split()
    of_workers = [file.read_text() for file in (place.directory / "cache").iterdir()]
    return [len(drawn), len(of_workers), set(of_workers) == {drawn[-1]}]


def shared(place: Place) -> list[Any]:
    """Under gunicorn one server lasts through HUP; here each generation has its own."""
    told = [json.loads(line) for line in (place.directory / "tally").read_text().splitlines()]
    numbers = (place.directory / "numbers").read_text().splitlines()
    assert all(line.split()[0] == line.split()[1] for line in numbers), numbers
    assert len((place.directory / "exited").read_text().split()) == 5
    if place.side.is_ours:
        assert told == [{"forked": 2, "exited": 2, "sizes": []}], told
    else:
        assert told == [{"forked": 5, "exited": 5, "sizes": [2]}], told
    return [len(numbers)]


def errors(place: Place) -> int:
    return sum('"RuntimeError"' in text for text in place.sentry.texts)


def gauges(place: Place) -> list[Any]:
    """The names of all metrics, the sum of each counter, how many workers there were first.
    gunicorn's arbiter counts what it logs of a death, which is the master's to log; the master
    also tells how many are left while it stops."""
    metrics = [each for each in place.statsd.metrics if "gunicorn.log." not in each[0]]
    counters = Counter[str]()
    for name, value, kind in metrics:
        counters[name] += int(value) if kind == "c" else 0
    workers = place.statsd.values("shop.gunicorn.workers")
    return [sorted({name for name, *_ in metrics}), +counters, N in workers]


def backlogs(place: Place) -> int:
    return len(place.statsd.values("shop.gunicorn.backlog"))


def spans(place: Place) -> int:
    file = place.directory / "spans"
    return len(file.read_text().splitlines()) if file.exists() else 0


def logged(place: Place) -> list[str]:
    errors = (place.directory / "errors.log").read_text().splitlines()
    return lines_of("access.log")(place) + [line for line in errors if line.startswith("shop|")]


def make_metrics(directory: Path) -> None:
    (directory / "metrics").mkdir()


def make_certificate(directory: Path) -> None:
    certificate(directory)


READ_ONLY = ("unshare", "--mount", "sh", "-c",
             'mount --bind run run && mount -o remount,bind,ro / && exec "$0" "$@"')
METRICS = {"PROMETHEUS_MULTIPROC_DIR": "{here}/metrics"}
DEPLOYMENTS = (
    Deployment("prometheus", metrics, METRICS),
    Deployment("sentry", errors, paths=("/", "/boom", "/boom"), sent=errors, sends=2),
    Deployment("opentelemetry_sdk", lines_of("spans"), sent=spans, sends=3),
    Deployment("statsd", gauges, sent=backlogs, sends=1),
    Deployment("shared_state", shared),
    Deployment("raw_env", paths=("/environment", "/scheme")),
    Deployment("container", of_log("printed by the app", '"GET /print HTTP/1.0" 200'),
               {"WEB_CONCURRENCY": "2", "PYTHON_MAX_THREADS": "3"}, ("/print", "/print")),
    Deployment("logging_dict", logged, paths=("/log", "/log")),
    Deployment("tls", prepare=make_certificate, tls=True, paths=("/scheme", )),
    Deployment("read_only", lines_of("run/found"), {"RECORD": "run/record"}, before=READ_ONLY),
    Deployment("metrics_server", metrics, METRICS, prepare=make_metrics),
    Deployment("module_level", secrets, paths=("/", )),
    Deployment("patched", lines_of("patched")),
    Deployment("preloaded", lambda place: sorted({*lines_of("preloaded")(place)})),)


# --- the two sides ---


@pytest.fixture
def places(deployment: Deployment, place: Path, start: Start) -> Iterator[list[Place]]:
    if "unshare" in deployment.before and subprocess.run(
            ["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace may be made here: that needs root")
    with contextlib.ExitStack() as stack:
        found = []
        for name in ("gunicorn", "einhornpy"):
            directory = place / name
            lay_out(directory, APPS / "deployments" / f"{deployment.name}.py",
                    APPS / "deployed.py")
            deployment.prepare(directory)
            statsd = stack.enter_context(Datagrams())
            sentry = stack.enter_context(Envelopes())
            port = free_port()
            environment = environ_of(directory, deployment.environment) | {
                "STATSD": f"127.0.0.1:{statsd.port}", "METRICS_PORT": str(port),
                "SENTRY_DSN": f"http://key@127.0.0.1:{sentry.port}/1"}
            arguments = ("-b", "127.0.0.1:0", "deployed:wsgi")
            if name == "gunicorn":
                server: Any = Gunicorn(directory, arguments, environment, deployment.before)
                stack.callback(server.close)
            else:
                program, *before = (*deployment.before, EINHORNPY)
                server = start(*before, "--", "gunicorn", *arguments, program=program,
                               directory=directory, environment=environment)
            side = Side(name, directory, server, environment.get("RECORD", "record"))
            found.append(Place(side, statsd, sentry, port))
        yield found


def run(deployment: Deployment, places: list[Place]) -> list[list[tuple[int, str]]]:
    """Let both go through all phases; return their answers."""
    sides = [place.side for place in places]
    answers: list[list[tuple[int, str]]] = [[] for _ in places]

    def requests() -> None:
        for side, answered in zip(sides, answers, strict=True):
            answered += [ask(deployment, side, path) for path in deployment.paths]

    for side in sides:
        side.wait_for("post_worker_init", N)
        if isinstance(side.server, Master):
            side.server.wait_ready()
    requests()
    wait_until(lambda: all(deployment.sent(place) >= deployment.sends for place in places),
               "what it sends")
    for side in sides:
        side.begin("crash")
        os.kill(side.oldest(), signal.SIGKILL)
    for side in sides:
        side.wait_for("post_worker_init", N + 1)
        side.wait_for("child_exit", 1)
    requests()
    for side in reversed(sides):  # ours waits for its end
        side.begin("upgrade")
        side.upgrade()
    for side in sides:
        side.wait_for("post_worker_init", 2 * N + 1)
        side.wait_for("child_exit", N + 1)
    requests()
    for place in places if deployment.name == "metrics_server" else ():
        assert "shop_live 2.0" in get(("127.0.0.1", place.metrics_port), "/metrics")[1]
    for side in sides:
        side.begin("stop")
        side.server.signal(signal.SIGTERM)
    for side in sides:
        assert side.server.wait_exit() == 0, side.server.log()
    return answers


# --- the comparison ---


def without(line: str, phase: str) -> str:
    """A call, without what may differ."""
    hook, arguments = json.loads(line)
    for difference in DIFFERENCES:
        if (difference.phase, difference.hook) == (phase, hook):
            for name in difference.of:
                if name == "old":
                    del arguments[2:]
                for each in arguments:
                    if isinstance(each, dict):
                        each.pop(name, None)
    if hook in REQUESTS:
        del arguments[0]["age"]  # any worker may have got it
    return json.dumps([hook, arguments], sort_keys=True)


def described(calls: list[Call], phase: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for line, count in counts([each for each in calls if each.phase == phase]).items():
        found[without(line, phase)] += count
    return found


def lives(calls: list[Call]) -> Counter[tuple[str, ...]]:
    """The hooks of each worker, in order."""
    return Counter(tuple(call.hook for call in found)
                   for found in sequences(calls, "worker").values())


def compare(theirs: list[Call], ours: list[Call]) -> None:
    for phase in PHASES:
        more = {each.hook: each.more for each in DIFFERENCES
                if each.phase == phase and each.more}
        there, here = described(theirs, phase), described(ours, phase)
        for hook, times in more.items():
            names = [[json.loads(line)[0] for line in side.elements()] for side in (there, here)]
            assert names[0].count(hook) + times == names[1].count(hook), (phase, hook)
        for side in (there, here):
            for line in [each for each in side if json.loads(each)[0] in more]:
                del side[line]
        assert here == there, (phase, "only here", here - there, "only there", there - here)
        if phase != "upgrade":
            assert order(ours, phase) == order(theirs, phase)
    for difference in DIFFERENCES:
        there, here = (
            counts([call for call in side
                    if (call.phase, call.hook) == (difference.phase, difference.hook)])
            for side in (theirs, ours))
        assert here != there, f"no difference any more: {difference}"
    assert lives(ours) == lives(theirs)
    (old, new), all_of_it = arbiters(ours, "upgrade"), order(theirs, "upgrade")
    assert old == ["child_exit"] * N, old
    assert [hook for hook in new if hook not in ("on_starting", "when_ready")] == [
        hook for hook in all_of_it if hook != "child_exit"], (new, all_of_it)
    assert new.index("on_starting") == new.index("on_reload") - 1
    assert new[-1] == "when_ready"


def order(calls: list[Call], phase: str) -> list[str]:
    return [call.hook for call in calls if (call.phase, call.role) == (phase, "arbiter")]


def arbiters(calls: list[Call], phase: str) -> list[list[str]]:
    """What each process in the arbiter's place did in a phase, the oldest first."""
    pids = list(dict.fromkeys(call.pid for call in calls if call.role == "arbiter"))
    return [[call.hook for call in calls if (call.phase, call.pid) == (phase, pid)]
            for pid in pids]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=str)
def test_it_behaves_as_under_gunicorn_itself(deployment: Deployment, places: list[Place]) -> None:
    theirs, ours = run(deployment, places)
    assert ours == theirs
    there, here = places
    compare(there.side.calls(), here.side.calls())
    assert deployment.observe(here) == deployment.observe(there)
    for place in places:
        assert "Traceback" not in place.side.server.log() or deployment.name == "sentry"
