"""What workers are made to be: user, groups, niceness, limits, cores, umask; who may connect, and
who may only look."""

from __future__ import annotations

import grp
import importlib.util
import json
import os
import pwd
import resource
import select
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from einhornpy.supervisor.settings import parsers

from ..harness import (
    DEADLINE,
    EINHORNPY,
    EXAMPLE,
    WORKER,
    Master,
    get,
    wait_listening,
    wait_until,
)
from ..launch.test_run import attempt, reports

Start = Callable[..., Master]
as_root = pytest.mark.skipif(os.geteuid() != 0,
                             reason="only root may start workers as somebody else")
NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def open_place(place: Path) -> Path:
    """A directory that everybody may enter and write to, with a copy of what workers of another
    user must read."""
    place.chmod(0o777)
    return place


def status_of(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status") as file:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}


def python_for_everybody() -> str | None:
    """A Python that another user may run: ours may be in a directory of root's."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            subprocess.run([python, "-c", "pass"], user=NOBODY.pw_uid, group=NOBODY.pw_gid,
                           extra_groups=[], check=True, cwd="/", capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    return None


PYTHON = python_for_everybody() if os.geteuid() == 0 else None


@as_root
def test_workers_are_another_user_and_nothing_more(start: Start, open_place: Path) -> None:
    """A shell reports and says ready by Einhorn's ack through what it was given: it must reach the
    master's sockets."""
    script = (
        'id -u; id -g; id -G; umask; grep -E "^(NoNewPrivs|CapEff|CapBnd)" /proc/self/status; echo '
        '"$HOME $USER"; '
        'test -r /etc/shadow && echo can read shadow; exec perl -MIO::Socket::UNIX -e '
        '\'$s = IO::Socket::UNIX->new(Peer => $ENV{EINHORN_SOCK_PATH}) or die $!; '
        'print $s "{\\"command\\":\\"worker:ack\\",\\"pid\\":$$}\\n"; $s->flush; sleep 1000\'')
    with open(open_place / "said", "w") as said:
        os.fchmod(said.fileno(), 0o666)
    master = start("-n", "1", "-m", "manual", "-b", "127.0.0.1:0", "-d", f"{open_place}/x.sock",
                   "--user", "nobody", "--umask", "027", "--stop-signal", "TERM", "--", "sh", "-c",
                   f"exec > {open_place}/said; {script}")
    worker = master.wait_ready()["workers"][0]
    uid, gid, groups, mask, *rest = (open_place / "said").read_text().splitlines()
    assert (int(uid), int(gid), mask) == (NOBODY.pw_uid, NOBODY.pw_gid, "0027")
    assert {int(each) for each in groups.split()} == set(os.getgrouplist("nobody", NOBODY.pw_gid))
    assert "NoNewPrivs:\t1" in rest
    assert "CapEff:\t0000000000000000" in rest
    assert f"{NOBODY.pw_dir} nobody" in rest
    assert "can read shadow" not in rest
    assert status_of(worker["pid"])["Uid"].split() == [str(NOBODY.pw_uid)] * 4
    assert status_of(master.pid)["Uid"].split()[0] == "0"
    assert master.cli("upgrade").returncode == 0
    # The parent-death signal outlives the change of user.
    victim = master.status()["workers"][0]["pid"]
    fd = os.pidfd_open(victim)
    master.process.kill()
    assert select.select([fd], [], [], DEADLINE)[0]
    os.close(fd)


@pytest.mark.skipif(PYTHON is None,
                    reason="no Python here that another user may run (Debian's package python3)")
def test_gunicorn_its_settings_and_its_hooks_are_that_user(start: Start, open_place: Path) -> None:
    (open_place / "gunicorn.conf.py").write_text(
        "import os\ndef note(what):\n    open(os.environ['NOTES'], 'a').write(f'{what} "
        "{os.getuid()}\\n')\n"
        "note('settings')\ndef when_ready(server): note('when_ready')\ndef post_fork(server, "
        "worker): note('post_fork')\n"
    )
    notes = open_place / "notes"
    notes.touch()
    notes.chmod(0o666)
    (open_place / "app.py").write_text((EXAMPLE / "app.py").read_text())
    # Nobody may be able to enter where ours are installed.
    for package in ("gunicorn", "packaging", "einhornpy.supervisor", "einhornpy.shared",
                    "einhornpy.worker"):
        found = importlib.util.find_spec(package)
        assert found is not None
        assert found.origin is not None
        shutil.copytree(Path(found.origin).parent,
                        open_place / "packages" / package.replace(".", "/"))
    master = start(
        "-n", "1", "-b", "127.0.0.1:0", "--chdir", str(open_place), "-d", f"{open_place}/x.sock",
        "--user", "nobody", "--on-worker-ready", "echo hook $(id -u) >> $NOTES", "--", str(PYTHON),
        "-m", "gunicorn", "app:wsgi", environment={
            "NOTES": str(notes), "IMPORT_SECONDS": "0", "PYTHONPATH": f"{open_place}/packages"})
    master.wait_ready()
    assert get(master.address)[0] == 200
    master.stop()
    said = {tuple(line.split()) for line in notes.read_text().splitlines()}
    assert said == {
        (what, str(NOBODY.pw_uid)) for what in ("settings", "when_ready", "post_fork", "hook")}


@as_root
def test_who_may_connect_and_who_may_only_look(start: Start, open_place: Path) -> None:
    observers = grp.getgrgid(NOBODY.pw_gid).gr_name
    master = start("-n", "1", "-m", "notify", "-d", f"{open_place}/x.sock", "--observers",
                   observers, "--", *WORKER, "notify")
    master.wait_ready()
    assert os.stat(master.path).st_mode & 0o777 == 0o666

    def ask(command: str, group: int, extra: list[int]) -> dict[str, Any]:
        found = subprocess.run([
            "/usr/bin/perl", "-MIO::Socket::UNIX", "-e",
            '$s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die $!;'
            'print $s "{\\"id\\":1,\\"command\\":\\"$ARGV[1]\\"}\\n"; $s->flush; print scalar <$s>',
            master.path, command], user=65000, group=group, extra_groups=extra, capture_output=True,
                               text=True, timeout=DEADLINE)
        assert found.returncode == 0, found.stderr
        read: dict[str, Any] = json.loads(found.stdout)
        return read

    for group, extra in ((NOBODY.pw_gid, []), (65000, [NOBODY.pw_gid])):
        for command in ("ping", "status", "history", "state", "help", "ehlo"):
            assert ask(command, group, extra)["ok"], command
        for command in ("upgrade", "stop", "scale", "reload", "inc", "die", "pause", "signal",
                        "rollback", "louder"):
            refused = ask(command, group, extra)
            assert refused["message"] == "user 65000 may look, but not touch"
    assert ask("ping", 65000, [])["error"]["code"] == "not-allowed"
    # A stranger's YAML is not even read, and nothing is kept of what he leaves half said.
    script = (
        '$s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die $!; $s->autoflush; print $s "command: '
        'ping\\n"; print scalar <$s>;'
        '$SIG{PIPE} = "IGNORE"; print $s "x" x 60000; print defined(scalar <$s>) ? "more" : "end"')
    stranger = subprocess.run(["/usr/bin/perl", "-MIO::Socket::UNIX", "-e", script, master.path],
                              user=65000, group=65000, extra_groups=[], capture_output=True,
                              text=True, timeout=DEADLINE)
    line, end = stranger.stdout.splitlines()
    assert (json.loads(line)["error"]["code"], end) == ("not-allowed", "end")
    assert master.status()["newest_generation"] == 1


@as_root
def test_a_directory_that_others_cannot_reach_is_passed_over_where_they_must(place: Path) -> None:
    """As after `su -`: XDG_RUNTIME_DIR is root's alone, and workers of another user could not say
    ready."""
    place.chmod(0o700)
    result = attempt(place, "--user", "nobody", "-n", "1", "--max-failures", "1", "-c", "reach",
                     "--", "false", environment={"TMPDIR": str(place)})
    assert "socket=/run/einhornpy/reach.sock" in result.stderr, result.stderr


@as_root
def test_the_rights_of_the_control_socket(start: Start, open_place: Path) -> None:
    for flags, mode, gid in [([], 0o600, 0),
                             (["--socket-group", str(NOBODY.pw_gid)], 0o660, NOBODY.pw_gid),
                             (["--socket-mode", "0640"], 0o640, 0),]:
        master = start("-n", "1", "-m", "notify", *flags, "--", *WORKER, "notify")
        found = os.stat(master.path)
        assert (found.st_mode & 0o777, found.st_gid) == (mode, gid)
        master.wait_ready()
        assert master.stop() == 0


def test_limits_niceness_cores_and_scores(start: Start, place: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    master = start("-n", "3", "-m", "notify", "--rlimit",
                   f"nofile=321:{hard if hard > 0 else 'unlimited'}", "--rlimit", "core=0",
                   "--nice", "2:7", "--cpu-affinity", "spread", "--oom-score-adj", "777", "--",
                   *WORKER, "notify")
    document = master.wait_ready()
    assert os.getpriority(os.PRIO_PROCESS, master.pid) == 2
    assert os.sched_getaffinity(master.pid) == set(cores)
    for worker in document["workers"]:
        pid = worker["pid"]
        assert os.getpriority(os.PRIO_PROCESS, pid) == 7
        assert os.sched_getaffinity(pid) == {cores[worker["index"] % len(cores)]}
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] == 321
        assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "777\n"
    assert Path(f"/proc/{master.pid}/oom_score_adj").read_text() != "777\n"
    # A replacement takes the core of its seat; the next master needs no second nice.
    victim = document["workers"][1]
    os.kill(victim["pid"], 9)
    fresh = master.wait_status(
        lambda each: each["ready"] == 3 and all(w["pid"] != victim["pid"] for w in each["workers"]))
    assert os.sched_getaffinity(fresh["workers"][1]["pid"]) == {cores[1 % len(cores)]}
    assert master.cli("reload").returncode == 0
    assert os.getpriority(os.PRIO_PROCESS, master.pid) == 2


@pytest.mark.parametrize(("flags", "line"), [
    (("--user", "no-such-user"), "--user: there is no user 'no-such-user'"),
    (("--group", "no-such-group"), "--group: there is no group 'no-such-group'"),
    (("--user", "64999"),
     "--user: there is no user with the number 64999, so --group is needed too"),
    (("--user", "4294967295"),
     "--user: nobody has the number 4294967295: expected one below 4294967295"),
    (("--group", "9" * 5000), "--group: nobody has the number 9999999999"),
    (("--socket-group", "٣"), "--socket-group: nobody has"),
    (("--web-user", "4294967296"), "--web-user: nobody has the number 4294967296"),
    (("--observers", "no-such-group"), "--observers: there is no group 'no-such-group'"),
    (("--socket-group", "no-such-group"), "--socket-group: there is no group 'no-such-group'"),
    (("--cpu-affinity", "4090"), "--cpu-affinity: core 4090 is not one of those that may be used"),
    (("--rlimit", "nofile=99999999999"), "--rlimit: cannot set nofile to 99999999999:99999999999"),
    (("--rlimit", "nofile=10:5"),
     "--rlimit: got 'nofile=10:5', expected a soft limit that is not above the hard one"),
    (("--socket-mode", "rw"), "--socket-mode: got 'rw', expected permission bits in octal"),])
def test_refused_values_are_one_line_before_anything_starts(place: Path, flags: tuple[str, ...],
                                                            line: str) -> None:
    result = attempt(place, *flags, "-d", "x.sock", "--", "touch", f"{place}/started")
    assert (result.returncode, line
            in result.stderr, result.stderr.count("\n")) == (2, True, 1), result.stderr
    assert not {each.name for each in place.iterdir()} - {
        "run"}, "the directory of the control socket, and nothing else"


@as_root
@pytest.mark.parametrize(("flags", "line"),
                         [(("--user", "daemon"), "--group: cannot change the groups"),
                          (("--nice", "-5"), "--nice: cannot set -5"),
                          (("--nice", f"{os.nice(0)}:-5"), "--nice: cannot set -5"),
                          (("--oom-score-adj", "-900"), "--oom-score-adj: cannot set -900"),])
def test_what_needs_root_is_refused_to_others(open_place: Path, flags: tuple[str, ...],
                                              line: str) -> None:
    """Tried as nobody, through the modules alone: this Python may be out of another user's
    reach."""
    code = (
        "import ctypes, os, sys\n"
        "from einhornpy.supervisor.settings.sources import load\n"
        "from einhornpy.supervisor.system import attributes\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "wanted = load(dict([sys.argv[1:]]), ['x'], {}, '/')\n"
        "try:\n"
        "    nice = wanted.nice\n"
        "    if nice is not None: attributes.renice(nice[0])\n"
        "    attributes.look_up(wanted.user, wanted.group, nice and nice[1], (), None, None, "
        "wanted.oom_score_adj)\n"
        "except attributes.Refused as refused: print(refused)")
    name = flags[0].removeprefix("--").replace("-", "_")
    result = subprocess.run([sys.executable, "-P", "-c", code, name, flags[1]], capture_output=True,
                            text=True, timeout=DEADLINE)
    assert line in result.stdout, result.stderr
    assert "expected root" in result.stdout


def test_parsing() -> None:
    assert parsers.limit("core=0:unlimited") == ("core", 0, resource.RLIM_INFINITY)
    assert parsers.niceness("5") == (5, None)
    assert parsers.core_list("3,0-1") == (3, 0, 1)
    for parse, text in ((parsers.limit, "x=1"), (parsers.niceness, "5:6:7"),
                        (parsers.core_list, ""), (parsers.core_list, "1-")):
        with pytest.raises(ValueError):
            parse(text)


@as_root
def test_as_pid_1_it_reaps_strangers_forwards_signals_and_ends_with_the_right_code(
        place: Path) -> None:
    """In a PID namespace of its own, as in a container without an init."""
    report = place / "report"
    # The worker leaves an orphan behind, which PID 1 inherits; it ends at once and must not stay as
    # a zombie.
    orphan = f"(sh -c 'echo $$ > {place}/orphan; sleep 0.2' &) ; exec \"$0\" \"$@\""
    process = subprocess.Popen([
        "unshare", "--pid", "--fork", "--mount-proc", "--kill-child", EINHORNPY, "-d",
        f"{place}/x.sock", "-n", "1", "-m", "notify", "--graceful-timeout", "5", "--", "sh", "-c",
        orphan, *WORKER, "notify", f"report={report}"], cwd=place, env={"PATH": os.environ["PATH"]},
                               stderr=subprocess.PIPE, text=True)
    try:
        wait_listening(place / "x.sock")
        ready = subprocess.run(
            [EINHORNPY, "status", "-d", f"{place}/x.sock", "--wait", "--timeout", "60"], text=True,
            capture_output=True, timeout=DEADLINE)
        assert ready.returncode == 0, ready.stderr
        assert json.loads(
            subprocess.run([EINHORNPY, "status", "-d", f"{place}/x.sock", "--json"], text=True,
                           capture_output=True, timeout=DEADLINE).stdout)["master"]["pid"] == 1
        assert reports(report)[0]["ppid"] == 1
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (init,) = children

        def zombies() -> list[str]:
            below = Path(f"/proc/{init}/task/{init}/children").read_text().split()
            return [pid for pid in below if status_of(int(pid))["State"].startswith("Z")]

        wait_until(lambda: len(Path(f"/proc/{init}/task/{init}/children").read_text().split()) == 1,
                   "the orphan reaped")
        assert zombies() == []
        os.kill(int(init), 15)
        assert process.wait(DEADLINE) == 0
        assert "master stopped" in (process.stderr.read() if process.stderr else "")
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@as_root
def test_as_pid_1_a_first_start_that_fails_ends_with_3(place: Path) -> None:
    result = subprocess.run([
        "unshare", "--pid", "--fork", "--mount-proc", EINHORNPY, "-d", f"{place}/x.sock", "-n", "1",
        "--max-failures", "1", "--", "false"], cwd=place, env={"PATH": os.environ["PATH"]},
                            capture_output=True, timeout=DEADLINE)
    assert result.returncode == 3
