"""Nothing passes for ready, or for done, that isn't: gunicorn's arbiter in disguise, guesses that
don't stand, addresses at which nobody accepts, listening sockets that a worker has shut down,
workers that die as soon as nobody looks."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from einhornpy.supervisor.launch.recognition import (
    Gunicorn,
    find_arbiter,
    recognise,
    runs_gunicorn,
)
from einhornpy.supervisor.settings.parsers import AckMode

from ..harness import APPS, BIN, EXAMPLE, Master, get
from ..steering.test_upgrade import COMMAND, release

Start = Callable[..., Master]
PYTHON, GUNICORN = str(BIN / "python"), str(BIN / "gunicorn")
WORKER = [sys.executable, str(APPS / "worker.py")]


# --- gunicorn, by any name ---


@pytest.mark.parametrize(
    ("command", "options", "added"), [
        (["gunicorn", "app:wsgi"], (), {}), ([GUNICORN, "app:wsgi"], (), {}),
        ([PYTHON, "-m", "gunicorn", "app:wsgi"], (), {}),
        ([PYTHON, "-u", "-m", "gunicorn", "app:wsgi"], ("-u",), {}),
        (["python", "-W", "error", "-Xdev", "-OO", "-um", "gunicorn", "app:wsgi"],
         ("-W", "error", "-Xdev", "-OO", "-u"), {}),
        ([PYTHON, "-s", GUNICORN, "app:wsgi"], ("-s",), {}),
        (["env", "A=1", "B=x=y", "gunicorn", "app:wsgi"], (), {"A": "1", "B": "x=y"}),
        ([
            "/usr/bin/env", "-u", "HOME", "A=1", "env", "B=2", PYTHON, "-u", "-m", "gunicorn",
            "app:wsgi"], ("-u",), {"A": "1", "B": "2"}),])
def test_gunicorn_is_recognised(command: list[str], options: tuple[str, ...],
                                added: dict[str, str]) -> None:
    environment = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": "/"}
    found = recognise(command, "/", environment)
    assert found is not None
    assert Path(found.gunicorn.python).parent == BIN
    assert (found.gunicorn.options, found.gunicorn.arguments) == (options, ("app:wsgi",))
    without = {"HOME"} if "HOME" in command else set()
    assert found.environment == {
        key: value for key, value in environment.items() if key not in without} | added


SCRIPTS = {
    "start.sh": '#!/bin/sh\n# migrates first\npython manage.py migrate\nexec gunicorn "$@"\n',
    "bin.sh": '#!/bin/bash\nexec "${VENV}/bin/gunicorn" -w 2 \\\n  app:wsgi\n',
    "wrapped.sh": "#!/bin/sh -e\nulimit -n 5 && exec ddtrace-run gunicorn app:wsgi\n",
    "serve.py": "#!/usr/bin/python3\nfrom gunicorn.app.base import BaseApplication\n",
    "launch.py": "import os\nos.execvp('gunicorn', ['gunicorn', 'app:wsgi'])\n",
    "gunicorn": "#!/bin/sh\nexec /opt/it \"$@\"\n",
    # These only speak of it.
    "talk.sh": '#!/bin/sh\necho gunicorn is no more; pkill gunicorn -9\nexec serve  # gunicorn x\n',
    "log.sh": "#!/bin/sh\nmkdir -p /var/log/gunicorn /run/x\nexec serve --server=gunicorn 1\n",
    "app.py": "# run it: gunicorn app:wsgi\nimport logging\nlogging.getLogger('gunicorn').info('x')\n"
              "serve = 'gunicorn' in software\nimport gunicorn\n",
    "data.txt": "exec gunicorn app:wsgi\n",}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("scripts")
    for name, text in SCRIPTS.items():
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    return place


def recognised(command: str | list[str], directory: Path,
               mode: AckMode | float = AckMode.AUTO) -> Gunicorn | None:
    words = shlex.split(command) if isinstance(command, str) else command
    found = recognise(words, str(directory), {"PATH": f"{BIN}:/usr/bin:/bin"}, mode)
    return None if found is None else found.gunicorn


@pytest.mark.parametrize("command", [
    "nice gunicorn app:wsgi", f"sh {GUNICORN} app:wsgi", "env -S 'gunicorn app:wsgi'",
    f"timeout 60 {PYTHON} -m gunicorn app:wsgi", f"{PYTHON} -i -m gunicorn app:wsgi",
    f"{PYTHON} -m gunicorn.app.wsgiapp app:wsgi", "sh -c 'exec gunicorn app:wsgi'",
    "env A=1 nice sh -c 'cd x && gunicorn app:wsgi'", "./start.sh app:wsgi", "sh start.sh app:wsgi",
    "nice -n 5 ./bin.sh", "./wrapped.sh", f"{PYTHON} serve.py", "./serve.py", f"{PYTHON} -u launch.py",
    "./gunicorn app:wsgi",
    f"""{PYTHON} -c 'from gunicorn.app.wsgiapp import run; run()' app:wsgi""",])
def test_what_starts_gunicorn_in_the_end_is_recognised_as_typed(scripts: Path, command: str) -> None:
    found = recognised(command, scripts)
    words = shlex.split(command.removeprefix("env A=1 "))
    assert found is not None
    assert found.wrapped
    assert os.path.samefile(found.python, shutil.which(words[0]) or scripts / words[0])
    assert found.arguments == tuple(words[1:])


@pytest.mark.parametrize("command", [
    f"{PYTHON} app.py", "sleep 1", f"{PYTHON} manage.py --server=gunicorn",
    f"{PYTHON} -c 'import gunicorn; print(gunicorn.__version__)'", "sh -c 'echo gunicorn is up'",
    "./talk.sh", "sh log.sh", "sh app.py", "cat data.txt", "sh -c 'tail -f /var/log/gunicorn'",])
def test_other_commands_are_none_of_gunicorns(scripts: Path, command: str) -> None:
    assert recognised(command, scripts) is None


def test_what_somebody_says_of_a_command_counts_more_than_its_looks(scripts: Path) -> None:
    for mode in (AckMode.NOTIFY, AckMode.MANUAL, 2.5):
        assert recognised("nice gunicorn app:wsgi", scripts, mode) is None
        direct = recognised("gunicorn app:wsgi", scripts, mode)
        assert direct is not None
        assert not direct.wrapped
    found = recognised("sleep 1", scripts, AckMode.GUNICORN)
    assert found is not None
    assert found.wrapped


def test_an_arbiter_is_found_wherever_it_is_in_the_tree() -> None:
    lines = {
        1: ["uv", "run", "gunicorn", "app:wsgi"], 2: ["sh"], 3: [],
        4: [PYTHON, GUNICORN, "app:wsgi"]}
    assert find_arbiter([1, 3, 2, 4], lines.__getitem__) == 4
    assert find_arbiter([1, 3, 2], lines.__getitem__) is None
    assert runs_gunicorn(["gunicorn: master [app:wsgi]"])
    assert not runs_gunicorn(["tail", "-f", "/var/log/gunicorn"])


def app_in(place: Path) -> Path:
    directory = place / "app"
    shutil.copytree(EXAMPLE, directory)
    return directory


@pytest.mark.parametrize("words", [[PYTHON, "-u", "-m", "gunicorn"],
                                   ["env", "GREETING=hello", "gunicorn"], [PYTHON, "-s", GUNICORN]])
def test_a_recognised_gunicorn_has_no_arbiter_and_a_bad_release_is_refused(
        start: Start, place: Path, words: list[str]) -> None:
    directory = place / "app"
    directory.mkdir()
    (directory / "app.py").write_text(GREETS)
    master = start("-n", "1", "-b", "127.0.0.1:0", "--chdir", str(directory), "--max-failures", "1",
                   "--", *words, "app:wsgi")
    (worker,) = master.wait_ready()["workers"]
    assert not worker["guessed"]
    assert get(master.address) == (200, "hello" if words[0] == "env" else "nothing")
    (directory / "app.py").write_text("raise RuntimeError('a bad release')\n")
    result = master.cli("upgrade")
    assert result.returncode == 5
    assert "RuntimeError: a bad release" in result.stderr
    assert get(master.address)[0] == 200


GREETS = """
import os

