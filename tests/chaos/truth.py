"""What must hold after every fault: judged from outside, by what clients were told, what requests
were answered, what is left."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..harness import child_pids, children
from ..load import Report
from .faults import KEEPER, SIDECAR, Fault
from .host import Host, Result
from .watcher import Watcher, wait_for

# What each operation may say while nothing is wrong. 1: there is nothing to pause, nobody to
# recycle, a reload that has to wait; 2 of a rollback: there is nothing before the first release.
LAWFUL = {
    "deploy": {0, 7}, "canary": {0, 7}, "judged": {0, 7}, "slow": {0, 5, 7}, "broken": {5, 7}, "rollback": {0, 1, 2, 7}, "scale": {0},
    "recycle": {0, 1}, "pause": {0, 1}, "resume": {0, 1}, "abort": {0, 1, 5, 7}, "reload": {0, 1},
    "status": {0, 3, 4, 5}, "look": {0},}
JUDGED = ("judged", "slow")
UPGRADES = ("deploy", "canary", "broken", "rollback", *JUDGED)
GATES = {
    "ready": 0, "starting": 3, "upgrading": 3, "paused": 3, "degraded": 4, "rolled-back": 5,
    "stopping": 6}
# A master that was killed may have asked nobody yet: after a heal, effects are seen for so long.
AFTERMATH = 4.0
# A request may be found to be lost so long after its worker was killed.
HANDS = 60.0
# Of a host that serves nobody any more, so many lost requests say enough; all are counted.
MOST_TOLD = 10


@dataclass
class Injected:
    """A fault that was, and when."""

    fault: Fault
    since: float
    until: float = float("inf")


def judge_codes(host: Host, results: Sequence[Result], faults: Sequence[Injected]) -> None:
    """No client heard what can't be true."""
    for result in results:
        lawful = set(LAWFUL[result.name])
        for each in faults:
            if each.since <= result.ended and result.began <= each.until + AFTERMATH:
                lawful |= each.fault.lawful
                if result.name in JUDGED:  # what befalls the new workers alone is held against them
                    lawful.add(5)
        others = {
            each.name for each in results
            if each is not result and each.began <= result.ended and result.began <= each.ended}
        if result.name in UPGRADES and "abort" in others:
            lawful.add(5)
        if result.code not in lawful:
            host.story.wrong(
                f"{result.name} ({' '.join(result.words)}) exited with {result.code}, expected one "
                f"of {sorted(lawful)}: "
                f"{result.out[-500:]} {result.err[-500:]}")
        if "Traceback" in result.err or "unforeseen" in result.err:
            host.story.wrong(f"{result.name} says {result.err[-500:]}")
        if result.name == "status" and result.code in GATES.values() and result.out:
            judge_status(host, result)


def judge_status(host: Host, result: Result) -> None:
    """The status document is of one piece, and its exit code is that of its gate."""
    document = json.loads(result.out)
    ready = sum(worker["state"] == "ready" for worker in document["workers"])
    short = document["gate"] == "ready" and ready < document["target"]
    if GATES[document["gate"]] != result.code or ready != document["ready"] or short:
        host.story.wrong(f"status exited with {result.code}: {result.out}")


