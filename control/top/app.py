"""`einhornpy top`: one master, live, on a terminal. The only module that knows Textual; what it
shows is worded by show.py.

What is new comes from a thread (see watch.py) into a queue, and is drawn ten times a second: of
many statuses the newest.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.coordinate import Coordinate
from textual.events import Resize
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, RichLog, Static

from .. import client, show, watch

DRAW = 0.1
MOST_EVENTS = 256
# How long the master may take for an answer, in seconds, and how long that is shown: a refusal must
# be read.
PATIENCE, SHOWN, SHOWN_IF_BAD = 10.0, 4.0, 12.0
BAR = 24
STYLES = {
    "ready": "green", "done": "green", "starting": "yellow", "upgrading": "yellow",
    "paused": "yellow", "stopping": "yellow", "retiring": "yellow", "superseded": "yellow",
    "degraded": "bold red", "rolled-back": "bold red", "aborted": "bold red",}


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
           Column("MEMORY", "memory_bytes", 7, "resident bytes of the worker process",
                  least_first=False),
           Column("REQUESTS", "requests", 9, "requests that are done", least_first=False),
           Column("FLIGHT", "in_flight", 7, "requests under way", least_first=False),
           Column("BUSY", "busy_share", 5, "the part of the last 10 s with a request under way",
                  least_first=False),
           )
HELP = """\
u      upgrade: replace every worker by one of the new code
p      pause the upgrade; resume it, or end its hold
a      abort the upgrade: go back
+ -    one worker more, one less
r      recycle the chosen worker: arrows, page keys or a click choose
s S    sort by the next column, by the one before; o: the other way round
Tab    to the events and back, to scroll
q      leave: the master goes on. What changes something asks first.

"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the master said to an action."""

    message: str
    well: bool


@dataclass(frozen=True, slots=True)
class Action:
    """Something to ask of the master, and what will happen then, as a question. `pid`: the worker
    that is meant, if one is."""

    command: str
    arguments: Mapping[str, Any]
    question: str
    pid: int | None = None


class Dialog(ModalScreen[bool]):
    """A question; True for yes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape", "answer(False)", "No")]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(Text(self._question))
            yield Static(Text.assemble(("y", "bold"), " yes    ", ("n", "bold"), " no (or Escape)"),
                         id="keys")

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)


class Help(ModalScreen[None]):
    """The keys and the columns."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q,enter", "dismiss", "Back")]

    def compose(self) -> ComposeResult:
        columns = "\n".join(f"{column.title:<9} {column.about}" for column in COLUMNS)
        with Vertical():
            yield Static(Text(HELP + columns))


class Log(RichLog):
    """The last events, broken into lines anew where the width changes."""

    def __init__(self) -> None:
        super().__init__(wrap=True, min_width=1)
        self.sentences: deque[Text] = deque(maxlen=MOST_EVENTS)
        self._columns = 0

    def tell(self, sentences: list[Text]) -> None:
        """Add some, at the end."""
        self.sentences.extend(sentences)
        for sentence in sentences[-MOST_EVENTS:]:
            self.write(sentence)
        if len(self.lines) > 8 * MOST_EVENTS:
            self._anew()

    def forget(self) -> None:
        self.sentences.clear()
        self.clear()

    def on_resize(self, event: Resize) -> None:
        if event.size.width != self._columns:
            self._columns = event.size.width
            self._anew()

    def _anew(self) -> None:
        self.clear()
        for sentence in self.sentences:
            self.write(sentence)