def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [os.environ.get("GREETING", "nothing").encode()]
"""


@pytest.mark.parametrize("mode", ["manual", "notify"])
@pytest.mark.parametrize("script", ["exec gunicorn app:wsgi", "gunicorn app:wsgi; true"])
def test_an_arbiter_that_nobody_could_foresee_is_refused_when_it_is_seen(
        start: Start, place: Path, mode: str, script: str) -> None:
    master = start("-n", "2", "-b", "127.0.0.1:0", "-m", mode, "--chdir", str(app_in(place)), "--",
                   "sh", "-c", script)
    assert master.wait_exit() == 3
    assert "gunicorn's own arbiter runs in it" in master.log().splitlines()[-1]


def test_an_arbiter_that_says_nothing_is_found_before_a_guess_counts(start: Start,
                                                                     place: Path) -> None:
    script = "unset NOTIFY_SOCKET; exec gunicorn -b 127.0.0.1:0 app:wsgi"
    master = start("-n", "1", "-m", "0.2", "--chdir", str(app_in(place)), "--", "sh", "-c", script)
    assert master.wait_exit() == 3
    assert "gunicorn's own arbiter runs in it" in master.log().splitlines()[-1]


def test_a_release_that_hides_an_arbiter_costs_no_old_worker(start: Start, place: Path) -> None:
    directory = app_in(place)
    (directory / "serve").write_text(f"exec {sys.executable} {APPS / 'worker.py'} notify serve\n")
    master = start("-n", "2", "-b", "127.0.0.1:0", "-m", "notify", "--chdir", str(directory), "--",
                   "sh", "serve")
    old = {worker["pid"] for worker in master.wait_ready()["workers"]}
    (directory / "serve").write_text("exec gunicorn app:wsgi\n")
    result = master.cli("upgrade")
    assert result.returncode == 5
    assert "gunicorn's own arbiter runs in it" in result.stderr
    assert {worker["pid"] for worker in master.status()["workers"]} == old
    assert get(master.address)[0] == 200


# --- guesses ---


def test_a_guess_is_called_one_and_must_stand(start: Start) -> None:
    master = start("-n", "1", "-m", "0.2", "--", *WORKER, "silent")
    document = master.wait_status(lambda document: document["ready"] == 1, "a guess")
    assert document["gate"] == "starting"
    document = master.wait_ready()
    assert document["reason"] == "1 of 1 workers ready on generation 1 (guessed)"
    assert document["workers"][0]["guessed"]
    assert document["workers"][0]["age_seconds"] >= 5.2
    assert "(guessed)" in master.cli("status").stdout


def test_a_guessed_release_that_dies_before_the_guess_has_stood_is_refused(
        start: Start, place: Path) -> None:
    release(place, "r1", "silent")
    master = start("-n", "2", "-m", "0.1", "--max-failures", "1", "--min-ready-seconds", "1",
                   "--chdir", str(place / "current"), "--", *COMMAND)
    old = {worker["pid"] for worker in master.wait_ready()["workers"]}
    release(place, "r2", "silent die=0.5")
    result = master.cli("upgrade")
    assert result.returncode == 5, result.stdout
    assert {worker["pid"] for worker in master.status()["workers"]} == old


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0", "[::]:0", "unix:{place}/app.sock"])
def test_a_first_start_that_accepts_nowhere_is_not_ready(start: Start, place: Path,
                                                         bind: str) -> None:
    master = start("-n", "1", "-b", bind.format(place=place), "-m", "0.1", "--ready-timeout", "1",
                   "--max-failures", "1", "--", *WORKER, "silent")
    assert master.wait_exit() == 3
    assert "nobody accepts connections on " in master.log().splitlines()[-1]


def test_a_guess_that_serves_passes(start: Start, place: Path) -> None:
    master = start("-n", "1", "-b", "127.0.0.1:0", "-b", f"unix:{place}/app.sock", "-m", "0.1",
                   "--min-ready-seconds", "0", "--", sys.executable, "-c", SERVES_BOTH)
    master.wait_ready()
    result = master.cli("upgrade")
    assert result.returncode == 0, result.stderr


SERVES_BOTH = """
import select, socket
listeners = [socket.socket(fileno=3), socket.socket(fileno=4)]
while True:
    for listener in select.select(listeners, [], [])[0]:
        listener.accept()[0].close()
