"""Whom a client believes: somebody else's sockets in the usual places, silent ones, full ones, and
those that are named."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import select
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from einhornpy.control import finding
from einhornpy.shared import protocol

from ..control_socket.test_control import WORKER
from ..harness import DEADLINE, EINHORNPY, Master, base_environment

Start = Callable[..., Master]
NOBODY = pwd.getpwnam("nobody").pw_uid
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
READY = {
    "version": 1, "gate": "ready", "reason": "all is well", "name": "web", "generation": 2,
    "release": "abc", "target": 1, "ready": 1, "uptime_seconds": 9.0,
    "master": {"pid": 1, "version": "0.1.0", "socket": "x", "reloads": 0}, "workers": [],
    "listeners": [], "labels": {}, "upgrade": None, "newest_generation": 2}


def run(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([EINHORNPY, *arguments], env=base_environment(place), cwd=place,
                          capture_output=True, text=True, timeout=DEADLINE)


@contextlib.contextmanager
def listening(path: Path, uid: int, backlog: int = 100) -> Iterator[socket.socket]:
    """A socket at which a process of user `uid` began to listen, in a directory that it made if it
    wasn't there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        pid = os.fork()
        if pid == 0:
            try:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                os.umask(0)
                if not path.parent.exists():
                    path.parent.mkdir(mode=0o755)
                listener.bind(str(path))
                listener.listen(backlog)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        yield listener


@contextlib.contextmanager
def lying(listener: socket.socket, name: str = "web",
          answers: Mapping[str, bytes] | None = None) -> Iterator[list[str]]:
    """Say at this socket that all is well, whatever is asked; what was asked is listed. `answers`:
    what is said instead to some commands."""
    asked: list[str] = []
    reader, writer = os.pipe()

    def answer() -> None:
        connections: dict[int, socket.socket] = {}
        while True:
            ready, _, _ = select.select([reader, listener.fileno(), *connections], [], [])
            if reader in ready:
                break
            if listener.fileno() in ready:
                connection = listener.accept()[0]
                connections[connection.fileno()] = connection
            for each in [connections[fd] for fd in ready if fd in connections]:
                data = each.recv(65536)
                for line in data.splitlines():
                    request = json.loads(line)
                    asked.append(request["command"])
                    result = {"ping": {"name": name, "pid": 1}, "status": READY
                              }.get(request["command"],
                                    {"outcome": "done", "upgrade": {"to": 2, "outcome": "done"}})
                    said = {
                        "request_id": request["id"], "ok": True, "result": result,
                        "message": "Upgrade done"}
                    each.sendall((answers or {}).get(request["command"],
                                                     json.dumps(said).encode()) + b"\n")
                if not data:
                    connections.pop(each.fileno()).close()
        for connection in connections.values():
            connection.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield asked
    finally:
        os.write(writer, b"x")
        thread.join(DEADLINE)
        os.close(reader)
        os.close(writer)


@as_root
def test_nobody_is_believed_who_squats_in_the_place_of_a_master(place: Path) -> None:
    """`einhornpy-0` in a directory where everybody may make one, as /tmp is."""
    place.chmod(0o1777)
    with listening(place / "einhornpy-0" / "web.sock",
                   NOBODY) as listener, lying(listener) as asked:
        for command in (["status", "--release", "abc"], ["upgrade", "--release",
                                                         "abc"], ["status", "-c", "web"], ["list"]):
            refused = run(place, *command)
            assert refused.returncode == 69, (command, refused.stdout, refused.stderr)
            assert "ready" not in refused.stdout
        line = " ".join(run(place, "status").stderr.split())
        assert f"passed over {place}/einhornpy-0: it belongs to user {NOBODY}" in line
    assert asked == [], "it isn't even asked"
    shutil.rmtree(place / "einhornpy-0")
    real = place / "elsewhere"
    with listening(real / "web.sock", NOBODY) as listener, lying(listener) as asked:
        (place / "einhornpy-0").symlink_to(real)
        assert run(place, "status").returncode == 69
        (place / "einhornpy-0").unlink()
        (place / "einhornpy-0").mkdir()  # root's own, but open to everybody
        (place / "einhornpy-0").chmod(0o777)
        (place / "einhornpy-0" / "web.sock").symlink_to(real / "web.sock")
        assert run(place, "status").returncode == 69
        # closed, and what was put there is still another user's
        (place / "einhornpy-0").chmod(0o755)
        told = run(place, "status")
        assert (told.returncode, f"user {NOBODY} listens there"
                in " ".join(told.stderr.split())) == (69, True)
    assert asked == []


