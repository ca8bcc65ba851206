"""What workers leave behind in sessions of their own: no old code after "done" and after a stop;
what is nobody's is left alone."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ..harness import EXAMPLE, Master, Recorder, children, wait_gone, wait_until

Start = Callable[..., Master]
# A worker (-m notify) with a child in a session of its own, that writes its pid into
# `left-GENERATION` before the worker is ready. argv: a shell command for the child to run.
PARENT = [sys.executable, "-c", """
import os, signal, socket, subprocess, sys
subprocess.Popen(["sh", "-c", sys.argv[1]], start_new_session=True)
while not os.path.exists("left-" + os.environ["EINHORNPY_GENERATION"]):
    pass
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
signal.pause()
"""]
SAYS_ITS_PID = "echo $$ > .part && mv .part left-$EINHORNPY_GENERATION; "


def left(master: Master, generation: int) -> int:
    """The pid of the child of this generation's worker."""
    file = master.directory / f"left-{generation}"
    wait_until(file.exists, f"{file}", master.log)
    return int(file.read_text())


def names(recorder: Recorder, pid: int) -> list[str]:
    """The events of a process, and the ends of upgrades."""
    return [
        event["event"] for event in recorder.events
        if event.get("pid") == pid or event["event"] == "upgrade-ended"]


def test_an_upgrade_is_done_when_what_workers_leave_is_gone(start: Start) -> None:
    """It ignores TERM, has a child of its own in another session, and a master that is replaced
    meanwhile."""
    stubborn = "setsid sleep 1000 & trap '' TERM; " + SAYS_ITS_PID + "while :; do sleep 1000; done"
    master = start("-n", "1", "-m", "notify", "--graceful-timeout", "300", "--", *PARENT, stubborn)
    master.wait_ready()
    recorder, old = master.record(), left(master, 1)
    assert master.cli("upgrade", "--no-wait").returncode == 0
    found = recorder.wait_for("process-left-behind", pid=old)
    assert (found["index"], found["generation"], found["gate"]) == (0, 1, "upgrading")
    assert found[
        "gate_reason"] == f"1 of 1 workers on generation 2; what workers have left behind is still there: pid {old}"
    status = master.cli("status")
    assert status.returncode == 3
    assert f"pid {old} was left behind by worker 0 of generation 1: asked to go, killed in " in " ".join(
        status.stdout.split())
    assert master.cli("reload").returncode == 0
    os.killpg(old, signal.SIGKILL)  # its sleep ignores TERM as it does
    recorder.wait_for("upgrade-ended", outcome="done")
    assert names(recorder,
                 old) == ["process-left-behind", "process-left-behind-gone", "upgrade-ended"]
    assert master.status()["left_behind"] == []
    new = left(master, 2)
    assert master.cli("stop", "--now").returncode == 0
    wait_gone(new)


def test_what_ignores_term_is_killed_after_the_graceful_timeout(start: Start) -> None:
    master = start("-n", "1", "-m", "notify", "--graceful-timeout", "0.5", "--", *PARENT,
                   "trap '' TERM; " + SAYS_ITS_PID + "while :; do sleep 1000; done")
    master.wait_ready()
    recorder, old = master.record(), left(master, 1)
    assert master.cli("upgrade").returncode == 0
    recorder.wait_for("upgrade-ended", outcome="done")
    assert names(recorder, old) == [
        "process-left-behind", "process-left-behind-killed", "process-left-behind-gone",
        "upgrade-ended"]
    new = left(master, 2)
    assert master.cli("stop").returncode == 0
    wait_gone(new)


SERVES_ON = """
import os, signal
part = f".{os.getpid()}"
with open(part, "w") as file:
    file.write(str(os.getpid()))
os.rename(part, "left")
signal.pause()
"""
# A worker (-m notify), which in generation 1 has a child in a session of its own that knows
# nothing, but has its listening socket.
UNMARKED = [
    sys.executable, "-c", """
import os, signal, socket, subprocess, sys
if os.environ["EINHORNPY_GENERATION"] == "1":
    subprocess.Popen([sys.executable, "-c", sys.argv[1]], env={}, start_new_session=True, pass_fds=[3])
    while not os.path.exists("left"):
        pass
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
signal.pause()
"""]