"""


def test_an_upgrade_after_which_nobody_accepts_goes_back(start: Start, place: Path) -> None:
    release(place, "r1", "silent serve")
    master = start("-n", "1", "-b", "127.0.0.1:0", "-m", "0.1", "--ready-timeout", "1",
                   "--min-ready-seconds", "0", "--chdir", str(place / "current"), "--", *COMMAND)
    master.wait_ready()
    release(place, "r2", "silent")
    upgrade = master.cli("upgrade", "--no-wait")
    assert upgrade.returncode == 0
    # where a rollback finds the old directory, whatever `current` says by now
    release(place, "r3", "silent serve")
    document = master.wait_status(lambda document: document["gate"] == "rolled-back",
                                  "the way back")
    assert "nobody accepts connections on 127.0.0.1:" in document["reason"]
    assert document["generation"] == 1
    assert get(master.address)[0] == 200


# --- listening sockets ---


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "unix:{place}/app.sock"])
def test_a_good_release_is_not_refused_for_what_old_code_does_as_it_leaves(
        start: Start, place: Path, bind: str) -> None:
    address = bind.format(place=place)
    release(place, "r1", "notify serve shut-late")
    master = start("-n", "3", "-b", address, "-m", "notify", "--chdir", str(place / "current"),
                   "--", *COMMAND)
    master.wait_ready()
    where = master.address if address.endswith(":0") else address.removeprefix("unix:")
    if isinstance(where, str):
        os.chown(where, -1, 65534)
        os.chmod(where, 0o660)
    release(place, "r2", "notify serve")
    result = master.cli("upgrade")
    assert result.returncode == 0, result.stderr
    assert {
        worker["generation"] for worker in master.wait_ready()["workers"]
        if worker["state"] == "ready"} == {2}
    for _ in range(10):
        assert get(where)[0] == 200
    if isinstance(where, str):
        assert (os.stat(where).st_gid, os.stat(where).st_mode & 0o777) == (65534, 0o660)


def unix_app(start: Start, place: Path) -> Master:
    release(place, "r1", "notify serve")
    (place / "sockets").mkdir()
    master = start("-n", "1", "-b", f"unix:{place}/sockets/app.sock,mode=660", "-m", "notify",
                   "--chdir", str(place / "current"), "--", *COMMAND)
    master.wait_ready()
    return master


def test_a_socket_whose_file_is_removed_is_made_again(start: Start, place: Path) -> None:
    master = unix_app(start, place)
    path, recorder = place / "sockets" / "app.sock", master.record()
    path.unlink()  # an idle master notices
    assert recorder.wait_for("listener-made-again")["address"] == f"unix:{path}"
    assert os.stat(path).st_mode & 0o777 == 0o660
    recorder.wait_for("worker-ready")
    assert get(str(path))[0] == 200
    # one who does so all the time doesn't have all workers replaced all the time
    path.unlink()
    gone = f"nobody can connect to unix:{path}: its file is gone"
    master.wait_status(lambda each: each["reason"] == gone, gone)


def test_a_swept_socket_costs_nobody_a_worker(start: Start, place: Path) -> None:
    """The code on disk can't start: those who have the old socket, and all others, stay."""
    release(place, "r1", "notify serve")
    path = place / "app.sock"
    master = start("-n", "2", "-b", f"unix:{path}", "-b", "127.0.0.1:0", "-m", "notify", "--chdir",
                   str(place / "current"), "--", *COMMAND)
    before = {worker["pid"] for worker in master.wait_ready()["workers"]}
    recorder = master.record()
    shutil.rmtree((place / "current").resolve())
    path.unlink()
    recorder.wait_for("start-failed")
    document = master.status()
    assert {worker["pid"] for worker in document["workers"]} == before
    assert (document["gate"], document["ready"]) == ("degraded", 2)
    assert document["reason"] == (f"nobody can connect to unix:{path}: its file was removed, and "
                                  "no worker has the new socket yet")
    release(place, "r1", "notify serve")
    master.wait_ready()
    assert get(str(path))[0] == 200


