"""One process in the arbiter's place: it dies, hangs, can't fork, is kept and told; its workers are
the master's own children all the same."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from einhornpy.supervisor.system import descriptors

from ..airbag import check
from ..harness import Master, children, get, wait_gone, wait_until
from ..load import Load
from ..whole.test_no_lost_request import CLASSES, start_example

Start = Callable[..., Master]
APP = """
def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Length", "3")])
    return [b"ok\\n"]
"""


def begin(start: Start, place: Path, config: str = "", *flags: str, number: int = 2) -> Master:
    (place / "app.py").write_text(APP)
    (place / "gunicorn.conf.py").write_text(config)
    master = start("-n", str(number), "-b", "127.0.0.1:0", *flags, "--", "gunicorn", "app:wsgi")
    master.wait_ready()
    return master


def template(master: Master) -> dict[str, Any]:
    (only,) = master.wait_status(lambda status: len(status["templates"]) == 1)["templates"]
    return dict(only)


def pids(master: Master) -> set[int]:
    return {worker["pid"] for worker in master.status()["workers"]}


def parent_and_group(pid: int) -> tuple[int, int]:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[1]), int(words[2])


def test_workers_are_the_masters_own_children_in_groups_of_their_own(start: Start,
                                                                     place: Path) -> None:
    master = begin(start, place)
    for pid in pids(master):
        assert parent_and_group(pid) == (master.pid, pid)
    assert parent_and_group(template(master)["pid"])[0] == master.pid
    # whoever is killed with its group takes nobody along
    before = pids(master)
    os.killpg(min(before), signal.SIGKILL)
    master.wait_status(lambda status: status["ready"] == 2 and pids(master) != before)
    assert len(before & pids(master)) == 1


def test_a_template_that_dies_is_made_again_and_its_workers_go_on(start: Start,
                                                                  place: Path) -> None:
    master = begin(start, place)
    recorder = master.record()
    before, old = pids(master), template(master)["pid"]
    os.kill(old, signal.SIGKILL)
    recorder.wait_for("template-ready")
    assert template(master)["pid"] != old
    assert pids(master) == before
    os.kill(max(before), signal.SIGKILL)
    master.wait_status(lambda status: status["ready"] == 2)
    assert get(master.address) == (200, "ok\n")
    assert master.cli("upgrade").returncode == 0


def test_one_that_hangs_is_killed_and_another_one_made(start: Start, place: Path) -> None:
    master = begin(start, place, "", "--ready-timeout", "2")
    old = template(master)["pid"]
    os.kill(old, signal.SIGSTOP)
    os.kill(min(pids(master)), signal.SIGKILL)
    master.wait_log("template killed")
    master.wait_status(lambda status: status["ready"] == 2)
    assert template(master)["pid"] != old
    assert "reason=\"forked no worker within 2 s\"" in master.log()
    assert master.cli("status").returncode == 0


def test_a_fork_that_fails_is_told_in_words_and_costs_nobody_anything(start: Start,
                                                                      place: Path) -> None:
    """EAGAIN as the kernel gives it, and as an app's own hook does."""
    config = f"""
import errno, os
def pre_fork(server, worker):
    if os.path.exists({str(place / "full")!r}):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
"""
    master = begin(start, place, config)
    recorder = master.record()
    before = pids(master)
    (place / "full").touch()
    refused = master.cli("upgrade")
    assert refused.returncode == 5
    assert "Resource temporarily unavailable" in refused.stderr
    assert pids(master) == before
    assert master.cli("recycle", str(master.status()["workers"][0]["index"])).returncode == 0
    failed = recorder.wait_for("worker-cannot-be-started", generation=1)
    assert "Resource temporarily unavailable" in failed["error"]
    (place / "full").unlink()
    master.wait_status(lambda status: status["ready"] == 2 and not before <= pids(master))
    check(recorder, 2)


def test_a_reload_keeps_templates(start: Start, place: Path) -> None:
    master = begin(start, place)
    before = template(master)
    assert master.cli("reload").returncode == 0
    assert template(master)["pid"] == before["pid"]
    os.kill(min(pids(master)), signal.SIGKILL)
    master.wait_status(lambda status: status["ready"] == 2)
    os.kill(before["pid"], signal.SIGKILL)
    assert master.cli("reload").returncode == 0
    wait_until(lambda: template(master)["state"] == "ready", "another template", master.log)
    assert master.cli("upgrade").returncode == 0


def test_a_reload_while_a_template_leaves(start: Start, place: Path) -> None:
    """It has closed its way to the master, and is not gone yet."""
    master = begin(start, place, """
import atexit, os, time
def on_starting(server):
    pid = os.getpid()
    def leave_slowly():
        if os.getpid() == pid:
            os.closerange(3, 1000)
            time.sleep(1.5)
    atexit.register(leave_slowly)
""")
    assert master.cli("upgrade").returncode == 0
    assert master.cli("reload").returncode == 0
    assert template(master)["generation"] == 2


