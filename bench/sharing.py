"""How much memory forked workers share, on a real stack (`bench/real_stack`): Django, Django REST
framework, pandas, SQLAlchemy, boto3 and a table of 100,000 rows, by the way they are started.

    python -m bench.sharing [--python PATH] [--cache DIRECTORY] [--workers N] [--threads N]
                            [--rounds N] [--requests N ...] [--traffic light|varied]
                            [--only EXPRESSION]

Memory is the proportional set size of every process there is: master or arbiter, template, workers.
"Collected": after `gc.collect()`; "frozen": after that and `gc.freeze()`; "tried out": after a few
requests of each kind, which make what the app makes only when it is first asked. "Warm" are workers
that were forked from a process which had itself answered 5,000 requests, as if forked anew
from a worker that has served. einhornpy's template collects and freezes by itself, and with
`--warm-up` one request of each kind tries it out; of einhornpy, the most that an upgrade takes is
looked at too, every few milliseconds. All ways alternate in one run.

Memory differs by few per cent from round to round on a busy host; the first answer is only as good
as the host is idle.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import http.client
import itertools
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .idle import proportional
from .real_stack.hooks import REQUESTS
from .real_stack.traffic import ONE_OF_EACH, WEIGHTS, path
from .servers import BIN, ROOT, children, free_port, stop

REQUIREMENTS = ("boto3", "django", "djangorestframework", "gunicorn>=27", "pandas", "sqlalchemy>=2")
CLIENTS = 24
FIRST_ANSWER_SECONDS = 300
TICKS = os.sysconf("SC_CLK_TCK")

# `{…}` is filled in by `words`.
GUNICORN = ("{gunicorn}", "-b", "{address}", "-w", "{workers}")
EINHORNPY = ("{einhornpy}", "-n", "{workers}", "-b", "{address}", "-c", "sharing")
WARM_UP = tuple(word for target in ONE_OF_EACH for word in ("--warm-up", target))
APP = ("--threads", "{threads}", "-c", "conf.py", "real_stack.app:wsgi")


@dataclass(frozen=True)
class Way:
    """A way to start the workers. `command`: its words; `hooks`: the functions of
    `real_stack.hooks` that gunicorn is to call before it forks the first worker."""

    name: str
    command: tuple[str, ...]
    hooks: tuple[str, ...] = ()

    def conf(self) -> str:
        """The text of gunicorn's conf file. Eight workers that import at once take their time."""
        lines = ["timeout = 300"]
        if self.hooks:
            lines += ["from real_stack import hooks", "def when_ready(server):",
                      *(f"    hooks.{hook}(server.app.wsgi())" for hook in self.hooks)]
        return "\n".join([*lines, ""])


PRELOAD = (*GUNICORN, "--preload", *APP)
WAYS = [
    Way("gunicorn", (*GUNICORN, *APP)),
    Way("gunicorn --preload", PRELOAD),
    Way("gunicorn --preload, collected", PRELOAD, ("collect",)),
    Way("gunicorn --preload, frozen", PRELOAD, ("collect", "freeze")),
    Way("gunicorn --preload, tried out", PRELOAD, ("try_out",)),
    Way("gunicorn --preload, tried out and frozen", PRELOAD, ("try_out", "collect", "freeze")),
    Way("gunicorn --preload, warm", PRELOAD, ("warm_up",)),
    Way("gunicorn --preload, warm and frozen", PRELOAD, ("warm_up", "collect", "freeze")),
    Way("einhornpy", (*EINHORNPY, "--", "{gunicorn}", *APP)),
    Way("einhornpy --preload", (*EINHORNPY, "--preload", "--", "{gunicorn}", *APP)),
    Way("einhornpy --preload --warm-up",
        (*EINHORNPY, "--preload", *WARM_UP, "--", "{gunicorn}", *APP)),
]
STANDARDS = WAYS[:2]


@dataclass
class Figures:
    """`first`: seconds to the first answer; `memory`: MiB of everything, at rest and after each
    load; `own`: MiB that a worker shares with nobody in the end, on average; `least`: how many
    requests the least busy worker has answered; `upgrade`: the most MiB while an upgrade ran, by
    what everything had used before; 0 where there is no such thing."""

    first: float
    memory: list[float]
    own: float
    least: int
    upgrade: float = 0.0


