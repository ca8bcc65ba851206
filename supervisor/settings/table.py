"""Settings: one frozen `Settings` from the command line, `EINHORNPY_*`, a TOML file and defaults,
in that order.

The table `OPTIONS` is the one place that knows every setting: flags, parser, default and help. It
only reads; nothing is bound, opened for writing or started here. Every value remembers the place it
came from.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...shared import printable
from ..core.worker_environment import FOR_WORKERS
from ..system.attributes import core_list, limit, niceness

RESERVED_LABELS = {
    "time", "name", "level", "event", "version", "release", "index", "pid", "generation", "stream",
    "message", "partial", "labels"}
ENVIRONMENT_PREFIX = "EINHORNPY_"
LARGEST_FILE = 1 << 20
LARGEST_SIZE = 1 << 60
# Of a wrong value, in a message.
LONGEST_SHOWN = 200
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
# Given to workers by a master; a master started by a worker must not take them for settings.
NOT_SETTINGS = {
    "EINHORNPY_GENERATION", "EINHORNPY_WORKER", "EINHORNPY_ADAPTER", "EINHORNPY_RETIRE_SIGNAL",
    "EINHORNPY_STATUS", *FOR_WORKERS}


class BadSetting(ValueError):
    """One line: where the value stands, what it is, what was expected."""


@dataclass(frozen=True, slots=True)
class Option:
    """One setting. `parse` takes the text (or, from TOML, the value) and returns the value or
    raises ValueError with what was expected. `many`: may be given several times, each parsed alone.
    `switch`: takes no value. `secret`: is not to stand in a message."""

    name: str
    flags: tuple[str, ...]
    parse: Callable[[Any], Any]
    default: Any
    help: str
    metavar: str = "TEXT"
    many: bool = False
    switch: bool = False
    secret: bool = False


def word(value: Any) -> str:
    """A text or a number as a text without blanks around it; anything else, as TOML may hold it, as
    one that is nothing."""
    try:
        return str(value).strip() if isinstance(value, str | int
                                                | float) and not isinstance(value, bool) else ""
    except ValueError:
        return ""  # a number with more digits than Python prints


def whole(least: int) -> Callable[[Any], int]:
    """A parser of whole numbers of at least `least`."""

    def parse(value: Any) -> int:
        text = word(value)
        if not re.fullmatch(r"[+-]?[0-9]{1,9}", text) or int(text) < least:
            raise ValueError(f"a whole number of at least {least}")
        return int(text)

    return parse


def seconds(value: Any) -> float:
    """Parse a time: a number of seconds, not negative, or one with a unit: `90s`, `10min`, `6h`,
    `1d`."""
    found = re.fullmatch(r"([0-9.eE+-]+)\s*(s|min|m|h|d)?", word(value))
    try:
        number = float(found[1]) * _UNITS[found[2] or "s"] if found else math.nan
    except ValueError:
        number = math.nan
    if not 0 <= number < 1e9:
        raise ValueError("a number of seconds, 0 or more, or 90s, 10min, 6h, 1d")
    return number


def some_seconds(value: Any) -> float:
    """Parse a time that is more than none at all."""
    number = seconds(value)
    if number == 0:
        raise ValueError("a number of seconds above 0")
    return number


def size(value: Any) -> int:
    """Parse a size in bytes: a whole number, or one with a binary unit: `400M`, `1.5G`."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?", word(value), re.IGNORECASE)
    number = float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " ") if found else math.inf
    if number >= LARGEST_SIZE:
        raise ValueError("a size such as 400M or 1.5G")
    return int(number)


def exit_code(value: Any) -> int:
    """Parse an exit code that isn't success."""
    try:
        code = whole(1)(value)
    except ValueError:
        code = 256
    if code > 255:
        raise ValueError("an exit code from 1 to 255")
    return code


