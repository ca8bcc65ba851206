"""From the version before to this one and back again, under load: `make soak` only, since the
version before comes from the repository's history (BEFORE names the commit; without a repository
there is nothing to compare with, and the test is skipped)."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from .. import harness
from ..airbag import check
from ..harness import EXAMPLE, ROOT, Master
from ..load import Load

# The last commit of the layout before this one.
BEFORE = os.environ.get("BEFORE", "449e3c7")


def version_before(place: Path) -> Path:
    """A program that is the version before; it execs `place/next` as its next one."""
    archive = subprocess.run(["git", "archive", BEFORE, "supervisor", "control", "worker"],
                             cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"no commit {BEFORE} here")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(place / "before" / "einhornpy", filter="data")
    program = place / "einhornpy-before"
    # As its command line does it: it adopts orphans, and is the master from then on.
    become = ("import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); "
              "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])")
    program.write_text(f'#!/bin/sh\nexport PYTHONPATH={place}/before\n'
                       f'exec {sys.executable} -P -c "{become}" -P -m einhornpy.supervisor "$@"\n')
    program.chmod(0o755)
    return program


@pytest.mark.soak
@pytest.mark.parametrize("ends", ["resume", "abort"])
def test_a_hold_goes_on_from_one_version_to_the_next_and_back(
        start: Callable[..., Master], place: Path, monkeypatch: pytest.MonkeyPatch,
        ends: str) -> None:
    before = version_before(place)
    (place / "next").write_text(
        f'#!/bin/sh\nif [ -e {place}/back ]; then exec {before} "$@"; fi\n'
        f'unset PYTHONPATH\nexec {sys.executable} -P -m einhornpy.supervisor "$@"\n')
    (place / "next").chmod(0o755)
    flags = {"number": "3", "bind": ["127.0.0.1:0"], "reexec_as": str(place / "next"),
             "socket_path": str(place / "control.sock")}
    command = ["gunicorn", "-k", "gthread", "--threads", "4", "app:wsgi"]
    monkeypatch.setattr(harness, "EINHORNPY", str(before))
    master = start(json.dumps({"flags": flags, "command": command, "directory": str(EXAMPLE)}))
    monkeypatch.undo()
    master.wait_ready()
    recorder = master.record()
    with Load(master.address, rate=60) as load:
        master.ask("upgrade", canary=1, hold="until-resume", wait=False)
        held = master.wait_status(
            lambda each: each["gate"] == "paused" and "held until" in each["reason"], "held")
        assert "phase" not in held["upgrade"]
        assert master.cli("reload").returncode == 0, master.log()
        held = master.status()
        assert (held["gate"], held["upgrade"]["phase"]) == ("paused", "held")
        (place / "back").touch()
        assert master.cli("reload").returncode == 0, master.log()
        held = master.status()
        assert held["gate"] == "paused"
        assert "phase" not in held["upgrade"]
        (place / "back").unlink()
        assert master.cli("reload").returncode == 0, master.log()
        master.cli(ends)
        master.wait_status(lambda each: each["upgrade"]["outcome"] is not None, "its end")
        after = master.status()
        assert after["upgrade"]["outcome"] == ("done" if ends == "resume" else "aborted")
        assert after["master"]["reloads"] == 3
    assert not load.report.failures, load.report.why()
    assert load.report.ok > 100
    check(recorder, 3)
