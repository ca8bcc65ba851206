"""An upgrade that is asked for in Einhorn's way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ..einhorn import conversation, escaped
from ..harness import (
    WORKER,
    Master,
)

Start = Callable[..., Master]


@pytest.mark.parametrize(("command", "kind"), [("upgrade", "rolling"), ("upgrade_fleet", "fleet")])
def test_an_upgrade_streams_and_ends_in_upgrade_done(master: Master, command: str,
                                                     kind: str) -> None:
    answers = conversation(master, escaped(f"---\ncommand: {command}\nid: 9\nargs: []\n"))
    assert [answer["request_id"] for answer in answers] == [9] * len(answers)
    assert answers[0]["message"].startswith("upgrade started from=1 to=2")
    assert (answers[-1]["message"], "wait" in answers[-1]) == ("Upgrade done", False)
    assert master.status()["upgrade"]["kind"] == kind
    # Einhorn's oldest clients send no id, and read one answer.
    (only,) = conversation(master, escaped(f"---\ncommand: {command}\n"))
    assert (only["message"], only["request_id"]) == ("upgrade to generation 3 accepted", None)
    master.wait_status(lambda each: each["gate"] == "ready" and each["generation"] == 3)


def test_an_upgrade_that_goes_back_says_so(start: Start, place: Path) -> None:
    broken = place / "broken"
    script = f'test -e {broken} && exit 9; exec "$0" "$@"'
    master = start("-n", "1", "-m", "manual", "--max-failures", "1", "--", "sh", "-c", script,
                   *WORKER, "ack")
    master.wait_ready()
    broken.touch()
    last = conversation(master, escaped("command: upgrade\nid: 1\n"))[-1]
    assert last["message"] == "Upgrade rolled-back: a worker exited with code 9 before it was ready"
