"""The gate as a table: every kind of pool that can be, its verdict, its sentence, and what a script
makes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from einhornpy.control.gate import DEGRADED, NOT_YET, READY, ROLLED_BACK, STOPPING, verdict
from einhornpy.shared.gate import Gate
from einhornpy.supervisor.core.generation import Finding, Generation, Preload
from einhornpy.supervisor.core.pool import LeftBehind, State, Stopping
from einhornpy.supervisor.core.template import Template, TemplateState
from einhornpy.supervisor.core.upgrade import Check, Judging, Outcome, Phase, Terms
from einhornpy.supervisor.reporting.report import gate, status_document
from einhornpy.supervisor.reporting.sharing import Memory, Reading

from .pools import NOW, RECIPE, pool, upgrade, worker

OLD, NEW = [worker(1),
            worker(2)], [worker(3, generation=2, index=0),
                         worker(4, generation=2, index=1)]
MIXED = [worker(1), worker(4, generation=2, index=1)]
STARTING = [worker(1), worker(2, State.STARTING)]
CANARY = Terms(canary=1, hold=60.0)
JUDGED = Terms(canary=1, hold=60.0, judging=Judging())
FAILED = {"failures_in_a_row": 3, "error": "no module shop"}
# Templates that import the app, and that are yet to.
IMPORTING = {"recipe": replace(RECIPE, preload=Preload.WARN)}
PROGRAM = {"recipe": replace(RECIPE, preload=Preload.WARN, program_forks=True)}
FILE = {"recipe": replace(RECIPE, preload=Preload.WARN, program_forks=True, preload_file="/a.py")}
THREAD = Finding("thread", "'poller' (shop.poll)", "shop", "start it in each worker")
STARTED = {1: Template(1, TemplateState.STARTING, 70, NOW - 5)}
STARTED_2 = {2: Template(2, TemplateState.STARTING, 71, NOW - 5)}
NOT_MEASURED = Memory(whole=False)
LEFT = {77: LeftBehind(77, 0, 1, NOW - 5, NOW + 5)}
# What it is of, the verdict, the sentence, the exit code, whether waiting longer may change it.
TABLE: list[tuple[str, Any, str, str, int, bool]] = [
    ("nobody yet", pool(2, [], complete=False), "starting", "0 of 2 workers ready", NOT_YET, False),
    ("the first ones", pool(2, STARTING,
                            complete=False), "starting", "1 of 2 workers ready", NOT_YET, False),
    ("its template imports the app",
     pool(2, [], complete=False, templates=STARTED, generations={1: IMPORTING}), "starting",
     "generation 1's template imports the app; 0 of 2 workers ready", NOT_YET, False),
    ("its template is a program",
     pool(2, [], complete=False, templates=STARTED, generations={1: PROGRAM}), "starting",
     "generation 1's template has yet to say that it can fork; 0 of 2 workers ready", NOT_YET,
     False),
    ("its template is a file",
     pool(2, [], complete=False, templates=STARTED, generations={1: FILE}), "starting",
     "generation 1's template loads its file; 0 of 2 workers ready", NOT_YET, False),
    ("its template imports nothing", pool(2, [], complete=False, templates=STARTED), "starting",
     "0 of 2 workers ready", NOT_YET, False),
    ("its workers import the app themselves",
     pool(2, [], complete=False, templates=STARTED,
          generations={1: IMPORTING | {"separate": True}}), "starting", "0 of 2 workers ready",
     NOT_YET, False),
    ("all there", pool(2, OLD), "ready", "2 of 2 workers ready on generation 1", READY, True),
    ("more than wanted", pool(1,
                              OLD), "ready", "2 of 1 workers ready on generation 1", READY, True),
    ("one is missing", pool(2, OLD[:1]), "degraded", "1 of 2 workers ready", DEGRADED, True),
    ("one retires", pool(2, [OLD[0], worker(2, State.RETIRING)]), "degraded",
     "1 of 2 workers ready", DEGRADED, True),
    ("one is deaf", pool(2, [worker(1, sockets=1), worker(2)],
                         sockets=1), "degraded", "1 of 2 workers ready", DEGRADED, True),
    ("starts fail", pool(2, OLD[:1], generations={1: FAILED}), "degraded",
     "1 of 2 workers ready: no module shop", DEGRADED, True),
    ("the first starts fail", pool(2, [], complete=False, generations={1: FAILED}), "degraded",
     "0 of 2 workers ready: no module shop", DEGRADED, True),
    ("a start has failed, and all are there", pool(2, OLD, generations={1: FAILED}), "ready",
     "2 of 2 workers ready on generation 1", READY, True),
    ("no memory", pool(2, OLD[:1], short_of_memory=True), "degraded",
     "1 of 2 workers ready; the host is short of memory, so due workers leave before they are "
     "replaced", DEGRADED, True),
    ("an address is lost", pool(2, OLD, lost={"unix:/a": "its file is gone"}), "degraded",
     "nobody can connect to unix:/a: its file is gone", DEGRADED, True),
    ("it keeps failing", pool(2, OLD, generations={1: {"faults": 4,
                                                       "fault": "worker 1 died"}}), "degraded",
     "2 of 2 workers ready, but generation 1 keeps failing: 4 times, the last: worker 1 "
     "died", DEGRADED, True),
    ("it has failed as often as it may",
     pool(2, OLD, generations={1: {"faults": 3, "fault": "worker 1 died"}}), "ready",
     "2 of 2 workers ready on generation 1", READY, True),
    ("guesses that have stood", pool(1, [worker(1, guessed=True, stood=True)]), "ready",
     "1 of 1 workers ready on generation 1 (guessed)", READY, True),
    ("guesses that have yet to stand", pool(1, [worker(1, guessed=True)], complete=False),
     "starting", "1 of 1 workers ready, by a guess that has yet to stand for 0 s", NOT_YET, False),
    ("it stops", pool(2, OLD, stopping=Stopping.GRACEFUL), "stopping", "2 workers still there",
     STOPPING, False),
    ("it stops amid an upgrade", pool(2, OLD, upgrade(Phase.EXCHANGING), stopping=Stopping.NOW),
     "stopping", "2 workers still there", STOPPING, False),
    ("it waits for what is left", pool(2, [], left_behind=LEFT, stopping=Stopping.TERMINATE),
     "stopping", "0 workers still there; what workers have left behind is still there: pid 77",
     STOPPING, False),
    # An upgrade, by its phase.
    ("preparing", pool(2, OLD, upgrade(Phase.PREPARING)), "upgrading",
     "generation 2 is being prepared", NOT_YET, False),
    ("preparing, paused", pool(2, OLD, upgrade(Phase.PREPARING, paused_by="ann")), "paused",
     "generation 2 is being prepared; paused by ann", NOT_YET, False),
    ("preparing, short", pool(2, OLD[:1], upgrade(Phase.PREPARING)), "upgrading",
     "generation 2 is being prepared; 1 of 2 workers ready", NOT_YET, False),
    ("canaries start", pool(2, OLD, upgrade(Phase.CANARY, terms=CANARY)), "upgrading",
     "0 of 2 workers on generation 2", NOT_YET, False),
    ("the new template imports the app",
     pool(2, OLD, upgrade(Phase.EXCHANGING), templates=STARTED_2, generations={2: IMPORTING}),
     "upgrading", "generation 2's template imports the app; 0 of 2 workers on generation 2",
     NOT_YET, False),
    ("the new template has imported the app",
     pool(2, OLD, upgrade(Phase.EXCHANGING), generations={2: IMPORTING},
          templates={2: replace(STARTED_2[2], state=TemplateState.READY)}), "upgrading",
     "0 of 2 workers on generation 2", NOT_YET, False),
    ("held", pool(2, [*OLD, NEW[1]], upgrade(Phase.HELD, terms=CANARY, held_since=NOW)),
     "upgrading", "1 of 2 workers on generation 2; held for 60 s", NOT_YET, False),
    ("held, the check runs",
     pool(2, [*OLD, NEW[1]], upgrade(Phase.HELD, terms=CANARY, held_since=NOW,
                                     check=Check.RUNNING)), "upgrading",
     "1 of 2 workers on generation 2; the check runs", NOT_YET, False),
    ("held until somebody says so",
     pool(2, [*OLD, NEW[1]], upgrade(Phase.HELD, terms=Terms(canary=1, hold=None),
                                     held_since=NOW)), "paused",
     "1 of 2 workers on generation 2; held until somebody says resume or abort", NOT_YET, False),
    ("held and paused",
     pool(2, [*OLD, NEW[1]], upgrade(Phase.HELD, terms=CANARY, held_since=NOW, paused_by="ann")),
     "paused", "1 of 2 workers on generation 2; paused by ann", NOT_YET, False),
    ("exchanging", pool(2, MIXED, upgrade(Phase.EXCHANGING)), "upgrading",
     "1 of 2 workers on generation 2", NOT_YET, False),
    ("exchanging, all new, an old one leaves",
     pool(2, [*NEW, worker(1, State.RETIRING)], upgrade(Phase.EXCHANGING)), "upgrading",
     "2 of 2 workers on generation 2", NOT_YET, False),
    ("exchanging, something is left behind",
     pool(2, NEW, upgrade(Phase.EXCHANGING), left_behind=LEFT), "upgrading",
     "2 of 2 workers on generation 2; what workers have left behind is still there: pid 77",
     NOT_YET, False),
    ("paused", pool(2, MIXED, upgrade(Phase.EXCHANGING, paused_by="ann")), "paused",
     "1 of 2 workers on generation 2; paused by ann", NOT_YET, False),
    ("going back", pool(2, MIXED, upgrade(Phase.GOING_BACK, reason="a worker died")), "upgrading",
     "going back to generation 1: a worker died", NOT_YET, False),
    ("going back, with an error",
     pool(2, MIXED[:1], upgrade(Phase.GOING_BACK, reason="a worker died",
                                error="no shop")), "upgrading",
     "going back to generation 1: a worker died: no shop; 1 of 2 workers ready", NOT_YET, False),
    # Its end.
    ("done", pool(2, NEW, upgrade(Phase.ENDED, Outcome.DONE)), "ready",
     "2 of 2 workers ready on generation 2", READY, True),
    ("done, and one has died", pool(2, NEW[:1], upgrade(Phase.ENDED, Outcome.DONE)), "degraded",
     "1 of 2 workers ready", DEGRADED, True),
    ("superseded", pool(2, NEW, upgrade(Phase.ENDED, Outcome.SUPERSEDED)), "ready",
     "2 of 2 workers ready on generation 2", READY, True),
    ("rolled back", pool(2, OLD, upgrade(Phase.ENDED, Outcome.ROLLED_BACK, reason="it died")),
     "rolled-back", "generation 2 was refused: it died", ROLLED_BACK, True),
    ("watched", pool(2, NEW, upgrade(Phase.WATCHED, Outcome.DONE, JUDGED, watched_since=NOW)),
     "ready", "2 of 2 workers ready on generation 2; watched for 600 s", READY, True),
    ("held and judged", pool(2, MIXED, upgrade(Phase.HELD, terms=JUDGED, held_since=NOW)),
     "upgrading", "1 of 2 workers on generation 2; held for 60 s",
     NOT_YET, False),
    ("aborted", pool(2, OLD, upgrade(Phase.ENDED, Outcome.ABORTED, reason="aborted by ann")),
     "rolled-back", "generation 2 was refused: aborted by ann", ROLLED_BACK, True),
    ("rolled back, and short",
     pool(2, OLD[:1], upgrade(Phase.ENDED, Outcome.ROLLED_BACK, reason="it died")), "rolled-back",
     "generation 2 was refused: it died; 1 of 2 workers ready", ROLLED_BACK, True),
    ("rolled back, one of it still serves",
     pool(2, MIXED, upgrade(Phase.ENDED, Outcome.ROLLED_BACK, reason="it died")), "rolled-back",
     "generation 2 was refused: it died; 1 worker of it still serves, until its replacement is "
     "ready", ROLLED_BACK, True),
    ("rolled back, two of it still serve", pool(2, NEW,
                                                upgrade(Phase.ENDED,
                                                        Outcome.ROLLED_BACK)), "rolled-back",
     "generation 2 was refused: it failed; 2 workers of it still serve, until their replacements "
     "are ready", ROLLED_BACK, True),]


@pytest.mark.parametrize(("of", "word", "sentence", "code", "final"),
                         [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_the_gate(of: Any, word: str, sentence: str, code: int, final: bool) -> None:
    assert gate(of) == (word, sentence)
    found = verdict(document(of))
    assert (found.code, found.final, found.reason) == (code, final, sentence)


def test_every_word_and_every_phase_has_a_row() -> None:
    assert {row[2] for row in TABLE} == set(Gate)
    told = [row[1].upgrade for row in TABLE if row[1].upgrade is not None]
    assert {each.phase for each in told} == set(Phase)
    assert {each.outcome for each in told} == {None, *Outcome}


def document(of: Any, memory: Memory = NOT_MEASURED) -> dict[str, Any]:
    return status_document(of, NOW, name="shop", started_at=0.0, master={"pid": 1}, listeners=[],
                           memory=memory, usage={}, traffic={}, labels={}, last_lines={})


def test_the_document_says_what_is_done_with_whom() -> None:
    leaving = worker(2, State.RETIRING, killed_at=NOW)
    found = document(pool(2, [leaving, worker(1, recycled_for="served 5 requests")]))
    assert [(each["index"], each["state"], each["waits_for"]) for each in found["workers"]] == [
        (0, "ready", None), (1, "retiring", "the end of its process, after SIGKILL")]
    (asked,) = document(pool(2, [worker(2, State.RETIRING)]))["workers"]
    assert (asked["waits_for"], asked["killed_in_seconds"]) == (
        "the end of its process, killed in 30 s", 30.0)
    assert found["uptime_seconds"] == NOW
    held = document(pool(2, OLD, upgrade(Phase.HELD, terms=CANARY, held_since=NOW - 20)))["upgrade"]
    assert (held["phase"], held["hold_left_seconds"], held["took_seconds"]) == ("held", 40.0, 100.0)


def test_the_document_tells_of_templates() -> None:
    ready = Template(1, TemplateState.READY, 70, NOW - 5, preloaded=True, import_seconds=2.34567,
                     forks=2)
    memory = Memory(templates={1: Reading(20)})
    (found,) = document(pool(2, OLD, templates={1: ready}, generations={1: IMPORTING}),
                        memory)["templates"]
    assert found == {
        "generation": 1, "pid": 70, "state": "ready", "age_seconds": 5.0, "preloads": True,
        "import_seconds": 2.346, "forks": 2, "memory_bytes": 20}
    (found,) = document(pool(2, OLD, templates=STARTED, generations={1: IMPORTING}))["templates"]
    assert (found["preloads"], found["import_seconds"], found["memory_bytes"]) == (True, None, None)
    # In place of one that had imported the app, which isn't safe to fork.
    (found,) = document(pool(2, OLD, templates={1: replace(ready, preloaded=False)}, generations={
        1: IMPORTING | {"separate": True}}))["templates"]
    assert (found["preloads"], found["import_seconds"]) == (False, None)


def test_findings_are_the_generations_own() -> None:
    told = {"kind": "thread", "what": "'poller' (shop.poll)", "module": "shop",
            "advice": "start it in each worker"}
    had = {"findings": (THREAD,), "separate": True}
    # No template has it any more.
    assert document(pool(2, OLD, generations={1: had, 2: {"findings": (THREAD,)}}))["findings"] == [
        {"generation": 1, **told, "separate": True}, {"generation": 2, **told, "separate": False}]
    assert document(pool(2, OLD))["findings"] == []
    # One that was refused for them runs nowhere; one of long ago is nobody's concern.
    remembered = {number: Generation(number, RECIPE, findings=(THREAD,)) for number in (2, 3)}
    refused = pool(2, OLD, upgrade(Phase.ENDED, Outcome.ROLLED_BACK, reason="it is not safe"),
                   remembered=remembered)
    live = {1: refused.generations[1]}
    assert [each["generation"] for each in document(
        replace(refused, generations=live))["findings"]] == [2]
    done = pool(2, OLD, upgrade(Phase.ENDED, Outcome.DONE), remembered=remembered)
    assert document(done)["findings"] == []


def test_memory_is_added_up_when_all_is_known() -> None:
    of = pool(2, OLD, templates=STARTED)
    workers = {1: Reading(30, 100, 25), 2: Reading(40, 110, 35)}
    memory = Memory(Reading(7, 6, 5), {1: Reading(20, 90, 15)}, workers)
    found = document(of, memory)
    assert found["master"] == {"pid": 1, "memory_bytes": 7}
    assert [each["memory_bytes"] for each in found["workers"]] == [30, 40]
    assert found["memory"] == {"total_bytes": 97, "saved_bytes": 210 - 75}
    alone = Memory(Reading(7), {1: Reading(20, 15, 15)}, {1: Reading(30, 25, 25)})
    assert document(of, alone)["memory"]["saved_bytes"] == 0, "a template costs more than it saves"
    found = document(of, replace(memory, workers={2: workers[2]}, whole=False))
    assert [each["memory_bytes"] for each in found["workers"]] == [None, 40]
    assert found["memory"] == {"total_bytes": None, "saved_bytes": None}