def judge_answers(host: Host, report: Report, results: Sequence[Result],
                  watchers: Mapping[int, Watcher]) -> None:
    """No request failed but in killed hands; who was told `done` is served by the new code alone,
    who was told `refused` by none of it; and all workers of a generation run the code that was
    found for it. `watchers`: by the master's life."""
    story = host.story
    story.count("requests sent", report.sent)
    told = 0
    for failure in report.failures:
        lost_at = host.hands.get(failure.port)
        if lost_at is not None and lost_at <= failure.ended <= lost_at + HANDS:
            story.count("requests lost in killed hands")
        else:
            story.count("requests lost otherwise")
            told += 1
            if told > MOST_TOLD:
                continue
            story.wrong(
                f"a request failed, due at {failure.at - story.began:.2f}, known at "
                f"{failure.ended - story.began:.2f}, port "
                f"{failure.port}, {failure.path}, {'reused' if failure.reused else 'new'} "
                f"connection: {failure.error}"
            )
    seen = [
        (due, *_read(word)) for (due, _), word in zip(report.answers, report.words, strict=True)]
    for life, generation, code in {each[1:] for each in seen}:
        directory = watchers[life].directories.get(generation) if life in watchers else None
        if directory is not None and Path(directory).name != code:
            story.wrong(
                f"a worker of generation {generation}, whose directory is {directory}, answers as "
                f"{code}"
            )
    for result in results:
        if result.name not in UPGRADES or result.code not in (0, 5):
            continue
        number = _generation(result)
        if number is None:
            story.wrong(
                f"{result.name} exited with {result.code} and doesn't say of which generation: "
                f"{result.out[:300]}"
            )
            continue
        after = {
            generation for due, life, generation, _ in seen
            if life == result.life and due > result.ended}
        watcher = watchers[result.life]
        if result.code == 5:
            wrong = after & {number} - watcher.stuck
        elif result.name in JUDGED and number in watcher.refused:
            wrong = set()  # it has gone back in its watch
        else:
            wrong = {each for each in after if each < number}
        if wrong:
            story.wrong(
                f"{result.name} of generation {number} exited with {result.code}, and afterwards "
                "generations "
                f"{sorted(wrong)} answer")


def _read(word: str) -> tuple[int, int, str]:
    life, generation, code = word.split(".")
    return int(life.removeprefix("life")), int(generation), code


def _generation(result: Result) -> int | None:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        number: int = json.loads(result.out)["upgrade"]["to"]
        return number
    return None


# --- what is left ---


def judge_rest(host: Host, known: Collection[int]) -> None:
    """The host has come to rest: N ready, the document true, nobody and nothing left over. `known`:
    our own children."""
    left: dict[str, Any] = {}

    def at_rest() -> bool:
        document = host.status()
        left.clear()
        left.update({
            key: value for key, value in (
                ("gate", document["gate"] not in (
                    "ready", "rolled-back") and f"{document['gate']}: {document['reason']}"),
                ("workers",
                 document["ready"] == document["target"] == len(document["workers"]) == host.number
                 or document["workers"]),
                ("templates", [(each["generation"], each["state"])
                               for each in document["templates"]]
                 != [(document["generation"], "ready")] and document["templates"]),
                ("processes", _strange_processes(host, document, known)),
                ("files", _strange_files(host)),
            ) if value and value is not True})
        return not left

    if not wait_for(at_rest, 75.0):
        host.story.wrong(f"the host never came to rest: {left}")


def _strange_processes(host: Host, document: dict[str, Any], known: Collection[int]) -> list[str]:
    workers = {worker["pid"] for worker in document["workers"]}
    known_ones = workers | {template["pid"] for template in document["templates"]}
    ours = dict(children(host.master.pid))
    strange = [f"{pid} {command[:200]}" for pid, command in ours.items() if pid not in known_ones
               and not any(word in command for word in KEEPER + SIDECAR)]
    strange += [
        f"pid {pid} of the status is no child of the master" for pid in known_ones - ours.keys()]
    others = set(child_pids()) - set(known) - {host.master.pid}
    strange += [f"orphan {pid} {_command(pid)}" for pid in others if not _reaped(pid)]
    return strange


def _reaped(pid: int) -> bool:
    """Whether it is one that has ended, which we have adopted."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(
            b"\0", b" ").decode(errors="replace")[:200] or "(a zombie)"
    return "(gone)"


def _strange_files(host: Host) -> list[str]:
    allowed = {"chaos.sock", "chaos.notify", "chaos.lock", "chaos.metrics"}
    return [name for name in os.listdir(host.run / "einhornpy") if name not in allowed]


def descriptors(pid: int) -> dict[str, str]:
    """What a process has open: number → what it is."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found[name] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def judge_descriptors(host: Host, usual: int) -> None:
    """The master has no more descriptors open than in its first quiet moment, but for somebody who
    just asks."""
    if not wait_for(lambda: len(descriptors(host.master.pid)) <= usual + 1, 20.0):
        host.story.wrong(
            f"{len(descriptors(host.master.pid))} descriptors, {usual} at the start: "
            f"{descriptors(host.master.pid)}"
        )
