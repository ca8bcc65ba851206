"""`einhornpy top`: one master, live, on a terminal. It only shows and asks: what is shown is worded
by words.py and show.py, what may be asked by actions.py. Only this folder knows Textual.

What is new comes from a thread (see watch.py) into a queue, and is drawn ten times a second: of
many statuses the newest.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, assert_never

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Footer, Static

from .. import show, watch
from . import actions, words
from .actions import Action, Answer
from .screens import Dialog, Help, Log
from .table import Workers

DRAW = 0.1
# How long an answer is shown, in seconds: a refusal must be read.
SHOWN, SHOWN_IF_BAD = 4.0, 12.0


class Top(App[None]):
    """The live view of the master at `path`."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #lost { display: none; text-style: reverse bold; color: ansi_red; padding: 0 1; }
    #lost.shown { display: block; }
    #head, #upgrade, #traffic, #templates { height: auto; max-height: 6; padding: 0 1; }
    #templates { text-wrap: nowrap; text-overflow: ellipsis; }
    DataTable { height: 2fr; min-height: 4; scrollbar-size: 1 1; }
    RichLog { height: 1fr; min-height: 4; border-top: solid ansi_default; padding: 0 1;
              scrollbar-size-vertical: 1; }
    Dialog, Help { align: center middle; }
    Dialog Vertical { width: 64; max-width: 95%; height: auto; border: solid ansi_default;
                      padding: 1 2; }
    Help Vertical { width: 78; max-width: 100%; height: auto; max-height: 100%;
                    border: solid ansi_default; padding: 0 1; overflow-y: auto; }
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
        # Kept here, since a query looks only at the screen on top, which may be a dialog.
        self.banner = Static(id="lost")
        self.head = Static("connecting", id="head")
        self.upgrade = Static(id="upgrade")
        self.traffic = Static(id="traffic")
        self.templates = Static(id="templates")
        self.table = Workers()
        self.note = Static(id="note")
        self.events = Log()

    def compose(self) -> ComposeResult:
        yield from (self.banner, self.head, self.upgrade, self.traffic, self.templates, self.table,
                    self.note, self.events)
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self.theme = "ansi-dark"
        self.events.border_title = "events (UTC)"
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
                    lines += map(words.event, documents)
                case Answer(message, well):
                    self.notify(message, severity="information" if well else "error",
                                timeout=SHOWN if well else SHOWN_IF_BAD, markup=False)
                case watch.Lost() | watch.Silent() as lost:
                    self._lost, self._lost_at = lost, time.monotonic()
                case never:
                    assert_never(never)
        with self.batch_update():
            if newest is not None:
                self._show(newest)
            self.events.tell(lines)
            self._show_loss()

    def _show(self, document: dict[str, Any]) -> None:
        self.document, self._seen_at = document, time.monotonic()
        self.head.update(words.head(document))
        self.upgrade.update(words.upgrade(document))
        self.traffic.update(words.answered(document))
        self.templates.update(words.templates(document))
        self.table.show_workers(document["workers"])
        self.note.update(words.note(document["workers"], self.table.chosen()))

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
                text = (f"CONNECTION LOST: {reason}. Next try in {left:.0f} s. What you see is "
                        f"{age} old.")
            case never:
                assert_never(never)
        if text != self._warning:
            self._warning = text
            self.banner.set_class(bool(text), "shown")
            self.banner.update(Text(text))

    # --- actions ---

    def action_help(self) -> None:
        self.push_screen(Help(self.table.fitting))

    def action_sort(self, step: int) -> None:
        self.table.step(step)

    def action_turn(self) -> None:
        self.table.turn()

    def action_upgrade(self) -> None:
        self._propose(actions.upgrade)

    def action_pause(self) -> None:
        self._propose(actions.pause_or_resume)

    def action_abort(self) -> None:
        self._propose(actions.abort)

    def action_scale(self, step: int) -> None:
        self._propose(lambda document: actions.scale(document, step))

    def action_recycle(self) -> None:
        worker = self.table.chosen()
        if worker is None and self._present() is not None:
            self.notify("no worker is chosen", severity="warning", markup=False)
        elif worker is not None:
            self._propose(lambda document: actions.recycle(worker))

    def _propose(self, make: Callable[[Mapping[str, Any]], Action]) -> None:
        """Ask whether an action is meant, if there is a master to take it."""
        if (document := self._present()) is not None:
            try:
                self._ask(make(document))
            except actions.NoUpgrade:
                self.notify("no upgrade runs", severity="warning", markup=False)

    def _present(self) -> dict[str, Any] | None:
        """The status, if the master is there to be asked."""
        if self.document is None or isinstance(self._lost, watch.Lost):
            self.notify("not connected to the master", severity="error", markup=False)
            return None
        return self.document

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
        self._news.append(actions.give(self._path, action))


def run(path: str) -> None:
    """Show the master at `path` until somebody leaves."""
    Top(path).run()
