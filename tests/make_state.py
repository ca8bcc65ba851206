"""Writes tests/states/VERSION.json: the state that a master of this version hands the next, in the
middle of a canary's hold.

Run once for each release (`python -m tests.make_state`): later versions must go on reading it.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from .harness import APPS, ROOT, Master


def main() -> None:
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    program = place / "next"
    program.write_text(f"#!/bin/sh\ncat > {place}/state\nexit 1\n")
    program.chmod(0o755)
    master = Master(place, [
        "-n", "2", "-g", "-b", "127.0.0.1:0", "-m", "notify", "--reexec-as",
        str(program), "--env", "KEY=value", "--", sys.executable,
        str(APPS / "worker.py"), "notify"])
    try:
        master.wait_ready()
        recorder = master.record()
        master.cli("upgrade", "--release", "one")
        master.cli("upgrade", "--no-wait", "--release", "two", "--canary", "1", "--hold",
                   "until-resume", "--check", "sleep 60")
        recorder.wait_for("hold-begun")
        master.cli("reload")
        state = json.loads((place / "state").read_text())
        path = Path(__file__).parent / "states" / f"{state['version']}.json"
        path.write_text(
            json.dumps(state, indent=1).replace(str(place), "/srv/web").replace(str(ROOT), "/src") +
            "\n")
        print(path)
    finally:
        master.stop()
        master.close()
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
