"""The table of workers: its columns, their order, and the worker that is chosen. It is drawn in
place, cell by cell: a thousand workers are work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.text import Text
from textual.coordinate import Coordinate
from textual.widgets import DataTable

from .. import show
from .words import STYLES


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table. `key`: what it shows of a worker's document. `least_first`: how it is
    sorted at first."""

    title: str
    key: str
    width: int
    about: str
    least_first: bool = True


# With the scroll bar they are 80 wide.
COLUMNS = (Column("INDEX", "index", 6,
                  "the worker's seat; a new worker has that of the one it replaces"),
           Column("PID", "pid", 8,
                  "its process"), Column("GEN", "generation", 5,
                                         "the generation whose code it runs"),
           Column("STATE", "state", 9, "starting, ready or retiring"),
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
           )


class Workers(DataTable[Text]):
    """The workers of the last status that was shown. `chosen` stays with its worker, or else with
    whoever has its seat."""

    def __init__(self) -> None:
        super().__init__(cursor_type="row", cell_padding=0)
        self._workers: list[dict[str, Any]] = []
        self._sorted_by = COLUMNS[0]
        self._reversed = False
        self._shown: dict[str, tuple[str, ...]] = {}
        self._order: list[str] = []

    def on_mount(self) -> None:
        for column in COLUMNS:
            self.add_column(self._title(column), width=column.width, key=column.key)

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
        cells, before = row(worker), self._shown.get(pid)
        if before is None:
            self.add_row(*(styled(cell, column, worker)
                           for cell, column in zip(cells, COLUMNS, strict=True)), key=pid)
        elif before != cells:
            for was, cell, column in zip(before, cells, COLUMNS, strict=True):
                if was != cell:
                    self.update_cell(pid, column.key, styled(cell, column, worker))
        self._shown[pid] = cells

    def _put_in_order(self) -> None:
        key = self._sorted_by.key
        ordered = sorted(self._workers, key=lambda worker: (worker["index"], worker["pid"]))
        ordered.sort(key=lambda worker: (worker[key] is not None, worker[key] or 0),
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
        column = COLUMNS[(COLUMNS.index(self._sorted_by) + by) % len(COLUMNS)]
        self.sort_by(column, not column.least_first)

    def turn(self) -> None:
        """Sort the other way round."""
        self.sort_by(self._sorted_by, not self._reversed)

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """A click on a title sorts by it, another one the other way round."""
        column = COLUMNS[event.column_index]
        self.sort_by(column,
                     not self._reversed if column is self._sorted_by else not column.least_first)

    def sort_by(self, column: Column, reverse: bool) -> None:
        self._sorted_by, self._reversed = column, reverse
        for each in self.columns.values():
            each.label = self._title(next(one for one in COLUMNS if one.key == each.key.value))
        self._order = []  # so that the titles are drawn anew too
        self.show_workers(self._workers)


def row(worker: Mapping[str, Any]) -> tuple[str, ...]:
    """A worker's cells, each as wide as its column."""
    size = show.size(worker["memory_bytes"])
    texts = (str(worker["index"]), str(worker["pid"]), show.number(worker["generation"],
                                                                   4), worker["state"],
             show.compact(worker["age_seconds"]), show.compact(worker["ready_after_seconds"]),
             show.number(worker["restarts"], 7), size.replace(" ", "").replace("iB", ""),
             show.number(worker["requests"], 8), show.number(worker["in_flight"],
                                                             6), show.share(worker["busy_share"]))
    return tuple(
        f" {text:<{column.width - 1}}" if column.key == "state" else text.rjust(column.width)
        for text, column in zip(texts, COLUMNS, strict=True))


def styled(cell: str, column: Column, worker: Mapping[str, Any]) -> Text:
    """A cell in the colour of what it says."""
    style = ""
    if column.key == "state":
        style = STYLES.get(worker["state"], "")
    elif column.key == "restarts" and worker["restarts"]:
        style = "yellow"
    return Text(cell, style, no_wrap=True)