class Top(App[None]):
    """The live view of the master at `path`."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #lost { display: none; text-style: reverse bold; color: ansi_red; padding: 0 1; }
    #lost.shown { display: block; }
    #head, #upgrade { height: auto; max-height: 6; padding: 0 1; }
    DataTable { height: 2fr; min-height: 4; scrollbar-size: 1 1; }
    RichLog { height: 1fr; min-height: 4; border-top: solid ansi_default; padding: 0 1; scrollbar-size-vertical: 1; }
    Dialog, Help { align: center middle; }
    Dialog Vertical { width: 64; max-width: 95%; height: auto; border: solid ansi_default; padding: 1 2; }
    Help Vertical { width: 78; max-width: 100%; height: auto; max-height: 100%; border: solid ansi_default; padding: 0 1;
                    overflow-y: auto; }
    #note { height: 1; padding: 0 1; }
    #keys { margin-top: 1; }
    Toast { padding: 0 1; margin-top: 0; background: ansi_default; border: round ansi_green; }
    Toast.-warning { border: round ansi_yellow; }
    Toast.-error { border: round ansi_red; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("u", "upgrade", "Upgrade"),
        Binding("p", "pause", "Pause"),
        Binding("a", "abort", "Abort"),
        Binding("plus,equals_sign", "scale(1)", "More", key_display="+"),
        Binding("minus", "scale(-1)", "Less", key_display="-"),
        Binding("r", "recycle", "Recycle"),
        Binding("s", "sort(1)", "Sort"),
        Binding("S", "sort(-1)", show=False),
        Binding("o", "turn", show=False),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]

    def __init__(self, path: str) -> None:
        # The terminal's own 16 colours: they suit its background, and NO_COLOR takes them all away.
        super().__init__(ansi_color=True)
        self._watch = watch.Watch(path)
        self._path = path
        self._news: deque[watch.News | Answer] = deque()
        self.document: dict[str, Any] | None = None
        self._seen_at = time.monotonic()
        self._lost: watch.Lost | watch.Silent | None = None
        self._lost_at = 0.0
        self._warning = ""
        self._sorted_by = COLUMNS[0]
        self._reversed = False
        self._shown: dict[str, tuple[str, ...]] = {}
        self._order: list[str] = []
        # Kept here, since a query looks only at the screen on top, which may be a dialog.
        self.banner = Static(id="lost")
        self.head = Static("connecting", id="head")
        self.upgrade = Static(id="upgrade")
        self.table: DataTable[Text] = DataTable(cursor_type="row", cell_padding=0)
        self.note = Static(id="note")
        self.events = Log()

    def compose(self) -> ComposeResult:
        yield from (self.banner, self.head, self.upgrade, self.table, self.note, self.events)
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self.theme = "ansi-dark"
        self.events.border_title = "events (UTC)"
        for column in COLUMNS:
            self.table.add_column(self._title(column), width=column.width, key=column.key)
        self.table.focus()
        self.set_interval(DRAW, self._draw)
        self.run_worker(self._listen, thread=True)
        if not self.is_headless:  # else the terminal would stay as it is now
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.exit)

    def on_unmount(self) -> None:
        self._watch.close()

    def _listen(self) -> None:
        """In a thread: pass on what is new."""
        for news in self._watch.news():
            self._news.append(news)

    # --- what is shown ---

    def _draw(self) -> None:
        """Show what has come since the last time."""
        if not self._news and self._lost is None:
            return
        newest: dict[str, Any] | None = None
        lines: list[Text] = []
        while self._news:
            match self._news.popleft():
                case watch.Status(document):
                    newest, self._lost = document, None
                case watch.Events(documents, anew):
                    if anew:
                        self.events.forget()
                        lines = []
                    lines += [
                        Text(show.happened(each), "red" if each.get("level") == "warning" else "")
                        for each in documents]
                case Answer(message, well):
                    self.notify(message, severity="information" if well else "error",
                                timeout=SHOWN if well else SHOWN_IF_BAD, markup=False)
                case watch.Lost() | watch.Silent() as lost:
                    self._lost, self._lost_at = lost, time.monotonic()
        with self.batch_update():
            if newest is not None:
                self.document, self._seen_at = newest, time.monotonic()
                self.head.update(head(newest))
                self.upgrade.update(upgrade(newest))
                self._show_workers(newest["workers"])
                self.note.update(note(newest["workers"], self.chosen()))
            self.events.tell(lines)
            self._show_loss()

    def _show_loss(self) -> None:
        now = time.monotonic()
        age = show.duration(float(round(now - self._seen_at)))
        match self._lost:
            case None:
                text = ""
            case watch.Silent():
                text = f"THE MASTER DOES NOT ANSWER. What you see is {age} old."
            case watch.Lost(reason, again_in):
                left = max(0.0, again_in - (now - self._lost_at))
                text = f"CONNECTION LOST: {reason}. Next try in {left:.0f} s. What you see is {age} old."
        if text != self._warning:
            self._warning = text
            self.banner.set_class(bool(text), "shown")
            self.banner.update(Text(text))

    def _show_workers(self, workers: list[dict[str, Any]]) -> None:
        """Update the table in place: cells that changed, rows that came or went, the order if it is
        another one."""
        table, chosen = self.table, self.chosen()
        there = {str(worker["pid"]): worker for worker in workers}
        for pid in self._shown.keys() - there.keys():
            table.remove_row(pid)
            del self._shown[pid]
        for pid, worker in there.items():
            cells = row(worker)
            before = self._shown.get(pid)
            if before is None:
                table.add_row(
                    *(styled(cell, column, worker)
                      for cell, column in zip(cells, COLUMNS, strict=True)), key=pid)
            elif before != cells:
                for was, cell, column in zip(before, cells, COLUMNS, strict=True):
                    if was != cell:
                        table.update_cell(pid, column.key, styled(cell, column, worker))
            self._shown[pid] = cells
        key = self._sorted_by.key
        ordered = sorted(workers, key=lambda worker: (worker["index"], worker["pid"]))
        ordered.sort(
            key=lambda worker: (worker[key] is not None, 0
                                if worker[key] is None else worker[key]), reverse=self._reversed)
        order = [str(worker["pid"]) for worker in ordered]
        if order != self._order:
            place = {pid: number for number, pid in enumerate(order)}
            table.sort("pid", key=lambda cell: place[cell.plain.strip()])
            self._order = order
        self._choose(chosen, workers)

    def chosen(self) -> dict[str, Any] | None:
        """The worker that the cursor is on."""
        if self.document is None or not self.table.is_valid_row_index(self.table.cursor_row):
            return None
        pid = self.table.coordinate_to_cell_key(Coordinate(self.table.cursor_row, 0)).row_key.value
        return next((worker for worker in self.document["workers"] if str(worker["pid"]) == pid),
                    None)

    def _choose(self, chosen: Mapping[str, Any] | None, workers: list[dict[str, Any]]) -> None:
        """Keep the cursor on its worker wherever that is now, or on the one that has its seat."""
        if chosen is None:
            return
        same = [worker["pid"] for worker in workers if worker["pid"] == chosen["pid"]]
        seat = [worker["pid"] for worker in workers if worker["index"] == chosen["index"]]
        for pid in (same + seat)[:1]:
            place = self.table.get_row_index(str(pid))
            if place != self.table.cursor_row:
                self.table.move_cursor(row=place, animate=False)

    def _title(self, column: Column) -> Text:
        mark = ("▼" if self._reversed else "▲") if column is self._sorted_by else ""
        text = f"{mark}{column.title}"
        return Text(
            f" {text:<{column.width - 1}}" if column.key == "state" and not mark else
            text.ljust(column.width) if column.key == "state" else text.rjust(column.width),
            style="bold" if mark else "")

    # --- sorting ---

    def action_sort(self, step: int) -> None:
        """Sort by the next column, or by the one before."""
        column = COLUMNS[(COLUMNS.index(self._sorted_by) + step) % len(COLUMNS)]
        self._sort(column, not column.least_first)

    def action_turn(self) -> None:
        """Sort the other way round."""
        self._sort(self._sorted_by, not self._reversed)

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """A click on a title sorts by it, another one the other way round."""
        column = COLUMNS[event.column_index]
        self._sort(column,
                   not self._reversed if column is self._sorted_by else not column.least_first)

    def _sort(self, column: Column, reverse: bool) -> None:
        self._sorted_by, self._reversed = column, reverse
        for each in self.table.columns.values():
            each.label = self._title(next(one for one in COLUMNS if one.key == each.key.value))
        self._order = []  # so that the titles are drawn anew too
        if self.document is not None:
            self._show_workers(self.document["workers"])

    # --- actions ---

    def action_help(self) -> None:
        self.push_screen(Help())

    def action_upgrade(self) -> None:
        if (document := self._present()) is None:
            return
        running = running_upgrade(document)
        instead = f" The upgrade to generation {running['to']}, which is under way, is superseded." if running else ""
        self._ask(
            Action("upgrade", {
                "kind": "rolling", "wait": False
            }, (f"Upgrade {document['name']}?\n\nAll {document['target']} workers are replaced, "
                "one after the other, by new ones of the "
                f"code that is there now. The new generation has no release label.{instead}")))

    def action_pause(self) -> None:
        if (document := self._present()) is None or (running := self._going(document)) is None:
            return
        if document["gate"] == "paused" or running["hold_left_seconds"] is not None:
            what = "goes on" if running["paused_by"] else "ends its hold and goes on"
            self._ask(
                Action("resume", {},
                       f"Resume?\n\nThe upgrade to generation {running['to']} {what}."))
        else:
            self._ask(
                Action("pause", {}, (
                    f"Pause?\n\nThe upgrade to generation {running['to']} stands still, and nobody "
                    "is exchanged, until somebody "
                    "resumes or aborts it.")))

    def action_abort(self) -> None:
        if (document := self._present()) is None or (running := self._going(document)) is None:
            return
        self._ask(
            Action("abort", {
                "wait": False
            }, (f"Abort?\n\nThe upgrade to generation {running['to']} is refused, and what was "
                "replaced goes back to generation "
                f"{running['from']}.")))

    def action_scale(self, step: int) -> None:
        if (document := self._present()) is None:
            return
        target = document["target"]
        happens = "One more is started." if step > 0 else "One leaves as soon as it has finished its requests."
        self._ask(Action("scale", {"to": target + step}, (
            f"Change the number of workers from {target} to {target + step}?\n\n{happens}")))

    def action_recycle(self) -> None:
        if self._present() is None:
            return
        worker = self.chosen()
        if worker is None:
            self.notify("no worker is chosen", severity="warning", markup=False)
            return
        self._ask(
            Action("recycle", {
                "index": worker["index"]
            }, (f"Recycle worker {worker['index']} (pid {worker['pid']}, "
                f"{worker['state']})?\n\nAnother one of the same code is started "
                "in its place. When that is ready, this one finishes its requests and leaves."),
                   worker["pid"]))

    def _present(self) -> dict[str, Any] | None:
        """The status, if the master is there to be asked."""
        if self.document is None or isinstance(self._lost, watch.Lost):
            self.notify("not connected to the master", severity="error", markup=False)
            return None
        return self.document

    def _going(self, document: Mapping[str, Any]) -> Mapping[str, Any] | None:
        running = running_upgrade(document)
        if running is None:
            self.notify("no upgrade runs", severity="warning", markup=False)
        return running

    def _ask(self, action: Action) -> None:
        def answered(yes: bool | None) -> None:
            if yes and action.pid is not None and not self._stays(action.pid):
                # The master knows seats: somebody else would go in its place.
                self.notify(f"worker {action.pid} leaves already: nothing was asked",
                            severity="warning", markup=False)
            elif yes:
                self.run_worker(lambda: self._give(action), thread=True)

        self.push_screen(Dialog(action.question), answered)

    def _stays(self, pid: int) -> bool:
        """Whether a worker is there and hasn't been asked to leave."""
        return self.document is not None and any(
            worker["pid"] == pid and worker["state"] != "retiring"
            for worker in self.document["workers"])

    def _give(self, action: Action) -> None:
        """In a thread: ask the master, and pass on what it says."""
        try:
            with client.Client(self._path, PATIENCE) as master:
                answer = Answer(master.ask(action.command, **action.arguments)["message"], True)
        except client.TimedOut as error:
            answer = Answer(f"{action.command}: the master does not answer: {error}", False)
        except (client.NoMaster, client.MasterGone, client.Failed) as error:
            answer = Answer(f"{action.command}: {error}", False)
        self._news.append(answer)