def words(value: Any) -> tuple[str, ...]:
    """Parse a command line, as a shell reads it."""
    try:
        found = tuple(shlex.split(value)) if isinstance(value, str) else ()
    except ValueError:
        found = ()
    if not found or any("\0" in word for word in found):
        raise ValueError("a command line, as a shell would read it")
    return found


def octal(value: Any) -> int:
    """Parse permission bits, such as 0660 or 027."""
    if not isinstance(value, str) or not re.fullmatch(r"(0o)?0?[0-7]{1,3}", value.strip()):
        raise ValueError("permission bits in octal, such as 0660 (in TOML as a text)")
    return int(value.strip().removeprefix("0o"), 8)


def score(value: Any) -> int:
    """Parse a score from -1000 to 1000 (proc(5), oom_score_adj)."""
    text = word(value)
    if not re.fullmatch(r"[+-]?[0-9]{1,4}", text) or abs(int(text)) > 1000:
        raise ValueError("a whole number from -1000 to 1000")
    return int(text)


def backlog(value: Any) -> int:
    """Parse how many connections may wait to be accepted."""
    number = whole(1)(value)
    if number > 65535:
        raise ValueError("a whole number from 1 to 65535")
    return number


def ack_mode(value: Any) -> str | float:
    """Parse an ack mode: `auto`, `manual`, `notify` or a number of seconds."""
    if isinstance(value, str) and value in ("auto", "manual", "notify"):
        return value
    try:
        return seconds(value)
    except ValueError:
        raise ValueError("auto, manual, notify or a number of seconds") from None


def signal_name(value: Any) -> str:
    """Parse a signal: `USR2`, `SIGUSR2` or `12` all give `SIGUSR2`."""
    text = word(value).upper()
    try:
        if re.fullmatch("[0-9]{1,3}", text):
            return signal.Signals(int(text)).name
        return signal.Signals[text if text.startswith("SIG") else f"SIG{text}"].name
    except (KeyError, ValueError):
        raise ValueError("a signal such as TERM, SIGUSR2 or 15") from None


def text(value: Any) -> str:
    """Parse a text that isn't empty."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("a text that is not empty")
    return value


def name(value: Any) -> str:
    """Parse a master's name: it becomes a file name."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}", value):
        raise ValueError("up to 64 letters, digits and _.@-, not starting with one of .@-")
    return value


def path(value: Any) -> str:
    """Parse a path; relative ones are made absolute later, against the directory of whoever gave
    it."""
    return os.path.expanduser(text(value))


# The host of a URL, and its port.
_AUTHORITY = r"(?:[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?"


def request(value: Any) -> str:
    """Parse the path or the whole URL of a warm-up request."""
    found = re.fullmatch(rf'(?:https?://{_AUTHORITY})?/[!"$-~]*', value) if isinstance(
        value, str) else None
    if found is None or not 0 < int(found[1] or 443) < 65536:
        raise ValueError("a path such as /health, or a URL such as https://HOST/health")
    return found[0]


def pair(value: Any) -> tuple[str, str]:
    """Parse `K=V`."""
    key, equals, rest = value.partition("=") if isinstance(value, str) else ("", "", "")
    if not equals or not key or "\0" in value:
        raise ValueError("KEY=VALUE")
    return key, rest


def label(value: Any) -> tuple[str, str]:
    """Parse a label, `KEY=VALUE`, with a key that every place which shows labels can take."""
    key, equals, rest = value.partition("=") if isinstance(value, str) else ("", "", "")
    if not equals or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}",
                                      key) or not rest.isprintable() or len(rest) > 500:
        raise ValueError(
            "KEY=VALUE, where KEY is a letter and letters, digits and _, and VALUE printable")
    if key in RESERVED_LABELS:
        raise ValueError(f"another KEY: log lines and metrics have a {key} of their own")
    return key, rest


def release_label(value: Any) -> str:
    """Parse the name of a release."""
    if not isinstance(value, str) or not printable.is_label(value):
        raise ValueError("a label of 1 to 200 printable characters")
    return value


