"""A pid that comes again: what a process has said that is gone is not the word of the worker that
has its pid now."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from einhornpy.shared import peer

from ..harness import DEADLINE, ROOT, base_environment

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
WITHOUT_PIDFDS = (
    "import einhornpy.shared.peer as peer\npeer.SO_PEERPIDFD = peer.SO_PASSPIDFD = 9999\n")
needs = pytest.mark.skipif(
    os.geteuid() != 0 or not LAST_PID.exists(),
    reason="needs root, and a kernel that lets it choose a pid (CONFIG_CHECKPOINT_RESTORE)")


@needs
@pytest.mark.parametrize("settings", [(), ("datagrams=no",)],
                         ids=["by pidfd", "as before Linux 6.5"])
def test_a_process_that_has_gone_says_nothing_in_the_name_of_a_worker(
        place: Path, settings: tuple[str, ...]) -> None:
    """An ack, a failure and a wish for an upgrade: accepted before the worker was there, waiting
    when it came, and as datagrams."""
    place.chmod(0o755)
    environment = base_environment(place) | {"PYTHONPATH": str(ROOT)}
    if settings:
        (place / "old").mkdir()
        (place / "old" / "sitecustomize.py").write_text(WITHOUT_PIDFDS)
        environment["PYTHONPATH"] = f"{ROOT}:{place}/old"
    command = [sys.executable, "-m", "tests.recycled", str(place), *settings]
    ran = subprocess.run(
        ["unshare", "--pid", "--net", "--fork", "--mount-proc", "--kill-child", *command], cwd=ROOT,
        env=environment, capture_output=True, text=True, timeout=DEADLINE)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["states"] == ["ready"] + ["starting"] * (2 if settings else 3), ran.stderr
    assert (found["newest"], found["last_upgrade"], found["held"]) == (1, None, 0)
    assert "said by a ghost" not in ran.stderr


def test_whether_the_process_at_the_other_end_has_gone(place: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(f"{place}/x.sock")
        listener.listen()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            pid = os.fork()
            if pid == 0:
                try:
                    connection.connect(f"{place}/x.sock")
                finally:
                    os._exit(0)
            with listener.accept()[0] as accepted:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
                assert peer.credentials(accepted)[0] == pid
                assert not peer.is_gone(accepted), "it is dead, but its pid is still its own"
                os.waitpid(pid, 0)
                tells = True
                try:
                    os.close(accepted.getsockopt(socket.SOL_SOCKET, peer.SO_PEERPIDFD))
                except OSError as error:
                    tells = "not available" not in str(error)
                assert peer.is_gone(accepted) == tells
