"""Servers other than gunicorn, as docs/servers.md says to run them: each through two upgrades under
load, nothing lost."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from einhornpy.worker import asgi

from ..airbag import check, upgrades_under_load
from ..harness import ROOT, Master, get, wait_until
from ..load import Load
from ..reuse import lost_while_it_leaves
from .test_draining import Connection, connect  # noqa: F401

Start = Callable[..., Master]
EXAMPLES = ROOT / "examples" / "servers"
PAGE = (ROOT / "docs" / "servers.md").read_text()
# Section of the page → whether the server keeps connections alive.
SERVERS = {
    "uvicorn": True, "hypercorn": True, "waitress": True, "aiohttp": True, "Node": True, "C": False,
    "http.server": False}
# Short, so that no upgrade waits 5 s for idle connections; the client gives up reusing one sooner
# still.
KEEP_ALIVE = "2"


def typed(section: str) -> tuple[dict[str, str], list[str]]:
    """The environment and the words after `einhornpy` that the page says to type, with two workers
    on any free port."""
    block = re.search(rf"^## {re.escape(section)}\n.*?^```sh\n(.*?)^```", PAGE,
                      re.MULTILINE | re.DOTALL)
    assert block is not None, section
    (line,) = [each for each in block[1].replace("\\\n", "").splitlines() if " -- " in each]
    words = shlex.split(line)
    at = words.index("einhornpy")
    environment = dict(word.split("=", 1) for word in words[:at])
    words = ["2" if before == "-n" else word.replace("127.0.0.1:8000", "127.0.0.1:0")
             for before, word in zip(words[at:], words[at + 1:], strict=False)]
    return environment, words


def start_server(start: Start, section: str, directory: Path, *flags: str,
                 **environment: str) -> Master:
    """Start it in `directory` as the page says, with `flags` besides."""
    typed_environment, words = typed(section)
    command = words.index("--") + 1
    if words[command] == "python":
        words[command] = sys.executable
    return start(
        "--chdir", str(directory), *flags, *words,
        environment={"EINHORNPY_ASGI_KEEP_ALIVE": KEEP_ALIVE} | typed_environment | environment)


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
    master = start_server(start, section, prepared(section, place), "--min-ready-seconds", "0.5")
    master.wait_ready()
    recorder = master.record()
    with Load(master.address, 60) as load:
        upgrades_under_load(master, 2)
    report = load.report
    print(
        f"\n{section}: {report.sent} requests, {report.reused} on reused connections, "
        f"{len(report.failures)} failed"
    )
    assert not report.failures, f"{len(report.failures)} of {report.sent} failed\n{report.why()}\n{master.log()}"
    assert bool(report.reused) == SERVERS[section]
    # The threaded server's first word is another; all others answer with their generation.
    assert section == "http.server" or {"1", "2", "3"} <= report.bodies.keys()
    check(recorder, 2)
    assert "worker killed" not in master.log()
    document = master.status()
    assert document["generation"] == 3
    assert document["listeners"][0][
        "backlog"] == 2048, "the server's own listen() has made the queue shorter"


@pytest.mark.parametrize("section", [section for section, keeps in SERVERS.items() if keeps])
def test_a_connection_reused_at_the_worst_moment_gets_its_answer(
    start: Start, place: Path, connect: Callable[..., Connection], section: str  # noqa: F811
) -> None:
    master = start_server(start, section, prepared(section, place))
    master.wait_ready()
    master.ask("scale", to=1)
    master.wait_status(lambda document: len(document["workers"]) == 1)
    connections = [connect(master.address) for _ in range(40)]
    lost = lost_while_it_leaves(master, connections)
    assert not lost, f"{len(lost)} of {len(connections)}: {lost}\n{master.log()}"
    assert "worker killed" not in master.log()


def test_the_page_shows_the_example() -> None:
    snippet = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
    assert snippet in (EXAMPLES / "shop_ready.py").read_text()


ASGI = ["uvicorn", "hypercorn"]


def start_asgi(start: Start, place: Path, server: str, *flags: str, app: str = "",
               **environment: str) -> Master:
    """One of them with the example's app, or another, from a directory of its own."""
    for name in ("shop.py", "shop_ready.py"):
        shutil.copy(EXAMPLES / name, place)
    if app:
        (place / "shop.py").write_text(app)
    return start_server(start, server, place, *flags, **environment)