def endpoint(value: Any) -> str:
    """Parse `HOST:PORT`, with an IPv6 address in brackets."""
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.%a-z]+\]|[^\s:\[\]/]+):([0-9]{1,5})",
                         value) if isinstance(value, str) else None
    if not found or not 0 < int(found[2]) < 65536:
        raise ValueError("HOST:PORT")
    return found[0]


def host_name(value: Any) -> str:
    """Parse the name of a host, as a browser would send it, without a port."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*",
                                                      value) or len(value) > 253:
        raise ValueError("the name of a host, such as shop.example.com, without a port")
    return value.lower()


def url(value: Any) -> str:
    """Parse the URL of a webhook."""
    found = re.fullmatch(rf"https?://{_AUTHORITY}(?:[/?#][!-~]*)?", value) if isinstance(
        value, str) else None
    if found is None or int(found[1] or 443) > 65535:
        raise ValueError("a URL such as https://HOST/PATH")
    return found[0]


def one_of(*words: str) -> Callable[[Any], str]:
    """A parser of one word out of these."""

    def parse(value: Any) -> str:
        if value not in words:
            raise ValueError(f"{', '.join(words[:-1])} or {words[-1]}")
        return str(value)

    return parse


def yes_or_no(value: Any) -> bool:
    """Parse a switch."""
    if isinstance(value, bool):
        return value
    if word(value).lower() in ("1", "true", "yes", "on"):
        return True
    if word(value).lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError("true or false")


OPTIONS = (
    Option("number", ("-n", "--number"), whole(1), None,
           "How many workers to keep ready. Default: the number of CPUs.", "N"),
    Option(
        "bind", ("-b", "--bind"), text, (),
        "Listen here: HOST:PORT, [V6]:PORT, :PORT, unix:PATH or fd://N, with options after commas: "
        "r (SO_REUSEADDR, "
        "always on), n (non-blocking), backlog=N, mode=OCTAL. May be given several times.", "ADDR",
        many=True),
    Option("backlog", ("-l", "--backlog"), backlog, 2048,
           "How many connections may wait to be accepted, where the address doesn't say.", "N"),
    Option(
        "ack_mode", ("-m", "--ack-mode"), ack_mode, "auto",
        "How a worker says that it is ready: manual (Einhorn's ack), notify (READY=1 to "
        "NOTIFY_SOCKET), a number "
        "of SECONDS that it must have lived, or auto: gunicorn says so itself, anything else gets "
        "1 second.",
        "MODE"),
    Option("max_surge", ("--max-upgrade-additional", "--max-surge"), whole(1), 1,
           "How many workers more than N may stand during an exchange.", "N"),
    Option(
        "max_unacked", ("--max-unacked",), whole(1), None,
        "How many workers may be starting at the same time. Default: as many as there is room for.",
        "N"),
    Option("ready_timeout", ("--ready-timeout",), some_seconds, 60.0,
           "A worker that isn't ready after this long is killed, and its start has failed.",
           "SECONDS"),
    Option(
        "min_ready_seconds", ("--min-ready-seconds",), seconds, 0.0,
        "A new worker must have been ready for this long before an old one goes. Default: 0, and 5 "
        "where its readiness is "
        "a guess.", "SECONDS"),
    Option("graceful_timeout", ("-t", "--signal-timeout", "--graceful-timeout"), seconds, 30.0,
           "A worker asked to go is killed if it is still there after this long.", "SECONDS"),
    Option(
        "timeout", ("--timeout",), seconds, 0.0,
        "Kill and replace a worker whose last heartbeat is older; 0: never. Default: gunicorn's "
        "own timeout, "
        "else 0.", "SECONDS"),
    Option(
        "max_failures", ("--max-failures",), whole(0), 3,
        "An upgrade with this many failed starts goes back; a first start with this many gives up. "
        "0 and 1 both "
        "mean: at the first one.", "N"),
    Option(
        "seconds", ("-s", "--seconds"), seconds, 1.0,
        "How long to wait after a failed start; half as long again after each further one, up to "
        "30 s.",
        "SECONDS"),
    Option(
        "progress_timeout", ("--progress-timeout",), seconds, 600.0,
        "An upgrade that makes no progress for this long goes back; 0: never. Pauses, holds and "
        "draining don't count.",
        "SECONDS"),
    Option(
        "max_requests", ("--max-requests",), whole(0), 0,
        "gunicorn only: replace a worker that has served so many requests; 0: never. Default: "
        "gunicorn's own "
        "max_requests, else 0.", "N"),
    Option(
        "max_requests_jitter", ("--max-requests-jitter",), whole(0), None,
        "Each worker may serve up to this many requests more, drawn at random. Default: gunicorn's "
        "own, else a tenth "
        "of max requests.", "N"),
    Option("max_lifetime", ("--max-lifetime",), seconds, 0.0,
           "Replace a worker of this age; 0: never.", "SECONDS"),
    Option(
        "max_lifetime_jitter", ("--max-lifetime-jitter",), seconds, None,
        "Each worker may live up to this much longer, drawn at random. Default: a tenth of max "
        "lifetime.",
        "SECONDS"),
    Option("max_memory", ("--max-memory",), size, 0,
           "Replace a worker whose process group uses this much memory; 0: never.", "SIZE"),
    Option("max_memory_hard", ("--max-memory-hard",), size, 0,
           "Kill a worker whose process group uses this much memory; 0: never.", "SIZE"),
    Option(
        "min_available_memory", ("--min-available-memory",), size, None,
        "Where less is available on the host, a due worker leaves before its replacement is "
        "started. Default: what "
        "that worker uses.", "SIZE"),
    Option(
        "reload_exit_code", ("--reload-exit-code",), exit_code, None,
        "A ready worker that exits with this code asks for an upgrade, and its seat is filled with "
        "new code first. "
        "Default: none does.", "CODE"),
    Option("on_upgrade_start", ("--on-upgrade-start",), text, None,
           "Run this shell command before an upgrade; if it fails, the upgrade is refused.",
           "COMMAND"),
    Option("on_upgrade_start_first", ("--on-upgrade-start-first",), yes_or_no, False,
           "Run it before the first start too; a start that it refuses exits with 3.", switch=True),
    Option("on_upgrade_end", ("--on-upgrade-end",), text, None,
           "Run this shell command when an upgrade is done or superseded.", "COMMAND"),
    Option("on_upgrade_failed", ("--on-upgrade-failed",), text, None,
           "Run this shell command when an upgrade went back.", "COMMAND"),
    Option("on_worker_ready", ("--on-worker-ready",), text, None,
           "Run this shell command when a worker is ready.", "COMMAND"),
    Option("on_worker_exit", ("--on-worker-exit",), text, None,
           "Run this shell command when a worker is gone.", "COMMAND"),
    Option("hook_timeout", ("--hook-timeout",), some_seconds, 30.0,
           "A hook that takes longer is killed.", "SECONDS"),
    Option(
        "stop_signal", ("--stop-signal",), signal_name, None,
        "What asks a worker to finish and leave. Default: USR2 with -m manual (as Einhorn does), "
        "else TERM.",
        "SIGNAL"),
    Option("command_name", ("-c", "--command-name"), name, None,
           "The master's name, in `ps` and for its control socket. Default: the command's.",
           "NAME"),
    Option("socket_path", ("-d", "--socket-path"), path, None,
           "The control socket. Default: NAME.sock in a private directory (see `einhornpy list`).",
           "PATH"),
    Option(
        "socket_mode", ("--socket-mode",), octal, None,
        "Permission bits of the control socket. Default: 0600; 0660 with --socket-group; 0666 with "
        "--user, --group or "
        "--observers, since every request is checked against who sends it.", "OCTAL"),
    Option("socket_group", ("--socket-group",), text, None, "The control socket's group.", "GROUP"),
    Option("observers", ("--observers",), text, None,
           "Members of this group may ask for status, history and events, and nothing else.",
           "GROUP"),
    Option("command_socket_as_fd", ("-g", "--command-socket-as-fd"), yes_or_no, False,
           "Give each worker an open connection to the control socket, as EINHORN_SOCK_FD.",
           switch=True),
    Option("lockfile", ("-f", "--lockfile"), path, None,
           "The lock on the master's name. Default: NAME.lock beside the control socket.", "PATH"),
    Option("pidfile", ("-e", "--pidfile"), path, None, "Write the master's pid here.", "PATH"),
    Option("kill_children_on_exit", ("-k", "--kill-children-on-exit"), yes_or_no, True,
           "If the master dies, its workers leave gracefully (the default).", switch=True),
    Option(
        "chdir", ("--chdir",), path, None,
        "Start workers here. A symbolic link on the way is followed again at every upgrade. "
        "Default: the current "
        "directory.", "DIR"),
    Option("env", ("--env",), pair, (),
           "Add K=V to the workers' environment. May be given several times.", "K=V", many=True,
           secret=True),
    Option("drop_env_var", ("--drop-env-var",), text, (),
           "Leave this variable out of the workers' environment. May be given several times.",
           "NAME", many=True),
    Option("user", ("--user",), text, None,
           "Workers are this user, with its groups; the master stays root.", "USER"),
    Option("group", ("--group",), text, None, "Workers have this group. Default: the user's.",
           "GROUP"),
    Option("nice", ("--nice",), niceness, None, "The niceness of the master, and of its workers.",
           "MASTER[:WORKER]"),
    Option("rlimit", ("--rlimit",), limit, (),
           "A limit of each worker's, such as nofile=65536. May be given several times.",
           "NAME=SOFT[:HARD]", many=True),
    Option(
        "cpu_affinity", ("--cpu-affinity",), core_list, None,
        "Each worker runs on one core, by its seat: of all cores (spread), or of a list such as "
        "0,2,4-7.",
        "spread|LIST"), Option("umask", ("--umask",), octal, None, "The workers' umask.", "OCTAL"),
    Option("oom_score_adj", ("--oom-score-adj",), score, None,
           "How gladly the kernel kills a worker when memory runs out, from -1000 to 1000.", "N"),
    Option("reexec_as", ("--reexec-as",), words, None,
           "The einhornpy that `reload` execs, as a command line. Default: the one that runs.",
           "COMMAND"),
    Option(
        "warm_up", ("--warm-up",), request, (),
        "gunicorn only: before a worker says ready, its app must answer this path, or whole URL, "
        "with 2xx, redirects "
        "followed. May be given several times.", "PATH|URL", many=True),
    Option("release", ("--release",), release_label, None, "A label for the first generation.",
           "NAME"),
    Option(
        "labels", ("--labels",), label, (),
        "A label of this host or task, for logs, status and metrics. May be given several times.",
        "KEY=VALUE", many=True),
    Option(
        "web", ("--web",), text, None,
        "Serve metrics, probes and a page here: HOST:PORT, [V6]:PORT or unix:PATH, by a process "
        "that may only look.",
        "ADDR"),
    Option("web_user", ("--web-user",), text, None,
           "Who that process is, where the master is root. Default: nobody.", "USER"),
    Option(
        "web_host", ("--web-host",), host_name, (),
        "Answer there to this Host too, where it listens on loopback: what a proxy in front passes "
        "on. May be given "
        "several times.", "NAME", many=True),
    Option(
        "statsd", ("--statsd",), endpoint, (),
        "Count deploy events here, by UDP: events.deploy.NAME.started, .done, .refused. May be "
        "given several times.",
        "HOST:PORT", many=True),
    Option(
        "graphite", ("--graphite",), endpoint, (),
        "Send the same to Graphite, by TCP, in its plaintext protocol. May be given several times.",
        "HOST:PORT", many=True),
    Option(
        "webhook", ("--webhook",), url, (),
        "POST deploy events here, as JSON with a text that Slack shows. May be given several "
        "times.",
        "URL", many=True, secret=True),
    Option("log_format", ("--log-format",), one_of("text", "json", "logfmt"), "text",
           "What a log line looks like.", "text|json|logfmt"),
    Option("log_to", ("--log-to",), one_of("stderr", "journal", "syslog"), "stderr",
           "Where the log goes; journal is journald, with fields.", "stderr|journal|syslog"),
    Option("log_file", ("--log-file",), path, None,
           "Append the log to this file instead; USR1 opens it anew.", "PATH"),
    Option(
        "worker_output", ("--worker-output",), one_of("inherit", "prefix", "json"), "inherit",
        "What workers print goes where ours goes (inherit), or into the log, line by line, with a "
        "prefix or as JSON.",
        "inherit|prefix|json"),
    Option("quiet", ("-q", "--quiet"), yes_or_no, False, "Log only what needs attention.",
           switch=True),
    Option("verbose", ("-v", "--verbose"), yes_or_no, False, "Log details too.", switch=True),
)
BY_NAME = {option.name: option for option in OPTIONS}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the master was told. Times in seconds, paths absolute. `origin`: setting → where its
    value came from ("default" where nobody gave one)."""

    command: tuple[str, ...]
    number: int
    bind: tuple[str, ...]
    backlog: int
    ack_mode: str | float
    max_surge: int
    max_unacked: int | None
    ready_timeout: float
    min_ready_seconds: float
    graceful_timeout: float
    timeout: float
    max_failures: int
    seconds: float
    progress_timeout: float
    max_requests: int
    max_requests_jitter: int | None
    max_lifetime: float
    max_lifetime_jitter: float | None
    max_memory: int
    max_memory_hard: int
    min_available_memory: int | None
    reload_exit_code: int | None
    on_upgrade_start: str | None
    on_upgrade_start_first: bool
    on_upgrade_end: str | None
    on_upgrade_failed: str | None
    on_worker_ready: str | None
    on_worker_exit: str | None
    hook_timeout: float
    stop_signal: str
    command_name: str
    socket_path: str | None
    socket_mode: int | None
    socket_group: str | None
    observers: str | None
    command_socket_as_fd: bool
    lockfile: str | None
    pidfile: str | None
    kill_children_on_exit: bool
    chdir: str
    env: tuple[tuple[str, str], ...]
    drop_env_var: tuple[str, ...]
    user: str | None
    group: str | None
    nice: tuple[int, int | None] | None
    rlimit: tuple[tuple[str, int, int], ...]
    cpu_affinity: str | tuple[int, ...] | None
    umask: int | None
    oom_score_adj: int | None
    reexec_as: tuple[str, ...] | None
    warm_up: tuple[str, ...]
    release: str | None
    labels: tuple[tuple[str, str], ...]
    web: str | None
    web_user: str | None
    web_host: tuple[str, ...]
    statsd: tuple[str, ...]
    graphite: tuple[str, ...]
    webhook: tuple[str, ...]
    log_format: str
    log_to: str
    log_file: str | None
    worker_output: str
    quiet: bool
    verbose: bool
    origin: Mapping[str, str] = field(default_factory=dict)
    configuration: str | None = None

    def given(self, setting: str) -> bool:
        """Whether somebody gave this setting a value."""
        return self.origin.get(setting, "default") != "default"