def test_a_socket_whose_file_cannot_be_made_is_told_of_and_no_upgrade_is_done(start: Start,
                                                                              place: Path) -> None:
    master = unix_app(start, place)
    path = place / "sockets" / "app.sock"
    path.parent.rename(place / "elsewhere")
    document = master.status()
    assert document["gate"] == "degraded"
    assert document["reason"].startswith(f"nobody can connect to unix:{path}: ")
    assert "No such file or directory" in document["reason"]
    result = master.cli("upgrade")
    assert result.returncode == 5
    assert "No such file or directory" in result.stderr
    (place / "elsewhere").rename(path.parent)
    master.wait_log("listener is back")
    result = master.cli("upgrade")
    assert result.returncode == 0, result.stderr
    assert get(str(path))[0] == 200


def test_an_arbiter_after_ready_is_refused_before_the_upgrade_is_done(start: Start,
                                                                      place: Path) -> None:
    release(place, "r1", "notify serve")
    master = start("-n", "2", "-b", "127.0.0.1:0", "-m", "notify", "--chdir",
                   str(place / "current"), "--", *COMMAND)
    master.wait_ready()
    release(place, "r2", "notify late-arbiter")
    result = master.cli("upgrade")
    assert result.returncode == 5
    assert "gunicorn's own arbiter runs in it" in result.stderr
    master.wait_status(lambda document: {each["generation"] for each in document["workers"]} == {1},
                       "the way back")
    assert get(master.address)[0] == 200


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "unix:{place}/app.sock"])
def test_a_release_that_shuts_the_listening_socket_down_is_refused_by_name(
        start: Start, place: Path, bind: str) -> None:
    address = bind.format(place=place)
    release(place, "r1", "notify serve")
    master = start("-n", "2", "-b", address, "-m", "notify", "--chdir", str(place / "current"),
                   "--", *COMMAND)
    name = master.wait_ready()["listeners"][0]["address"]
    where = master.address if address.endswith(":0") else address.removeprefix("unix:")
    release(place, "r2", "notify shut serve")
    result = master.cli("upgrade")
    assert result.returncode == 5
    assert f"a worker of it shut down the listening socket {name}" in result.stderr
    assert master.status()["listeners"][0]["address"] == name
    assert get(where)[0] == 200
    release(place, "r3", "notify serve")
    result = master.cli("upgrade")
    assert result.returncode == 0, result.stderr
    assert get(where)[0] == 200
    assert "listener shut down" in master.log()


