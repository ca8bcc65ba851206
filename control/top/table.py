"""The table of workers: its columns, as many as fit, their order, and the worker that is chosen. It
is drawn in place, cell by cell: a thousand workers are work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text
from textual.coordinate import Coordinate
from textual.events import Resize
from textual.widgets import DataTable

from ...shared.frozen import dataclass
from .. import show, traffic
from .words import STYLES


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table. `key`: what it shows of a worker's document; `recent`: of its traffic
    in the last 10 s instead. `least_first`: how it is sorted at first."""

    title: str
    key: str
    width: int
    about: str
    least_first: bool = True
    recent: bool = False

    def value(self, worker: Mapping[str, Any]) -> Any:
        """What it shows; None where nobody knows."""
        found = traffic.recent(worker) if self.recent else worker
        if self.key == "state" and worker["state"] == "ready" and traffic.is_baseline(worker):
            return "baseline"
        return None if found is None else found[self.key]


# With the scroll bar they are 80 wide, without those that come only where there is room.
COLUMNS = (Column("INDEX", "index", 6,
                  "the worker's seat; a new worker has that of the one it replaces"),
           Column("PID", "pid", 8,
                  "its process"), Column("GEN", "generation", 5,
                                         "the generation whose code it runs"),
           Column("STATE", "state", 9,
                  "starting, ready, retiring; baseline: ready, to compare with"),
           Column("AGE", "age_seconds", 7, "since its start", least_first=False),
           Column("READY", "ready_after_seconds", 7, "how long it took to be ready",
                  least_first=False),
           Column("RESTARTS", "restarts", 9, "how often a worker of this seat died unasked",
                  least_first=False),
           Column("MEMORY", "memory_bytes", 7,
                  "of the worker process; what it shares with others counts in part",
                  least_first=False),
           Column("REQUESTS", "requests", 9, "requests that are done", least_first=False),
           Column("FLIGHT", "in_flight", 7, "requests under way", least_first=False),
           Column("BUSY", "busy_share", 5, "the part of the last 10 s with a request under way",
                  least_first=False),
           Column("REQ/S", "requests_per_second", 6, "requests a second, in the last 10 s",
                  least_first=False, recent=True),
           Column("FAILED", "failed_share", 7, "the part of them answered by 5xx or an exception",
                  least_first=False, recent=True),
           Column("P99", "p99_seconds", 7, "99 of 100 of them were answered in this time",
                  least_first=False, recent=True),
           )
SCROLL_BAR = 1


def fitting(width: int) -> tuple[Column, ...]:
    """The columns for a table so wide: those of the traffic where all of them have room."""
    whole = sum(column.width for column in COLUMNS) + SCROLL_BAR <= width
    return COLUMNS if whole else tuple(column for column in COLUMNS if not column.recent)


