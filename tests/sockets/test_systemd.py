"""systemd: what it is told, against a socket like its own; what it gives; units, against its own
programs."""

from __future__ import annotations

import array
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from einhornpy.supervisor.core.facts import (
    SaidReady,
    Spawned,
    StopRequested,
    UpgradeRefused,
    UpgradeRequested,
)
from einhornpy.supervisor.core.generation import Recipe
from einhornpy.supervisor.core.observe import new_pool, observe
from einhornpy.supervisor.core.pool import Policy, Stopping
from einhornpy.supervisor.core.upgrade import Terms
from einhornpy.supervisor.sockets import systemd

from ..harness import (
    APPS,
    DEADLINE,
    EINHORNPY,
    EXAMPLE,
    WORKER,
    Master,
    base_environment,
    get,
    wait_gone,
    wait_listening,
    wait_until,
)
from ..load import Load

Start = Callable[..., Master]
ANALYZE, ACTIVATE = shutil.which("systemd-analyze"), shutil.which("systemd-socket-activate")


class Manager:
    """The socket behind NOTIFY_SOCKET as systemd would read it: every message, and the descriptors
    that came with it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(DEADLINE)
        self.socket.bind(path)
        self.messages: list[dict[str, str]] = []
        self.stored: dict[str, int] = {}

    def read(self) -> dict[str, str]:
        data, ancillary, _, _ = self.socket.recvmsg(65536, socket.CMSG_SPACE(64))
        message = dict(line.split("=", 1) for line in data.decode().splitlines())
        for _, _, content in ancillary:
            found = array.array("i")
            found.frombytes(content)
            self.stored[message["FDNAME"]] = found[0]
        self.messages.append(message)
        return message

    def wait_for(self, key: str, value: str | None = None) -> dict[str, str]:
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            message = self.read()
            if key in message and (value is None or message[key] == value):
                return message
        raise AssertionError(f"never came: {key}={value}\n{self.messages[-20:]}")

    def close(self) -> None:
        self.socket.close()
        for fd in self.stored.values():
            os.close(fd)


@pytest.fixture
def manager(place: Path) -> Iterator[Manager]:
    made = Manager(f"{place}/manager")
    yield made
    made.close()


def test_every_message_at_its_time(start: Start, place: Path, manager: Manager) -> None:
    os.mkfifo(place / "gate")
    script = f'test -e {place}/open || cat {place}/gate > /dev/null; exec "$0" "$@"'
    master = start("-n", "1", "-m", "notify", "-b", "127.0.0.1:0", "--graceful-timeout", "20", "--",
                   "sh", "-c", script, *WORKER, "notify",
                   environment={"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "1000000"})
    assert manager.wait_for("FDSTORE")["FDNAME"] == "einhornpy-0"
    first = manager.wait_for("STATUS")
    assert first["STATUS"] == "starting: 0 of 1 workers ready"
    assert int(first["EXTEND_TIMEOUT_USEC"]) > 50_000_000
    assert not any("READY" in message
                   for message in manager.messages), "ready before its workers are"
    (place / "gate").write_text("")
    (place / "open").touch()
    assert "ready: 1 of 1" in manager.wait_for("READY", "1")["STATUS"]
    for _ in range(3):
        manager.wait_for("WATCHDOG", "1")
    assert master.cli("upgrade").returncode == 0
    reloading = manager.wait_for("RELOADING", "1")
    assert int(reloading["MONOTONIC_USEC"]) > 0
    assert "on generation 2" in manager.wait_for("READY", "1")["STATUS"]
    # The next master of this process says nothing twice.
    before = len(manager.messages)
    assert master.cli("reload").returncode == 0
    # Its worker can't go at once: a stop that is over in the turn in which it begins wants no
    # patience.
    worker = master.status()["workers"][0]["pid"]
    os.kill(worker, signal.SIGSTOP)
    master.signal(signal.SIGTERM)
    stopping = manager.wait_for("STOPPING", "1")
    assert stopping["STATUS"].startswith("stopping: ")
    patience = stopping if "EXTEND_TIMEOUT_USEC" in stopping else manager.wait_for(
        "EXTEND_TIMEOUT_USEC")
    assert int(patience["EXTEND_TIMEOUT_USEC"]) > 15_000_000
    os.kill(worker, signal.SIGCONT)
    assert master.wait_exit() == 0
    assert not any("READY" in message or "RELOADING" in message
                   for message in manager.messages[before:])


def test_hup_reloads_and_a_refused_release_is_ready_again(start: Start, place: Path,
                                                          manager: Manager) -> None:
    broken = place / "broken"
    script = f'test -e {broken} && exit 9; exec "$0" "$@"'
    master = start("-n", "1", "-m", "notify", "--max-failures", "1", "--", "sh", "-c", script,
                   *WORKER, "notify", environment={"NOTIFY_SOCKET": manager.path})
    manager.wait_for("READY", "1")
    broken.touch()
    os.kill(master.pid, signal.SIGHUP)
    manager.wait_for("RELOADING", "1")
    assert "rolled-back: generation 2 was refused" in manager.wait_for("READY", "1")["STATUS"]


def test_workers_do_not_get_what_is_the_masters(start: Start, place: Path,
                                                manager: Manager) -> None:
    master = start(
        "-n", "1", "-m", "notify", "--", *WORKER, "notify", f"report={place}/report", environment={
            "NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "1000000", "LISTEN_FDS": "2",
            "LISTEN_PID": "1"})
    master.wait_ready()
    report = (place / "report").read_text()
    assert manager.path not in report
    assert "WATCHDOG_USEC" not in report
    assert "LISTEN_FDS" not in report


def test_an_abstract_socket_and_one_that_nobody_reads(start: Start) -> None:
    name = f"einhornpy-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract:
        abstract.bind("\0" + name)
        abstract.settimeout(DEADLINE)
        master = start("-n", "1", "-m", "notify", "--", *WORKER, "notify",
                       environment={"NOTIFY_SOCKET": f"@{name}"})
        assert b"STATUS=" in abstract.recv(4096)
        for _ in range(30):
            assert master.cli("scale", "+1").returncode == 0
        assert master.status()["target"] == 31


def test_what_found_no_room_is_said_again(start: Start, place: Path, manager: Manager) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as flood:
        flood.setblocking(False)
        flood.connect(manager.path)
        with contextlib.suppress(BlockingIOError):
            while True:
                flood.send(b"FULL=1")
    master = start("-n", "1", "-m", "notify", "-b", "127.0.0.1:0", "--", *WORKER, "notify",
                   environment={"NOTIFY_SOCKET": manager.path})
    master.wait_ready()
    # Either may be the first that finds room, since we read while it writes.
    wait_until(
        lambda: manager.read() and manager.stored and any("READY" in message
                                                          for message in manager.messages), "both")
    assert list(manager.stored) == ["einhornpy-0"]
    (ready,) = [message for message in manager.messages if "READY" in message]
    assert "ready: 1 of 1" in ready["STATUS"]


def test_what_is_said_is_a_pure_function_of_the_pool() -> None:
    pool = new_pool(Recipe(("app",), "/", graceful_timeout=10.0), 1, Policy(ready_timeout=60.0))
    lines, told = systemd.messages(pool, systemd.Told(), 0.0)
    assert lines == ["STATUS=starting: 0 of 1 workers ready"]
    pool = observe(pool, Spawned(1, 0, 1, 100), 1.0)
    lines, told = systemd.messages(pool, told, 1.0)
    assert lines == ["EXTEND_TIMEOUT_USEC=65000000"]
    assert systemd.messages(pool, told, 2.0) == ([], told)
    pool = observe(pool, SaidReady(1), 3.0)
    lines, told = systemd.messages(pool, told, 3.0)
    assert lines == ["READY=1", "STATUS=ready: 1 of 1 workers ready on generation 1"]
    # An upgrade that begins and ends between two looks is told of all the same.
    refused = observe(pool, UpgradeRequested(Terms(), "signal HUP", 0.0), 2.0)
    refused = observe(refused, UpgradeRefused(refused.newest, "its directory is gone", None, 0.0),
                      2.0)
    lines, after = systemd.messages(refused, told, 2.0)
    assert lines == ["RELOADING=1", "MONOTONIC_USEC=2000000"]
    lines, after = systemd.messages(refused, after, 2.0)
    assert lines == [
        "READY=1", "STATUS=rolled-back: generation 2 was refused: its directory is gone"]
    assert systemd.messages(refused, after, 2.0) == ([], after)
    pool = observe(pool, StopRequested(Stopping.GRACEFUL), 4.0)
    lines, told = systemd.messages(pool, told, 4.0)
    assert lines[0] == "STOPPING=1"


# --- sockets that it gives ---


def given_sockets(sockets: list[tuple[str, int]], arguments: list[str],
                  environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start einhornpy as systemd does: descriptors at 3, 4, …, and their names."""
    script = (
        'import os, sys; os.environ["LISTEN_PID"] = str(os.getpid()); os.execv(sys.argv[1], sys.argv[1:])'
    )
    shuffle = "".join(f"os.dup2({fd}, {100 + position});"
                      for position, (_, fd) in enumerate(sockets)) + "".join(
                          f"os.dup2({100 + position}, {3 + position});"
                          for position in range(len(sockets)))
    names = ":".join(name for name, _ in sockets)
    return subprocess.Popen(
        [sys.executable, "-c", f"import os; {shuffle} {script}", EINHORNPY, *arguments],
        env=environment | {"LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": names},
        pass_fds=[fd for _, fd in sockets], stderr=subprocess.PIPE)