@as_root
def test_a_false_master_beside_a_real_one_changes_nothing(start: Start, place: Path) -> None:
    place.chmod(0o1777)
    master = start("-n", "1", "-c", "web", "-m", "notify", "--", *WORKER, "notify")
    master.wait_ready()
    with listening(place / "einhornpy-0" / "web.sock", NOBODY) as listener, lying(listener):
        assert run(place, "status").returncode == 0
        assert run(place, "upgrade", "--release", "mine", "--no-wait").returncode == 0
        assert run(place, "list").stdout.split() == ["web", "pid", str(master.pid), master.path]
    assert master.status()["newest_generation"] == 2


@as_root
def test_whose_word_counts_at_a_path_that_is_named(place: Path) -> None:
    """That of our own user, of root, or of the directory's owner, where nobody else can have made
    the directory."""

    def status(path: Path) -> int:
        return run(place, "status", "-d", str(path)).returncode

    place.chmod(0o1777)
    for directory, believed in ((place / f"einhornpy-{NOBODY}", True), (place / "theirs", False)):
        with listening(directory / "web.sock", NOBODY) as listener, lying(listener):
            assert status(directory / "web.sock") == (0 if believed else 69), directory
    place.chmod(0o755)
    with listening(place / "theirs" / "again.sock", NOBODY) as listener, lying(listener):
        assert status(
            place / "theirs" /
            "again.sock") == 0, "root's own directory holds it, so root has let it be there"
        (place / "theirs").chmod(0o777)
        with listening(place / "theirs" / "other.sock", NOBODY - 1) as stranger, lying(stranger):
            refused = run(place, "status", "-d", f"{place}/theirs/other.sock")
        assert refused.returncode == 69
        assert f"user {NOBODY - 1} listens there" in " ".join(refused.stderr.split())
        open_to_all = place / "all"
        open_to_all.mkdir()
        open_to_all.chmod(0o1777)
        (open_to_all / "way").symlink_to(place / "theirs")
        assert status(open_to_all / "way" / "again.sock") == 69, "the way there may be anybody's"
    with listening(place / "mine.sock", 0) as listener, lying(listener):
        assert status(place / "mine.sock") == 0