@pytest.mark.parametrize("server", ASGI)
def test_a_failed_startup_is_a_failed_start(start: Start, place: Path, server: str) -> None:
    master = start_asgi(start, place, server, "--max-failures", "1")
    master.wait_ready()
    recorder = master.record()
    good = (place / "shop.py").read_text()
    (place / "shop.py").write_text(f'import os\nos.environ["BROKEN"] = "startup"\n{good}')
    result = master.cli("upgrade")
    assert result.returncode == 5, result.stdout + result.stderr + master.log()
    assert "no database" in master.log()
    assert not any(event["event"] == "worker-ready" for event in recorder.events)
    check(recorder, 2)


@pytest.mark.parametrize("server", ASGI)
@pytest.mark.parametrize("refusal", ["raise ValueError", "return"])
def test_an_app_without_lifespan_is_ready_when_the_server_listens(start: Start, place: Path,
                                                                  server: str,
                                                                  refusal: str) -> None:
    app = f"""
async def app(scope, receive, send):
    if scope["type"] != "http":
        {refusal}
    await send({{"type": "http.response.start", "status": 204, "headers": []}})
    await send({{"type": "http.response.body"}})
"""
    master = start_asgi(start, place, server, app=app)
    master.wait_ready()
    assert get(master.address)[0] == 204


def test_a_server_that_cannot_listen_is_never_ready(start: Start, place: Path) -> None:
    shutil.copy(EXAMPLES / "shop.py", place)
    master = start("--chdir", str(place), "-n", "1", "-b", "127.0.0.1:0", "-m", "notify",
                   "--max-failures", "1", "--", "uvicorn", "--fd", "4", "einhornpy.worker.asgi:app",
                   environment={"EINHORNPY_ASGI_APP": "shop:app"})
    assert master.wait_exit() == 3
    assert "worker ready" not in master.log()


def test_a_server_of_several_processes_is_told_so(start: Start, place: Path) -> None:
    master = start_asgi(start, place, "uvicorn", WEB_CONCURRENCY="2")
    master.wait_log("is a child of the worker; run the server with one process")
    assert master.status()["ready"] == 0


def test_a_second_signal_cuts_the_lingering_short(
    start: Start, place: Path, connect: Callable[..., Connection]  # noqa: F811
) -> None:
    master = start_asgi(start, place, "uvicorn", EINHORNPY_ASGI_KEEP_ALIVE="3600")
    master.wait_ready()
    recorder = master.record()
    connection = connect(master.address)
    connection.request()
    pid = int(connection.answer()[2].split()[1])
    assert master.cli("upgrade", "--no-wait").returncode == 0
    recorder.wait_for("worker-retiring", pid=pid)
    close = False
    while not close:  # until it knows that it is to go
        connection.request()
        _, close, _ = connection.answer()
    os.kill(pid, signal.SIGTERM)
    recorder.wait_for("worker-gone", pid=pid, status=0)
    assert "worker killed" not in master.log()