@pytest.fixture
def given(place: Path) -> Iterator[Callable[..., Master]]:
    """Start masters with sockets of systemd's; they are stopped afterwards."""
    masters: list[Any] = []

    def factory(sockets: list[tuple[str, int]], *arguments: str, **environment: str) -> Any:
        path = f"{place}/given{len(masters)}.sock"
        process = given_sockets(sockets, ["-d", path, "-c", f"given{len(masters)}", *arguments],
                                base_environment(place) | environment)
        master = Given(path, process, base_environment(place))
        masters.append(master)
        return master

    yield factory
    for master in masters:
        if master.process.poll() is None:
            master.process.terminate()
        master.process.communicate(timeout=60)


class Given(Master):
    """A master that was not started by the harness."""

    def __init__(self, path: str, process: subprocess.Popen[bytes], environment: dict[str,
                                                                                      str]) -> None:
        self._path = path
        self.process = process
        self.pid = process.pid
        self.environment = environment
        self._recorders = []
        wait_listening(Path(path))

    def log(self) -> str:
        return ""


def listener() -> socket.socket:
    made = socket.socket()
    made.bind(("127.0.0.1", 0))
    made.listen(10)
    return made


def test_given_sockets_are_the_listeners_with_their_names(given: Callable[..., Master],
                                                          place: Path) -> None:
    with listener() as web, listener() as admin:
        master = given([("web", web.fileno()), ("admin", admin.fileno())], "-n", "1", "-m",
                       "notify", "--", *WORKER, "notify", "serve", f"report={place}/report")
        document = master.wait_ready()
        assert [each["address"] for each in document["listeners"]] == [
            f"127.0.0.1:{each.getsockname()[1]}" for each in (web, admin)]
        assert get(web.getsockname())[0] == 200
        assert '"LISTEN_FDNAMES": "web:admin"' in (place / "report").read_text()