def test_a_listening_socket_that_current_code_shuts_down_listens_again(start: Start,
                                                                       place: Path) -> None:
    master = start("-n", "1", "-b", "127.0.0.1:0", "-m", "notify", "--", *WORKER, "notify", "serve")
    address = master.wait_ready()["listeners"][0]["address"]
    recorder = master.record()
    with socket.socket(fileno=borrowed(master, address)) as listener:
        listener.shutdown(socket.SHUT_RDWR)
    recorder.wait_for("listener-shut-down", address=address)
    assert get(master.address)[0] == 200


def borrowed(master: Master, address: str) -> int:
    """A duplicate of the worker's descriptor 3 (pidfd_getfd(2))."""
    import ctypes

    pidfd = os.pidfd_open(master.status()["workers"][0]["pid"])
    try:
        found = ctypes.CDLL(None, use_errno=True).syscall(438, pidfd, 3, 0)
    finally:
        os.close(pidfd)
    assert found >= 0, f"cannot share the socket of {address}"
    return int(found)


# --- deaths soon after ready ---


def test_a_release_whose_workers_keep_dying_soon_after_ready_degrades_the_gate(
        start: Start) -> None:
    master = start("-n", "1", "-m", "notify", "--max-failures", "1", "-s", "0.1", "--", *WORKER,
                   "notify", "die=1.2")
    document = master.wait_status(
        lambda document: document["gate"] == "degraded" and document["ready"] == 1, "degraded")
    assert "generation 1 keeps failing: 2 times, the last: worker 0 exited with code 7 1." in document[
        "reason"]
    assert master.cli("status").returncode in (4, 3)
    master.signal(signal.SIGQUIT)
    master.wait_exit()