@as_root
def test_a_service_of_another_user_speaks_for_itself_alone(place: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """`/run/einhornpy/NAME`, made by systemd for a service with `User=`: one socket of that name is
    believed."""
    place.chmod(0o755)
    directory = place / "system" / "shop"
    directory.mkdir(parents=True)
    os.chown(directory, NOBODY, NOBODY)
    monkeypatch.setattr(protocol, "SYSTEM_DIRECTORY", f"{place}/system")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    monkeypatch.setenv("TMPDIR", str(place))
    with listening(directory / "shop.sock", NOBODY) as its, listening(directory / "other.sock", NOBODY) as other, \
            lying(its, "shop"), lying(other) as asked:
        assert [each.path for each in finding.running()] == [f"{directory}/shop.sock"]
    assert asked == []


@as_root
def test_a_service_of_another_user_takes_no_other_name(place: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """`evil.sock` says that it is `good`, by its own mouth or by that of another; the real one of
    that name comes first."""
    place.chmod(0o755)
    system = place / "system"
    for name in ("evil", "good"):
        (system / name).mkdir(parents=True)
        os.chown(system / name, NOBODY, NOBODY)
    monkeypatch.setattr(protocol, "SYSTEM_DIRECTORY", str(system))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    monkeypatch.setenv("TMPDIR", str(place))
    with listening(system / "evil" / "evil.sock", NOBODY) as evil, lying(evil, "good") as asked:
        with pytest.raises(finding.NoMaster,
                           match=r"passed over .*evil.sock: it says that its name is 'good'"):
            finding.find("good", None)
        with pytest.raises(finding.NoMaster):
            finding.find(None, None)
        with listening(system / "good.sock", 0) as good, lying(good, "good"):
            (system / "evil" / "evil.sock").rename(system / "evil" / "away.sock")
            (system / "evil" / "evil.sock").symlink_to(system / "good.sock")
            with listening(system / "good" / "good.sock", NOBODY) as same, lying(same, "good"):
                assert finding.find("good", None) == f"{system}/good.sock"
                assert len(finding.running()) == 2, "both are listed"
    assert set(asked) == {"ping"}


@pytest.mark.parametrize("nonsense", [
    b"[" * 60000, b'{"result": {"name": "web", "pid": "1"}}', b'{"result": [1]}', b"7"])
def test_whoever_answers_a_ping_with_nonsense_is_no_master(place: Path, nonsense: bytes) -> None:
    (place / "run" / "einhornpy").mkdir(parents=True)
    with listening(place / "run" / "einhornpy" / "web.sock",
                   os.geteuid()) as listener, lying(listener, answers={"ping": nonsense}):
        told = run(place, "status")
    assert (told.returncode, "unforeseen" in told.stderr) == (69, False), told.stderr


@pytest.mark.parametrize(("command", "result"), [("status", {}),
                                                 ("status", READY | {"workers": [{}]}),
                                                 ("status", READY | {"uptime_seconds": "long"}),
                                                 ("status", READY | {"uptime_seconds": 1e999}),
                                                 ("history", {"upgrades": [1]}), ("show", {}),
                                                 ("upgrade", {"upgrade": {}}),])
def test_an_answer_of_another_form_is_told_as_one(place: Path, command: str,
                                                  result: dict[str, object]) -> None:
    """Of somebody who is believed, and is no master, or one of another version."""
    said = json.dumps({"ok": True, "result": result, "message": "it is done"}).encode()
    with listening(place / "web.sock",
                   os.geteuid()) as listener, lying(listener, answers={command: said}):
        told = run(place, command, "-d", f"{place}/web.sock", *(["1"] if command == "show" else []))
    assert told.returncode == 6, (told.stdout, told.stderr)
    line = " ".join(told.stderr.split())
    assert line.startswith(
        "einhornpy: whoever answers there is no master, or one of another version: its answer "
        "makes no sense ("
    )


def test_silent_masters_are_asked_at_the_same_time(place: Path) -> None:
    (place / "run" / "einhornpy").mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        for number in range(15):
            silent = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            silent.bind(f"{place}/run/einhornpy/s{number}.sock")
            silent.listen(5)
        begun = time.monotonic()
        listed = run(place, "list")
        assert time.monotonic() - begun < 15, "two seconds, not two for each"
    assert listed.stdout.count("no answer") == 15


def test_a_full_queue_is_not_taken_for_nobody(place: Path) -> None:
    (place / "run" / "einhornpy").mkdir(parents=True)
    path = place / "run" / "einhornpy" / "web.sock"
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(str(path))
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                waiting.setblocking(False)
                waiting.connect(str(path))
        late = run(place, "status", "--wait", "--timeout", "1.5")
        assert (late.returncode, "too many wait" in late.stderr) == (124, True), late.stderr
        assert run(place, "list").stdout.split()[:3] == ["web", "no", "answer"]
        # As soon as there is room, whoever waited is heard.
        with subprocess.Popen([EINHORNPY, "status"], env=base_environment(place),
                              stdout=subprocess.PIPE) as patient, lying(listener):
            assert patient.wait(DEADLINE) == 0
