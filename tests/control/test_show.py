"""What people see, on a terminal of 80 columns and in a pipe: nothing is cut, nothing is wider than
it must be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from einhornpy.control import progress, show
from einhornpy.shared import printable
from einhornpy.supervisor.reporting import generations

from .. import documents
from ..harness import APPS, DEADLINE, EINHORNPY, Master, base_environment
from ..terminals import on_terminal

Start = Callable[..., Master]
WORKER = [sys.executable, str(APPS / "worker.py"), "notify"]
LONG = (
    "ModuleNotFoundError: No module named 'no_such_module' "
    "(/srv/shop/releases/20260102030405/shop/application.py, line 112, "
    "in <module>)")
WHOLE = "a" * 120  # a word that no line has room for


FINDING = {
    "generation": 12344, "kind": "thread", "what": "'poller' (shop.poll)",
    "module": "shop.metrics.exporting", "separate": False,
    "advice": "it doesn't run in workers: start it in each (gunicorn's post_fork or "
              "post_worker_init), or when it is first needed"}


SIGNALS = {
    "seconds": 10.987, "requests": 1234567, "requests_per_second": 123456.789, "failed": 12345,
    "failed_share": 0.01, "exceptions": 12345, "aborted": 12345, "bytes_out": 10**15,
    "responses": {"2xx": 1222222, "5xx": 12345}, "p50_seconds": 0.998, "p95_seconds": 12.3,
    "p99_seconds": 60.0}
VERDICT = {
    "word": "no-worse", "reason": "5xx 4.1 % against 0.2 % of 1,310,234 requests, p < 0.001",
    "requests": 1310234, "old_requests": 5200123, "measures": [], "overruled_by": "somebody"}


def document() -> dict[str, Any]:
    """A status in which everything is as long as it can be, as a client has it."""
    worker = {
        "index": 9999, "pid": 4194304, "generation": 12345, "state": "retiring",
        "age_seconds": 86400 * 123.0, "ready_after_seconds": 3599.0, "restarts": 123456789,
        "memory_bytes": 987654 << 20, "requests": 98765432109, "in_flight": 12345,
        "busy_share": 1.0, "recycled_for": None,
        "waits_for": "12345 requests in flight, killed in 86400 s",
        "traffic": {"recent": SIGNALS, "since_start": SIGNALS}}
    upgrade = {
        "from": 12344, "to": 12345, "kind": "rolling", "release": "r" * 60, "outcome": None,
        "replaced": 4, "failures": 123, "reason": "a worker exited with code 3 before it was ready",
        "error": LONG, "requested_by": "a-rather-long-user-name", "canary": 2, "check": "running",
        "paused_by": "somebody", "hold_left_seconds": 86399.0, "recipe_of": 12301,
        "started_at": "2026-01-02T03:04:05Z", "ended_at": None, "took_seconds": 86400 * 3.5,
        "verdict": VERDICT, "baseline": 3, "watch_left_seconds": 86399.0}
    said: dict[str, Any] = {
        "version": 1, "gate": "rolled-back",
        "reason": f"generation 12345 was refused: a worker exited with code 3: {LONG}",
        "labels": {"hostname": "h" * 60, "region": "eu west"}, "failed_start": {
            "generation": 12345, "error": LONG, "last_lines": [LONG, "\x1b[31mred", "\ttab"]
        }, "name": "n" * 64, "generation": 12344, "newest_generation": 12345, "release": WHOLE,
        "target": 4, "ready": 3, "uptime_seconds": 86400 * 400.0,
        "master": {"pid": 4194304, "version": "0.1.0", "socket": "/run/x.sock",
                   "reloads": 0}, "workers": [
                       worker, worker | {
                           "state": "ready", "waits_for": None,
                           "recycled_for": "has served 98765432109 requests"}], "listeners": [{
                               "address": f"unix:/srv/{'d' * 90}/shop.sock", "fd": 3, "queue": 4096,
                               "backlog": 4096}, {
                                   "address": "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535",
                                   "fd": 4, "queue": None, "backlog": None}], "upgrade": upgrade,
        "templates": [
            {"generation": 12344, "pid": 4194303, "state": "leaving", "age_seconds": 86400 * 123.0,
             "preloads": True, "import_seconds": 3599.0, "forks": 1, "memory_bytes": 987654 << 20},
            {"generation": 12345, "pid": None, "state": "gone", "age_seconds": 1.0,
             "preloads": False, "import_seconds": None, "forks": 0, "memory_bytes": None}],
        "traffic": [{"generation": number, "recent": SIGNALS, "since_start": SIGNALS}
                    for number in (12344, 12345)],
        "memory": {"total_bytes": 1 << 45, "saved_bytes": 1 << 44}, "findings": [
            FINDING | {"what": f"'poller-{number}' (shop.metrics.exporting.Exporter.poll)"}
            for number in range(7)] + [FINDING | {"generation": 12345, "separate": True,
                                                  "module": None}]}
    found: dict[str, Any] = printable.document(said)
    return found


def upgrades() -> list[dict[str, Any]]:
    last = document()["upgrade"]
    return [
        last | {"outcome": "done", "release": None, "recipe_of": None},
        last | {"outcome": "rolled-back"}, last | {"outcome": "superseded", "release": WHOLE}, last]


EVENT = {
    "time": "2026-01-02T03:04:05Z", "index": 9999, "pid": 4194304, "generation": 12345, "ready": 3,
    "target": 4, "live": 4, "gate": "upgrading", "gate_reason": "", "replaced": 1}
EVENTS = [
    EVENT | each for each in
    ({
        "event": "upgrade-started", "from": 1, "to": 2, "kind": "rolling", "release": WHOLE,
        "recipe_of": 1}, {"event": "worker-starting"},
     {"event": "worker-ready", "took": "3599.00s"}, {"event": "worker-failed", "error": LONG},
     {"event": "worker-died", "status": 256},
     {"event": "start-failed", "in_a_row": 3, "next_try_in": "30.0s", "error": LONG}, {
         "event": "worker-retiring",
         "reason": "it is recycled: it has served 98765432109 requests, which is more than the "
                   "limit"
     }, {
         "event": "hold-begun", "canaries": 2, "hold": "86400s",
         "check": f"/srv/shop/check --with {LONG}"}, {"event": "check-failed", "reason": LONG},
     {"event": "worker-hung", "reason": "did not say that it is alive for 30 s"},
     {"event": "upgrade-refused", "back_to": 1, "reason": LONG, "error": LONG},
     {"event": "upgrade-paused", "by": "a-rather-long-user-name"})]
SCRIPT = """
import sys
from einhornpy.control import progress, show
from tests import documents
from tests.control import test_show
print({expression})
"""


def shown(expression: str, environment: dict[str, str]) -> str:
    """What an expression of `show` looks like on a terminal."""
    code, text = on_terminal(
        [sys.executable, "-c", SCRIPT.format(expression=expression)],
        {"PATH": os.environ["PATH"], "PYTHONPATH": str(APPS.parent.parent), **environment})
    assert code == 0, text
    return text


def plain(text: str) -> str:
    for number in ("31", "32", "33", "0"):
        text = text.replace(f"\x1b[{number}m", "")
    return text


def fits(text: str) -> None:
    """No line is wider than 80 columns, but for a single word (after its label) that no line has
    room for."""
    for line in text.splitlines():
        assert len(line) <= 80 or max(map(len, line.split())) > 60, line


@pytest.mark.parametrize("expression", [
    "show.status(test_show.document())", "show.history(test_show.upgrades())",
    *(f"show.status(documents.{name}())" for name in documents.JUDGED),
    "[progress.plain(each) for each in test_show.EVENTS]"])
def test_80_columns(expression: str) -> None:
    text = shown(expression, {})
    fits(plain(text))
    without = shown(expression, {"NO_COLOR": "1"})
    assert "\x1b" not in without
    assert plain(text) == without
    if "test_show.EVENTS" not in expression and "documents" not in expression:
        assert "\x1b[31mrolled-back\x1b[0m" in text or "\x1b[31mrolled-back  \x1b[0m" in text


def test_the_status_says_everything_in_its_place() -> None:
    lines = shown("show.status(test_show.document())", {"NO_COLOR": "1"}).splitlines()
    words = " ".join(" ".join(lines).split())
    assert any(" 12 h," in line for line in lines)
    assert (f"rolled-back: generation 12345 was refused: a worker exited with code 3: {LONG}"
            in words)
    assert f"error {LONG}" in words
    header = lines.index(
        " INDEX     PID  GEN STATE       AGE READY IN RESTARTS   MEMORY    REQUESTS BUSY")
    row = lines[header + 1]
    assert row == "  9999 4194304  12k retiring 123d0h   59m59s  123456k  965 GiB  98765M+12k 100%"
    assert len(lines[header]) == len(row) == 79
    assert lines[header + 2] == "        waits for 12345 requests in flight, killed in 86400 s"
    assert all(line.startswith(" ") for line in lines[1:header] if line)


def test_the_status_tells_of_templates_and_what_is_not_safe_to_fork() -> None:
    lines = shown("show.status(test_show.document())", {"NO_COLOR": "1"}).splitlines()
    words = " ".join(" ".join(lines).split())
    assert ("template generation 12344: pid 4194303, leaving 123d0h, import 59m59s, 1 fork, "
            "965 GiB") in words
    assert "  template    generation 12345: gone" in lines
    assert "  memory      32768 GiB, sharing saves 16384 GiB" in lines
    assert "  generation 12344 has what is not safe to fork" in lines
    start = (f"thread 'poller-{show.MOST_FINDINGS - 1}' (shop.metrics.exporting.Exporter.poll), "
             f"since the import of shop.metrics.exporting: {FINDING['advice']}")
    assert f"{start} and 2 more, which --json lists" in words
    assert ("generation 12345 has what is not safe to fork; its workers import the app themselves "
            f"thread 'poller' (shop.poll): {FINDING['advice']}") in words
    # A usual one has room in one line.
    usual = {"generation": 12, "pid": 4194303, "state": "ready", "age_seconds": 59.0,
             "import_seconds": 3.1, "forks": 4, "memory_bytes": 40 << 20}
    line = f"  template    {show.template(usual)}"
    assert line.endswith(": pid 4194303, ready 59s, import 3.1s, 4 forks, 40 MiB")
    assert len(line) <= 81


def test_what_an_older_master_does_not_tell_is_left_out() -> None:
    said = document()
    for key in ("memory", "findings", "traffic"):
        del said[key]
    for key in ("verdict", "baseline", "watch_left_seconds"):
        del said["upgrade"][key]
    said["templates"] = [{"generation": 1, "pid": 70, "state": "ready", "age_seconds": 5.0}]
    text = show.status(said)
    assert "  template    generation 1: pid 70, ready 5.0s\n" in text
    assert not any(word in text for word in ("memory", "traffic", "verdict", "watch"))
    said["memory"] = {"total_bytes": None, "saved_bytes": None}
    assert "memory" not in show.status(said), "not measured yet"
    said["memory"] = {"total_bytes": 40 << 20, "saved_bytes": 1000}
    assert "  memory      40 MiB\n" in show.status(said)


def test_the_status_tells_of_a_judgement_and_its_baseline() -> None:
    lines = show.status(documents.held()).splitlines()
    row = next(place for place, line in enumerate(lines) if " 4004 " in line)
    assert lines[row + 1] == "        baseline"
    assert lines.count("        baseline") == 1
    assert "  hold        ends in 4 min 0 s" in lines
    assert f"  verdict     no-worse: nothing is worse beyond doubt: {documents.WHY}" in lines
    lines = show.status(documents.watched()).splitlines()
    assert lines[0] == "shop: ready: 3 of 3 workers ready on generation 2; watched for 600 s"
    assert "  watch       can go back for another 9 min 0 s" in lines
    assert f"  verdict     well: within the tolerance beyond doubt: {documents.WHY}" in lines
    lines = show.status(documents.refused()).splitlines()
    assert lines[0].endswith(f"generation 2 (release 3f2c1ab) was refused: {documents.WHY}")
    assert "  verdict     worse" in lines, "the figures are told once"


def judged(word: str, outcome: str | None, by: str | None = None, **more: Any) -> list[str]:
    """What the history says below the line of an upgrade with this verdict."""
    last = upgrades()[0] | {"outcome": outcome, "reason": None, "error": None} | more
    found = VERDICT | {"word": word, "reason": "so and so", "overruled_by": by}
    lines = show.history([last | {"verdict": found}]).splitlines()
    return [line.strip() for line in lines[2:]]


def test_the_history_has_the_verdict_on_what_was_judged() -> None:
    assert judged("well", "done") == ["verdict well: so and so"]
    assert judged("no-worse", None) == ["verdict no-worse: so and so"]
    assert judged("unsure", "done") == ["verdict unsure, passed: so and so"]
    assert judged("worse", "done", "ann") == ["verdict worse: so and so; overruled by ann"]
    assert judged("well", "done", "ann") == ["verdict well: so and so; judging ended by ann"]
    assert judged("worse", "rolled-back", reason="so and so") == ["so and so", "verdict worse"]
    unsure = "the hold is over, and the judge is unsure: so and so"
    assert judged("unsure", "rolled-back", reason=unsure) == [unsure, "verdict unsure"]
    assert judged("no-worse", "rolled-back", reason="the check failed") == [
        "the check failed", "verdict no-worse: so and so"]
    assert "verdict" not in show.history([upgrades()[0] | {"verdict": None}])


def test_in_a_pipe_a_line_stays_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    text = show.status(document())
    assert "\x1b" not in text
    for line in (f"{'n' * 64}: rolled-back: {document()['reason']}",
                 f"  generation  12344 ({WHOLE})", f"  error       {LONG}"):
        assert line in text.splitlines()
    assert text.count("\n") == show.status(document()
                                           | {"reason": "short", "release": None}).count("\n")
    table = show.history(upgrades()).splitlines()
    assert [line for line in table
            if WHOLE in line] == [line for line in table if "superseded" in line]
    assert f"    a worker exited with code 3 before it was ready: {LONG}" in table
    for each in EVENTS:
        progress.plain(each)
    assert len(capsys.readouterr().out.splitlines()) == len(EVENTS)


@pytest.mark.parametrize(("value", "width", "text"), [(10**15, 8, "1000000G"), (10**15, 6, "1000T"),
                                                      (None, 4, "-"), (0, 4, "0"),
                                                      (9999, 4, "9999"), (12345, 4, "12k"),
                                                      (1234567, 4, "1.2M"), (1234567, 7, "1234567"),
                                                      (9999999, 4, "9.9M"), (99999999, 4, "99M"),
                                                      (1234567890, 6, "1234M"),
                                                      (1234567890, 4, "1.2G"), (999999, 4, "999k")])
def test_numbers_have_room(value: int | None, width: int, text: str) -> None:
    assert show.number(value, width) == text
    assert len(text) <= width


@pytest.mark.parametrize(("requests", "in_flight", "text"), [
    (812, 1, "812+1"), (812, None, "812"), (98765432109, None, "98765432k"), (None, None, "-")])
def test_requests_are_told_as_far_as_they_are_known(requests: int | None, in_flight: int | None,
                                                    text: str) -> None:
    assert show.requests({"requests": requests, "in_flight": in_flight}) == text


def test_commands_on_a_terminal(start: Start, place: Path) -> None:
    """A long release, refused for a long reason, and what each of the three commands makes of
    it."""
    release = "release-" + "-".join(["x"] * 40)
    code = textwrap.dedent(f"""
        import os, sys
        sys.stderr.write("RuntimeError: {' '.join(['word'] * 40)}\\n")
        sys.exit(3)""")
    flag = place / "broken"
    script = f'test -e {flag} && exec {sys.executable} -c "$CODE"; exec "$0" "$@"'
    master = start("-n", "2", "-m", "notify", "-b", "127.0.0.1:0", "--max-failures", "1",
                   "--release", release, "--", "sh", "-c", script, *WORKER,
                   environment={"CODE": code})
    master.wait_ready()
    flag.touch()
    environment = base_environment(place)
    for variables in ({}, {"NO_COLOR": "1"}):
        ended, text = on_terminal([EINHORNPY, "upgrade", "--release", f"new-{release}"],
                                  environment | variables)
        assert ended == 5
        if variables:  # else there is a moving bar
            assert "\x1b" not in text
            fits(text)
        for command, expected in ((["status"], 5), (["history"], 0)):
            ended, text = on_terminal([EINHORNPY, *command], environment | variables)
            assert ended == expected
            fits(plain(text))
            assert ("\x1b" in text) != bool(variables)
            assert release in text
    for command, expected in ((["status"], 5), (["history"], 0), (["upgrade"], 5)):
        result = subprocess.run([EINHORNPY, *command, "--json"], env=environment,
                                capture_output=True, text=True, timeout=DEADLINE)
        assert result.returncode == expected
        assert json.loads(result.stdout)
        assert result.stdout.isascii()


@pytest.mark.parametrize(("names", "listed"), [
    ([], "none, since none is remembered"), ([5], "5"), (["5", "a b"], "'5' or 'a b'"),
    ([1, 2, 3], "1, 2 or 3"), ([*range(11)], "1, 2, 3, 4, 5, 6, 7, 8, 9 or 10, or an older one"),
    ([*range(12)], "2, 3, 4, 5, 6, 7, 8, 9, 10 or 11, or one of 2 older ones"),])
def test_a_choice_in_words(names: list[Any], listed: str) -> None:
    assert generations._listed(names) == listed


def test_a_table_of_releases_changes_no_name() -> None:
    row = {"release": "a,b", "state": "proven", "at": None, "by": "x,y", "reason": None,
           "size": None, "serves": True, "current": True}
    assert show.releases([row]).splitlines()[1].split() == [
        "a,b", "proven", "-", "-", "x,y", "(serves,", "current)"]