async def talk(app: asgi.App, scope: dict[str, Any],
               received: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What `app` sends."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return received.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def example_app() -> Any:
    spec = importlib.util.spec_from_file_location("shop", EXAMPLES / "shop.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


LIFE = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
LIVED = [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}]


def test_elsewhere_nothing_is_different() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await talk(asgi.ready_when_started(example_app()), {"type": "lifespan"},
                          list(LIFE)) == LIVED
        assert "create_server" not in vars(loop)

    asyncio.run(main())


def test_without_asyncio_it_is_ready_when_started(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    monkeypatch.setattr(asgi, "info", lambda: "a worker")
    monkeypatch.setattr(asgi, "ready", lambda: said.append("ready"))
    talking = talk(asgi.ready_when_started(example_app()), {"type": "lifespan"}, list(LIFE))
    with pytest.raises(StopIteration) as over:
        talking.send(None)
    assert over.value.value == LIVED
    assert said == ["ready"]


def test_a_consumer_loses_no_job_and_does_none_twice(start: Start, place: Path) -> None:
    queue = place / "queue"
    for name in ("new", "taken", "writing"):
        (queue / name).mkdir(parents=True)
    (queue / "done").touch()
    _, words = typed("A consumer without a socket")
    master = start("--chdir", str(EXAMPLES), "--min-ready-seconds", "0.5", *words[:-3],
                   sys.executable, words[-2], str(queue))
    master.wait_ready()
    recorder = master.record()
    upgrades = threading.Thread(target=upgrades_under_load, args=(master, 2))
    upgrades.start()
    put: list[str] = []
    while upgrades.is_alive():  # always a few jobs more than workers
        wait_until(lambda: len(put) - len(done(queue)) < 6, "a job done", master.log)
        put.append(f"{len(put):05}")
        (queue / "writing" / put[-1]).write_text("0.3" if len(put) % 10 == 0 else "0.03")
        (queue / "writing" / put[-1]).rename(queue / "new" / put[-1])
    upgrades.join()
    wait_until(lambda: len(done(queue)) >= len(put), "the last job done", master.log)
    print(f"\nconsumer: {len(put)} jobs")
    assert sorted(name for name, _, _ in done(queue)) == put
    assert {generation for _, generation, _ in done(queue)} == {"1", "2", "3"}
    assert not any((queue / "taken").iterdir())
    check(recorder, 2)
    assert "worker killed" not in master.log()


def done(queue: Path) -> list[list[str]]:
    """The jobs done: name, generation, pid."""
    return [line.split() for line in (queue / "done").read_text().splitlines()]


@pytest.mark.parametrize(("server", "limit"), [
    ("uvicorn", "--limit-max-requests"), ("hypercorn", "--max-requests")])
def test_a_servers_own_limit_of_requests_is_taken_over(start: Start, place: Path, server: str,
                                                       limit: str) -> None:
    """Each worker that has served so many is replaced, and goes when the new one is ready."""
    for name in ("shop.py", "shop_ready.py"):
        shutil.copy(EXAMPLES / name, place)
    environment, words = typed(server)
    master = start("--chdir", str(place), *words, limit, "100",
                   environment={"EINHORNPY_ASGI_KEEP_ALIVE": KEEP_ALIVE} | environment)
    master.wait_ready()
    recorder = master.record()
    with Load(master.address, 100, keep_alive=1.0) as load:
        for count in (1, 2, 3):
            recorder.wait_for("worker-due", count)
            recorder.wait_for("worker-gone", count)
    report = load.report
    assert not report.failures, f"{len(report.failures)} of {report.sent}\n{report.why()}\n{master.log()}"
    assert min(event["ready"] for event in recorder.events if "ready" in event) >= 2
    due = [event for event in recorder.events if event["event"] == "worker-due"]
    assert all(event["cause"] == "requests" for event in due)
    assert "worker died" not in master.log()
    assert "has its own ways" not in master.log()


def test_a_server_with_ways_of_its_own_is_told_of(start: Start, place: Path) -> None:
    shutil.copy(EXAMPLES / "shop.py", place)
    master = start("--chdir", str(place), "-n", "1", "-b", "127.0.0.1:0", "--", "uvicorn", "--fd",
                   "3", "--limit-max-requests", "100", "shop:app")
    line = master.wait_log("has its own ways")
    assert "--limit-max-requests" in line
    assert "einhornpy.worker.asgi with -m notify" in line
