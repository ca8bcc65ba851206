"""The commands of the control socket, each declared once: its arguments, who may give it, what it
answers. The server, `help`, the shell and docs/reference.md read it here.

What a command does stands in supervisor/steering/commands.py and einhorn.py, by its name. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from . import printable
from .frozen import dataclass

UNTIL_RESUME = "until-resume"
DEFAULT_HOLD = 60.0


def check_least_hold(least: float | None, canary: object, hold: float | None) -> None:
    """See that a hold may end early after `least` seconds (None: it may not end early).

    Args:
        canary: whether there is one, which is held.
        hold: for how many seconds; None: until somebody says resume.

    Raises:
        ValueError: it makes no sense with this hold, said by the names of the flags.
    """
    if least is None:
        return
    if not canary:
        raise ValueError("--hold-at-least goes with --canary")
    if hold is not None and least > hold:
        raise ValueError(f"--hold-at-least is longer than the hold: {least:g} s of {hold:g} s")

MOST_WORKERS = 10000
LARGEST_NUMBER = 10**9


class Who(StrEnum):
    """Who may give a command. The owner is the user of the master; root may do what he may."""

    OWNER = "owner"
    OBSERVERS = "observers"  # the owner too: it changes nothing
    WORKERS = "workers"  # whoever it is that speaks: what counts is whether it is one


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument by its name. `expected`: what may be given, for the docs and for the refusal of
    anything else. `fits`: whether a value is that; None where the act alone can tell. `default`:
    what counts where none is given. `required`: there is no default. `nullable`: null means the
    default. `quoted`: a refusal shows the value. `needs`: the argument that must be given too."""

    name: str
    expected: str
    fits: Callable[[Any], bool] | None = None
    default: Any = None
    required: bool = False
    nullable: bool = False
    quoted: bool = True
    needs: str | None = None

    def read(self, given: Mapping[str, Any]) -> Any:
        """Its value among the arguments of a request.

        Raises:
            ValueError: it is none of what is expected.
        """
        value = given.get(self.name)
        if self.name not in given and not self.required:
            return self.default
        if self.needs is not None and not given.get(self.needs):
            raise ValueError(f"{self.name}: goes with a {self.needs}")
        if self.nullable and value is None:
            return self.default
        if self.fits is not None and not self.fits(value):
            got = f"got {value!r}, " if self.quoted else ""
            raise ValueError(f"{self.name}: {got}expected {self.expected}")
        return value


@dataclass(frozen=True, slots=True)
class Words:
    """How many words a command of Einhorn's takes, and which."""

    least: int
    most: int
    expected: str

    def read(self, command: str, words: tuple[str, ...] | None) -> tuple[str, ...]:
        """The words of a request.

        Raises:
            ValueError: they are too few or too many.
        """
        words = words or ()
        if not self.least <= len(words) <= self.most:
            raise ValueError(f"{command}: got {len(words)} arguments, expected {self.expected}")
        return words


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `about`: what it does, as `help` says it; `answers`: its reply; `waits`: until
    when more replies follow, if any do. `one_of`: exactly one of its arguments must be given.
    `words`: what Einhorn's clients give instead; None: whatever they give is passed over.
    `by_result`: the shell prints its result; the message is just the command's name then.
    `early`: it is heard before there are workers."""

    name: str
    about: str
    answers: str
    who: Who = Who.OWNER
    arguments: tuple[Argument, ...] = ()
    waits: str | None = None
    one_of: bool = False
    words: Words | None = None
    by_result: bool = False
    early: bool = False

    def read(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The value of every argument, the default of those that are not given.

        Raises:
            ValueError: one of them is wrong, unknown or missing.
        """
        names = [each.name for each in self.arguments]
        for key in given:
            if key not in names:
                raise ValueError(f"{self.name} takes no {key[:100]!r}; expected "
                                 f"{', '.join(names) or 'no arguments'}")
        if self.one_of and len(given) != 1:
            raise ValueError(f"{self.name}: expected either {' or '.join(names)}")
        return {each.name: each.read(given) for each in self.arguments}


def is_whole(value: Any) -> bool:
    """Whether it is a whole number: to Python, true and false are some too."""
    return isinstance(value, int) and not isinstance(value, bool)


def _flag(name: str, default: bool) -> Argument:
    return Argument(name, "true or false", lambda value: isinstance(value, bool), default)


def _one_of(name: str, *choices: str) -> Argument:
    """One of some words, the first by default."""
    return Argument(name, f"{', '.join(choices[:-1])} or {choices[-1]}",
                    lambda value: value in choices, choices[0])


def _count(name: str, **more: Any) -> Argument:
    return Argument(name, f"a whole number from 0 to {LARGEST_NUMBER}",
                    lambda value: is_whole(value) and 0 <= value <= LARGEST_NUMBER, **more)


