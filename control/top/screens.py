"""What lies over the view or beside the table: a question, the help, the last events."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.events import Resize
from textual.screen import ModalScreen
from textual.widgets import RichLog, Static

from .table import Column

MOST_EVENTS = 256
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
    """The keys, and the columns that are shown."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q,enter", "dismiss", "Back")]

    def __init__(self, columns: Iterable[Column]) -> None:
        super().__init__()
        self._columns = columns

    def compose(self) -> ComposeResult:
        columns = "\n".join(f"{column.title:<9} {column.about}" for column in self._columns)
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