class Workers(DataTable[Text]):
    """The workers of the last status that was shown. `chosen` stays with its worker, or else with
    whoever has its seat. `fitting`: the columns that there is room for."""

    def __init__(self) -> None:
        super().__init__(cursor_type="row", cell_padding=0)
        self._workers: list[dict[str, Any]] = []
        self.fitting = fitting(0)
        self._sorted_by = COLUMNS[0]
        self._reversed = False
        self._shown: dict[str, tuple[str, ...]] = {}
        self._order: list[str] = []

    def on_mount(self) -> None:
        self._add_columns()

    def _add_columns(self) -> None:
        for column in self.fitting:
            self.add_column(self._title(column), width=column.width, key=column.key)

    def on_resize(self, event: Resize) -> None:
        """Show as many columns as there is room for."""
        if (columns := fitting(event.size.width)) == self.fitting:
            return
        chosen, self.fitting = self.chosen(), columns
        if self._sorted_by not in columns:
            self._sorted_by, self._reversed = COLUMNS[0], False
        self.clear(columns=True)
        self._shown, self._order = {}, []
        self._add_columns()
        self.show_workers(self._workers)
        self._choose(chosen)

    def show_workers(self, workers: list[dict[str, Any]]) -> None:
        """Take over a newer list: cells that changed, rows that came or went, the order if it is
        another one."""
        chosen, self._workers = self.chosen(), workers
        there = {str(worker["pid"]): worker for worker in workers}
        for pid in self._shown.keys() - there.keys():
            self.remove_row(pid)
            del self._shown[pid]
        for pid, worker in there.items():
            self._show_row(pid, worker)
        self._put_in_order()
        self._choose(chosen)

    def _show_row(self, pid: str, worker: Mapping[str, Any]) -> None:
        columns = self.fitting
        cells, before = row(worker, columns), self._shown.get(pid)
        if before is None:
            self.add_row(*(styled(cell, column, worker)
                           for cell, column in zip(cells, columns, strict=True)), key=pid)
        elif before != cells:
            for was, cell, column in zip(before, cells, columns, strict=True):
                if was != cell:
                    self.update_cell(pid, column.key, styled(cell, column, worker))
        self._shown[pid] = cells

    def _put_in_order(self) -> None:
        value = self._sorted_by.value
        ordered = sorted(self._workers, key=lambda worker: (worker["index"], worker["pid"]))
        ordered.sort(key=lambda worker: (value(worker) is not None, value(worker) or 0),
                     reverse=self._reversed)
        order = [str(worker["pid"]) for worker in ordered]
        if order != self._order:
            place = {pid: number for number, pid in enumerate(order)}
            self.sort("pid", key=lambda cell: place[cell.plain.strip()])
            self._order = order

    def chosen(self) -> dict[str, Any] | None:
        """The worker that the cursor is on."""
        if not self.is_valid_row_index(self.cursor_row):
            return None
        pid = self.coordinate_to_cell_key(Coordinate(self.cursor_row, 0)).row_key.value
        return next((worker for worker in self._workers if str(worker["pid"]) == pid), None)

    def _choose(self, chosen: Mapping[str, Any] | None) -> None:
        """Keep the cursor on its worker wherever that is now, or on the one that has its seat."""
        if chosen is None:
            return
        same = [worker["pid"] for worker in self._workers if worker["pid"] == chosen["pid"]]
        seat = [worker["pid"] for worker in self._workers if worker["index"] == chosen["index"]]
        for pid in (same + seat)[:1]:
            place = self.get_row_index(str(pid))
            if place != self.cursor_row:
                self.move_cursor(row=place, animate=False)

    def _title(self, column: Column) -> Text:
        mark = ("▼" if self._reversed else "▲") if column is self._sorted_by else ""
        text = f"{mark}{column.title}"
        return Text(
            f" {text:<{column.width - 1}}" if column.key == "state" and not mark else
            text.ljust(column.width) if column.key == "state" else text.rjust(column.width),
            style="bold" if mark else "")

    def step(self, by: int) -> None:
        """Sort by the next column, or by the one before."""
        place = self.fitting.index(self._sorted_by) + by
        column = self.fitting[place % len(self.fitting)]
        self.sort_by(column, not column.least_first)

    def turn(self) -> None:
        """Sort the other way round."""
        self.sort_by(self._sorted_by, not self._reversed)

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """A click on a title sorts by it, another one the other way round."""
        column = self.fitting[event.column_index]
        self.sort_by(column,
                     not self._reversed if column is self._sorted_by else not column.least_first)

    def sort_by(self, column: Column, reverse: bool) -> None:
        self._sorted_by, self._reversed = column, reverse
        for each in self.columns.values():
            each.label = self._title(next(one for one in COLUMNS if one.key == each.key.value))
        self._order = []  # so that the titles are drawn anew too
        self.show_workers(self._workers)


def row(worker: Mapping[str, Any], columns: Sequence[Column] = COLUMNS) -> tuple[str, ...]:
    """A worker's cells, each as wide as its column."""
    return tuple(
        f" {text:<{column.width - 1}}" if column.key == "state" else text.rjust(column.width)
        for column in columns for text in (_text(column, column.value(worker)),))


def _text(column: Column, value: Any) -> str:
    match column.key:
        case "generation" | "restarts" | "requests" | "in_flight":
            return show.number(value, column.width - 1)
        case "age_seconds" | "ready_after_seconds":
            return show.compact(value)
        case "memory_bytes":
            return show.size(value).replace(" ", "").replace("iB", "")
        case "busy_share":
            return show.share(value)
        case "requests_per_second":
            return "-" if value is None else traffic.rate(value)
        case "failed_share":
            return traffic.percent(value)
        case "p99_seconds":
            return traffic.latency(value).replace(" ", "")
        case _:
            return str(value)


def styled(cell: str, column: Column, worker: Mapping[str, Any]) -> Text:
    """A cell in the colour of what it says."""
    style = ""
    if column.key == "state":
        style = STYLES.get(worker["state"], "")
    elif column.key in ("restarts", "failed_share") and column.value(worker):
        style = "yellow"
    return Text(cell, style, no_wrap=True)
