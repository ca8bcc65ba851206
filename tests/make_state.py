"""Writes tests/states/VERSION.json and what begins with it: the states that a master of this version
hands the next, in the middle of a canary's hold, of one that is judged, and of a watch.

Run once for each release (`python -m tests.make_state`): later versions must go on reading them.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .harness import APPS, ROOT, Master, wait_until

# Says that it answers 200 requests a second.
ANSWERS = """
import time
from einhornpy import worker
worker.ready()
while True:
    time.sleep(0.005)
    worker.answered(200, 0.003, 500)
"""


@contextmanager
def handing_over(*arguments: str) -> Iterator[tuple[Master, Path, Callable[[], dict[str, Any]]]]:
    """A master, its directory, and what makes it hand its state over: to nobody."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    program = place / "next"
    program.write_text(f"#!/bin/sh\ncat > {place}/state\nexit 1\n")
    program.chmod(0o755)
    release(place, "r1")

    def state() -> dict[str, Any]:
        master.cli("reload")
        text = (place / "state").read_text()
        found: dict[str, Any] = json.loads(
            text.replace(str(place), "/srv/web").replace(str(ROOT), "/src"))
        return found

    master = Master(place, ["-n", "2", "-b", "127.0.0.1:0", "-m", "notify", "--reexec-as",
                            str(program), "--env", "KEY=value", *arguments])
    try:
        master.wait_ready()
        yield master, place, state
    finally:
        master.stop()
        master.close()
        shutil.rmtree(place)


def release(place: Path, name: str) -> None:
    """Let workers that are started from now on run the code of this release."""
    (place / name).mkdir()
    (place / name / "answers.py").write_text(ANSWERS)
    (place / "link").symlink_to(name)
    (place / "link").rename(place / "current")


def held() -> dict[str, Any]:
    with handing_over("-g", "--", sys.executable, str(APPS / "worker.py"), "notify") as (
            master, _, state):
        recorder = master.record()
        master.cli("upgrade", "--release", "one")
        master.cli("upgrade", "--no-wait", "--release", "two", "--canary", "1", "--hold",
                   "until-resume", "--check", "sleep 60")
        recorder.wait_for("hold-begun")
        return state()


def judged(*flags: str, phase: str) -> dict[str, Any]:
    """In this phase, with a verdict on more requests than are needed for one."""
    with handing_over("--chdir", "current", "--", sys.executable, "answers.py") as (
            master, place, state):
        release(place, "r2")
        master.cli("upgrade", "--no-wait", "--judge", *flags)

        def looked() -> bool:
            upgrade = master.status()["upgrade"]
            word = (upgrade["verdict"] or {}).get("word")
            return upgrade["phase"] == phase and word in ("no-worse", "well")

        wait_until(looked, f"a verdict while it is {phase}", master.log)
        return state()


MAKERS: dict[str, Callable[[], dict[str, Any]]] = {
    "": held, "-judged": lambda: judged("--canary", "1", "--hold", "300", phase="held"),
    "-watched": lambda: judged("--canary", "1", "--hold", "6", phase="watched")}


def main() -> None:
    for name in sys.argv[1:] or MAKERS:
        state = MAKERS[name]()
        path = Path(__file__).parent / "states" / f"{state['version']}{name}.json"
        path.write_text(json.dumps(state, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