def test_who_holds_a_listening_socket_is_known_without_a_mark(start: Start) -> None:
    """It knows nothing of its worker, and ignores TERM; the master is replaced meanwhile."""
    master = start(
        "-n", "1", "-b", "127.0.0.1:0", "-m", "notify", "--", *UNMARKED,
        SERVES_ON.replace("signal.pause",
                          "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause"))
    master.wait_ready()
    recorder, old = master.record(), int((master.directory / "left").read_text())
    assert master.cli("upgrade", "--no-wait").returncode == 0
    found = recorder.wait_for("process-left-behind", pid=old)
    assert (found["index"], found["generation"],
            found["known_by"]) == (None, None, "it holds a listening socket")
    status = master.cli("status")
    assert status.returncode == 3
    assert f"pid {old} was left behind by a worker that isn't known, and holds a listening socket" in " ".join(
        status.stdout.split())
    assert master.cli("reload").returncode == 0
    os.kill(old, signal.SIGKILL)
    recorder.wait_for("upgrade-ended", outcome="done")
    assert names(recorder,
                 old) == ["process-left-behind", "process-left-behind-gone", "upgrade-ended"]


def test_who_holds_a_listening_socket_stays_while_his_worker_may_live(start: Start) -> None:
    master = start("-n", "2", "-b", "127.0.0.1:0", "-m", "notify", "--", *UNMARKED, SERVES_ON)
    victim = master.wait_ready()["workers"][0]["pid"]
    ((child, _),) = children(victim)
    recorder = master.record()
    os.kill(victim, signal.SIGKILL)
    recorder.wait_for("worker-died", pid=victim)
    assert master.status()["left_behind"] == [], "the other worker was there before it too"
    assert master.cli("upgrade").returncode == 0
    assert not Path(f"/proc/{child}").exists()


# A child that knows nothing, holds nothing, and ignores TERM, with one of the same kind; both write
# their pids into `tree-SEAT-GENERATION`, so that the worker (-m notify) can wait for them. It has
# them in its process group.
TREE = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
below = os.fork()
if below:
    with open(sys.argv[1] + ".part", "w") as file:
        file.write(f"{os.getpid()} {below}")
    os.rename(sys.argv[1] + ".part", sys.argv[1])
while True:
    signal.pause()
"""
FORKS = [sys.executable, "-c", """
import os, signal, socket, subprocess, sys
name = "tree-" + os.environ["EINHORNPY_GENERATION"]
if os.path.exists(name):
    os.unlink(name)
subprocess.Popen([sys.executable, "-c", sys.argv[1], name], env={})
while not os.path.exists(name):
    pass
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while True:
    signal.pause()
""", TREE]


def tree(master: Master, generation: int) -> list[int]:
    """The pids of what this generation's worker has in its process group, the upper one first."""
    return [int(pid) for pid in (master.directory / f"tree-{generation}").read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGABRT, signal.SIGKILL])
def test_the_group_is_killed_whoever_has_left_already(start: Start, number: int) -> None:
    """The worker is asked to go, dies or is killed; nothing but the group tells whose they are."""
    master = start("-n", "1", "-m", "notify", "--stop-signal", "TERM", "--graceful-timeout", "0.5",
                   "--", *FORKS)
    (worker,) = master.wait_ready()["workers"]
    recorder, (upper, lower) = master.record(), tree(master, 1)
    os.kill(worker["pid"], number)
    found = recorder.wait_for("process-left-behind", pid=upper)
    assert (found["index"], found["generation"], found.get("known_by")) == (0, 1, None)
    recorder.wait_for("process-left-behind-killed", pid=upper)
    wait_gone(upper)
    wait_gone(lower)
    master.wait_ready()
    new = tree(master, 1)
    assert new != [upper, lower]
    assert master.stop() == 0
    assert not [pid for pid in new if Path(f"/proc/{pid}").exists()]


