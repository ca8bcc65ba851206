"""Every event that there is, declared once: its name, its fields, its words for people, its weight.

The log writes name and fields; everybody else is shown the sentence that `message` makes of them.
It decides nothing of when an event happens: that is what the journal and the parts of the master
do. Pure.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...shared.durations import duration


class Weight(enum.IntEnum):
    """How much an event matters: details are logged on request and told to nobody."""

    DETAIL, NORMAL, ATTENTION = range(3)

    @property
    def level(self) -> str:
        """As logs call it."""
        return ("debug", "info", "warning")[self]


@dataclass(frozen=True, slots=True)
class Seconds:
    """`took=2.31s` in the log. Documents say `took` as the log does, and `took_seconds`."""

    number: float
    form: str = ".2f"
    unit = "seconds"

    def __str__(self) -> str:
        return f"{self.number:{self.form}}s"

    @property
    def words(self) -> str:
        return duration(self.number)


@dataclass(frozen=True, slots=True)
class Bytes:
    """`available=512MiB` in the log. Documents have `available_bytes` beside it."""

    number: int
    unit = "bytes"

    def __str__(self) -> str:
        return f"{self.number >> 20}MiB"

    @property
    def words(self) -> str:
        return f"{self.number >> 20} MiB"


_WORKER, _OF_WORKER = "worker {index} (pid {pid}, generation {generation})", "index pid generation"
_LEFT, _OF_LEFT = "[ by worker {index} of generation {generation}]", "pid index? generation?"


class Event(enum.StrEnum):
    """Name, fields, words, weight; then whether it is among the last events that newcomers are
    told.

    A field's `?`: it may be missing; `:seconds`, `:bytes`: its unit; `+`: in documents alone. Words
    between brackets are left out where one of their fields is missing; `{workers:worker}` counts
    (`2 workers`); `{why}` is reason and error together.
    """

    fields: str
    words: str
    weight: Weight
    remembered: bool

    def __new__(cls, name: str, fields: str, words: str, weight: Weight = Weight.NORMAL,
                remembered: bool = True) -> Event:
        event = str.__new__(cls, name)
        event._value_ = name
        event.fields, event.words, event.weight = fields, words, weight
        event.remembered = remembered
        return event

    # --- workers ---
    WORKER_STARTING = "worker-starting", _OF_WORKER, f"{_WORKER} starting"
    WORKER_CANNOT_BE_STARTED = (
        "worker-cannot-be-started", "index generation error",
        "worker {index} of generation {generation} cannot be started: {error}", Weight.ATTENTION)
    WORKER_READY = (
        "worker-ready", f"{_OF_WORKER} took:seconds guessed?",
        f"{_WORKER} ready after {{took}}[ ({{guessed:a guess}})]")
    LATE_ACK_IGNORED = (
        "late-ack-ignored", _OF_WORKER, f"{_WORKER} said ready too late", Weight.DETAIL)
    WORKER_FAILED = (
        "worker-failed", f"{_OF_WORKER} error", f"{_WORKER} failed: {{error}}", Weight.ATTENTION)
    WORKER_UNFIT = (
        "worker-unfit", f"{_OF_WORKER} reason", f"{_WORKER} unfit: {{reason}}",
        Weight.ATTENTION)
    WORKER_DUE = (
        "worker-due", f"{_OF_WORKER} reason", f"{_WORKER} due for recycling: it {{reason}}")
    WORKER_HUNG = (
        "worker-hung", f"{_OF_WORKER} reason", f"{_WORKER} hung: it {{reason}}", Weight.ATTENTION)
    WORKER_RETIRING = (
        "worker-retiring", f"{_OF_WORKER} reason", f"{_WORKER} retiring: {{reason}}")
    WORKER_KILLED = (
        "worker-killed", f"{_OF_WORKER} reason", f"{_WORKER} killed: it {{reason}}",
        Weight.ATTENTION)
    WORKER_GONE = (
        "worker-gone", f"{_OF_WORKER} status age:seconds error?", f"{_WORKER} gone[: {{error}}]")
    WORKER_DIED = (
        "worker-died", f"{_OF_WORKER} status age:seconds error?",
        f"{_WORKER} died with status {{status}}[: {{error}}]", Weight.ATTENTION)
    START_FAILED = (
        "start-failed", "generation in_a_row next_try_in:seconds? error?",
        "start of generation {generation} failed, {in_a_row} in a row[, next try in {next_try_in}]"
        "[: {error}]", Weight.ATTENTION)
    PROCESS_LEFT_BEHIND = (
        "process-left-behind", f"{_OF_LEFT} known_by?",
        f"process {{pid}} left behind{_LEFT}[: {{known_by}}]")
    PROCESS_LEFT_BEHIND_KILLED = (
        "process-left-behind-killed", f"{_OF_LEFT} known_by?",
        f"process {{pid}}, left behind{_LEFT}, killed", Weight.ATTENTION)
    PROCESS_LEFT_BEHIND_GONE = (
        "process-left-behind-gone", f"{_OF_LEFT} known_by?",
        f"process {{pid}}, left behind{_LEFT}, gone")

    # --- upgrades ---
    UPGRADE_STARTED = (
        "upgrade-started", "from to kind release? requested_by canary? recipe_of?",
        "upgrade from generation {from} to {to} started ({kind}[, recipe of {recipe_of}]"
        "[, release {release}]), asked for by {requested_by}")
    GENERATION_PREPARED = (
        "generation-prepared", "generation directory",
        "generation {generation} prepared in {directory}")
    UPGRADE_REFUSED = (
        "upgrade-refused", "generation back_to reason error?",
        "generation {generation} refused, going back to {back_to}: {why}", Weight.ATTENTION)
    # Attention, where the release was refused.
    UPGRADE_ENDED = (
        "upgrade-ended", "generation release? outcome by? took:seconds reason? error?",
        "upgrade to generation {generation} {outcome}[ by generation {by}] after {took}[: {why}]")
    UPGRADE_PAUSED = "upgrade-paused", "generation by", "upgrade paused by {by}"
    UPGRADE_RESUMED = "upgrade-resumed", "generation by", "upgrade resumed by {by}"
    UPGRADE_ABORTED = "upgrade-aborted", "generation by", "upgrade aborted by {by}"
    HOLD_BEGUN = (
        "hold-begun", "generation canaries hold:seconds check?",
        "hold begun: {canaries:new worker} serving, {hold}[, check: {check}]")
    HOLD_ENDED = "hold-ended", "generation", "hold ended, everybody follows"
    CHECK_PASSED = "check-passed", "generation reason? error?", "check passed"
    CHECK_FAILED = (
        "check-failed", "generation reason error?", "check failed: {why}", Weight.ATTENTION)
    GENERATION_KEEPS_FAILING = (
        "generation-keeps-failing", "generation times last?",
        "generation {generation} keeps failing, {times} times[; the last: {last}]",
        Weight.ATTENTION)
    GENERATION_IS_CALM_AGAIN = (
        "generation-is-calm-again", "generation", "generation {generation} is calm again")
    GUNICORN_SETTING_CANNOT_CHANGE = (
        "gunicorn-setting-cannot-change", "setting wanted kept reason",
        "gunicorn's {setting} stays {kept} and does not become {wanted}: {reason}",
        Weight.ATTENTION)
    HOOK_FAILED = (
        "hook-failed", "hook reason last_line?", "hook {hook} failed: {reason}[: {last_line}]",
        Weight.ATTENTION)

    # --- the host ---
    SCALED = "scaled", "from to", "number of workers: {from} -> {to}"
    LISTENER_SHUT_DOWN = (
        "listener-shut-down", "address by so generations+",
        "{address} was shut down by {by}; {so}", Weight.ATTENTION)
    LISTENER_LOST = (
        "listener-lost", "address reason so", "{address} is lost: {reason}; {so}",
        Weight.ATTENTION)
    LISTENER_IS_BACK = "listener-is-back", "address", "{address} can be connected to again"
    HOST_SHORT_OF_MEMORY = (
        "host-short-of-memory", "available:bytes so",
        "the host is short of memory, {available} available: {so}", Weight.ATTENTION)
    HOST_HAS_MEMORY_AGAIN = (
        "host-has-memory-again", "available:bytes so?",
        "the host has memory again, {available} available", Weight.ATTENTION)

    # --- the master ---
    MASTER_STARTED = (
        "master-started", "pid version workers listen? socket",
        "master started: einhornpy {version}, pid {pid}, {workers:worker}[, listening on {listen}]")
    MASTER_REPLACED = (
        "master-replaced", "pid version before workers by?",
        "master replaced: einhornpy {version} goes on after {before}[, asked for by {by}]")
    MASTER_STOPPED = "master-stopped", "pid", "master stopped"
    STOPPING = (
        "stopping", "how workers", "stopping ({how}), {workers:worker} still there")
    GIVING_UP = "giving-up", "reason error?", "giving up: {why}", Weight.ATTENTION
    RELOAD_REQUESTED = "reload-requested", "by", "reload requested by {by}"
    RELOAD_REFUSED = (
        "reload-refused", "reason so", "reload refused: {reason}; {so}", Weight.ATTENTION)
    SETTINGS_THAT_STAY = (
        "settings-that-stay-as-they-were", "settings so",
        "settings that stay as they were: {settings}; {so}", Weight.ATTENTION)
    INHERITED_SOCKETS_UNUSED = (
        "inherited-sockets-unused", "names so", "inherited sockets unused: {names}; {so}",
        Weight.ATTENTION)
    GUNICORN_SETTINGS_OVERRULED = (
        "gunicorn-settings-overruled", "settings", "gunicorn settings overruled: {settings}")
    READINESS_IS_A_GUESS = (
        "readiness-is-a-guess", "reason so better",
        "readiness is a guess: {reason}; {so}; better: {better}", Weight.ATTENTION)
    NOTHING_IS_WARMED_UP = (
        "nothing-is-warmed-up", "reason better",
        "nothing is warmed up: {reason}; better: {better}")
    LABELS_FOUND = "labels-found", "*", "labels found"
    LABELS_NOT_FOUND = (
        "labels-not-found", "reason", "labels not found: {reason}", Weight.ATTENTION)
    SIGNAL_SENT = "signal-sent", "signal workers", "signal {signal} sent to {workers:worker}"
    SIGNAL_IGNORED = "signal-ignored", "signal reason", "signal {signal} ignored: {reason}"
    INTERNAL_ERROR = (
        "internal-error", "in error times? traceback so",
        "internal error in {in}[, {times} times]: {error}; {so}", Weight.ATTENTION)

    # --- what stands beside it ---
    WEB_STARTED = "web-started", "pid listen", "the page is served on {listen}"
    WEB_DIED = (
        "web-died", "why next_try_in:seconds",
        "the page's server died: {why}, next try in {next_try_in}", Weight.ATTENTION)
    WEB_OPEN_TO_EVERYBODY = (
        "web-open-to-everybody", "listen so better",
        "the page on {listen} is open to everybody: {so}; better: {better}", Weight.ATTENTION)
    NO_APP_METRICS = (
        "no-app-metrics", "generation? reason",
        "no app metrics[ of generation {generation}]: {reason}", Weight.ATTENTION)
    METRICS_NOT_FOLDED = (
        "metrics-not-folded", "reason last_line?", "metrics not folded: {reason}[: {last_line}]",
        Weight.ATTENTION)
    ANNOUNCEMENT_FAILED = (
        "announcement-failed", "to told? reason last_line? events?",
        "{to} was not told[ of {told}][ of {events:event}]: {reason}[: {last_line}]",
        Weight.ATTENTION)
    ANNOUNCEMENT_DROPPED = (
        "announcement-dropped", "to", "{to} is not told of an event, since too many wait",
        Weight.ATTENTION)
    KEEPER_DIED = (
        "keeper-died", "status next_try_in:seconds",
        "the keeper died with status {status}, next try in {next_try_in}", Weight.ATTENTION)
    LOG_FILE_NOT_OPENED_ANEW = (
        "log-file-not-opened-anew", "reason", "log file not opened anew: {reason}",
        Weight.ATTENTION)
    LOG_LINES_DROPPED = (
        "log-lines-dropped", "lines why", "{lines:log line} dropped: {why}", Weight.ATTENTION)
    WORKERS_WORD_IGNORED = (
        "worker's-word-ignored", "from_user from_pid reason",
        "a word of process {from_pid} (user {from_user}) was ignored: {reason}", Weight.NORMAL,
        False)
    STRANGERS_WORDS_LEFT_OUT = (
        "strangers'-words-left-out", "from_user count in:seconds",
        "{count:more word} of user {from_user} left out within {in}", Weight.NORMAL, False)


# What the log leaves out: it says the same in words.
_NOT_LOGGED = {"generations"}
_OPTIONAL = re.compile(r"\[([^\]]*)\]")
_FIELD = re.compile(r"\{(\w+)(?::([^}]*))?\}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened. `weighs`: another weight than its event's."""

    event: Event
    fields: Mapping[str, Any] = field(default_factory=dict)
    weighs: Weight | None = None

    @property
    def name(self) -> str:
        """How its line in the log begins: `worker ready`."""
        return self.event.replace("-", " ")

    @property
    def weight(self) -> Weight:
        return self.event.weight if self.weighs is None else self.weighs

    @property
    def logged(self) -> dict[str, Any]:
        """The fields that the log writes."""
        return {key: value for key, value in self.fields.items() if key not in _NOT_LOGGED}

    def document(self) -> dict[str, Any]:
        """The fields as plain data: what has a unit as the log says it, and as a number."""
        plain: dict[str, Any] = {}
        for key, value in self.fields.items():
            if isinstance(value, Seconds | Bytes):
                plain |= {key: str(value), f"{key}_{value.unit}": round(value.number, 3)}
            else:
                plain[key] = value
        return plain


def message(entry: Entry) -> str:
    """The entry as a sentence: `worker 2 (pid 4711, generation 7) ready after 2.3 s`."""
    fields = {"why": _why(entry.fields), **entry.fields}

    def optional(found: re.Match[str]) -> str:
        values = [fields.get(name) for name, _ in _FIELD.findall(found[1])]
        missing = any(value is None or value is False or value == "" for value in values)
        return "" if missing else found[1]

    def said(found: re.Match[str]) -> str:
        return _said(fields.get(found[1]), found[2])

    return _FIELD.sub(said, _OPTIONAL.sub(optional, entry.event.words))


def _said(value: Any, noun: str | None) -> str:
    if isinstance(value, Seconds | Bytes):
        return value.words
    if noun is None:
        return str(value)
    return noun if value is True else f"{value} {noun}{'' if value == 1 else 's'}"


def _why(fields: Mapping[str, Any]) -> str | None:
    """Reason and error, each once; None where there was none that mattered."""
    reason, error = fields.get("reason"), fields.get("error")
    if fields.get("outcome") == "done":
        return None
    if reason and error and error in reason:
        return str(reason)
    return ": ".join(text for text in (reason, error) if text) or None
