"""What a template costs, and what it saves: the memory of everything (master, template, workers)
and the time from spawn to ready, of an earlier commit and of the working tree, alternating in one
run.

    python -m bench.templates [COMMIT]

COMMIT: the last one without templates, unless another one is named. 8 gthread workers of the
example app, and of one that has 150 MB of objects.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .idle import proportional
from .servers import BIN, GTHREAD, ROOT, children, stop

BEFORE = "00785ab"
WORKERS, ROUNDS, UPGRADES = 8, 5, 2
ROOMS = ("shared", "supervisor", "control", "worker")
WORDS = {"ready": "spawn to ready", "upgrade": "an upgrade"}
# As an app's own: many small objects, which no two processes share.
LARGE = """
HELD = [{"number": number, "text": str(number)} for number in range(520_000)]
"""


@dataclass
class Figures:
    """`memory`: MiB, proportional, by what it is of; `ready`: seconds from spawn to ready of each
    worker; `upgrade`: seconds of each upgrade."""

    memory: dict[str, float]
    ready: list[float]
    upgrade: list[float]

    @property
    def whole(self) -> float:
        return sum(self.memory.values())


def package(where: Path, commit: str | None) -> Path:
    """Put einhornpy there as it is in a commit, or in the working tree; return what PYTHONPATH is
    to name."""
    target = where / (commit or "now") / "einhornpy"
    target.mkdir(parents=True)
    (target / "__init__.py").touch()  # what isn't here is nowhere
    if commit is None:
        for room in ROOMS:
            shutil.copytree(ROOT / room, target / room,
                            ignore=shutil.ignore_patterns("__pycache__"))
    else:
        packed = subprocess.run(["git", "archive", commit, *ROOMS], cwd=ROOT, check=True,
                                capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(target, filter="data")
    subprocess.run([sys.executable, "-m", "compileall", "-q", target], check=True)
    return target.parent


@contextlib.contextmanager
def running(code: Path, app: Path) -> Iterator[tuple[int, list[str], dict[str, str]]]:
    """Run the app under einhornpy as it is in `code`: the master's pid, and how a command is given
    to it."""
    with tempfile.TemporaryDirectory(prefix="bench", dir="/tmp") as place:
        environment = {
            "PATH": f"{BIN}:{os.environ['PATH']}", "XDG_RUNTIME_DIR": place, "HOME": place,
            "PYTHONPATH": str(code), "IMPORT_SECONDS": "0", "PWD": str(app)}
        cli = [sys.executable, "-P", "-c",
               "from einhornpy.control.cli.main import main; main()"]
        with open(Path(place) / "log", "wb") as log:
            master = subprocess.Popen(
                [*cli, "-n", str(WORKERS), "-b", "127.0.0.1:0", "-c", "bench",
                 "--min-ready-seconds", "0", "--", *GTHREAD],
                cwd=app, env=environment, stdout=log, stderr=log)
        try:
            subprocess.run([*cli, "status", "--wait", "-c", "bench"], env=environment, check=True,
                           stdout=subprocess.DEVNULL)
            yield master.pid, cli, environment
        finally:
            stop(master)


def measure(code: Path, app: Path) -> Figures:
    """One start, some upgrades, and what is there at rest after the start."""
    with running(code, app) as (master, cli, environment):

        def ask(*words: str) -> dict[str, object]:
            said = subprocess.run([*cli, *words, "-c", "bench", "--json"], env=environment,
                                  check=True, stdout=subprocess.PIPE)
            answer: dict[str, object] = json.loads(said.stdout)
            return answer

        def workers() -> list[dict[str, float]]:
            status: dict[str, list[dict[str, float]]] = ask("status")  # type: ignore[assignment]
            return status["workers"]

        time.sleep(2)
        forked = {int(worker["pid"]) for worker in workers()}
        others = set(children(master)) - forked
        figures = Figures({
            "master": proportional(master), "template": sum(map(proportional, others)),
            "workers": sum(map(proportional, forked))}, [], [])
        for _ in range(UPGRADES):
            begun = time.monotonic()
            ask("upgrade")
            figures.upgrade.append(time.monotonic() - begun)
            figures.ready += [worker["ready_after_seconds"] for worker in workers()]
    return figures


def apps(where: Path) -> dict[str, Path]:
    example = (ROOT / "examples" / "wsgi_app" / "app.py").read_text()
    found = {"the example app": where / "small", "an app of 150 MB": where / "large"}
    for path, text in zip(found.values(), (example, LARGE + example), strict=True):
        path.mkdir()
        (path / "app.py").write_text(text)
    return found


def ratio(after: list[float], before: list[float]) -> str:
    """The median of the ratios of the rounds, and their least and most."""
    pairs = sorted(new / old for new, old in zip(after, before, strict=True))
    return f"{statistics.median(pairs):.3f} ({pairs[0]:.3f} to {pairs[-1]:.3f})"


def table(before: Sequence[Figures], after: Sequence[Figures]) -> Iterator[str]:
    yield "| | before | now | ratio |\n| --- | --- | --- | --- |"
    for part in ("master", "template", "workers"):
        old, new = ([each.memory[part] for each in all] for all in (before, after))
        yield (f"| {part} | {statistics.median(old):.1f} MiB | {statistics.median(new):.1f} MiB | "
               f"{ratio(new, old) if all(old) else ''} |")
    old, new = ([each.whole for each in all] for all in (before, after))
    yield (f"| everything | {statistics.median(old):.1f} MiB | {statistics.median(new):.1f} MiB | "
           f"{ratio(new, old)} |")
    for name in ("ready", "upgrade"):
        old, new = ([statistics.median(getattr(each, name)) for each in all]
                    for all in (before, after))
        yield (f"| {WORDS[name]} | {statistics.median(old):.3f} s | {statistics.median(new):.3f} s "
               f"| {ratio(new, old)} |")


def main() -> None:
    commit = sys.argv[1] if len(sys.argv) > 1 else BEFORE
    where = Path(tempfile.mkdtemp(prefix="bench", dir="/tmp"))
    try:
        codes = [package(where, commit), package(where, None)]
        for name, app in apps(where).items():
            rounds = [[measure(code, app) for code in codes] for _ in range(ROUNDS)]
            print(f"\n{name}, {WORKERS} workers, {ROUNDS} rounds, {commit} and the working tree:\n")
            before, after = zip(*rounds, strict=True)
            print("\n".join(table(before, after)), flush=True)
    finally:
        shutil.rmtree(where, ignore_errors=True)


if __name__ == "__main__":
    main()