def test_the_same_socket_given_twice_is_one_listener(given: Callable[..., Master]) -> None:
    with listener() as web, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        master = given([("web", web.fileno()), ("einhornpy-0", web.fileno()),
                        ("udp", datagrams.fileno())], "-n", "1", "-m", "notify", "--", *WORKER,
                       "notify")
        assert len(master.wait_ready()["listeners"]) == 1


def test_bind_chooses_among_given_sockets(given: Callable[..., Master], place: Path) -> None:
    with listener() as web, listener() as admin, listener() as unused:
        address = f"127.0.0.1:{web.getsockname()[1]}"
        master = given([("unused", unused.fileno()), ("admin", admin.fileno()),
                        ("web", web.fileno())], "-b", address, "-b", "fd://admin", "-b",
                       "127.0.0.1:0", "-n", "1", "-m", "notify", "--", *WORKER, "notify")
        found = [each["address"] for each in master.wait_ready()["listeners"]]
        assert found[:2] == [address, f"127.0.0.1:{admin.getsockname()[1]}"]
        assert len(found) == 3


def test_a_name_that_nobody_gave_is_one_line(place: Path) -> None:
    result = subprocess.run([EINHORNPY, "-b", "fd://web", "--", "true"],
                            env=base_environment(place), cwd=place, text=True, capture_output=True,
                            timeout=DEADLINE)
    assert result.returncode == 1
    assert result.stderr == "einhornpy: cannot listen on fd://web: systemd gave no listening stream socket of this name\n"


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_killed_master_refuses_nobody_where_systemd_keeps_its_sockets(
    given: Callable[..., Master], place: Path, manager: Manager, kind: str
) -> None:
    """The master gets SIGKILL under load; the next one gets the same sockets. Requests in hand are
    finished by the old workers, later ones wait in the queue; not one connection is refused."""
    bind = "127.0.0.1:0" if kind == "tcp" else f"unix:{place}/app"
    arguments = [
        "-n", "2", "-b", bind, "--chdir",
        str(EXAMPLE), "--",
        str(Path(EINHORNPY).parent / "gunicorn"), "-k", "gthread", "--threads", "4", "app:wsgi"]
    first = given([], *arguments, NOTIFY_SOCKET=manager.path, IMPORT_SECONDS="0.2")
    manager.wait_for("READY", "1")
    address = first.address if kind == "tcp" else f"{place}/app"
    with Load(address, rate=50, keep_alive=0.0) as load:
        first_address = first.status()["listeners"][0]["address"]
        old = [worker["pid"] for worker in first.status()["workers"]]
        first.process.kill()
        first.process.wait(60)
        second = given(list(manager.stored.items()), *arguments, NOTIFY_SOCKET=manager.path,
                       IMPORT_SECONDS="0.2")
        second.wait_ready()
        assert second.status()["listeners"][0]["address"] == first_address
        for pid in old:
            wait_gone(pid)
        wait_until(lambda: load.elapsed() > 3, "some more load")
    assert not load.report.failures, load.report.why()
    assert second.stop() == 0
    if kind == "unix":
        assert not (
            place /
            "app").exists(), "the socket file is removed at the end, as its maker would have done"