def stack(python: Path, cache: Path) -> Path:
    """Return the `bin` of a virtual environment of that Python with the stack in it, which is made
    unless the cache has one."""
    asked = subprocess.run([python, "-c", "import sys; print(sys.version)"], check=True, text=True,
                           stdout=subprocess.PIPE).stdout
    key = hashlib.sha256(repr((asked, str(python), REQUIREMENTS)).encode()).hexdigest()[:12]
    place = cache / f"python{'.'.join(asked.split('.')[:2])}-{key}"
    if not (place / "complete").exists():
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([python, "-m", "venv", place], check=True)
        subprocess.run([
            place / "bin" / "python", "-m", "pip", "install", "--quiet",
            "--disable-pip-version-check", *REQUIREMENTS], check=True)
        (place / "complete").touch()
    return place / "bin"


def versions(binaries: Path) -> str:
    """Of Python and of what is in its environment, in one line."""
    code = ("import platform, sys; from importlib.metadata import version\n"
            "print('Python', platform.python_version(), end='')\n"
            "for name in sys.argv[1:]: print(',', name, version(name), end='')")
    names = [re.split(r"\W", requirement)[0] for requirement in REQUIREMENTS]
    return subprocess.run([binaries / "python", "-c", code, *names], check=True, text=True,
                          stdout=subprocess.PIPE).stdout


def words(way: Way, binaries: Path, port: int, options: argparse.Namespace) -> list[str]:
    """The command of a way, filled in."""
    values = {
        "gunicorn": binaries / "gunicorn", "einhornpy": BIN / "einhornpy",
        "address": f"127.0.0.1:{port}", "workers": options.workers, "threads": options.threads}
    return [word.format(**values) for word in way.command]


@contextlib.contextmanager
def running(way: Way, binaries: Path, port: int,
            options: argparse.Namespace) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run the app that way until the block ends; show the end of its log if the block raises."""
    with tempfile.TemporaryDirectory(prefix="bench", dir="/tmp") as name:
        place = Path(name)
        shutil.copytree(ROOT / "bench" / "real_stack", place / "real_stack",
                        ignore=shutil.ignore_patterns("__pycache__"))
        (place / "conf.py").write_text(way.conf())
        subprocess.run([binaries / "python", "-m", "compileall", "-q", place], check=True)
        environment = {
            name: value for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "EINHORN", "GUNICORN"))} | {
                "HOME": name, "XDG_RUNTIME_DIR": name, "PWD": name, "PYTHONPATH": name}
        with open(place / "log", "wb") as log:
            process = subprocess.Popen(words(way, binaries, port, options), cwd=place,
                                       env=environment, stdout=log, stderr=log)
        try:
            yield process, place
        except BaseException:
            print((place / "log").read_text()[-3000:], file=sys.stderr)
            raise
        finally:
            stop(process)


def ask(port: int, target: str) -> str:
    """Ask for a path on a connection of its own; return the pid of the worker that answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", target, headers={"Connection": "close"})
        answer = connection.getresponse()
        answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise RuntimeError(f"{target}: {answer.status}")
    return answer.headers["X-Worker"]