def load(flags: Mapping[str, Any], command: Sequence[str], environ: Mapping[str, str],
         directory: str, configuration: str | None = None) -> Settings:
    """Merge every source into `Settings`.

    Args: flags: setting → text (or list of texts, or bool), as given on the command line; `config`
        names the TOML file. command: the worker's command line; empty to take it from the
        environment or the file. environ: the process environment. directory: the absolute directory
        that relative paths and the default `--chdir` start from. configuration: the text of the
        TOML file, where it was read before.

    Raises:
        BadSetting: a key or value is wrong, or no command was given anywhere.
    """
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    config = flags.get("config") or environ.get(f"{ENVIRONMENT_PREFIX}CONFIG")
    if configuration is None and config is not None:
        configuration = _read(config, directory)
    for source in (_from_file(config,
                              configuration), _from_environment(environ), _from_flags(flags)):
        for key, (value, place) in source.items():
            values[key], origin[key] = value, place
    if command:
        values["command"], origin["command"] = tuple(command), "command line"
    if not values.get("command"):
        raise BadSetting(
            "no command: expected one to run as a worker, after -- (einhornpy -- gunicorn app:wsgi)"
        )
    for option in OPTIONS:
        values.setdefault(option.name, option.default)
    if values["number"] is None:
        values["number"] = len(os.sched_getaffinity(0))
    if values["stop_signal"] is None:
        values["stop_signal"] = "SIGUSR2" if values["ack_mode"] == "manual" else "SIGTERM"
    if values["command_name"] is None:
        basename = os.path.basename(values["command"][0])
        values["command_name"] = re.sub(r"[^A-Za-z0-9_.@-]", "_",
                                        basename).lstrip(".@-")[:64] or "worker"
    for key in ("socket_path", "lockfile", "pidfile", "chdir", "log_file"):
        if values[key] is not None:
            values[key] = os.path.join(directory, values[key])
    values["chdir"] = values["chdir"] or directory
    if isinstance(values["ack_mode"], float) and values["ack_mode"] >= values["ready_timeout"]:
        raise BadSetting(
            f"{origin['ack_mode']}: {values['ack_mode']:g} is not shorter than the ready timeout "
            "of "
            f"{values['ready_timeout']:g} s, so no worker could ever become ready")
    if 0 < values["progress_timeout"] <= values["min_ready_seconds"]:
        raise BadSetting(
            f"{origin.get('min_ready_seconds')}: {values['min_ready_seconds']:g} s is not shorter "
            "than the progress timeout of "
            f"{values['progress_timeout']:g} s, so no upgrade could ever be done")
    if 0 < values["max_lifetime"] <= values["min_ready_seconds"]:
        raise BadSetting(
            f"{origin['max_lifetime']}: {values['max_lifetime']:g} s are not more than the min "
            "ready seconds, "
            f"{values['min_ready_seconds']:g}, so every worker would be due before it counts")
    if values["log_file"] is not None and values["log_to"] != "stderr":
        raise BadSetting(
            f"{origin['log_file']}: the log goes to {values['log_to']} ({origin['log_to']}): "
            "expected one of them"
        )
    if 0 < values["max_memory_hard"] <= values["max_memory"]:
        raise BadSetting(
            f"{origin['max_memory_hard']}: {values['max_memory_hard']} bytes are not more than max "
            "memory, "
            f"{values['max_memory']} bytes: expected more, or a worker is killed before it can be "
            "replaced"
        )
    return Settings(**values, origin=origin, configuration=configuration)


