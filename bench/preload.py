"""What `--preload` is for: one import for each generation. How long an upgrade, the way back from
half of one and the replacement of a killed worker take, and what requests feel of an upgrade;
beside einhornpy without it, gunicorn with its own `--preload`, and plain gunicorn.

    python -m bench.preload [PART...] [--workers N] [--plain N] [--kind CLASS] [--import SECONDS]
                            [--kills N] [--rounds N]

PART: roll, back, kill, load; all of them, unless some are named. `--plain`: so many workers where
each imports the app itself, one after another. One boot: what the template's import took; a whole
one: from the start of `gunicorn -w 1` until its worker was ready. gunicorn with `preload_app` keeps
its code at HUP, so it gets USR2, and its old arbiter TERM as soon as the new workers are ready.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tests.harness import adopt_orphans
from tests.load import Load, Report

from .preload_servers import App, Contender, Gunicorn, Ours, Plan, running

PARTS = ("roll", "back", "kill", "load")
RATE, BACKGROUND = 100.0, 50.0
MEGABYTES = 250
PLAIN_KILLS = 3  # where each takes a whole import
KINDS: tuple[type[Ours] | type[Gunicorn], ...] = (Ours, Gunicorn)
# A worker that is the first of the second half fails.
FAILS_AT_HALF = """
def post_fork(server, worker):
    if worker.age > {half}:
        raise RuntimeError("it is one of the second half")
