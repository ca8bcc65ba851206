"""Every event that there is, declared once: its name, its fields, its words for people, its weight.

The log writes name and fields; everybody else is shown the sentence that `message` makes of them.
It decides nothing of when an event happens: that is what the journal and the parts of the master
do. Pure.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from ...shared.durations import duration
from ...shared.frozen import dataclass
from ..core.upgrade import Outcome


class Weight(enum.IntEnum):
    """How much an event matters: details are logged on request and told to nobody."""

    DETAIL = 0
    NORMAL = 1
    ATTENTION = 2

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


DETAIL, NORMAL, ATTENTION = Weight
# What `{worker}` and `{left}` stand for in the words below.
PARTS = {"worker": "worker {index} (pid {pid}, generation {generation})",
         "left": "process {pid} left behind[ by worker {index} of generation {generation}]"}


class Event(enum.StrEnum):
    """Name, weight, words for people, and which fields these leave out.

    `[…]` falls away where a field in it is missing. `{took:seconds}`, `{available:bytes}`: with a
    unit. `{workers:worker}` counts: `2 workers`. `{because}` is reason and error. Of the fields
    that are left out, `?` may be missing, and `+` stands in documents alone.
    """

    weight: Weight
    words: str
    unsaid: str

    def __new__(cls, name: str, weight: Weight, words: str, unsaid: str = "") -> Event:
        event = str.__new__(cls, name)
        event._value_, event.weight, event.unsaid = name, weight, unsaid
        event.words = re.sub(r"\{(worker|left)\}", lambda found: PARTS[found[1]], words)
        return event

    @property
    def remembered(self) -> bool:
        """Whether newcomers are told of it: nobody need believe a stranger, nor remember him."""
        return self not in (Event.WORKERS_WORD_IGNORED, Event.STRANGERS_WORDS_LEFT_OUT)

    # --- workers ---
    WORKER_STARTING = (
        "worker-starting", NORMAL, "{worker} starting"
        "[ as {baseline:a baseline to compare canaries with}]")
    WORKER_CANNOT_BE_STARTED = (
        "worker-cannot-be-started", ATTENTION,
        "worker {index} of generation {generation} cannot be started: {error}")
    WORKER_READY = (
        "worker-ready", NORMAL, "{worker} ready after {took:seconds}[ ({guessed:a guess})]")
    LATE_ACK_IGNORED = "late-ack-ignored", DETAIL, "{worker} said ready too late"
    WORKER_FAILED = "worker-failed", ATTENTION, "{worker} failed: {error}"
    WORKER_UNFIT = "worker-unfit", ATTENTION, "{worker} unfit: {reason}"
    WORKER_DUE = "worker-due", NORMAL, "{worker} due for recycling: it {reason}", "cause+"
    TRAFFIC_UNREADABLE = (
        "traffic-unreadable", ATTENTION,
        "{worker} reports traffic that can't be read, this once and maybe more: {text}")
    WORKER_HUNG = "worker-hung", ATTENTION, "{worker} hung: it {reason}", "cause+"
    WORKER_RETIRING = "worker-retiring", NORMAL, "{worker} retiring: {reason}", "cause+"
    WORKER_KILLED = "worker-killed", ATTENTION, "{worker} killed: it {reason}", "cause+"
    WORKER_GONE = "worker-gone", NORMAL, "{worker} gone[: {error}]", "status age:seconds"
    WORKER_DIED = (
        "worker-died", ATTENTION, "{worker} died with status {status}[: {error}]", "age:seconds")
    START_FAILED = (
        "start-failed", ATTENTION, "start of generation {generation} failed, {in_a_row} in a row"
        "[, next try in {next_try_in:seconds}][: {error}]")
    PRELOAD_PASSED_OVER = (
        "preload-passed-over", ATTENTION, "{file} is not preloaded: {reason}; {so}")
    TEMPLATE_STARTING = (
        "template-starting", NORMAL, "template of generation {generation} (pid {pid}) starting")
    TEMPLATE_READY = (
        "template-ready", NORMAL, "template of generation {generation} (pid {pid}) ready"
        "[, app imported in {imported:seconds}]")
    NOT_SAFE_TO_FORK = (
        "not-safe-to-fork", ATTENTION, "generation {generation} has what is not safe to fork: "
        "{kind} {what}[, since the import of {module}]; {advice}[; {so}]")
    TEMPLATE_KILLED = (
        "template-killed", ATTENTION, "template of generation {generation} (pid {pid}) killed: it "
        "{reason}")
    TEMPLATE_DIED = (
        "template-died", ATTENTION, "template of generation {generation} (pid {pid}) died: it "
        "{reason}[: {error}]; {so}[, in {next_try_in:seconds}]")
    TEMPLATE_GONE = (
        "template-gone", DETAIL, "template of generation {generation} (pid {pid}) gone")
    PROCESS_LEFT_BEHIND = "process-left-behind", NORMAL, "{left}[: {known_by}]"
    PROCESS_LEFT_BEHIND_KILLED = (
        "process-left-behind-killed", ATTENTION, "{left} was killed", "known_by?")
    PROCESS_LEFT_BEHIND_GONE = "process-left-behind-gone", NORMAL, "{left} is gone", "known_by?"

    # --- upgrades ---
    UPGRADE_STARTED = (
        "upgrade-started", NORMAL, "upgrade from generation {from} to {to} started ({kind}"
        "[, recipe of {recipe_of}][, release {release}]), asked for by {requested_by}",
        "canary? judged?")
    GENERATION_PREPARED = (
        "generation-prepared", NORMAL, "generation {generation} prepared in {directory}[; {so}]")
    UPGRADE_REFUSED = (
        "upgrade-refused", ATTENTION,
        "generation {generation} refused, going back to {back_to}: {because}", "cause+")
    UPGRADE_ENDED = (  # attention, where the release was refused
        "upgrade-ended", NORMAL, "upgrade to generation {generation} {outcome}"
        "[ by generation {by}] after {took:seconds}[: {because}]"
        "[, watched for {watched_for:seconds} more]", "release? cause?+ verdict? figures?")
    UPGRADE_JUDGED = (
        "upgrade-judged", NORMAL, "new workers against old ones: {word}: {reason}",
        "generation requests old_requests")
    WATCH_ENDED = (
        "watch-ended", NORMAL, "watch ended[ by {by}], generation {generation} stays"
        "[: {verdict}: {figures}]")
    UPGRADE_PAUSED = "upgrade-paused", NORMAL, "upgrade paused by {by}", "generation"
    UPGRADE_RESUMED = "upgrade-resumed", NORMAL, "upgrade resumed by {by}", "generation"
    UPGRADE_ABORTED = "upgrade-aborted", NORMAL, "upgrade aborted by {by}", "generation"
    HOLD_BEGUN = (
        "hold-begun", NORMAL, "hold begun: {canaries:new worker} serving, {hold:seconds}"
        "[, check: {check}][; no baseline: {no_baseline}]", "generation")
    HOLD_ENDED = (
        "hold-ended", NORMAL, "hold ended[ early, after {after:seconds}], everybody follows"
        "[: {verdict}: {figures}][; resumed by {by}]", "generation")
    CHECK_PASSED = "check-passed", NORMAL, "check passed", "generation reason? error?"
    CHECK_FAILED = "check-failed", ATTENTION, "check failed: {because}", "generation"
    GENERATION_KEEPS_FAILING = (
        "generation-keeps-failing", ATTENTION,
        "generation {generation} keeps failing, {times} times[; the last: {last}]")
    GENERATION_IS_CALM_AGAIN = (
        "generation-is-calm-again", NORMAL, "generation {generation} is calm again")
    GUNICORN_SETTING_CANNOT_CHANGE = (
        "gunicorn-setting-cannot-change", ATTENTION,
        "gunicorn's {setting} stays {kept} and does not become {wanted}: {reason}")
    RELEASE_FETCHING = "release-fetching", NORMAL, "release {release} is being fetched"
    RELEASE_FETCH_SAYS = "release-fetch-says", NORMAL, "{line}"
    CURRENT_MOVED = (
        "current-moved", NORMAL, "{link} leads to release {release} now[, and no more to {before}]")
    CURRENT_NOT_MOVED = (
        "current-not-moved", ATTENTION,
        "{link} leads to release {before} still, and not to {release}: {reason}")
    RELEASE_NOT_RECORDED = (
        "release-not-recorded", ATTENTION, "release {release} is {state}, which cannot be "
        "recorded: {reason}")
    HOOK_FAILED = "hook-failed", ATTENTION, "hook {hook} failed: {reason}[: {last_line}]"

    # --- the host ---
    SCALED = "scaled", NORMAL, "number of workers: {from} -> {to}"
    LISTENER_SHUT_DOWN = (
        "listener-shut-down", ATTENTION, "{address} was shut down by {by}; {so}", "generations+")
    LISTENER_MADE_AGAIN = (
        "listener-made-again", ATTENTION,
        "the file of {address} had been removed, and was made again: {so}")
    LISTENER_LOST = "listener-lost", ATTENTION, "{address} is lost: {reason}; {so}"
    LISTENER_IS_BACK = "listener-is-back", NORMAL, "{address} can be connected to again"
    HOST_SHORT_OF_MEMORY = (
        "host-short-of-memory", ATTENTION,
        "the host is short of memory, {available:bytes} available: {so}")
    HOST_HAS_MEMORY_AGAIN = (
        "host-has-memory-again", ATTENTION,
        "the host has memory again, {available:bytes} available", "so?")

    # --- the master ---
    MASTER_STARTED = (
        "master-started", NORMAL, "master started: einhornpy {version}, pid {pid}, "
        "{workers:worker}[, listening on {listen}]", "socket")
    MASTER_REPLACED = (
        "master-replaced", NORMAL, "master replaced: einhornpy {version} goes on after {before}"
        "[, asked for by {by}]", "pid workers")
    MASTER_SUSPENDED = (
        "master-suspended", NORMAL, "master was suspended[ for {lost:seconds}]: {so}")
    MASTER_STOPPED = "master-stopped", NORMAL, "master stopped", "pid"
    STOPPING = "stopping", NORMAL, "stopping ({how}), {workers:worker} still there"
    GIVING_UP = "giving-up", ATTENTION, "giving up: {because}[; {better}]"
    RELOAD_REQUESTED = "reload-requested", NORMAL, "reload requested by {by}"
    RELOAD_REFUSED = "reload-refused", ATTENTION, "reload refused: {reason}; {so}"
    SETTINGS_THAT_STAY = (
        "settings-that-stay-as-they-were", ATTENTION,
        "settings that stay as they were: {settings}; {so}")
    WAITING_FOR_LEFTOVERS = (
        "waiting-for-leftovers", ATTENTION, "{address} is still held by {holders}, of a master "
        "that is dead: waiting for up to {most:seconds}")
    PLACES_LOST = "places-lost", ATTENTION, "{files} gone, and not to be made again: {reason}; {so}"
    PLACES_MADE_AGAIN = (
        "places-made-again", ATTENTION, "{files} had been removed, made again", "socket")
    STRAY_VARIABLES = (
        "stray-variables", ATTENTION, "variables that are no settings: {variables}; {so}")
    INHERITED_SOCKETS_UNUSED = (
        "inherited-sockets-unused", ATTENTION, "inherited sockets unused: {names}; {so}")
    INHERITED_DESCRIPTORS_CLOSED = (
        "inherited-descriptors-closed", DETAIL, "inherited descriptors closed: {descriptors}")
    GUNICORN_SETTINGS_OVERRULED = (
        "gunicorn-settings-overruled", NORMAL, "gunicorn settings overruled: {settings}")
    GUNICORN_SETTINGS_NOT_OURS = (
        "gunicorn-settings-not-ours", NORMAL,
        "gunicorn settings that have no effect here: {settings}")
    READINESS_IS_A_GUESS = (
        "readiness-is-a-guess", ATTENTION,
        "readiness is a guess: {reason}; {so}; better: {better}")
    SERVER_HAS_ITS_OWN_WAYS = (
        "server-has-its-own-ways", ATTENTION,
        "{server} has its own ways: {reason}; {so}; better: {better}")
    NOTHING_IS_WARMED_UP = (
        "nothing-is-warmed-up", NORMAL, "nothing is warmed up: {reason}; better: {better}")
    LABELS_FOUND = "labels-found", NORMAL, "labels found", "*"
    LABELS_NOT_FOUND = "labels-not-found", ATTENTION, "labels not found: {reason}"
    SIGNAL_SENT = "signal-sent", NORMAL, "signal {signal} sent to {workers:worker}"
    SIGNAL_IGNORED = "signal-ignored", NORMAL, "signal {signal} ignored: {reason}"
    INTERNAL_ERROR = (
        "internal-error", ATTENTION, "internal error in {in}[, {times} times]: {error}; {so}",
        "traceback")

    # --- what stands beside it ---
    WEB_STARTED = "web-started", NORMAL, "the page is served on {listen}", "pid"
    WEB_DIED = (
        "web-died", ATTENTION,
        "the page's server died: {why}, next try in {next_try_in:seconds}")
    WEB_OPEN_TO_EVERYBODY = (
        "web-open-to-everybody", ATTENTION,
        "the page on {listen} is open to everybody: {so}; better: {better}")
    NO_APP_METRICS = (
        "no-app-metrics", ATTENTION, "no app metrics[ of generation {generation}]: {reason}")
    METRICS_NOT_FOLDED = (
        "metrics-not-folded", ATTENTION, "metrics not folded: {reason}[: {last_line}]")
    ANNOUNCEMENT_FAILED = (
        "announcement-failed", ATTENTION,
        "{to} was not told[ of {told}][ of {events:event}]: {reason}[: {last_line}]")
    ANNOUNCEMENT_DROPPED = (
        "announcement-dropped", ATTENTION, "{to} is not told of an event, since too many wait")
    KEEPER_DIED = (
        "keeper-died", ATTENTION,
        "the keeper died with status {status}, next try in {next_try_in:seconds}")
    LOG_FILE_NOT_OPENED_ANEW = (
        "log-file-not-opened-anew", ATTENTION, "log file not opened anew: {reason}")
    LOG_LINES_DROPPED = "log-lines-dropped", ATTENTION, "{lines:log line} dropped: {why}"
    WORKERS_WORD_IGNORED = (
        "worker's-word-ignored", NORMAL,
        "a word of process {from_pid} (user {from_user}) was ignored: {reason}")
    STRANGERS_WORDS_LEFT_OUT = (
        "strangers'-words-left-out", NORMAL,
        "{count:more word} of user {from_user} left out within {in:seconds}")


# What the log leaves out: it says the same in words.
NOT_LOGGED = {"cause", "generations"}
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
        return {key: value for key, value in self.fields.items() if key not in NOT_LOGGED}

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
    fields = {**entry.fields, "because": _because(entry.fields)}

    def optional(found: re.Match[str]) -> str:
        values = [fields.get(name) for name, _ in _FIELD.findall(found[1])]
        missing = any(value is None or value is False or value == "" for value in values)
        return "" if missing else found[1]

    def said(found: re.Match[str]) -> str:
        return _said(fields.get(found[1]), found[2] or "")

    return _FIELD.sub(said, _OPTIONAL.sub(optional, entry.event.words))


def _said(value: Any, noun: str) -> str:
    if isinstance(value, Seconds | Bytes):
        return value.words
    if not noun or isinstance(value, str):
        return str(value)
    return noun if value is True else f"{value} {noun}{'' if value == 1 else 's'}"


def _because(fields: Mapping[str, Any]) -> str | None:
    """Reason and error, each once; None where there was none that mattered."""
    reason, error = fields.get("reason"), fields.get("error")
    if fields.get("outcome") == Outcome.DONE:
        return None
    if reason and error and error in reason:
        return str(reason)
    return ": ".join(text for text in (reason, error) if text) or None