_Source = dict[str, tuple[Any, str]]


def _shown(value: Any) -> str:
    """A wrong value in a message: on one line, not all of a long one, and without what looks secret
    in it."""
    from ..reporting.redaction import Redaction  # a start that is well needs it not

    try:
        shown = Redaction().text(repr(value), strict=True)
    except (ValueError, RecursionError):
        return "something that is too large to be shown"
    return shown if len(
        shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}… ({len(shown)} characters)"


def _named(key: str) -> str:
    """A key that somebody else chose, in a message."""
    return key if key.isprintable() and len(key) <= LONGEST_SHOWN else _shown(key)


def _parse(option: Option, value: Any, place: str) -> Any:
    def parse(item: Any) -> Any:
        try:
            return option.parse(item)
        except ValueError as error:
            got = "one that is not shown here" if option.secret else _shown(item)
            raise BadSetting(f"{place}: got {got}, expected {error}") from None

    if not option.many:
        return parse(value)
    return tuple(parse(item) for item in (value if isinstance(value, list | tuple) else [value]))


def _from_flags(flags: Mapping[str, Any]) -> _Source:
    for key in flags:
        if key != "config" and key not in BY_NAME:  # a master of another version was given it
            raise BadSetting(f"--{_named(key.replace('_', '-'))}: no such setting")
    return {
        key: (_parse(BY_NAME[key], value, BY_NAME[key].flags[-1]), BY_NAME[key].flags[-1])
        for key, value in flags.items() if key != "config"
    }