# --- its own programs ---


@pytest.mark.skipif(ACTIVATE is None,
                    reason="systemd-socket-activate is not installed (Debian's package systemd)")
def test_under_the_real_socket_activation(place: Path) -> None:
    with listener() as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([
        str(ACTIVATE), "-l", f"127.0.0.1:{port}", "--fdname=web", f"-EXDG_RUNTIME_DIR={place}",
        f"-EPATH={os.environ['PATH']}", EINHORNPY, "-c", "act", "-n", "1", "-m", "notify", "--",
        *WORKER, "notify", "serve", f"report={place}/report"], stderr=subprocess.DEVNULL, cwd=place)
    try:
        assert wait_until(lambda: answered(port), "an answer")[0] == 200
        assert '"LISTEN_FDNAMES": "web"' in (place / "report").read_text()
        stopped = subprocess.run([EINHORNPY, "stop", "-c", "act"],
                                 env=base_environment(place) | {"XDG_RUNTIME_DIR": str(place)},
                                 timeout=DEADLINE)
        assert stopped.returncode == 0
        assert process.wait(DEADLINE) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def answered(port: int) -> tuple[int, str] | None:
    try:
        return get(("127.0.0.1", port))
    except (ConnectionRefusedError, ConnectionResetError):
        return None


COMMAND_LINES = [[
    "-c", "shop", "-n", "4", "-b", ":80", "-b", "127.0.0.1:8000", "--env", 'A=b "c" %d $e', "--",
    "/bin/sh", "-c", 'exec x "$Y"'], ["--", "/bin/true"],
                 [
                     "--graceful-timeout", "12d", "--", "/bin/echo", "a\rExecStartPost=/bin/false",
                     "%t/x y", "b\nc", "\t;\\"],
                 [
                     "-m", "manual", "--graceful-timeout", "60", "--keep-children-on-exit", "-q",
                     "--user", "nobody", "--group", "nogroup", "--", "/bin/true"],]