def running_upgrade(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The upgrade that is under way."""
    found: Mapping[str, Any] | None = document["upgrade"]
    return None if found is None or found["outcome"] is not None else found


def head(document: Mapping[str, Any]) -> Text:
    """The gate, the generation, the master and its listeners."""
    master, gate = document["master"], document["gate"]
    release = f" ({document['release']})" if document["release"] else ""
    text = Text.assemble(
        (f"{document['name']}: ", "bold"), (gate, STYLES.get(gate, "bold red")),
        f": {document['reason']}\n",
        f"generation {document['generation']}{release}, up "
        f"{show.duration(document['uptime_seconds'])}, pid {master['pid']}, "
        f"einhornpy {master['version']}")
    if document["listeners"]:
        text.append("\n" + ", ".join(map(show.listening, document["listeners"])))
    return text


def upgrade(document: Mapping[str, Any]) -> Text:
    """The course of the running upgrade, or how the last one ended."""
    last = document["upgrade"]
    if last is None:
        return Text("no upgrade so far", "dim")
    if running_upgrade(document) is None:
        return Text(f"last upgrade: {show.upgrade_line(last, plain=True)}")
    release = f", {last['release']}" if last["release"] else ""
    done, target = last["replaced"], document["target"]
    filled = min(BAR, BAR * done // target)
    parts = [f"{show.duration(last['took_seconds'])}, asked for by {last['requested_by']}"]
    if last["paused_by"]:
        parts.append(f"paused by {last['paused_by']}")
    if last["hold_left_seconds"] is not None:
        parts.append(f"hold ends in {show.duration(last['hold_left_seconds'])}")
    if last["check"]:
        parts.append(f"check {last['check']}")
    if last["failures"]:
        parts.append(
            f"{last['failures']} failed: {last['error'] or last['reason'] or 'no reason known'}")
    return Text.assemble(
        f"upgrade {last['from']} -> {last['to']} ({last['kind']}{release}) ",
        ("█" * filled, STYLES["paused" if document["gate"] == "paused" else "ready"]),
        ("░" * (BAR - filled), "dim"), f" {done}/{target}\n", ", ".join(parts))


def note(workers: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any] | None) -> Text:
    """What there is to say of the chosen worker, or of the first one of which there is
    something."""
    said = [(worker, text) for worker in workers if (text := show.worker_note(worker)) is not None]
    said.sort(key=lambda each: each[0] is not chosen)
    if not said:
        return Text()
    more = f" (and {len(said) - 1} more)" if len(said) > 1 else ""
    worker, text = said[0]
    return Text(f"worker {worker['index']} (pid {worker['pid']}){more} {text}", "yellow",
                no_wrap=True, overflow="ellipsis")


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


def run(path: str) -> None:
    """Show the master at `path` until somebody leaves."""
    Top(path).run()