def first_answer(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait for it."""
    deadline = time.monotonic() + FIRST_ANSWER_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(ConnectionRefusedError):
            ask(port, "/health")
            return
        time.sleep(0.02)
    raise RuntimeError("no answer")


def processes(process: subprocess.Popen[bytes]) -> list[int]:
    return [process.pid, *children(process.pid)]


def computed(pids: Sequence[int]) -> float:
    """Seconds of a processor that they have used."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(after_name[11]) + int(after_name[12])
    return ticks / TICKS


def settle(process: subprocess.Popen[bytes]) -> None:
    """Wait until the same processes have computed nothing worth naming for two seconds."""
    calm = 0
    while calm < 2:
        before = processes(process)
        begun = computed(before)
        time.sleep(1)
        rests = processes(process) == before and computed(before) - begun < 0.05
        calm = calm + 1 if rests else 0


def private(pid: int) -> float:
    """MiB that no other process has."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(map(int, re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+)", rollup, re.M))) / 1024


def everything(process: subprocess.Popen[bytes]) -> float:
    """MiB of the process and of all below it, when they rest."""
    settle(process)
    return sum(map(proportional, processes(process)))


def measure(way: Way, binaries: Path, options: argparse.Namespace) -> Figures:
    """Start it that way, and look at its memory at rest and after each load. Raise unless every
    worker has had requests."""
    port = free_port()
    begun = time.monotonic()
    with (running(way, binaries, port, options) as (process, place),
          ThreadPoolExecutor(CLIENTS) as clients):
        first_answer(process, port)
        first = time.monotonic() - begun
        memory = [everything(process)]
        answered: Counter[str] = Counter()
        for done, target in itertools.pairwise([0, *options.requests]):
            # Not what was asked to warm up.
            paths = (path(number, options.traffic)
                     for number in range(REQUESTS + done, REQUESTS + target))
            answered.update(clients.map(functools.partial(ask, port), paths))
            memory.append(everything(process))
        workers = {int(pid) for pid in answered}
        if len(workers) != options.workers or not workers <= set(processes(process)):
            raise RuntimeError(f"of {processes(process)} had requests: {workers}")
        own = statistics.mean(map(private, workers))
        upgrade = 0.0
        if way.name.startswith("einhornpy"):
            upgrade = most_in_upgrade(process, place) / memory[-1]
        return Figures(first, memory, own, min(answered.values()), upgrade)


def most_in_upgrade(process: subprocess.Popen[bytes], place: Path) -> float:
    """The most MiB of everything, of many looks while an upgrade runs."""
    environment = {**os.environ, "HOME": str(place), "XDG_RUNTIME_DIR": str(place)}
    upgrade = subprocess.Popen([BIN / "einhornpy", "upgrade", "-c", "sharing"], env=environment,
                               stdout=subprocess.DEVNULL)
    most = 0.0
    while upgrade.poll() is None:
        total = 0.0
        for pid in processes(process):
            with contextlib.suppress(OSError, AssertionError):  # it has just left
                total += proportional(pid)
        most = max(most, total)
    if upgrade.returncode:
        raise RuntimeError("the upgrade was refused")
    return most


def table(found: dict[str, list[Figures]], requests: Sequence[int]) -> Iterator[str]:
    """A line for each way: medians, and behind each memory its ratios to those of `STANDARDS` that
    were measured, medians of the rounds' own."""
    looks = ["at rest", *(f"after {done:,}" for done in requests)]
    yield f"| | first answer | {' | '.join(looks)} | a worker's own | least busy worker | upgrade |"
    yield "| --- " * (len(looks) + 5) + "|"
    standards = [found[way.name] for way in STANDARDS if way.name in found]
    for name, rounds in found.items():
        cells = [f"{statistics.median(each.first for each in rounds):.1f} s"]
        for look in range(len(looks)):
            memory = [each.memory[look] for each in rounds]
            ratios = (statistics.median(
                new / each.memory[look] for new, each in zip(memory, standard, strict=True))
                      for standard in standards)
            cells.append(" ".join([f"{statistics.median(memory):.0f} MiB",
                                   *(f"{ratio:.3f}" for ratio in ratios)]))
        cells += [f"{statistics.median(each.own for each in rounds):.1f} MiB",
                  f"{min(each.least for each in rounds)} requests",
                  f"{statistics.median(each.upgrade for each in rounds):.2f}"
                  if rounds[0].upgrade else ""]
        yield f"| {name} | {' | '.join(cells)} |"


def spread(found: dict[str, list[Figures]]) -> float:
    """How far apart, at most, the rounds of one way are: the greatest memory by the least."""
    looks: list[tuple[float, ...]] = [
        look for rounds in found.values()
        for look in zip(*(each.memory for each in rounds), strict=True)]
    return max(max(look) / min(look) for look in looks)


def arguments() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = argparse.ArgumentParser(prog="python -m bench.sharing")
    parser.add_argument("--python", type=Path, default=Path(sys.executable).resolve(),
                        help="the Python that runs the stack (default: this one)")
    parser.add_argument("--cache", type=Path, default=cache / "einhornpy-bench",
                        help="where its virtual environment is kept (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--threads", type=int, default=4,
                        help="of each worker; 1: gunicorn's class sync (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, nargs="+", default=[3000, 5000], metavar="N",
                        help="after how many of them in all to look (default: 3000 5000)")
    parser.add_argument("--traffic", choices=[*WEIGHTS], default="varied",
                        help="what is asked for (default: %(default)s)")
    parser.add_argument("--only", type=re.compile, default=re.compile(""), metavar="EXPRESSION",
                        help="the ways in whose name this regular expression is found")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    binaries = stack(options.python.absolute(), options.cache.absolute())
    ways = [way for way in WAYS if options.only.search(way.name)]
    found: dict[str, list[Figures]] = {way.name: [] for way in ways}
    for _ in range(options.rounds):
        for way in ways:
            found[way.name].append(measure(way, binaries, options))
    standards = ", ".join(f"`{way.name}`" for way in STANDARDS if way in ways)
    print(f"\n{versions(binaries)}\n\n{options.workers} workers of {options.threads} threads, "
          f"{options.traffic} traffic, rounds: {options.rounds}; "
          f"ratios to {standards or 'nothing'}:\n")
    print("\n".join(table(found, options.requests)))
    print(f"\nrounds of one way differ by {spread(found) - 1:.1%} at most", flush=True)


if __name__ == "__main__":
    main()