def _from_environment(environ: Mapping[str, str]) -> _Source:
    found: _Source = {}
    for variable, value in environ.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in NOT_SETTINGS:
            continue
        key = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if key == "config":
            continue
        if key != "command" and key not in BY_NAME:
            raise BadSetting(f"{_named(variable)}: no such setting{_near(key)}")
        if key == "command":
            words = _split(value, variable)
            if words:
                found[key] = (tuple(words), variable)
        else:
            option = BY_NAME[key]
            found[key] = (_parse(option,
                                 _split(value, variable, option.secret) if option.many else value,
                                 variable), variable)
    return found


def _split(value: str, place: str, secret: bool = False) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError as error:
        got = "some that are not shown here" if secret else _shown(value)
        raise BadSetting(
            f"{place}: got {got}, expected words as a shell would read them: {error}") from None


def _read(config: str, directory: str) -> str:
    try:
        with open(os.path.join(directory, os.path.expanduser(config)), "rb") as file:
            content = file.read(LARGEST_FILE + 1)
        text = content.decode()
    except OSError as error:
        raise BadSetting(f"cannot read the configuration {config}: {error.strerror}") from None
    except ValueError as error:
        raise BadSetting(
            f"cannot read the configuration {_named(config)}: not TOML: {_named(str(error))}"
        ) from None
    if len(content) > LARGEST_FILE:
        raise BadSetting(
            f"cannot read the configuration {config}: it is longer than {LARGEST_FILE >> 20} MiB")
    return text