def unit_of(place: Path, *words: str) -> str:
    result = subprocess.run([EINHORNPY, "unit", *words], env=base_environment(place), cwd=place,
                            text=True, capture_output=True, timeout=DEADLINE)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.skipif(ANALYZE is None,
                    reason="systemd-analyze is not installed (Debian's package systemd)")
@pytest.mark.parametrize("words", COMMAND_LINES, ids=["system", "plain", "nasty", "privileges"])
@pytest.mark.parametrize("of_user", [False, True], ids=["", "user"])
def test_units_pass_systemds_own_check(place: Path, words: list[str], of_user: bool) -> None:
    (place / "x.service").write_text(unit_of(place, *(["--user"] if of_user else []), *words))
    (place / "runtime").mkdir(mode=0o700)
    environment = {
        **os.environ, "XDG_RUNTIME_DIR": f"{place}/runtime", "SYSTEMD_LOG_LEVEL": "warning"}
    checked = subprocess.run(
        [str(ANALYZE), "verify", *(["--user"] if of_user else ["--system"]), f"{place}/x.service"],
        env=environment, text=True, capture_output=True, timeout=DEADLINE)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_what_a_unit_says(place: Path) -> None:
    shop = unit_of(place, *COMMAND_LINES[0])
    assert f"ExecStart={EINHORNPY} -c shop -d /run/einhornpy/shop/shop.sock --number 4 --bind :80 " in shop
    assert '--env "A=b \\"c\\" %%d $$e" -- /bin/sh -c "exec x \\"$$Y\\""\n' in shop
    for line in ("Type=notify", "WatchdogSec=30", "FileDescriptorStoreMax=2",
                 "KillMode=control-group", "NoNewPrivileges=yes", f"WorkingDirectory={place}",
                 "CapabilityBoundingSet=CAP_NET_BIND_SERVICE", "#User=shop",
                 "RuntimeDirectory=einhornpy/shop"):
        assert f"\n{line}\n" in shop, line
    assert unit_of(place, *COMMAND_LINES[2]).count("ExecStartPost") == 1 == unit_of(
        place, *COMMAND_LINES[2]).count("%%t/x y")
    other = unit_of(place, *COMMAND_LINES[3])
    for line in ("User=nobody", "Group=nogroup", "TimeoutStopSec=75", "KillMode=mixed",
                 "CapabilityBoundingSet="):
        assert f"\n{line}\n" in other, line
    assert "--keep-children-on-exit --quiet -- /bin/true" in other
    assert "WantedBy=default.target" in unit_of(place, "--user", "--", "/bin/true")


@pytest.mark.parametrize(("words", "line"),
                         [(("--user", "shop", "--", "true"), "--user as the first word means"),
                          (("--nice", "-5", "--", "true"), "--nice: -5 needs rights"),
                          (("--", "no-such-program"), "cannot find 'no-such-program' in PATH"),
                          (("--nope", "--", "x"), "No such option '--nope'"),
                          (("-n", "x", "--", "true"), "--number: got 'x'"), ((), "no command"),])
def test_a_unit_of_nothing_sensible_is_one_line(place: Path, words: tuple[str, ...],
                                                line: str) -> None:
    result = subprocess.run([EINHORNPY, "unit", *words], env=base_environment(place), cwd=place,
                            text=True, capture_output=True, timeout=DEADLINE)
    assert (result.returncode, result.stderr.count("\n"), line
            in result.stderr) == (2, 1, True), result.stderr


def test_the_command_of_a_unit_really_runs(start: Start, place: Path) -> None:
    """What ExecStart says is taken apart as systemd would do it, and started."""
    import shlex

    text = unit_of(place, "-c", "shop", "-n", "1", "-m", "notify", "--env", 'A=b "c" %d $e', "--",
                   *WORKER, "notify", f"report={place}/report")
    line = next(each for each in text.splitlines() if each.startswith("ExecStart="))
    words = [
        word.replace("%%", "%").replace("$$", "$")
        for word in shlex.split(line.removeprefix("ExecStart="))][1:]
    words[words.index("-d") + 1] = f"{place}/shop.sock"
    master = start(*words)
    master.wait_ready()
    assert '"A": "b \\"c\\" %d $e"' in (place / "report").read_text()
    assert str(APPS) in " ".join(words)
