"""Servers other than gunicorn, as docs/servers.md says to run them: each through two upgrades under load, nothing lost."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .airbag import check, upgrades_under_load
from .harness import ROOT, Master, wait_until
from .load import Load
from .test_draining import Connection, connect, reused_at_the_worst_moment  # noqa: F401

Start = Callable[..., Master]
EXAMPLES = ROOT / "examples" / "servers"
PAGE = (ROOT / "docs" / "servers.md").read_text()
# Section of the page → whether the server keeps connections alive.
SERVERS = {"uvicorn": True, "hypercorn": True, "waitress": True, "aiohttp": True, "Node": True, "C": False, "http.server": False}
# Short, so that no upgrade waits 5 s for idle connections; the client gives up reusing one sooner still.
KEEP_ALIVE = "2"


def typed(section: str) -> tuple[dict[str, str], list[str]]:
    """The environment and the words after `einhornpy` that the page says to type, with two workers on any free port."""
    block = re.search(rf"^## {re.escape(section)}\n.*?^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert block is not None, section
    (line,) = [each for each in block[1].splitlines() if " -- " in each]
    words = shlex.split(line)
    at = words.index("einhornpy")
    environment = dict(word.split("=", 1) for word in words[:at])
    words = ["2" if before == "-n" else word.replace("127.0.0.1:8000", "127.0.0.1:0")
             for before, word in zip(words[at:], words[at + 1:], strict=False)]
    return environment, words


def start_server(start: Start, section: str, directory: Path, *flags: str, **environment: str) -> Master:
    """Start it in `directory` as the page says, with `flags` besides."""
    typed_environment, words = typed(section)
    command = words.index("--") + 1
    if words[command] == "python":
        words[command] = sys.executable
    return start("--chdir", str(directory), *flags, *words, environment=typed_environment | environment)


def prepared(section: str, place: Path) -> Path:
    """What the section needs first; return the directory in which its command is typed."""
    program = {"Node": "node", "C": "gcc"}.get(section)
    if program is not None and shutil.which(program) is None:
        pytest.skip(f"{program} is not installed on this machine")
    if section != "C":
        return EXAMPLES
    (compile_line,) = re.findall(r"^(gcc .*)$", PAGE, re.MULTILINE)
    shutil.copy(EXAMPLES / "http_server.c", place)
    subprocess.run(shlex.split(compile_line), cwd=place, check=True, timeout=60)
    return place


@pytest.mark.parametrize("section", SERVERS)
def test_two_upgrades_under_load_lose_nothing(start: Start, place: Path, section: str) -> None:
    # Half a second for each new worker, so that the load meets every stage of an upgrade.
    master = start_server(start, section, prepared(section, place), "--min-ready-seconds", "0.5", EINHORNPY_ASGI_KEEP_ALIVE=KEEP_ALIVE)
    master.wait_ready()
    recorder = master.record()
    with Load(master.address, 60) as load:
        upgrades_under_load(master, 2)
    report = load.report
    print(f"\n{section}: {report.sent} requests, {report.reused} on reused connections, {len(report.failures)} failed")
    assert not report.failures, f"{len(report.failures)} of {report.sent} failed\n{report.why()}\n{master.log()}"
    assert bool(report.reused) == SERVERS[section]
    # The threaded server's first word is another; all others answer with their generation.
    assert section == "http.server" or {"1", "2", "3"} <= report.bodies.keys()
    check(recorder, 2)
    assert "worker killed" not in master.log()
    assert master.status()["generation"] == 3


@pytest.mark.parametrize("section", [section for section, keeps in SERVERS.items() if keeps])
def test_a_connection_reused_at_the_worst_moment_gets_its_answer(
    start: Start, place: Path, connect: Callable[..., Connection], section: str  # noqa: F811
) -> None:
    master = start_server(start, section, prepared(section, place), EINHORNPY_ASGI_KEEP_ALIVE=KEEP_ALIVE)
    master.wait_ready()
    master.ask("scale", to=1)
    master.wait_status(lambda document: len(document["workers"]) == 1)
    connections = [connect(master.address) for _ in range(40)]
    for connection in connections:
        connection.request()
        assert connection.answer()[:2] == (200, False)

    def send(connection: Connection) -> None:
        close = False
        while not close:  # some are answered before the worker knows that it is to go
            connection.request()
            status, close, _ = connection.answer()
            assert status == 200
        assert connection.ended(), "reset after its last answer"

    reused_at_the_worst_moment(master, connections, send)


def test_a_failed_startup_is_a_failed_start(start: Start, place: Path) -> None:
    master = start_server(start, "uvicorn", EXAMPLES, "--max-failures", "1")
    master.wait_ready()


def test_a_consumer_loses_no_job_and_does_none_twice(start: Start, place: Path) -> None:
    queue = place / "queue"
    for name in ("new", "taken", "writing"):
        (queue / name).mkdir(parents=True)
    (queue / "done").touch()
    environment, words = typed("A consumer without a socket")
    master = start("--chdir", str(EXAMPLES), *words[:-3], sys.executable, "consumer.py", str(queue))
    master.wait_ready()
    recorder = master.record()
    upgrades = threading.Thread(target=upgrades_under_load, args=(master, 2))
    upgrades.start()
    put = 0
    while upgrades.is_alive():  # always a few jobs more than workers
        wait_until(lambda: put - len(done(queue)) < 6, "a job done", master.log)
        (queue / "writing" / f"{put:05}").write_text("0.3" if put % 10 == 0 else "0.03")
        (queue / "writing" / f"{put:05}").rename(queue / "new" / f"{put:05}")
        put += 1
    upgrades.join()
    wait_until(lambda: len(done(queue)) >= put, "the last job done", master.log)
    assert sorted(name for name, _, _ in done(queue)) == [f"{number:05}" for number in range(put)]
    assert {generation for _, generation, _ in done(queue)} == {"1", "2", "3"}
    assert not any((queue / "taken").iterdir())
    check(recorder, 2)
    assert "worker killed" not in master.log()


def done(queue: Path) -> list[list[str]]:
    """The jobs done: name, generation, pid."""
    return [line.split() for line in (queue / "done").read_text().splitlines()]
