"""The rounds: each one a load, some clients, a fault or two by chance, and then the judgement.

What a round does comes from the seed and its number alone, so that one round can be repeated; only
the scheduling of processes isn't ours to repeat.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..harness import child_pids
from ..load import Load
from . import calls, directories, faults, hostile, scarcity, truth
from .clients import Client
from .faults import Fault
from .host import Host, Result
from .story import Story
from .truth import Injected
from .watcher import Watcher

KINDS: dict[str, type[Fault]] = {
    each.kind: each
    for each in (faults.KillWorkers, faults.StopWorker, faults.KillTemplates, faults.StopTemplates,
                 faults.KillMaster, faults.StopMaster, faults.KillKeeper, faults.KillSidecar, faults.KillHook, scarcity.FullDisk,
                 scarcity.NoDescriptors, scarcity.NoProcesses, calls.FailingCall, calls.ClockJump,
                 hostile.Hostile, hostile.Stranger, hostile.HostileWeb, directories.LostRelease,
                 directories.MovedLink, directories.BrokenSettings,
                 )}
CLASSES = ("gthread", "sync", "gevent", "asgi", "uvicorn_worker.UvicornWorker")


@dataclass(frozen=True)
class Plan:
    """How a run goes. `kinds`: of faults that are drawn; `without`: those that are left out then,
    and operations that nobody gives. `first`: the number of the first round. `longest`: seconds
    that a fault lasts at most."""

    seed: int
    seconds: float
    kinds: Sequence[str]
    without: frozenset[str] = frozenset()
    first: int = 0
    rounds: int | None = None
    number: int = 3
    clients: int = 3
    rate: float = 60.0
    worker_class: str = "gthread"
    preload: str = "off"
    stop_at_first: bool = False
    longest: float = 60.0


@dataclass
class Round:
    """What one round does, from its dice alone. Each fault begins so many seconds after the one
    before it."""

    dice: random.Random
    kinds: Sequence[str]
    longest: float
    faults: list[tuple[float, Fault]] = field(default_factory=list)

    def __post_init__(self) -> None:
        many, kinds = self.dice.choice((1, 2, 3, 4)), list(self.kinds)
        for kind in self.dice.sample(kinds, many) if many <= len(kinds) else self.dice.choices(
                kinds, k=many):
            fault = KINDS[kind].drawn(self.dice)
            fault.seconds = min(fault.seconds, self.longest)
            self.faults.append((self.dice.uniform(0.1, 1.5), fault))
        # Two that both need a living, moving master in the middle would only show each other.
        self.faults.sort(key=lambda each: isinstance(each[1], faults.KillMaster))


def run(plan: Plan, directory: Path, story: Story) -> None:
    """Rounds until the time is over; what went wrong stands in the story."""
    story.tell(f"seed {plan.seed}, {plan.seconds:g} s, {plan.worker_class}, "
               f"--preload={plan.preload}, in {directory}")
    host = Host(directory, story, plan.number, plan.worker_class, plan.preload)
    driver = Driver(plan, host, story)
    try:
        driver.rounds()
        driver.stop()
    finally:
        driver.close()


class Driver:
    """One run."""

    def __init__(self, plan: Plan, host: Host, story: Story) -> None:
        self._plan, self._host, self._story = plan, host, story
        # drawn all the same, so that the rest of a round stays what it is
        self._left_out = set(plan.without)
        for kind in plan.kinds:
            why = KINDS[kind].possible(host)
            if why is not None and kind not in self._left_out:
                self._left_out.add(kind)
                story.tell(f"without {kind}: {why}")
                story.count(f"skipped {kind}")
        self._watchers: dict[int, Watcher] = {}
        self._usual: dict[int, int] = {}
        self._known = set(child_pids()) - {host.master.pid}  # not ours to judge: the load too
        self._rest()

    def _watch(self) -> None:
        """Follow the master that lives now."""
        host = self._host
        if host.life not in self._watchers:
            self._watchers[host.life] = Watcher(host.master.path, host.master.pid, self._story)

    def _rest(self) -> None:
        """Wait for a quiet moment; the first one of a master says how many descriptors it usually
        has."""
        self._watch()
        truth.judge_rest(self._host, self._known)
        self._usual.setdefault(self._host.life, len(truth.descriptors(self._host.master.pid)))

    def rounds(self) -> None:
        number = self._plan.first
        end = time.monotonic() + self._plan.seconds
        while time.monotonic() < end and (self._plan.rounds is None
                                          or number < self._plan.first + self._plan.rounds):
            self._story.begin_round(number)
            before = len(self._story.violations)
            try:
                self._round(number)
            except Exception:
                self._story.wrong(f"the round broke off: {traceback.format_exc()}")
            if not self._host.alive():
                self._story.wrong(
                    f"the master is dead, exit code {self._host.master.process.returncode}")
            if len(self._story.violations) > before:
                self._explain()
                if self._plan.stop_at_first:
                    return
            if not self._host.alive():
                self._host.restart()
                self._rest()
            number += 1

    def _round(self, number: int) -> None:
        host, plan = self._host, self._plan
        dice = random.Random(f"{plan.seed}/{number}")
        todo = Round(dice, plan.kinds, plan.longest)
        todo.faults = [each for each in todo.faults if each[1].kind not in self._left_out]
        self._story.tell(f"--- round {number}: {', '.join(str(fault) for _, fault in todo.faults)}")
        host.hands.clear()
        forbidden = plan.without.union(*(fault.forbids for _, fault in todo.faults))
        injected: list[Injected] = []
        with Load(host.address, plan.rate, seed=dice.randrange(1 << 30)) as load:
            self._known |= load.pids
            clients = [
                Client(host, random.Random(dice.random()), forbidden) for _ in range(plan.clients)]
            try:
                self._inject(todo, injected)
            finally:
                self._finish(clients)
            results = [result for client in clients for result in client.results]
            for client in clients:
                if client.is_alive():
                    self._story.wrong("a client never came back")
                elif client.error is not None:
                    raise client.error
            results += self._settle()
            self._known -= load.pids
        truth.judge_codes(host, results, injected)
        truth.judge_answers(host, load.report, results, self._watchers)
        if host.alive():
            self._rest()
            truth.judge_descriptors(host, self._usual[host.life])
        self._tracebacks()

    def _finish(self, clients: Sequence[Client]) -> None:
        """Wait for everybody's last command; whoever waits for an upgrade that somebody has paused
        and left is helped."""
        for client in clients:
            client.finish()
        end = time.monotonic() + 200
        while any(client.is_alive() for client in clients) and time.monotonic() < end:
            for client in clients:
                client.join(1.0)
            document = self._host.peek() if self._host.alive() else None
            if document is not None and document["gate"] == "paused":
                self._host.ask("resume", "resume")

    def _inject(self, todo: Round, injected: list[Injected]) -> None:
        moment = threading.Event()
        healing: list[Injected] = []

        def heal(each: Injected) -> None:
            each.fault.heal(self._host)
            self._story.tell(f"healed: {each.fault}")
            each.until = time.monotonic()

        try:
            for pause, fault in todo.faults:
                moment.wait(pause)
                if not self._host.alive():
                    return
                # What befell the old master is over with it; of one kind there is one at a time.
                for other in [*healing]:
                    if isinstance(fault, faults.KillMaster) or other.fault.means == fault.means:
                        healing.remove(other)
                        heal(other)
                self._story.tell(f"fault: {fault}")
                self._story.count(f"faults {fault.kind}")
                each = Injected(fault, time.monotonic())
                injected.append(each)
                healing.append(each)
                fault.inject(self._host)
                moment.wait(fault.seconds)
                if todo.dice.random() < 0.7:  # else it lasts until the others have come
                    healing.remove(each)
                    heal(each)
        finally:
            while healing:
                heal(healing.pop())
        self._watch()

    def _settle(self) -> list[Result]:
        """Nobody commands any more: the host comes to rest, answers, and can be deployed to."""
        host = self._host
        if not host.alive():
            return []
        if host.status()["gate"] == "paused":
            host.ask("resume", "resume")
        results = [host.ask("scale", "scale", str(host.number))]
        self._rest()
        code = host.new_release("good")
        host.activate(code)
        results.append(host.ask("deploy", "upgrade", "--release", code, "--json"))
        if results[-1].code != 0:
            self._story.wrong(
                f"after all was healed, a good release is not done: {results[-1].err[-500:]}")
            host.activate(host.good)
        else:
            host.good = code
        return results

    def _tracebacks(self) -> None:
        """The master says in one line what is wrong; whose program it starts may print more."""
        said = self._host.master.log()
        ours = [each for each in said.split("Traceback")[1:]
                if "/einhornpy/supervisor/" in each or "/einhornpy/control/server" in each]
        if ours:
            self._story.count("tracebacks of the master", len(ours))
            self._story.wrong(f"the master printed a traceback: {said[-3000:]}")
        self._host.master.log_path.write_text("")

    def _explain(self) -> None:
        """Whatever whoever repeats this round needs."""
        plan, story = self._plan, self._story
        tail = ""
        with contextlib.suppress(OSError):
            tail = "\n".join(
                (self._host.run / "log").read_text(errors="replace").splitlines()[-60:])
        text = "\n".join([
            f"===== round {story.round} went wrong; repeat it: python -m tests.chaos --seed "
            f"{plan.seed} --round {story.round}",
            *([] if story.loud else story.lines), "----- the end of the master's log", tail,
            "----- its standard error",
            self._host.master.log()[-3000:], "====="])
        print(text, flush=True)

    def stop(self) -> None:
        """The end: the master leaves with 0 and leaves nothing."""
        host = self._host
        if not host.alive():
            return
        code = host.master.stop()
        if code != 0:
            self._story.wrong(f"the master left with {code} when it was asked to stop")

    def close(self) -> None:
        for watcher in self._watchers.values():
            watcher.close()
        self._host.close()
