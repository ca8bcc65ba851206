"""Traffic and verdicts in words, for `status` and `top`."""

from __future__ import annotations

from typing import Any

import pytest
from einhornpy.control import show, traffic
from einhornpy.control.top import table, words

from .test_show import SIGNALS, VERDICT, document

IDLE = SIGNALS | {"requests": 0, "requests_per_second": 0.0, "failed": 0, "failed_share": None,
                  "p50_seconds": None, "p95_seconds": None, "p99_seconds": None}


@pytest.mark.parametrize(("per_second", "text"), [
    (0.0, "0"), (0.314, "0.31"), (9.996, "10.0"), (12.34, "12.3"), (99.96, "100"),
    (1234.0, "1234"), (10_000.0, "10k"), (123_456.0, "123k")])
def test_rates(per_second: float, text: str) -> None:
    assert traffic.rate(per_second) == text


@pytest.mark.parametrize(("part", "text"), [
    (None, "-"), (0.0, "0%"), (0.00001, "<.01%"), (0.0081, "0.81%"), (0.00996, "1.0%"),
    (0.041, "4.1%"), (0.0996, "10%"), (0.34, "34%"), (1.0, "100%")])
def test_shares(part: float | None, text: str) -> None:
    assert traffic.percent(part) == text


@pytest.mark.parametrize(("seconds", "text"), [
    (None, "-"), (0.0047, "4.7 ms"), (0.00996, "10 ms"), (0.12, "120 ms"), (0.9996, "1.0 s"),
    (1.34, "1.3 s"), (60.0, "60 s")])
def test_latencies(seconds: float | None, text: str) -> None:
    assert traffic.latency(seconds) == text


def test_a_line_for_each_generation_old_against_new() -> None:
    said = {"traffic": [{"generation": 6, "recent": SIGNALS}, {"generation": 7, "recent": IDLE}]}
    assert [*traffic.of_generations(said)] == [
        "generation 6: 123k requests/s, 1.0% failed, p50 998 ms, p99 60 s",
        "generation 7: no request in the last 11 s"]
    websockets = SIGNALS | {"p50_seconds": None, "p99_seconds": None}
    assert [*traffic.of_generations({"traffic": [{"generation": 6, "recent": websockets}]})] == [
        "generation 6: 123k requests/s, 1.0% failed"]
    assert [*traffic.of_generations({})] == [], "a master of an older version"


def test_the_status_and_the_view_have_them_and_the_verdict() -> None:
    text = show.status(document())
    for line in ("  traffic     generation 12344: 123k requests/s, 1.0% failed, p50 998 ms, "
                 "p99 60 s",
                 "  watch       can go back for another 23 h 59 min",
                 f"  verdict     no-worse: {VERDICT['reason']}; judging ended by somebody"):
        assert line in text.splitlines()
    lines = words.answered(document()).plain.splitlines()
    assert lines[1:] == [
        "generation 12345: 123k requests/s, 1.0% failed, p50 998 ms, p99 60 s",
        f"verdict no-worse: {VERDICT['reason']}; judging ended by somebody"]
    ended = document() | {"upgrade": document()["upgrade"] | {"outcome": "done"}}
    assert words.upgrade(ended).plain.endswith(", can go back for another 23 h 59 min")
    for upgrade in (None, {"verdict": None}, {}):
        assert not words.answered({"traffic": [], "upgrade": upgrade, "reason": ""}).plain


def test_the_table_has_the_columns_that_fit() -> None:
    titles = [column.title for column in table.fitting(100)]
    assert titles[-3:] == ["REQ/S", "FAILED", "P99"]
    for width in (40, 80, 99):
        assert [column.title for column in table.fitting(width)] == titles[:-3]
    assert sum(column.width for column in table.fitting(80)) + table.SCROLL_BAR == 80
    worker: dict[str, Any] = document()["workers"][0]
    cells = [*zip(table.COLUMNS, table.row(worker), strict=True)]
    assert all(len(cell) == column.width for column, cell in cells)
    assert [cell for _, cell in cells[-3:]] == ["  123k", "   1.0%", "    60s"]
    for unknown in (worker | {"traffic": None}, {**worker, "traffic": {"recent": IDLE}}):
        assert [cell.strip() for cell in table.row(unknown)[-2:]] == ["-", "-"]
    del worker["traffic"]
    assert table.row(worker)[-3:] == ("     -", "      -", "      -")
