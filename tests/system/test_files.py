"""Files where somebody else may write too: whatever he lays there, nothing of another place is
touched, and nobody waits."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from einhornpy.supervisor.outside.app_metrics import AppMetrics
from einhornpy.supervisor.places.pidfile import NoPidfile, remove_pidfile, write_pidfile
from einhornpy.supervisor.places.runtime_directory import NoRuntimeDirectory, Rights, claim
from einhornpy.supervisor.system import files

from ..harness import APPS, Master, wait_until

Start = Callable[..., Master]
WORKER = [sys.executable, str(APPS / "worker.py"), "notify"]
NOBODY = 65534
APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT

pytestmark = pytest.mark.skipif(os.geteuid() != 0,
                                reason="only root has something to lose to others")


@pytest.fixture
def theirs(place: Path) -> Path:
    """A directory of somebody else's, in which root works too."""
    place.chmod(0o755)
    made = place / "theirs"
    made.mkdir()
    os.chown(made, NOBODY, NOBODY)
    return made


@pytest.fixture
def victim(place: Path) -> Path:
    made = place / "victim"
    made.write_text("precious\n")
    made.chmod(0o600)
    return made


def lay(link: Path, target: Path | str, owner: int = NOBODY) -> Path:
    link.symlink_to(target)
    os.chown(link, owner, owner, follow_symlinks=False)
    return link


def as_nobody(action: Callable[[], object]) -> str:
    """Do something as another user, in a process of his; return what was raised, or nothing."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            action()
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        raised = said.read()
    os.waitpid(pid, 0)
    return raised


# --- which links are followed, which files are taken ---


def appended(path: Path | str, text: str = "line\n") -> None:
    fd = files.opened(str(path), APPEND, 0o640)
    os.write(fd, text.encode())
    os.close(fd)


def test_roots_own_links_are_followed_where_nobody_else_may_write(place: Path) -> None:
    (place / "data").mkdir()
    (place / "log").symlink_to("data/../data/log")
    (place / "all").symlink_to(place / "data")
    (place / "again").symlink_to("all/./log")
    for name in ("log", "all/log", "again", "data/log"):
        appended(place / name)
    assert (place / "data" / "log").read_text() == "line\n" * 4
    (place / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels"):
        appended(place / "loop")
    with pytest.raises(NotADirectoryError):
        appended(place / "log" / "x")
    with pytest.raises(IsADirectoryError):
        appended(place / "data" / "..")
    with pytest.raises(IsADirectoryError):
        appended("/")


@pytest.mark.parametrize(("mode", "owner"), [(0o755, NOBODY), (0o1777, 0), (0o777, 0)])
def test_a_link_where_others_may_write_is_not_followed(place: Path, victim: Path, mode: int,
                                                       owner: int) -> None:
    place.chmod(0o755)
    directory = place / "open"
    directory.mkdir()
    os.chown(directory, owner, owner)
    directory.chmod(mode)
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "log").write_text("precious\n")
    for by in (NOBODY, 0):
        lay(directory / f"log{by}", victim, by)
        lay(directory / f"way{by}", place / "elsewhere", by)
        for path in (directory / f"log{by}", directory / f"way{by}" / "log"):
            with pytest.raises(
                    PermissionError,
                    match=rf"the symbolic link \w+{by} on the way is not followed: it is user "
                          rf"{by}'s"
            ):
                appended(path)
    assert victim.read_text() == (place / "elsewhere" / "log").read_text() == "precious\n"


def test_in_a_guarded_directory_a_link_is_followed_if_it_is_roots(place: Path,
                                                                  victim: Path) -> None:
    """/var/log may be of a group that syslog is in; who made a link is known by its owner."""
    directory = place / "log"
    directory.mkdir(0o755)
    directory.chmod(0o775)
    os.chown(directory, 0, NOBODY)
    lay(directory / "good", victim, 0)
    lay(directory / "bad", victim)
    appended(directory / "good")
    with pytest.raises(PermissionError):
        appended(directory / "bad")
    assert victim.read_text() == "precious\nline\n"


def test_whoever_is_not_root_follows_the_links_of_a_directorys_owner(place: Path) -> None:
    """`current` is a link of the deploying user's, the app runs as somebody else."""
    place.chmod(0o755)
    for directory in ("app", "app/one"):
        (place / directory).mkdir()
        os.chown(place / directory, 1000, NOBODY)
        (place / directory).chmod(0o775)
    lay(place / "app" / "current", "one", 1000)
    lay(place / "app" / "other", "one", 1001)
    assert as_nobody(lambda: appended(place / "app" / "current" / "log")) == ""
    assert "user 1001's" in as_nobody(lambda: appended(place / "app" / "other" / "log"))
    with pytest.raises(PermissionError):
        appended(place / "app" / "current" / "log")