def test_the_group_is_known_after_a_reload(start: Start) -> None:
    master = start("-n", "1", "-m", "notify", "--stop-signal", "TERM", "--graceful-timeout", "300",
                   "--", *FORKS)
    master.wait_ready()
    recorder, (upper, lower) = master.record(), tree(master, 1)
    assert master.cli("upgrade", "--no-wait").returncode == 0
    recorder.wait_for("process-left-behind", pid=upper)
    assert master.cli("reload").returncode == 0
    os.kill(upper, signal.SIGKILL)
    found = recorder.wait_for("process-left-behind", pid=lower)
    assert (found["index"], found["generation"]) == (0, 1)
    assert master.status()["gate"] == "upgrading"
    assert master.cli("stop", "--now").returncode == 0
    assert not [
        pid for pid in (lower, *tree(master, 2)) if Path(f"/proc/{pid}").exists()]


DAEMON = """
import os, signal
from app import wsgi as example

def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/fork":
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                with open("daemon", "w") as file:
                    file.write(f"{os.getpid()}\\n")
                signal.pthread_sigmask(signal.SIG_SETMASK, ())
                for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT):
                    signal.signal(number, signal.SIG_DFL)
                while True:
                    signal.pause()
            os._exit(0)
        os.wait()
    return example(environ, start_response)
"""


def test_a_daemon_of_a_worker_lives_as_long_as_it(start: Start, place: Path) -> None:
    """Forked without an exec, from a process that shows a title in `ps`; its parent is gone long
    before the worker is."""
    from ..harness import get

    (place / "daemonic.py").write_text(DAEMON)
    master = start("-n", "2", "-b", "127.0.0.1:0", "--", "gunicorn", "--pythonpath", str(EXAMPLE),
                   "daemonic:wsgi")
    master.wait_ready()
    assert get(master.address, "/fork")[0] == 200
    wait_until(
        lambda: (place / "daemon").exists() and (place / "daemon").read_text().endswith("\n"),
        "a daemon", master.log)
    pid = int((place / "daemon").read_text())
    wait_until(lambda: pid in dict(children(master.pid)), "the daemon adopted", master.log)
    # Somebody else's end is no reason, and it is nothing that is left behind.
    words = dict(
        word.split("=", 1) for word in Path(f"/proc/{pid}/environ").read_text().split("\0")
        if "=" in word)
    other = next(each for each in master.status()["workers"]
                 if each["index"] != int(words["EINHORN_CHILD_INDEX"]))
    os.kill(other["pid"], signal.SIGKILL)
    recorder = master.record()
    recorder.wait_for("worker-ready") if master.status()["ready"] < 2 else None
    assert master.status()["left_behind"] == []
    assert Path(f"/proc/{pid}").exists()
    assert master.cli("upgrade").returncode == 0
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("how", ["a hook's", "without the mark"])
def test_what_is_not_a_workers_is_left_alone(start: Start, how: str) -> None:
    daemon = (
        "setsid sh -c 'echo $$ > .part && mv .part stays; exec sleep 1000' >/dev/null 2>&1 </dev/null & "
    )
    # until then it is in our process group, which ends with us
    daemon += "while [ ! -e stays ]; do sleep 0.05; done;"
    if how == "a hook's":
        flags, command = ["--on-worker-ready", daemon], ["sleep", "1000"]
    else:
        flags, command = [], ["sh", "-c", f"env -u EINHORNPY_WORKER {daemon} exec sleep 1000"]
    master = start("-n", "1", "-m", "0.1", "--min-ready-seconds", "0", *flags, "--", *command)
    master.wait_ready()
    file = master.directory / "stays"
    wait_until(file.exists, "a daemon", master.log)
    pid = int(file.read_text())
    file.unlink()
    try:
        assert master.cli("upgrade").returncode == 0
        assert master.stop() == 0
        assert Path(f"/proc/{pid}").exists()
        assert "left behind" not in master.log()
    finally:
        wait_until(file.exists, "another one, of the other generation")
        for each in (pid, int(file.read_text())):
            os.kill(each, signal.SIGKILL)
            os.waitpid(each, 0)  # ours, since the master is gone