def _is_shell_command(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


_WAIT = _flag("wait", True)
RELEASE = Argument("release", printable.LABEL, printable.is_label, nullable=True, quoted=False)
# Where one isn't given, the setting of its name counts.
_JUDGE = (
    Argument("judge", "true or false", lambda value: isinstance(value, bool), nullable=True),
    *(Argument(name, expected, nullable=True) for name, expected in (
        ("judge_tolerance", "percentage points of failed requests and a factor: 0.5,1.3"),
        ("judge_after", "how many requests of each worker are left out"),
        ("judge_unsure", "pass or refuse"),
        ("hold_at_least", "seconds after which a hold may end early"),
        ("watch", "for how many seconds it can go back after its end"))))
_COURSE = "each event on the way, then how it ended; with wait=false the number of the generation"
_UNTIL_ENDED = "until it has ended, unless wait=false"

OURS = (
    Command("ping", "answer with the master's name, pid and version",
            "name, pid, version, control socket, number of reloads", Who.OBSERVERS, early=True),
    Command("help", "list the commands", "what each does, and its arguments",
            Who.OBSERVERS, early=True),
    Command("status", "the status document; follow: again at every change", "the document",
            Who.OBSERVERS, (_flag("follow", False),), "for ever, with follow=true",
            early=True),
    Command("upgrade", "replace every worker; kind: rolling or fleet", _COURSE, arguments=(
        _one_of("kind", "rolling", "fleet"), RELEASE, _count("canary", default=0),
        Argument("hold", f"seconds (90, 90s, 10min, 6h, 1d) or {UNTIL_RESUME}",
                 default=DEFAULT_HOLD, needs="canary"),
        Argument("check", "a shell command", _is_shell_command, nullable=True, quoted=False,
                 needs="canary"),
        _count("max_failures"), *_JUDGE, _WAIT), waits=_UNTIL_ENDED),
    Command("upgrade_fleet", "replace every worker, all new ones first", "as upgrade",
            waits="until it has ended"),
    Command("rollback", "upgrade to a remembered recipe; to: a generation or a release", _COURSE,
            arguments=(Argument("to", "the number of a generation or a release",
                                lambda value: is_whole(value) or isinstance(value, str),
                                nullable=True), _WAIT), waits=_UNTIL_ENDED),
    Command("pause", "let the running upgrade stand still", "a sentence"),
    Command("resume", "let it go on, or end its hold or its watch", "a sentence"),
    Command("abort", "let the running upgrade go back", _COURSE, arguments=(_WAIT,),
            waits=_UNTIL_ENDED),
    Command("history", "the last upgrades, the newest last", "`upgrades`, a list", Who.OBSERVERS,
            by_result=True, early=True),
    Command("show", "what a generation was made of", "its recipe, and what differs from the one "
            "before", Who.OBSERVERS, (Argument("generation", "its number", is_whole,
                                               required=True),), by_result=True),
    Command("releases", "where releases are, and how they get there",
            "what [releases] says, and which of them are in use", by_result=True),
    Command("scale", "change how many workers are kept ready", "the number before and after",
            arguments=(Argument("to", "a whole number", is_whole),
                       Argument("by", "a whole number", is_whole)), one_of=True),
    Command("signal", "send a signal to every worker", "how many got it", arguments=(
        Argument("signal", "a signal such as TERM, SIGUSR2 or 15", required=True),)),
    Command("recycle", "replace the ready worker of a seat, make before break",
            "which one is to leave", arguments=(
                Argument("index", "the number of a seat, 0 or more",
                         lambda value: is_whole(value) and value >= 0, required=True),)),
    Command("reload", "replace the master by the einhornpy that is installed now",
            "whether it was replaced", waits="until the next master goes on, or this one does"),
    Command("stop", "stop; how: graceful, terminate or now", "that it does",
            arguments=(_one_of("how", "graceful", "terminate", "now"),), early=True),
    Command("tally", "what has happened since the start, as numbers", "counters", Who.OBSERVERS,
            early=True),
    Command("events", "stream every event", "the status and the last 256 events, as `recent`; "
            "then each event", Who.OBSERVERS, waits="for ever", early=True),
)
# What Einhorn's clients know, with words for arguments; see docs/einhorn.md.
EINHORNS = (
    Command("ehlo", "say who answers", "a sentence", Who.OBSERVERS),
    Command("state", "the state as YAML, in Einhorn's words", "that, as message", Who.OBSERVERS),
    Command("inc", "one worker more", "the number before and after"),
    Command("dec", "one worker less", "the number before and after"),
    Command("set_workers", "so many workers (args: N)", "the number before and after",
            words=Words(1, 1, "the number of workers")),
    Command("signal", "send signals to every worker (args: SIGNAL …)", "how many got it",
            words=Words(1, 10, "signals")),
    Command("die", "stop (args: [SIGNAL]; USR2 unless told otherwise)", "that it does",
            words=Words(0, 1, "at most one signal")),
    Command("config", "change settings (args: a YAML mapping; number alone can change)",
            "the number of workers before and after", words=Words(1, 1000, "a YAML mapping")),
    Command("quieter", "log less", "what is logged now"),
    Command("louder", "log more", "what is logged now"),
)
# What a worker says of itself. All but the last are answered by closing the connection, as Einhorn
# does, and what makes no sense in them is passed over.
WORKERS = (
    Command("worker:ack", "it is ready", "nothing", Who.WORKERS, (
        Argument("pid", "its own"), Argument("framework", "with what its app was made"))),
    Command("worker:ping", "it is alive", "nothing", Who.WORKERS, (
        Argument("pid", "its own"), Argument("request_id", "what it is at, for `state`"))),
    Command("worker:failed", "it can't start", "nothing", Who.WORKERS, (
        Argument("pid", "its own"), Argument("error", "why"))),
    Command("worker:upgrade", "replace every worker", "the number of the new generation",
            Who.WORKERS, (RELEASE,)),
)
BY_NAME = {each.name: each for each in OURS}
EINHORNS_BY_NAME = {each.name: each for each in EINHORNS}
WORKERS_BY_NAME = {each.name: each for each in WORKERS}
ABOUT = {each.name: each.about for each in (*EINHORNS, *OURS)}
EARLY = sorted(each.name for each in OURS if each.early)
_WHO = {each.name: each.who for each in (*EINHORNS, *OURS, *WORKERS)}


def who_may(command: str) -> Who:
    """Who may give a command; one that there is not is none of an observer's."""
    return _WHO.get(command, Who.OWNER)