def test_only_a_plain_file_of_ones_own_is_taken_where_others_may_write(theirs: Path,
                                                                       victim: Path) -> None:
    appended(theirs / "new")
    (theirs / "his").touch()
    os.chown(theirs / "his", NOBODY, NOBODY)
    appended(theirs / "his")
    os.link(victim, theirs / "linked")
    os.mkfifo(theirs / "fifo")
    (theirs / "strange").touch()
    os.chown(theirs / "strange", 1000, 1000)
    reader = os.open(theirs / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    for name, why in (("linked", "another name elsewhere"), ("fifo", "no plain file"),
                      ("strange", "belongs to user 1000")):
        with pytest.raises(PermissionError, match=why):
            appended(theirs / name)
    os.close(reader)
    assert victim.read_text() == "precious\n"


@pytest.mark.parametrize("path", [
    "/dev/stdout", "/dev/stderr", "/dev/null", "/proc/self/fd/1", "/dev/fd/2", "/dev/full"])
def test_what_the_kernel_means_by_a_link_is_opened(path: str) -> None:
    fd = files.opened(path, APPEND)
    wanted = os.stat(path)
    assert (os.fstat(fd).st_dev, os.fstat(fd).st_ino) == (wanted.st_dev, wanted.st_ino)
    os.close(fd)


def test_however_fast_somebody_exchanges_a_name_it_leads_nowhere_else(theirs: Path,
                                                                      victim: Path) -> None:
    way, log = theirs / "way", theirs / "way" / "log"
    (theirs / "true").mkdir()
    os.chown(theirs / "true", NOBODY, NOBODY)
    (theirs.parent / "log").touch()
    pid = os.fork()
    if pid == 0:
        try:
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os.symlink(theirs / "true", way)
            for number in itertools.count():
                os.symlink(theirs.parent if number % 2 else victim, theirs / "next")
                os.rename(theirs / "next", log if number % 4 > 1 else theirs / "name")
                os.rename(theirs / "true", theirs / "spare")
                os.rename(theirs / "spare", theirs / "true")
        finally:
            os._exit(0)
    try:
        wait_until(lambda: (theirs / "name").is_symlink(), "the other one at work")
        for path in [theirs / "name", theirs / "true" / "log", log] * 300:
            with contextlib.suppress(OSError):
                appended(path)
            with contextlib.suppress(OSError):
                files.replace(str(path), b"1\n", 0o644)
            files.remove(str(path))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert victim.read_text() == "precious\n"
    assert (theirs.parent / "log").read_text() == ""


# --- the pidfile ---


def test_the_pidfile_goes_through_no_link(theirs: Path, victim: Path) -> None:
    path = theirs / "pid"
    lay(theirs / f"pid.{os.getpid()}", victim)  # the name that it was written under first
    write_pidfile(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    assert not path.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    remove_pidfile(str(path))
    assert not path.exists()
    lay(path, victim)
    with pytest.raises(
            NoPidfile,
            match=f"cannot read the pidfile {path}: the symbolic link pid on the way is not "
                  "followed"
    ):
        write_pidfile(str(path))
    victim.write_text(f"{os.getpid()}\n")
    remove_pidfile(str(path))
    assert path.is_symlink()
    assert sorted(os.listdir(theirs)) == ["pid", f"pid.{os.getpid()}"]


def test_a_fifo_for_a_pidfile_holds_nobody_up(start: Start, theirs: Path, place: Path) -> None:
    for directory in (theirs, place):
        os.mkfifo(directory / "pid")
    refused = start("-n", "1", "-m", "notify", "-c", "one", "-e", str(theirs / "pid"), "--",
                    *WORKER)
    assert refused.wait_exit() == 1
    assert "others may write to its directory, and it is no plain file" in refused.log()
    taken = start("-n", "1", "-m", "notify", "-c", "two", "-e", str(place / "pid"), "--", *WORKER)
    taken.wait_ready()
    assert (place / "pid").read_text() == f"{taken.pid}\n"
    os.mkfifo(place / "fifo")
    (place / "fifo").rename(place / "pid")  # one that is gone for a moment is written again
    assert taken.stop() == 0


# --- the log ---


def test_a_log_file_that_somebody_else_has_laid(start: Start, theirs: Path, victim: Path) -> None:
    log = lay(theirs / "log", victim)
    refused = start("-n", "1", "-c", "one", "--log-file", str(log), "--", *WORKER)
    assert refused.wait_exit() == 2
    assert f"--log-file: cannot write {log}: the symbolic link log on the way is not followed" in refused.log(
    )
    log.unlink()
    master = start("-n", "1", "-m", "notify", "-c", "two", "--log-file", str(log), "--", *WORKER)
    master.wait_ready()
    old = theirs / "old"
    log.rename(old)
    lay(log, victim)
    master.signal(signal.SIGUSR1)
    wait_until(lambda: "not followed" in old.read_text(), "the link refused", old.read_text)
    log.unlink()
    os.mkfifo(log)
    master.signal(signal.SIGUSR1)
    wait_until(lambda: "nobody reads this pipe" in old.read_text(), "the FIFO refused",
               old.read_text)
    log.unlink()
    master.signal(signal.SIGUSR1)
    wait_until(log.exists, "a log of our own again")
    assert master.stop() == 0
    assert victim.read_text() == "precious\n"


@pytest.mark.parametrize("stream", ["/dev/stdout", "/dev/stderr"])
def test_a_log_file_that_is_a_stream(start: Start, place: Path, stream: str) -> None:
    (place / "log").symlink_to(stream)  # as images of containers have them
    for name, path in (("one", place / "log"), ("two", stream)):
        master = start("-n", "1", "-m", "notify", "-c", name, "--log-file", str(path), "--",
                       *WORKER)
        master.wait_log("worker ready")
        master.signal(signal.SIGUSR1)
        master.signal(signal.SIGTERM)
        assert master.wait_exit() == 0
        assert "not opened anew" not in master.log()


# --- directories, sockets and locks ---


def test_a_directory_of_metrics_is_ours_or_there_is_none(start: Start, theirs: Path,
                                                         place: Path) -> None:
    other = place / "other"
    for name in ("1", "7"):
        (other / name).mkdir(parents=True)
        (other / name / "precious").touch()
    other.chmod(0o700)
    theirs.chmod(0o1777)
    os.chown(theirs, 0, 0)
    lay(theirs / "x.metrics", other)
    master = start("-n", "1", "-m", "notify", "-d", str(theirs / "x.sock"), "--web", "127.0.0.1:0",
                   "--", *WORKER)
    assert "x.metrics" in master.wait_log("no app metrics")
    wait_until(lambda: "worker ready" in master.log(), "a worker", master.log)
    master.signal(signal.SIGTERM)
    assert master.wait_exit() == 0
    assert stat.S_IMODE(other.stat().st_mode) == 0o700
    assert sorted(str(path.relative_to(other))
                  for path in other.rglob("*")) == ["1", "1/precious", "7", "7/precious"]


def test_a_link_among_the_metrics_is_not_followed(place: Path) -> None:
    other = place / "other"
    other.mkdir(0o700)
    (other / "precious").touch()
    (place / "x.metrics").mkdir()
    (place / "x.metrics" / "1").symlink_to(other)
    metrics = AppMetrics(str(place / "x.metrics"), (NOBODY, NOBODY), fresh=False)
    with pytest.raises(OSError, match="Not a directory"):
        metrics.directory(1)
    metrics.generations_left([])
    assert (other.stat().st_uid, os.listdir(other)) == (0, ["precious"])
    (place / "x.metrics" / "1").unlink()
    made = Path(metrics.directory(1))
    assert made.stat().st_uid == NOBODY
    victim = place / "victim"
    victim.touch(0o600)
    (made / "lock").unlink()
    os.link(victim, made / "lock")
    again = AppMetrics(str(place / "x.metrics"), (NOBODY, NOBODY), fresh=False)  # as after a reload
    again.directory(1)
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
    again.close()
    assert not made.parent.exists()
    place.chmod(0o777)
    with pytest.raises(OSError, match="others may put something else in its place"):
        AppMetrics(str(place / "x.metrics"), None, fresh=True)


def test_a_lock_that_is_another_file_is_not_emptied(theirs: Path, victim: Path) -> None:
    os.link(victim, theirs / "x.lock")
    with pytest.raises(
            NoRuntimeDirectory, match=
            f"cannot make {theirs}/x.lock: others may write to its directory, and it has another "
            "name"
    ):
        claim("x", str(theirs / "x.sock"), {}, Rights())
    (theirs / "x.lock").unlink()
    lay(theirs / "x.lock", victim)
    with pytest.raises(NoRuntimeDirectory, match="not followed"):
        claim("x", str(theirs / "x.sock"), {}, Rights())
    assert victim.read_text() == "precious\n"


def test_a_group_is_given_to_our_own_socket_alone(theirs: Path, victim: Path) -> None:
    path = theirs / "x.sock"
    for lays in (lambda: lay(path, victim), lambda: os.link(victim, path)):
        lays()
        with pytest.raises(PermissionError, match="somebody has put something else in its place"):
            files.give_group(str(path), NOBODY)
        path.unlink()
    place = claim("x", str(path), {}, Rights(0o660, NOBODY))
    assert (path.stat().st_gid, victim.stat().st_gid) == (NOBODY, 0)
    place.listener.close()
    place.close()
    assert os.listdir(theirs) == []


def test_a_file_in_the_place_of_the_notify_socket_stays(start: Start, theirs: Path) -> None:
    (theirs / "x.notify").write_text("precious\n")
    master = start("-n", "1", "-d", str(theirs / "x.sock"), "--", *WORKER)
    assert master.wait_exit() == 1
    assert master.log() == f"einhornpy: cannot bind {theirs}/x.notify: it exists and is no socket\n"
    assert (theirs / "x.notify").read_text() == "precious\n"
    (theirs / "x.notify").unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stale:
        stale.bind(str(theirs / "x.notify"))
    again = start("-n", "1", "-m", "notify", "-d", str(theirs / "x.sock"), "--", *WORKER)
    again.wait_log("worker ready")


def test_the_shells_history_is_not_written_into_the_home_of_another_user(
        theirs: Path, victim: Path) -> None:
    """`sudo` may leave HOME as it is."""
    code = ("from einhornpy.control.cli import shell; import readline\n"
            "with shell.line_editing([]): readline.add_history('x')")
    environment = {"XDG_STATE_HOME": str(theirs), "PATH": "/usr/bin:/bin"}

    def run() -> None:
        subprocess.run([sys.executable, "-P", "-c", code], env=environment, check=True,
                       capture_output=True)

    history = lay(theirs / "einhornpy_history", victim)
    run()
    history.unlink()
    run()
    assert os.listdir(theirs) == []
    os.chown(theirs, 0, 0)
    run()
    assert history.read_text().endswith("x\n")
    history.unlink()
    lay(history, victim)
    run()
    assert victim.read_text() == "precious\n"