def _from_file(config: str | None, text: str | None) -> _Source:
    if config is None or text is None:
        return {}
    import tomllib

    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise BadSetting(
            f"cannot read the configuration {config}: it is nested too deeply") from None
    except ValueError as error:  # besides TOML's own: a number with more digits than Python reads
        raise BadSetting(
            f"cannot read the configuration {_named(config)}: not TOML: {_named(str(error))}"
        ) from None
    found: _Source = {}
    for key, value in document.items():
        where, setting = f"{config}: {_named(key)}", key.replace("-", "_")
        if setting == "command":
            if isinstance(value, str):
                value = _split(value, where)
            if not isinstance(value, list) or not value or not all(
                    isinstance(word, str) and "\0" not in word for word in value):
                raise BadSetting(f"{where}: got {_shown(value)}, expected a list of words")
            found[setting] = (tuple(value), where)
            continue
        if setting not in BY_NAME:
            raise BadSetting(f"{where}: no such setting{_near(setting)}")
        if setting in ("env", "labels") and isinstance(value, dict):
            with contextlib.suppress(ValueError):  # a number with more digits than Python prints
                value = [
                    each if isinstance(each[1], dict | list) else f"{each[0]}={each[1]}"
                    for each in value.items()]
        found[setting] = (_parse(BY_NAME[setting], value, where), where)
    return found


def _near(key: str) -> str:
    """What was meant, or, where nothing is like it, what there is."""
    import difflib

    known = ["command", *(option.name.replace("_", "-") for option in OPTIONS)]
    near = difflib.get_close_matches(key.replace("_", "-"), known, 1)
    return f", did you mean {near[0]}?" if near else f"; expected one of {', '.join(known)}"
