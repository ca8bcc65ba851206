"""The master's own places, swept away while it lives: they are made again, workers go on, the name
stays taken, and nobody's files are removed but one's own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from einhornpy.control.client import Client
from einhornpy.shared.protocol import places_for_sockets, socket_directories
from einhornpy.supervisor.places import name_lock, runtime_directory
from einhornpy.supervisor.places.name_lock import NameTaken, hold_file, hold_for_good
from einhornpy.supervisor.places.runtime_directory import Rights, RuntimeDirectory

from ..harness import APPS, BIN, EXAMPLE, Master, get, process_state, wait_listening, wait_until
from ..system.test_attributes import as_root

Start = Callable[..., Master]
WORKER = [sys.executable, str(APPS / "worker.py"), "notify"]
# Says that it is ready, then five times a second that it lives; counts in a file when that can't be
# said.
BEATING = [sys.executable, "-c", """
import os, signal, socket
def say(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        try:
            notify.sendto(text, os.environ["NOTIFY_SOCKET"])
        except OSError:
            with open("missed", "a") as file:
                file.write("x")
say(b"READY=1")
while True:
    say(b"WATCHDOG=1")
    signal.sigtimedwait([], 0.2)
"""]


def files_of(master: Master) -> list[Path]:
    return sorted(Path(master.path).parent.iterdir())


def wait_made_again(master: Master, files: list[Path]) -> None:
    wait_until(lambda: all(file.exists() for file in files), "the files once more", master.log)
    master.wait_log("places made again")


@pytest.mark.parametrize("what", ["the directory", "and what is above", "the files"])
def test_what_is_swept_away_is_made_again(start: Start, place: Path, what: str) -> None:
    """An idle master notices by itself; clients, new workers and a reload find everything."""
    pidfile = place / "pid"
    master = start("-n", "2", "-c", "web", "-e", str(pidfile), "-m", "notify", "--", *WORKER)
    master.wait_ready()
    files = files_of(master)
    pidfile.unlink()
    match what:
        case "the directory":
            shutil.rmtree(files[0].parent)
        case "and what is above":
            shutil.rmtree(place / "run")
        case "the files":
            for file in files:
                file.unlink()
    wait_made_again(master, files)
    assert master.log().count("places made again") == 1
    assert pidfile.read_text() == f"{master.pid}\n"
    assert master.cli("status", "-c", "web").returncode == 0
    assert f"{master.pid}" in master.cli("list").stdout
    for command in ("upgrade", "reload", "upgrade"):
        done = master.cli(command)
        assert done.returncode == 0, done.stderr + master.log()
    assert master.status()["ready"] == 2
    assert master.stop() == 0
    assert not any(file.exists() for file in [*files, pidfile])


def test_who_is_started_meanwhile_finds_a_place_to_say_so(start: Start) -> None:
    """By its path, and only once: it isn't kept waiting until the sweep is over."""
    master = start("-n", "1", "-c", "web", "-m", "notify", "--ready-timeout", "300", "--", *WORKER)
    pid = master.wait_ready()["workers"][0]["pid"]
    record = master.record()
    for count in (1, 2, 3):
        for file in files_of(master):
            file.unlink()
        os.kill(pid, signal.SIGKILL)
        record.wait_for("worker-died", pid=pid)
        pid = record.wait_for("worker-ready", count)["pid"]


@pytest.mark.parametrize("which", [".sock", ".lock", ".notify"])
def test_each_file_is_made_again_by_itself(start: Start, which: str) -> None:
    master = start("-n", "1", "-c", "web", "-m", "notify", "--", *WORKER)
    master.wait_ready()
    files = files_of(master)
    gone = Path(master.path).with_suffix(which)
    others = {file: file.lstat().st_ino for file in files if file != gone}
    gone.unlink()
    wait_made_again(master, files)
    assert {file: file.lstat().st_ino for file in others} == others
    assert master.cli("upgrade").returncode == 0, master.log()


@pytest.mark.parametrize(("suffix", "kind"),
                         [(".sock", socket.SOCK_STREAM), (".notify", socket.SOCK_DGRAM)])
def test_a_file_in_the_place_of_ours_is_somebody_elses(
        start: Start, place: Path, suffix: str, kind: socket.SocketKind) -> None:
    """What listens there now is not ours to remove; it is told of once, and taken back when it has
    gone."""
    master = start("-n", "1", "-c", "web", "-m", "notify", "--", *WORKER)
    master.wait_ready()
    path = Path(master.path).with_suffix(suffix)
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(f"{place}/other")
        if kind == socket.SOCK_STREAM:
            other.listen()
        os.rename(f"{place}/other", path)
        theirs = os.lstat(path).st_ino
        assert "another master listens there" in master.wait_log("places lost")
        assert os.lstat(path).st_ino == theirs
    wait_made_again(master, [path])
    assert master.log().count("places lost") == 1
    assert master.status()["ready"] == 1


def test_the_name_stays_taken_whatever_becomes_of_the_file(start: Start, place: Path) -> None:
    """While the first one can't do anything about it: it is stopped."""
    first = start("-n", "1", "-c", "web", "-m", "notify", "--", *WORKER)
    first.wait_ready()
    files = files_of(first)
    first.signal(signal.SIGSTOP)
    try:
        wait_until(lambda: process_state(first.pid) == "T", "it stopped")
        shutil.rmtree(files[0].parent)
        for _ in range(3):
            second = start("-n", "1", "-c", "web", "-m", "notify", "--", *WORKER)
            assert second.wait_exit() == 1
            assert f"another master named web is running (pid {first.pid})" in second.log()
    finally:
        first.signal(signal.SIGCONT)
    wait_made_again(first, files)
    assert first.status()["ready"] == 1


def test_who_leaves_removes_nothing_of_who_has_come(start: Start, place: Path) -> None:
    """Two of the same name can be where their locks are on files of their own."""
    path = place / "web.sock"
    first = start("-n", "1", "-d", str(path), "--lockfile", str(place / "1"), "-m", "notify", "--",
                  *WORKER)
    first.wait_ready()
    first.signal(signal.SIGSTOP)
    try:
        wait_until(lambda: process_state(first.pid) == "T", "it stopped")
        for suffix in (".sock", ".notify"):
            path.with_suffix(suffix).unlink()
        second = start("-n", "1", "-d", str(path), "--lockfile", str(place / "2"), "-m", "notify",
                       "--", *WORKER)
        second.wait_log("worker ready")
    finally:
        first.signal(signal.SIGCONT)
    assert first.stop() == 0
    with Client(str(path), timeout=60) as client:
        assert client.ask("ping")["result"]["pid"] == second.pid
    assert path.with_suffix(".notify").exists()


def test_gunicorn_needs_no_file_of_ours(start: Start, place: Path) -> None:
    """Where nothing can be made again, since somebody has put a file in the directory's place, its
    workers become ready and are recycled all the same, and whoever spoke by path isn't hung."""
    where = place / "own"
    where.mkdir()
    master = start("-n", "1", "-d", str(where / "web.sock"), "--", str(BIN / "gunicorn"), "-b",
                   "127.0.0.1:0", "--max-requests", "1", "-t", "1", "app:wsgi", cwd=EXAMPLE)
    master._path = str(where / "web.sock")
    wait_listening(where / "web.sock")
    status = master.wait_ready()
    host, _, port = status["listeners"][0]["address"].rpartition(":")
    record = master.record()
    shutil.rmtree(where)
    where.write_text("in the way\n")
    master.wait_log("places lost")
    assert get((host, int(port)))[0] == 200
    record.wait_for("worker-due")
    record.wait_for("worker-ready")
    os.unlink(where)
    master.wait_log("places made again")
    assert master.status()["ready"] == 1
    assert not [each for each in record.events if each["event"] == "worker-hung"]


def test_silence_is_no_fault_where_nobody_can_be_reached(start: Start, place: Path) -> None:
    where = place / "own"
    where.mkdir()
    master = start("-n", "1", "-d", str(where / "web.sock"), "-t", "1", "-m", "notify", "--",
                   *BEATING)
    master._path = str(where / "web.sock")
    wait_listening(where / "web.sock")
    master.wait_ready()
    pid = master.status()["workers"][0]["pid"]
    shutil.rmtree(where)
    where.write_text("in the way\n")
    master.wait_log("places lost")
    # it would have been patient for five of them
    wait_until((place / "missed").exists, "the first that is missed", master.log)
    wait_until(lambda: len((place / "missed").read_text()) > 12, "more", master.log)
    os.unlink(where)
    master.wait_log("places made again")
    assert master.status()["workers"][0]["pid"] == pid


def in_a_directory(place: Path, monkeypatch: pytest.MonkeyPatch,
                   lockfile: str | None) -> tuple[RuntimeDirectory, list[socket.socket]]:
    """One that may live in two places, and what it has opened."""
    usual = [f"{place}/run/einhornpy", f"{place}/tmp"]
    monkeypatch.setattr(runtime_directory, "places_for_sockets", lambda environ, uid: usual)
    (place / "run").mkdir()
    opened: list[socket.socket] = []
    ours = RuntimeDirectory("web", None, lockfile, {}, Rights())
    ours.on_open = opened.append
    ours.claim()
    return ours, opened


def test_another_place_is_found_where_the_first_cannot_be_had(
        place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's $XDG_RUNTIME_DIR is gone with his login, and only root can make it again."""
    ours, opened = in_a_directory(place, monkeypatch, None)
    shutil.rmtree(place / "run")
    (place / "run").write_text("in the way\n")
    ours.make_again()
    assert ours.path == f"{place}/tmp/web.sock"
    assert ours.notify_path == f"{place}/tmp/web.notify"
    assert ours.lost() == []
    assert [each.fileno() >= 0 for each in opened] == [False, True]
    ours.close()
    assert list((place / "tmp").iterdir()) == []


@pytest.mark.parametrize("what", ["the pidfile", "the directory, by another name"])
def test_an_idle_master_notices_what_is_not_told_of_its_own_directory(start: Start, place: Path,
                                                                      what: str) -> None:
    (place / "elsewhere").mkdir()
    pidfile = place / "elsewhere" / "pid"
    master = start("-n", "1", "-c", "web", "-e", str(pidfile), "-m", "notify", "--", *WORKER)
    master.wait_ready()
    files = [pidfile]
    if what == "the pidfile":
        pidfile.unlink()
    else:
        files = files_of(master)
        files[0].parent.rename(files[0].parent.with_name("renamed"))
    wait_made_again(master, files)
    shutil.rmtree(files[0].parent.with_name("renamed"), ignore_errors=True)


def test_a_lock_empties_no_file_that_is_none(place: Path) -> None:
    (place / "precious").write_text("precious\n")
    (place / "web.lock").symlink_to("precious")
    with pytest.raises(NameTaken, match="holds something else than a pid"):
        hold_file(f"{place}/web.lock", "web")
    assert (place / "precious").read_text() == "precious\n"


@as_root
def test_a_lock_is_held_where_there_is_no_room_for_the_pid(place: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(place)], check=True)
    try:
        (place / "full").write_bytes(b"x" * 4096)
        for _ in range(2):  # one that was not made in full isn't in the way of the next
            lock = hold_file(f"{place}/web.lock", "web")
            with pytest.raises(NameTaken, match="another master named web is running"):
                hold_file(f"{place}/web.lock", "web")
            os.close(lock)
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_lock_of_its_own_stays_where_it_is_when_the_rest_moves(
        place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = in_a_directory(place, monkeypatch, f"{place}/own.lock")
    shutil.rmtree(place / "run")
    (place / "run").write_text("in the way\n")
    ours.make_again()
    assert (ours.path, ours.lost()) == (f"{place}/tmp/web.sock", [])
    with pytest.raises(NameTaken, match="another master"):
        hold_file(f"{place}/own.lock", "web")
    ours.close()
    assert not (place / "own.lock").exists()


def test_root_lives_nowhere_that_a_logout_removes() -> None:
    login = {"XDG_RUNTIME_DIR": "/run/user/0"}
    assert places_for_sockets(login, 0) == ["/run/einhornpy", "/tmp/einhornpy-0"]
    assert "/run/user/0/einhornpy" in socket_directories(login, 0)  # where an older one may be
    assert places_for_sockets({"XDG_RUNTIME_DIR": "/srv/run"}, 0)[0] == "/srv/run/einhornpy"
    assert places_for_sockets({"XDG_RUNTIME_DIR": "/run/user/7"}, 7)[0] == "/run/user/7/einhornpy"


def test_only_a_living_process_of_ours_holds_a_name(place: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"{place}/web.lock"
    held = hold_for_good(path, "web")
    assert held is not None
    with held:
        with pytest.raises(NameTaken, match="another master named web is running"):
            hold_for_good(path, "web")
        monkeypatch.setattr(name_lock, "is_alive", lambda pid: False)
        assert hold_for_good(path, "web") is None
        monkeypatch.undo()
        user = os.geteuid()
        address = name_lock._address(path)
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
        monkeypatch.setattr(name_lock, "_address", lambda path: address)
        assert hold_for_good(path, "web") is None  # a stranger's
        monkeypatch.undo()
        name_lock.turn_away(held)
        with pytest.raises(BlockingIOError):
            held.accept()
    again = hold_for_good(path, "web")
    assert again is not None
    again.close()