"""


@dataclass(frozen=True)
class Options:
    """`plain`: how many workers where each imports the app itself."""

    workers: int
    plain: int
    kills: int
    rounds: int
    plan: Plan

    def without(self) -> Plan:
        return replace(self.plan, preload=False, workers=self.plain)


def whole_boot(options: Options) -> float:
    """Seconds from the start of gunicorn until its only worker was ready."""
    begun = time.monotonic()
    with running(Gunicorn, replace(options.plan, preload=False, workers=1)) as alone:
        return min(alone.ready.values()) - begun


# --- an upgrade ---


@dataclass(frozen=True)
class Roll:
    """Seconds. `whole`: from the command to done; `boot`: the import by the template; `exchange`:
    from that until the last new worker was ready; `leaving`: from then until the last old one was
    gone, and done was said; where there was a template."""

    whole: float
    boot: float = 0.0
    exchange: float = 0.0
    leaving: float = 0.0


def roll(ours: Ours) -> Roll:
    ours.since()
    whole = ours.reload()
    events = ours.since()
    ready = [event["seen"] for event in events if event["event"] == "worker-ready"]
    assert len(ready) == ours.plan.workers, events
    if not ours.plan.preload:
        return Roll(whole)
    imported = next(event for event in events if event["event"] == "template-ready")
    ended = next(event for event in events if event["event"] == "upgrade-ended")
    return Roll(whole, imported["imported_seconds"], ready[-1] - imported["seen"],
                ended["seen"] - ready[-1])


def measure_rolls(options: Options) -> None:
    alone = whole_boot(options)
    with running(Ours, options.plan) as ours:
        rolls = [roll(ours) for _ in range(options.rounds)]
    boot = statistics.median(each.boot for each in rolls)
    print(f"\nAn upgrade, from the command to done, {options.plan.kind}. One boot: {boot:.2f} s, a "
          f"whole one {alone:.2f} s.\n\n"
          "| | workers | takes | over one boot | over a whole one |\n" + "| --- " * 5 + "|")

    def row(name: str, workers: int, taken: Sequence[float]) -> None:
        print(f"| {name} | {workers} | {spread(taken, 's')} | {spread(taken, '', boot)} | "
              f"{spread(taken, '', alone)} |", flush=True)

    row("einhornpy --preload", options.workers, [each.whole for each in rolls])
    with running(Ours, options.without()) as ours:
        row("einhornpy", options.plain, [roll(ours).whole])
    for plan in (options.plan, replace(options.plan, preload=False)):
        with running(Gunicorn, plan) as theirs:
            row(theirs.name, plan.workers, [theirs.reload() for _ in range(options.rounds)])
    steps = [each.exchange / options.workers * 1000 for each in rolls]
    leaving = [each.leaving * 1000 for each in rolls]
    print(f"\nOf einhornpy --preload, after the import: {spread(steps, 'ms')} a worker until the "
          f"last new one was ready, then {spread(leaving, 'ms')} until the last old one was gone.",
          flush=True)


# --- the way back ---


@dataclass(frozen=True)
class Back:
    """Seconds from the abort or the refusal. `ready`: until all are ready on the old generation;
    `ended`: until the upgrade was told to have ended. `again`: so many had to be started anew."""

    ready: float
    ended: float
    again: int


def abort(ours: Ours) -> Back:
    """Abort an upgrade of which half is done: canaries that are held."""
    ours.since()
    half = ours.plan.workers // 2
    ours.command("upgrade", "--no-wait", "--canary", str(half), "--hold", "until-resume")
    ours.recorder.wait_for("hold-begun", 1 + sum(
        event["event"] == "hold-begun" for event in ours.recorder.events[:ours.heard]))
    ours.since()
    begun = time.monotonic()
    ours.master.ask("abort")
    return went_back(ours, begun)


def refuse(ours: Ours) -> Back:
    """A release whose workers fail from the second half on."""
    ours.since()
    settings = ours.directory / "gunicorn.conf.py"
    settings.write_text(FAILS_AT_HALF.format(half=ours.plan.workers // 2))
    done = ours.master.cli("upgrade", "--max-failures", "1", timeout=600.0)
    settings.unlink()
    assert done.returncode == 5, done
    events = ours.recorder.events[ours.heard:]
    refused = next(at for at, event in enumerate(events) if event["event"] == "upgrade-refused")
    ours.heard += refused
    return went_back(ours, events[refused]["seen"])


def went_back(ours: Ours, begun: float) -> Back:
    count = sum(event["event"] == "upgrade-ended" for event in ours.recorder.events[:ours.heard])
    ended = ours.recorder.wait_for("upgrade-ended", count + 1)
    ready = [event["seen"] for event in ours.since() if event["event"] == "worker-ready"]
    workers = ours.master.status()["workers"]
    serving = [each["generation"] for each in workers if each["state"] == "ready"]
    assert serving == [1] * ours.plan.workers, workers
    return Back(max(ready, default=begun) - begun, ended["seen"] - begun, len(ready))


def measure_backs(options: Options) -> None:
    print(f"\nThe way back when half is done, {options.plan.kind}, over one boot: until all are "
          "ready on the old generation, and until it is told to have ended.\n\n"
          "| | workers | started anew | ready | over one boot | told | over one boot |\n"
          "| --- | --- | --- | --- | --- | --- | --- |")
    for plan in (options.plan, options.without()):
        with running(Ours, plan) as ours:
            boot = plan.app.seconds
            for name, way in (("aborted", abort), ("refused", refuse)):
                backs = [way(ours) for _ in range(options.rounds if plan.preload else 1)]
                ready, ended = [each.ready for each in backs], [each.ended for each in backs]
                again = "/".join(sorted({str(each.again) for each in backs}))
                print(f"| {ours.name}, {name} | {plan.workers} | {again} | {spread(ready, 's')} | "
                      f"{spread(ready, '', boot)} | {spread(ended, 's')} | "
                      f"{spread(ended, '', boot)} |", flush=True)


# --- a worker that is killed ---


def measure_kills(options: Options) -> None:
    light, seconds = options.plan.app, options.plan.app.seconds
    heavy = App(f"{MEGABYTES} MB", 0.0, MEGABYTES)
    print(f"\nFrom SIGKILL to the replacement's ready, 4 workers of {options.plan.kind}, "
          f"{BACKGROUND:g} requests a second meanwhile; seen from outside.\n\n"
          "| | app | kills | median | p95 | worst | until noticed | from there, its own clock | "
          "median over a boot |\n" + "| --- " * 9 + "|")
    for app in (light, heavy):
        plan = replace(options.plan, app=app, workers=4)
        for preload in (True, False) if app is light else (True,):
            for kind in KINDS:
                with running(kind, replace(plan, preload=preload)) as contender:
                    count = options.kills if preload else PLAIN_KILLS
                    print(kills(contender, count, seconds if app is light else None), flush=True)


def kills(contender: Contender, count: int, boot: float | None) -> str:
    with Load(contender.address, BACKGROUND, slow=0.0, keep_alive=0.0):
        deaths = [contender.kill_one() for _ in range(count)]
    taken = sorted(death.ready for death in deaths)
    own = [death.told for death in deaths if death.told is not None]
    noticed = [death.noticed for death in deaths if death.noticed is not None]
    return (f"| {contender.name.split(',')[0]} | {contender.plan.app.name} | {count} | "
            f"{milliseconds(statistics.median(taken))} | {milliseconds(taken[int(count * 0.95)])} |"
            f" {milliseconds(taken[-1])} | "
            f"{milliseconds(statistics.median(noticed)) if noticed else ''} | "
            f"{milliseconds(statistics.median(own)) if own else ''} | "
            f"{'' if boot is None else format(statistics.median(taken) / boot, '.4f')} |")


# --- what requests feel ---


@dataclass
class Felt:
    """What one load has measured: percentiles of latency in seconds, before, once more before, and
    during an upgrade."""

    before: list[float]
    again: list[float]
    during: list[float]
    failed: int = 0
    sent: int = 0


def feel(contender: Contender, slow: float, felt: Felt) -> None:
    """One load: two windows as long as an upgrade is, then an upgrade."""
    length = contender.reload()
    with Load(contender.address, RATE, slow=slow) as load:
        time.sleep(1)
        edges = [time.monotonic()]
        for _ in range(2):
            time.sleep(length)
            edges.append(time.monotonic())
        contender.reload()
        edges.append(time.monotonic())
    report: Report = load.report
    felt.failed += len(report.failures)
    felt.sent += report.sent
    for taken, (since, until) in zip((felt.before, felt.again, felt.during), pairwise(edges),
                                     strict=True):
        taken.append(report.percentile(99, since, until))


def measure_latency(options: Options) -> None:
    contenders: list[tuple[type[Ours] | type[Gunicorn], Plan]] = [
        (Ours, options.plan), (Gunicorn, options.plan),
        (Gunicorn, replace(options.plan, preload=False))]
    print(f"\np99 of {RATE:g} requests a second around an upgrade, {options.plan.workers} workers "
          f"of {options.plan.kind}, {options.rounds} rounds, alternating. Each window is as long "
          "as an upgrade; the ratio of the two before is what noise alone does.\n\n"
          "| | slow requests | failed | before | during | during over before | before over before "
          "|\n" + "| --- " * 7 + "|")
    for slow in (0.0, 0.1):
        felt = [Felt([], [], []) for _ in contenders]
        names = [""] * len(contenders)
        for _ in range(options.rounds):
            for at, (kind, plan) in enumerate(contenders):
                with running(kind, plan) as contender:
                    names[at] = contender.name
                    feel(contender, slow, felt[at])
        for name, each in zip(names, felt, strict=True):
            during = [new / old for new, old in zip(each.during, each.again, strict=True)]
            noise = [new / old for new, old in zip(each.again, each.before, strict=True)]
            print(f"| {name} | {slow:.0%} | {each.failed} of {each.sent} | "
                  f"{milliseconds(statistics.median(each.again))} | "
                  f"{milliseconds(statistics.median(each.during))} | {spread(during, '')} | "
                  f"{spread(noise, '')} |", flush=True)


# --- words ---


def spread(values: Sequence[float], unit: str, over: float = 1.0) -> str:
    """The median, and the least and most where there are several; each divided by `over`."""
    divided = sorted(value / over for value in values)
    unit = f" {unit}" if unit else ""
    middle = f"{statistics.median(divided):.3g}{unit}"
    return middle if len(divided) == 1 else f"{middle} ({divided[0]:.3g} to {divided[-1]:.3g})"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.preload")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--plain", type=int, default=16)
    parser.add_argument("--kind", default="gthread")
    parser.add_argument("--import", type=float, default=3.0, dest="seconds")
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    app = App(f"{given.seconds:g} s to import", given.seconds)
    options = Options(given.workers, given.plain, given.kills, given.rounds,
                      Plan(app, given.workers, given.kind))
    adopt_orphans()
    measures = {
        "roll": measure_rolls, "back": measure_backs, "kill": measure_kills,
        "load": measure_latency}
    for part in given.parts or PARTS:
        measures[part](options)


if __name__ == "__main__":
    main()
