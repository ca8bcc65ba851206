"""The example deploy tool over two masters, which stand for two hosts."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .harness import EXAMPLE, ROOT, Master

Start = Callable[..., Master]


def deploy(release: str, *hosts: Master) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(ROOT / "examples" / "deploy_tool" / "deploy.py"), release,
                           *(host.path for host in hosts)], env=hosts[0].environment, capture_output=True, text=True,
                          timeout=120, check=False)


def test_a_broken_release_never_reaches_the_second_host(start: Start, place: Path) -> None:
    hosts = []
    for name in ("one", "two"):
        directory = place / name
        directory.mkdir()
        shutil.copy(EXAMPLE / "app.py", directory / "app.py")
        hosts.append(start("-n", "2", "-b", "127.0.0.1:0", "-d", str(directory / "m.sock"), "--max-failures", "1",
                           "--", "gunicorn", "app:wsgi", directory=directory))
    for host in hosts:
        host.wait_ready()
    result = deploy("good", *hosts)
    assert result.returncode == 0, result.stderr
    assert [host.status()["release"] for host in hosts] == ["good", "good"]
    ended = [host.status()["upgrade"] for host in hosts]
    assert ended[0]["ended_at"] <= ended[1]["started_at"]
    for host in hosts:
        app = host.directory / "app.py"
        app.write_text("raise RuntimeError('broken')\n" + app.read_text())
    result = deploy("bad", *hosts)
    assert result.returncode == 5
    assert "it refused the release; 1 hosts left untouched" in result.stderr
    first, second = (host.status() for host in hosts)
    assert (first["gate"], first["release"], first["newest_generation"]) == ("rolled-back", "good", 3)
    assert (second["gate"], second["release"], second["newest_generation"]) == ("ready", "good", 2)