def test_what_is_begun_when_everything_is_open_moves_to_the_next_generation(start: Start,
                                                                            place: Path) -> None:
    """A metrics server on a port of its own, in the template."""
    config = """
import http.server, os, socket, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"%d" % os.getpid())
    def log_message(self, *_):
        pass
def when_ready(server):
    port = int(open("port").read()) if os.path.exists("port") else 0
    metrics = http.server.HTTPServer(("127.0.0.1", port), Handler)
    if not port:
        open("port", "w").write(str(metrics.server_port))
    threading.Thread(target=metrics.serve_forever, daemon=True).start()
"""
    master = begin(start, place, config)

    def who() -> int | None:
        try:
            port = (place / "port").read_text()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                return int(answer.read())
        except (OSError, ValueError):
            return None

    for _ in range(2):
        wait_until(lambda: who() == template(master)["pid"], "the metrics of the current template",
                   master.log)
        assert master.cli("upgrade").returncode == 0
    # its workers hold nothing of it
    os.kill(template(master)["pid"], signal.SIGKILL)
    wait_until(lambda: who() == template(master)["pid"], "the metrics of another template",
               master.log)
    assert "hook failed" not in master.log()


def test_ps_tells_templates_and_workers_without_a_library_for_it(start: Start,
                                                                 place: Path) -> None:
    (place / "hidden").mkdir()
    (place / "hidden" / "setproctitle.py").write_text("raise ImportError\n")
    master = begin(start, place, "", "--env", f"PYTHONPATH={place / 'hidden'}")
    titles = [Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0 ")
              for pid in (template(master)["pid"], min(pids(master)))]
    assert titles == ["gunicorn: template [app:wsgi]", "gunicorn: worker [app:wsgi]"]


def test_nothing_is_left_of_a_master_that_is_killed(start: Start, place: Path) -> None:
    master = begin(start, place)
    everybody = [*pids(master), template(master)["pid"]]
    os.kill(template(master)["pid"], signal.SIGSTOP)
    os.kill(master.pid, signal.SIGKILL)
    for pid in everybody:
        wait_gone(pid)


def test_workers_have_many_listeners(start: Start, place: Path) -> None:
    """More than a template has descriptors open itself."""
    (place / "app.py").write_text(APP)
    paths = [str(place / f"{number}.sock") for number in range(100)]
    binds = [word for path in paths for word in ("-b", f"unix:{path}")]
    master = start("-n", "1", *binds, "--", "gunicorn", "app:wsgi")
    master.wait_ready()
    assert [get(path) for path in (paths[0], paths[-1])] == [(200, "ok\n")] * 2
    assert master.cli("upgrade").returncode == 0
    assert get(paths[-1]) == (200, "ok\n")


def test_a_swept_socket_is_let_go_by_the_template_too(start: Start, place: Path) -> None:
    """Who waits at the old one would wait for ever."""
    (place / "app.py").write_text(APP)
    (place / "gunicorn.conf.py").write_text("")
    path = place / "app.sock"
    master = start("-n", "1", "-b", f"unix:{path}", "--", "gunicorn", "app:wsgi")
    master.wait_ready()
    recorder = master.record()

    def inodes() -> set[str]:
        return {each for each in descriptors.of(template(master)["pid"]) if "socket" in each}

    wait_until(lambda: len(inodes()) >= 2, "the template's own listeners", master.log)
    before = inodes()
    path.unlink()
    recorder.wait_for("worker-gone")
    wait_until(lambda: len(inodes() - before) == 1 and len(before - inodes()) == 1,
               "the new socket in the old one's place", master.log)
    assert get(str(path)) == (200, "ok\n")


def test_a_hook_that_ends_each_template_leaves_no_seat_empty(start: Start, place: Path) -> None:
    """It comes when the upgrade has ended, so that nothing goes back any more."""
    master = begin(start, place)
    (place / "gunicorn.conf.py").write_text("import os\ndef when_ready(server):\n    os._exit(7)\n")
    assert master.cli("upgrade").returncode == 0
    recorder = master.record()
    for deaths in (1, 2):
        dead = min(pids(master))
        others = pids(master) - {dead}
        os.kill(dead, signal.SIGKILL)
        recorder.wait_for("worker-died", deaths)
        master.wait_status(lambda status: status["ready"] == 2)
        assert others < pids(master)
    master.wait_log("another one is made without when_ready")


def test_one_that_hangs_behind_a_script_ends_with_its_master(start: Start, place: Path) -> None:
    """Else it would hold the address, and no other master could start."""
    (place / "gunicorn.conf.py").write_text(
        "import time\ndef child_exit(server, worker):\n    time.sleep(10000)\n")
    (place / "app.py").write_text(APP)
    script = place / "start.sh"
    script.write_text('#!/bin/sh\ngunicorn --version\ngunicorn "$@" &\nwait\n')
    script.chmod(0o755)
    master = start("-n", "2", "-b", "127.0.0.1:0", "--", "./start.sh", "app:wsgi")
    master.wait_ready()
    own = template(master)["pid"]
    (inner,) = [pid for pid, _ in children(own)]
    workers = pids(master)
    os.kill(min(workers), signal.SIGKILL)
    os.kill(master.pid, signal.SIGKILL)
    for pid in (own, inner, *workers):
        wait_gone(pid)


def test_a_stop_waits_long_only_for_a_hook(start: Start, place: Path) -> None:
    master = begin(start, place)
    os.kill(template(master)["pid"], signal.SIGSTOP)
    assert master.stop() == 0
    assert 'reason="did not leave within 3 s"' in master.log()


def test_hooks_leave_no_descriptor_open(start: Start, place: Path) -> None:
    """Looking for what a hook listens on must not open anything for good."""
    master = begin(start, place, "def when_ready(server):\n    pass\n", number=1)
    nothing = {each: list(descriptors.of(each)).count("/dev/null")
               for each in (template(master)["pid"], min(pids(master)))}
    # A template has some kept free for what workers are given, 200 at most, and they have none.
    assert max(nothing.values()) <= 205, nothing
    assert min(nothing.values()) <= 3, nothing


@pytest.mark.parametrize("flags", [(), ("--preload",)])
def test_what_a_worker_has_written_is_written_at_its_end(start: Start, place: Path,
                                                         flags: tuple[str, ...]) -> None:
    master = begin(start, place, """
def post_worker_init(worker):
    worker.kept = open("kept", "a", buffering=1 << 16)
    worker.kept.write("kept %d\\n" % worker.pid)
""", *flags)
    before = pids(master)
    assert master.cli("upgrade").returncode == 0
    assert sorted((place / "kept").read_text().split()[1::2]) == sorted(map(str, before))


# --- a storm ---

STEPS = ("generation-prepared", "worker-starting", "worker-ready", "worker-retiring", "worker-gone",
         "upgrade-ended")


def torment(master: Master, upgrades: int) -> None:
    """Upgrade so often; at another step each time a template is killed, or stopped."""
    recorder = master.record()
    for number in range(upgrades):
        step = STEPS[number % len(STEPS)]
        force = signal.SIGSTOP if number // len(STEPS) % 2 else signal.SIGKILL
        seen = sum(event["event"] == step for event in recorder.events)
        master.ask("upgrade", wait=False)
        generation = master.status()["newest_generation"]
        recorder.wait_for(step, seen + 1)
        victims = master.status()["templates"]
        if victims:
            victim = victims[number // 2 % len(victims)]["pid"]
            if victim:
                with contextlib.suppress(ProcessLookupError):  # it was just leaving
                    os.kill(victim, force)
        assert recorder.wait_for("upgrade-ended", generation=generation)["outcome"] == "done"


@pytest.mark.soak
@pytest.mark.parametrize("name", CLASSES)
def test_thirty_upgrades_whose_templates_are_killed_and_stopped(start: Start, name: str) -> None:
    templates_in_a_storm(start, name, 30)


@pytest.mark.parametrize("name", ["gthread"])
def test_upgrades_whose_templates_are_killed(start: Start, name: str) -> None:
    templates_in_a_storm(start, name, 6)


def templates_in_a_storm(start: Start, name: str, upgrades: int) -> None:
    master = start_example(start, ["--keep-alive", "1", *CLASSES[name]], 2, "0")
    recorder = master.record()
    with Load(master.address, 30 if name == "sync" else 60) as load:
        torment(master, upgrades)
    assert not load.report.failures, load.report.why() + master.log()
    check(recorder, 2)
    print(f"\n{name}: {upgrades} upgrades, {load.report.sent} requests, "
          f"{len(load.report.failures)} failed, templates died "
          f"{sum(event['event'] == 'template-died' for event in recorder.events)} times")


def test_a_worker_that_beats_is_not_taken_for_hung_by_a_busy_master(start: Start,
                                                                    place: Path) -> None:
    """The master looks for heartbeats as a turn begins, and judges by the clock at its end."""
    master = begin(start, place, "timeout = 1\n", number=4)
    recorder = master.record()
    before = pids(master)
    until = time.monotonic() + 6.0
    while time.monotonic() < until:
        master.status()
    assert all(event["event"] != "worker-hung" for event in recorder.events), master.log()
    assert pids(master) == before
